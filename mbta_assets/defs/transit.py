"""Group `transit`: what was known at each moment and what then happened, and the features made of it."""

import dagster as dg

from mbta_assets.defs.freshness import EVERY_NIGHT
from mbta_assets.defs.io_managers import DayByDay, StoredTable
from mbta_assets.defs.metadata import OWNERS, daily
from mbta_assets.defs.partitions import days_asked, service_days
from mbta_assets.defs.retries import RETRIED, what_can_be_read
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import features, schema


@dg.asset(
    group_name="transit",
    description=schema.RawTransitData.__doc__,
    deps=["vehicle", "trip", "stop", "schedule"],
    owners=OWNERS,
    kinds={"sql", "duckdb"},
    metadata=daily("raw_transit_data"),
    partitions_def=service_days,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRIED,
    io_manager_key="tables",
)
def raw_transit_data(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> DayByDay:
    return DayByDay(what_can_be_read((day, warehouse.raw_transit_data(day)) for day in days_asked(context)))


@dg.asset(
    group_name="transit",
    description=schema.TransitFeatures.__doc__,
    owners=OWNERS,
    kinds={"pandas"},
    metadata=daily("transit_features"),
    partitions_def=service_days,
    freshness_policy=EVERY_NIGHT,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="tables",
)
def transit_features(
    context: dg.AssetExecutionContext, raw_transit_data: StoredTable, vehicle: StoredTable, schedule: StoredTable
) -> DayByDay:
    return DayByDay(
        (day, features.transit_features(raw_transit_data.read(day), vehicle.read(day), schedule.read(day)))
        for day in days_asked(context)
    )
