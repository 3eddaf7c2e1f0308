"""Group `transit`: the point-in-time join of the upstream tables, the features computed from it, and their checks."""

from collections.abc import Iterator

import dagster as dg

from mbta_assets.defs.checks import check_result, checked_days, table_checks
from mbta_assets.defs.freshness import NIGHTLY
from mbta_assets.defs.io_managers import DailyOutput, StoredTable
from mbta_assets.defs.metadata import daily_table_metadata
from mbta_assets.defs.partitions import requested_days, service_days
from mbta_assets.defs.retries import READ_RETRY_POLICY, no_retry_on_bad_input
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import features, schema
from mbta_assets.transit.checks import features_present, keys_unique, labels_cover, point_in_time_correct


@dg.asset(
    group_name="transit",
    description=schema.RawTransitData.__doc__,
    deps=["vehicle", "trip", "stop", "schedule"],
    kinds={"sql"},
    metadata=daily_table_metadata("raw_transit_data"),
    partitions_def=service_days,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=READ_RETRY_POLICY,
    io_manager_key="tables",
)
def raw_transit_data(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> DailyOutput:
    days = ((day, warehouse.join_upstream_tables(day)) for day in requested_days(context))
    return DailyOutput(no_retry_on_bad_input(days))


raw_transit_data_checks = table_checks("raw_transit_data", blocking=[keys_unique], compare_row_counts=True)


@dg.asset(
    group_name="transit",
    description=schema.TransitFeatures.__doc__,
    kinds={"pandas"},
    metadata=daily_table_metadata("transit_features"),
    partitions_def=service_days,
    freshness_policy=NIGHTLY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="tables",
)
def transit_features(
    context: dg.AssetExecutionContext, raw_transit_data: StoredTable, vehicle: StoredTable, schedule: StoredTable
) -> DailyOutput:
    return DailyOutput(
        (day, features.compute_transit_features(raw_transit_data.read(day), vehicle.read(day), schedule.read(day)))
        for day in requested_days(context)
    )


transit_features_checks = table_checks(
    "transit_features", blocking=[keys_unique, labels_cover], warning=[features_present], compare_row_counts=True
)


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            "point_in_time_correct",
            asset="transit_features",
            blocking=True,
            description=point_in_time_correct.__doc__,
            additional_deps=["raw_transit_data", "vehicle", "schedule"],
        )
    ]
)
def point_in_time_check(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> Iterator[dg.AssetCheckResult]:
    """Recompute the features of the last service day of the run; the code is the same for all of its days."""
    problems = {}
    for day in checked_days(context, warehouse, "transit_features")[-1:]:
        raw, vehicle, schedule = (warehouse.read(table, day) for table in ("raw_transit_data", "vehicle", "schedule"))
        if problem := point_in_time_correct(raw, vehicle, schedule):
            problems[day] = problem
    yield check_result("transit_features", "point_in_time_correct", problems, blocking=True)
