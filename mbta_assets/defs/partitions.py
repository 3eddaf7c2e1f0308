"""The service day as Dagster's partition: it opens at 3 am in Boston and is named by its date."""

from datetime import date

import dagster as dg

from mbta_assets.settings import Settings
from mbta_assets.transit.service_day import TIME_ZONE, TURN_HOUR

service_days = dg.DailyPartitionsDefinition(
    start_date=Settings.from_environment().start_date.isoformat(), timezone=TIME_ZONE, hour_offset=TURN_HOUR
)


def days_asked(context: dg.AssetExecutionContext) -> list[date]:
    """The service days that a run asks of a daily asset, in order."""
    return [date.fromisoformat(key) for key in context.partition_keys]
