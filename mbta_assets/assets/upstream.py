"""Group `upstream`: the four tables of a service day, as their source hands them over."""

import dagster as dg

from mbta_assets.assets.described import OWNERS, daily
from mbta_assets.partitions import days_asked, service_days
from mbta_assets.sources import Source
from mbta_assets.storage.io_managers import DayByDay
from mbta_assets.transit import schema


def _upstream(table: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=table,
        group_name="upstream",
        description=schema.UPSTREAM[table].__doc__,
        owners=OWNERS,
        kinds={"parquet"},
        metadata=daily(table),
        partitions_def=service_days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        io_manager_key="tables",
    )
    def upstream(context: dg.AssetExecutionContext, source: dg.ResourceParam[Source]) -> DayByDay:
        return DayByDay((day, source.read(table, day)) for day in days_asked(context))

    return upstream


vehicle, trip, stop, schedule = (_upstream(table) for table in schema.UPSTREAM)
