"""Group `transit`: the point-in-time join of the upstream tables, the features computed from it, and their checks."""

from datetime import date

import dagster as dg

from mbta_assets.defs.daily_tables import (
    KEYS_UNIQUE,
    ROW_COUNT_ANOMALY,
    DailyOutput,
    ServiceDay,
    check_making,
    check_rows,
    daily_spec,
    daily_table,
)
from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.partitions import requested_days
from mbta_assets.defs.retries import READ_RETRY_POLICY
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import features, schema
from mbta_assets.transit.checks import features_present, point_in_time_correct

rejected_rows = daily_spec("rejected_rows", deps=[*schema.UPSTREAM, "raw_transit_data"])
upstream_usage = daily_spec("upstream_usage", deps=["raw_transit_data"])


@daily_table(
    group_name="transit",
    description=schema.RawTransitData.__doc__,
    deps=["vehicle", "trip", "stop", "schedule"],
    kinds={"sql"},
    retry_policy=READ_RETRY_POLICY,
    checks=[KEYS_UNIQUE, ROW_COUNT_ANOMALY],
)
def raw_transit_data(warehouse: dg.ResourceParam[Warehouse]) -> DailyOutput:
    return DailyOutput(warehouse.join_upstream_tables)


POINT_IN_TIME_CORRECT = check_making(
    "point_in_time_correct",
    f"{point_in_time_correct.__doc__} Only the last service day of a run is compared: the code is the same for all.",
)


@daily_table(
    group_name="transit",
    description=schema.TransitFeatures.__doc__,
    kinds={"pandas"},
    expected_nightly=True,
    checks=[
        KEYS_UNIQUE,
        POINT_IN_TIME_CORRECT,
        check_rows(features_present, blocking=False),
        ROW_COUNT_ANOMALY,
    ],
)
def transit_features(
    context: dg.AssetExecutionContext, raw_transit_data: StoredTable, vehicle: StoredTable, schedule: StoredTable
) -> DailyOutput:
    last = requested_days(context)[-1]

    def make(day: date) -> ServiceDay:
        inputs = raw_transit_data.read(day), vehicle.read(day), schedule.read(day)
        problems = {POINT_IN_TIME_CORRECT.name: point_in_time_correct(*inputs)} if day == last else {}
        return ServiceDay(features.compute_transit_features(*inputs), problems=problems)

    return DailyOutput(make)
