"""The service day as Dagster's partition. It opens at 3 am in the agency's time zone and is named by its date."""

from collections.abc import Iterable
from datetime import date

import dagster as dg

from mbta_assets.settings import Settings
from mbta_assets.transit.service_day import SERVICE_DAY_START_HOUR, TIME_ZONE

service_days = dg.DailyPartitionsDefinition(
    start_date=Settings.from_environment().start_date.isoformat(),
    timezone=TIME_ZONE,
    hour_offset=SERVICE_DAY_START_HOUR,
)


def requested_days(context: dg.AssetExecutionContext) -> list[date]:
    """Return the service days that the run makes of a daily asset, in order."""
    return to_days(context.partition_keys)


def to_days(partition_keys: Iterable[str]) -> list[date]:
    """Convert partition keys to service days."""
    return [date.fromisoformat(key) for key in partition_keys]
