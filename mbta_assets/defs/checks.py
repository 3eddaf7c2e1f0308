"""What must hold of tables and models before anything downstream is made of them.

Errors block what is downstream within the run; warnings do not. Checks of tables look at the service days of their run.
"""

from collections.abc import Callable, Iterator
from datetime import date

import dagster as dg
import numpy as np
import pandas as pd
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from pandera.errors import SchemaErrors

from mbta_assets.defs.partitions import service_days
from mbta_assets.defs.production import leaderboard
from mbta_assets.ml.evaluation.accuracy import CALENDAR
from mbta_assets.ml.training.dataset import ROW_KEY
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import ReportStore
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import features, schema

FEWEST_LABELLED = 0.5
MOST_MISSING = 0.6
ROWS_AGAINST_RECENT = (0.4, 2.5)
RECENT_DAYS = 14
FEWEST_JUDGED = 200
"""Measures of fewer predictions than these are too noisy to warn of."""
MOST_DRIFT = {"feature_drift": 0.35, "unknown_share": 0.01, "error_drift": 1.5}
"""By measure. In the simulator's features a Sunday reaches 0.23, a day on which all is five minutes later 0.47."""
FEWEST_RIGHT = {
    ("within_mbta_window", "predicted_horizon", "0-3 min"): 0.85,
    ("within_mbta_window", "predicted_horizon", "3-6 min"): 0.84,
    ("within_mbta_window", "predicted_horizon", "6-12 min"): 0.86,
    ("within_mbta_window", "predicted_horizon", "12-30 min"): 0.77,
    ("eta_benchmark", "all", "all"): 0.80,
}
"""By measure, dimension and member. In the MBTA's window, what its own predictions reached in a week of June 2026."""
MODEL_INPUTS = schema.columns(schema.TransitFeatures, "numeric")

Finding = str | None
"""What is wrong with a service day; None where nothing is."""


def schema_holds(table: str, rows: pd.DataFrame) -> Finding:
    """Every column has its type, its range and no value missing that must be there."""
    try:
        schema.TABLES[table].validate(rows, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.groupby(["column", "check"]).size()
        return "; ".join(f"column {column}: {check} fails in {n} rows" for (column, check), n in cases.items())
    return None


def keys_unique(table: str, rows: pd.DataFrame) -> Finding:
    """No two rows are about the same vehicle, trip, moment and destination."""
    repeated = int(rows.duplicated(ROW_KEY).sum())
    return f"{repeated} rows repeat the key of another ({', '.join(ROW_KEY)})" if repeated else None


def labels_cover(table: str, rows: pd.DataFrame) -> Finding:
    """Most arrivals were seen, so that the labels say something about the day."""
    share = rows["delay_seconds"].notna().mean() if len(rows) else 1.0
    return f"only {share:.0%} of the rows have a label; {FEWEST_LABELLED:.0%} must" if share < FEWEST_LABELLED else None


def features_present(table: str, rows: pd.DataFrame) -> Finding:
    """No feature is missing in most rows."""
    missing = rows[MODEL_INPUTS].isna().mean() if len(rows) else pd.Series(dtype=float)
    worst = missing[missing > MOST_MISSING]
    return "; ".join(f"{name} is missing in {share:.0%} of the rows" for name, share in worst.items()) or None


def no_feature_from_the_future(raw: pd.DataFrame, vehicle: pd.DataFrame, schedule: pd.DataFrame) -> Finding:
    """Features of the rows up to a moment are the same when nothing after that moment has happened yet."""
    if raw.empty:
        return None
    moment = raw["time_stamp"].iloc[len(raw) // 2]
    before = raw[raw["time_stamp"] <= moment]
    rows = before.tail(50_000)
    then = features.transit_features(rows, vehicle[vehicle["updated_at"] <= moment], schedule)
    now = features.transit_features(rows, vehicle, schedule)
    differing = [name for name in MODEL_INPUTS if not np.array_equal(then[name], now[name], equal_nan=True)]
    return f"what came after {moment} changes {', '.join(differing)}" if differing else None


def drift_within_bounds(table: str, rows: pd.DataFrame) -> Finding:
    """Features, categories and errors are not far from those on the days the model learned from."""
    if rows["model_version"].notna().any() and "feature_drift" not in set(rows["measure"]):
        return "drift was not measured: what the model learned from is no longer stored"
    bounded = rows.assign(bound=rows["measure"].map(MOST_DRIFT).astype(float))
    far = (bounded["value"] > bounded["bound"]) & (rows["n"] >= FEWEST_JUDGED) & ~rows["member"].isin(CALENDAR)
    return _crossed(bounded[far], "over")


def accuracy_within_bounds(table: str, rows: pd.DataFrame) -> Finding:
    """Predictions come true as often as one expects of an agency's own."""
    keys = zip(rows["measure"], rows["dimension"], rows["member"], strict=True)
    bounded = rows.assign(bound=[FEWEST_RIGHT.get(key, np.nan) for key in keys])
    return _crossed(bounded[(bounded["value"] < bounded["bound"]) & (rows["n"] >= FEWEST_JUDGED)], "under")


def _crossed(rows: pd.DataFrame, side: str) -> Finding:
    """What lies on the wrong side of its bound, and by how much, the farthest first."""
    farthest = rows.assign(by=(rows["value"] - rows["bound"]).abs()).sort_values("by", ascending=False)
    said = [
        f"{measure} of {member} is {value:.2f}, {side} {bound:.2f} by {by:.2f}"
        for measure, member, value, bound, by in farthest[["measure", "member", "value", "bound", "by"]].to_numpy()
    ]
    return "; ".join(said) or None


BLOCKING: dict[str, list[Callable[[str, pd.DataFrame], Finding]]] = {
    "raw_transit_data": [schema_holds, keys_unique],
    "transit_features": [schema_holds, keys_unique, labels_cover],
    "delay_predictions": [schema_holds, keys_unique],
    "prediction_accuracy": [schema_holds],
}
WARNING: dict[str, list[Callable[[str, pd.DataFrame], Finding]]] = {
    "raw_transit_data": [],
    "transit_features": [features_present],
    "delay_predictions": [],
    "prediction_accuracy": [drift_within_bounds, accuracy_within_bounds],
}
AS_MANY_AS_USUAL = ("raw_transit_data", "transit_features", "delay_predictions")
"""Tables with more rows the more service there was."""


def _table_checks(table: str) -> dg.AssetChecksDefinition:
    """All checks of a table in one pass over each service day."""
    rules = [(rule, True) for rule in BLOCKING[table]] + [(rule, False) for rule in WARNING[table]]
    specs = [
        dg.AssetCheckSpec(rule.__name__, asset=table, blocking=blocking, description=rule.__doc__)
        for rule, blocking in rules
    ]
    if table in AS_MANY_AS_USUAL:
        specs.append(
            dg.AssetCheckSpec("rows_as_usual", asset=table, description="A day is about as long as recent ones.")
        )

    @dg.multi_asset_check(name=f"{table}_checks", specs=specs)
    def checks(
        context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[dg.AssetCheckResult]:
        findings: dict[str, dict[date, str]] = {spec.name: {} for spec in specs}
        for day in _days(context, warehouse, table):
            rows = warehouse.read(table, day)
            found = {rule.__name__: rule(table, rows) for rule, _ in rules}
            if table in AS_MANY_AS_USUAL:
                found["rows_as_usual"] = _rows_as_usual(warehouse, table, day, len(rows))
            for name, finding in found.items():
                if finding:
                    findings[name][day] = finding
        blocking = {rule.__name__ for rule, blocks in rules if blocks}
        for name, of_days in findings.items():
            yield _result(table, name, of_days, blocks=name in blocking)

    return checks


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            "no_feature_from_the_future",
            asset="transit_features",
            blocking=True,
            description=no_feature_from_the_future.__doc__,
            additional_deps=["raw_transit_data", "vehicle", "schedule"],
        )
    ]
)
def causality(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> Iterator[dg.AssetCheckResult]:
    """Made anew for the last service day of the run: the code is the same for all of them."""
    findings = {}
    for day in _days(context, warehouse, "transit_features")[-1:]:
        finding = no_feature_from_the_future(
            *(warehouse.read(table, day) for table in ("raw_transit_data", "vehicle", "schedule"))
        )
        if finding:
            findings[day] = finding
    yield _result("transit_features", "no_feature_from_the_future", findings, blocks=True)


@dg.asset_check(
    asset="quantized_student",
    blocking=True,
    description="ONNX Runtime and torch say the same of every row of the test part.",
)
def parity_holds(bundle_store: dg.ResourceParam[ModelRegistry]) -> dg.AssetCheckResult:
    parity = bundle_store.current("quantized_student").manifest["parity"]
    return dg.AssetCheckResult(passed=parity["max_seconds"] <= parity["bound_seconds"], metadata=parity)


@dg.asset_check(
    asset="model_leaderboard",
    description="Every model beats the run-time lookup on the test part; one that does not is not worth its bytes.",
)
def models_beat_the_lookup(reports: dg.ResourceParam[ReportStore]) -> dg.AssetCheckResult:
    models = leaderboard.models_of(leaderboard.stored(reports))
    losing = {row["model"]: row["mae"] for row in models if not row["beats_runtime_lookup"]}
    return dg.AssetCheckResult(passed=not losing, severity=dg.AssetCheckSeverity.WARN, metadata={"losing": losing})


def _rows_as_usual(warehouse: Warehouse, table: str, day: date, rows: int) -> Finding:
    recent = warehouse.row_counts(table, before=day, days=RECENT_DAYS)
    if len(recent) < 3:
        return None
    usual = float(np.median(list(recent.values())))
    low, high = (bound * usual for bound in ROWS_AGAINST_RECENT)
    return None if low <= rows <= high else f"{rows:,} rows, where recent days have about {usual:,.0f}"


def _result(table: str, name: str, findings: dict[date, str], *, blocks: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=table,
        passed=not findings,
        severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{day}: {finding}" for day, finding in findings.items()) or None,
        metadata={"service_days_failed": len(findings)},
    )


def _days(context: dg.AssetCheckExecutionContext, warehouse: Warehouse, table: str) -> list[date]:
    """The service days of the run; of a run without partitions the latest stored one."""
    tags = context.run.tags
    if PARTITION_NAME_TAG in tags:
        return [date.fromisoformat(tags[PARTITION_NAME_TAG])]
    if ASSET_PARTITION_RANGE_START_TAG in tags:
        wanted = dg.PartitionKeyRange(tags[ASSET_PARTITION_RANGE_START_TAG], tags[ASSET_PARTITION_RANGE_END_TAG])
        return [date.fromisoformat(key) for key in service_days.get_partition_keys_in_range(wanted)]
    return list(warehouse.row_counts(table, before=date.max, days=1))


ALL = [*(_table_checks(table) for table in BLOCKING), causality, parity_holds, models_beat_the_lookup]
