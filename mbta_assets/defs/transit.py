"""Group `transit`: the point-in-time join of the upstream tables, the features computed from it, and their checks."""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as arrow

from mbta_assets.defs.daily_tables import (
    KEYS_UNIQUE,
    ROW_COUNT_ANOMALY,
    Audit,
    Check,
    DailyOutput,
    ServiceDay,
    check_making,
    check_rows,
    daily_spec,
    daily_table,
    describe_rule,
)
from mbta_assets.defs.freshness import NIGHTLY
from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.metadata import plot_metadata, table_metadata
from mbta_assets.defs.partitions import requested_days
from mbta_assets.defs.resources.settings import JoinSettings
from mbta_assets.defs.retries import READ_RETRY_POLICY
from mbta_assets.plots.tables import (
    count_features,
    draw_labels_by_hour,
    draw_labels_by_route,
    draw_missing_by_group,
    draw_missing_values,
    draw_usage,
)
from mbta_assets.sources import Source
from mbta_assets.sources.contract import SourceRows
from mbta_assets.storage.tables import MissingPartition
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import features, schema
from mbta_assets.transit.accounting import Accounting, account_for_rows
from mbta_assets.transit.agency_delays import AGENCY_DELAY
from mbta_assets.transit.checks import (
    RECENT_DAYS,
    Outcome,
    features_present,
    inputs_used,
    labels_cover,
    matched_share,
    point_in_time_correct,
)

rejected_rows = daily_spec("rejected_rows", deps=[*schema.SOURCE_TABLES, "raw_transit_data"])
upstream_usage = daily_spec("upstream_usage", deps=["raw_transit_data"])


def _inputs_used(audit: Audit) -> Outcome:
    """Compare the use of the upstream rows with that of recent published days."""
    if audit.made.usage is None:
        return Outcome(None)
    published = audit.tables.days("raw_transit_data")
    recent = [day for day in audit.tables.days("upstream_usage") if day < audit.day and day in published]
    usages = (schema.to_frame(audit.tables.read("upstream_usage", [day])) for day in recent[-RECENT_DAYS:])
    shares = [share for share in map(matched_share, usages) if share is not None]
    unmatched = str(audit.made.metadata.get("unmatched", ""))
    return inputs_used(audit.made.usage, audit.bounds["min_matched_share"], shares, unmatched)


def _labels_cover(audit: Audit) -> Outcome:
    """Compare the share of labels with that of recent published days."""
    counts, labels = (
        audit.tables.row_counts(audit.table, audit.day, RECENT_DAYS, column) for column in (None, "delay_seconds")
    )
    shares = [labels[day] / rows for day, rows in counts.items() if rows]
    return labels_cover(audit.rows, audit.bounds["min_labelled_share"], shares)


@daily_table(
    group_name="transit",
    description=inspect.getdoc(schema.RawTransitData),
    deps=["vehicle", "trip", "stop", "schedule"],
    kinds={"sql"},
    retry_policy=READ_RETRY_POLICY,
    checks=[
        KEYS_UNIQUE,
        Check("inputs_used", describe_rule(inputs_used), _inputs_used),
        ROW_COUNT_ANOMALY,
    ],
)
def raw_transit_data(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    source: dg.ResourceParam[Source],
    join_settings: dg.ResourceParam[JoinSettings],
) -> DailyOutput:
    last = requested_days(context)[-1]

    def read(table: str, day: date) -> SourceRows:
        """Return the rows of an upstream table; those of stored ones were rejected when they were stored."""
        if source.tables_in_place:
            return source.tables_in_place.read_rows(table, day)
        return SourceRows(warehouse.read(table, day), schema.empty_frame(schema.RejectedRows))

    def make(day: date) -> ServiceDay:
        rows = warehouse.join_upstream_tables(day, every_stop_ahead=join_settings.every_stop_ahead)
        upstream = {table: read(table, day) for table in schema.UPSTREAM}
        account = account_for_rows(**{table: read.rows for table, read in upstream.items()}, service_date=day)
        rejected = pd.concat([account.rejected, *(read.rejected for read in upstream.values())], ignore_index=True)
        plot = {"usage": plot_metadata(lambda axes: draw_usage(axes, account.usage))} if day == last else {}
        return ServiceDay(rows, rejected, account.usage, metadata={**describe_account(account), **plot})

    return DailyOutput(make)


def describe_account(account: Accounting) -> dict[str, Any]:
    """Return the metadata of the use of a service day's upstream rows."""
    usage, columns = account.usage, ["source_table", "outcome", "reason", "row_count"]
    totals = usage.groupby("source_table")["row_count"].sum()
    matched = usage[usage["outcome"] == "matched"].set_index("source_table")["row_count"]
    return {
        **{f"{table}_rows": int(totals.get(table, 0)) for table in schema.UPSTREAM},
        **{f"{table}_rows_matched": int(matched.get(table, 0)) for table in schema.UPSTREAM},
        "upstream_rows": table_metadata([dict(zip(columns, row, strict=True)) for row in usage[columns].to_numpy()]),
        "values_made_missing": table_metadata(
            [{"column": name, "values": count} for name, count in account.values_made_missing.items()]
        ),
        "interpolated_stop_times": account.interpolated_stop_times,
        "unmatched": account.describe_unmatched() or "nothing",
        "rejected_rows": len(account.rejected),
    }


POINT_IN_TIME_CORRECT = check_making("point_in_time_correct", describe_rule(point_in_time_correct))


@daily_table(
    group_name="transit",
    description=inspect.getdoc(schema.TransitFeatures),
    deps=["agency_predictions"],
    kinds={"pandas"},
    freshness_policy=NIGHTLY,
    checks=[
        KEYS_UNIQUE,
        Check("labels_cover", describe_rule(labels_cover), _labels_cover),
        POINT_IN_TIME_CORRECT,
        check_rows(features_present, blocking=False),
        ROW_COUNT_ANOMALY,
    ],
)
def transit_features(
    context: dg.AssetExecutionContext,
    raw_transit_data: StoredTable,
    vehicle: StoredTable,
    schedule: StoredTable,
    stop: StoredTable,
    warehouse: dg.ResourceParam[Warehouse],
    source: dg.ResourceParam[Source],
) -> DailyOutput:
    last = requested_days(context)[-1]

    def make(day: date) -> ServiceDay:
        raw = raw_transit_data.read_table(day, features.RAW_COLUMNS)
        inputs = raw, vehicle.read(day), schedule.read(day), stop.read(day)
        predictions = read_agency_predictions(warehouse, source, day)
        rows = features.compute_feature_table(*inputs, agency_predictions=predictions)
        outcomes = {POINT_IN_TIME_CORRECT.name: point_in_time_correct(rows, *inputs)}
        agency_delays = len(rows) - rows[AGENCY_DELAY].null_count
        metadata = {"agency_predictions": len(predictions), "agency_delays": agency_delays}
        plots = describe_features(rows) if day == last else {}
        return ServiceDay(rows, outcomes=outcomes, metadata={**(metadata if len(predictions) else {}), **plots})

    return DailyOutput(make)


def describe_features(rows: arrow.Table) -> dict[str, Any]:
    """Return plots of a service day's features; none of a day without rows."""
    if not len(rows):
        return {}
    counts = count_features(rows)
    return {
        "labels_by_hour": plot_metadata(lambda axes: draw_labels_by_hour(axes, counts)),
        "labels_by_route": plot_metadata(lambda axes: draw_labels_by_route(axes, counts)),
        "missing_values": plot_metadata(lambda axes: draw_missing_values(axes, counts)),
        "missing_values_by_hour_and_route": plot_metadata(
            lambda hour, route: draw_missing_by_group(hour, route, counts), panels=2
        ),
    }


def read_agency_predictions(
    warehouse: Warehouse, source: Source, day: date, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the agency's predictions of a service day; without rows where the source has none of it.

    It has all columns or some.
    """
    if "agency_predictions" in source.optional_tables:
        with suppress(MissingPartition):
            return warehouse.read("agency_predictions", day, columns)
    return schema.empty_frame(schema.AgencyPredictions)


def compute_trip_features(warehouse: Warehouse, source: Source, day: date, trips: list[str]) -> pd.DataFrame:
    """Compute the features of a service day's rows about every stop ahead on some trips.

    Raises MissingPartition or SourceError.
    """
    raw = schema.to_frame(warehouse.join_upstream_tables(day, every_stop_ahead=True, trips=trips))
    vehicle, schedule, stop = (warehouse.read(table, day) for table in ("vehicle", "schedule", "stop"))
    predictions = read_agency_predictions(warehouse, source, day)
    return features.compute_transit_features(raw, vehicle, schedule, stop, predictions)
