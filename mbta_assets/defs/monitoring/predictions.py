"""Group `monitoring`: predictions of the production model for each service day, their accuracy, and their checks."""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import dagster as dg
import pandas as pd

from mbta_assets.defs.checks import table_checks
from mbta_assets.defs.freshness import NIGHTLY
from mbta_assets.defs.io_managers import DailyOutput, StoredTable
from mbta_assets.defs.metadata import daily_table_metadata, table_metadata
from mbta_assets.defs.partitions import requested_days, service_days
from mbta_assets.ml.evaluation import accuracy
from mbta_assets.ml.evaluation.accuracy import MetricRow
from mbta_assets.ml.evaluation.checks import accuracy_within_bounds, drift_within_bounds
from mbta_assets.ml.evaluation.drift import DriftReference, measure_drift
from mbta_assets.ml.evaluation.metrics import MBTA_WINDOWS
from mbta_assets.ml.training.dataset import read_rows
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.storage.bundle import Bundle, BundleError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.transit import schema
from mbta_assets.transit.checks import keys_unique

MAX_NAMED_FEATURES = 3
PREDICTION_COLUMNS = [*schema.ROW_KEY, "predicted_delay_seconds", "model_version"]

MetricValues = dict[tuple[str, str, str], float | None]
"""By measure, dimension and member."""


@dg.asset(
    group_name="monitoring",
    description=schema.DelayPredictions.__doc__,
    kinds={"numpy"},
    metadata=daily_table_metadata("delay_predictions"),
    partitions_def=service_days,
    freshness_policy=NIGHTLY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="tables",
)
def delay_predictions(
    context: dg.AssetExecutionContext, transit_features: StoredTable, production_model: Bundle
) -> DailyOutput:
    model = load_model(production_model)

    def predict(day: date) -> pd.DataFrame:
        features = transit_features.read(day)
        context.add_asset_metadata({"model_version": production_model.digest}, partition_key=str(day))
        return accuracy.make_predictions_table(features, model.predict(features), production_model.digest)

    return DailyOutput((day, predict(day)) for day in requested_days(context))


delay_predictions_checks = table_checks("delay_predictions", blocking=[keys_unique], compare_row_counts=True)


@dg.asset(
    group_name="monitoring",
    description=schema.PredictionAccuracy.__doc__,
    kinds={"pandas", "scipy"},
    metadata=daily_table_metadata("prediction_accuracy"),
    partitions_def=service_days,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="tables",
)
def prediction_accuracy(
    context: dg.AssetExecutionContext,
    model_registry: dg.ResourceParam[ModelRegistry],
    delay_predictions: StoredTable,
    transit_features: StoredTable,
) -> DailyOutput:
    read_reference = lru_cache(maxsize=1)(lambda version: _read_reference(model_registry, version))

    def measure(day: date) -> pd.DataFrame:
        predictions, features = delay_predictions.read(day, PREDICTION_COLUMNS), transit_features.read(day)
        validate_same_rows(day, predictions, features)
        predicted = predictions["predicted_delay_seconds"].to_numpy()
        model_version = None if predictions.empty else str(predictions["model_version"].iloc[0])
        rows, omission = accuracy.score_predictions(features, predicted), "The service day has no predictions."
        if model_version is not None:
            try:
                rows += measure_drift(features, predicted, read_reference(model_version))
                omission = ""
            except BundleError as error:
                omission = f"The training set of the model is no longer stored. {error}"
        metadata = describe_accuracy(rows) | ({"drift_omitted": omission} if omission else {})
        context.add_asset_metadata(metadata, partition_key=str(day))
        return accuracy.make_accuracy_table(day, model_version, rows)

    return DailyOutput((day, measure(day)) for day in requested_days(context))


prediction_accuracy_checks = table_checks("prediction_accuracy", warning=[drift_within_bounds, accuracy_within_bounds])


def validate_same_rows(day: date, predictions: pd.DataFrame, features: pd.DataFrame) -> None:
    """Raise ValueError unless the predictions of a service day are for the rows of its features, in their order."""
    if not predictions[schema.ROW_KEY].equals(features[schema.ROW_KEY]):
        command = f"dagster asset materialize --select delay_predictions --partition {day}"
        raise ValueError(
            f"delay_predictions of service day {day} are for other rows than its transit_features, which were made "
            f"again since. Make the predictions again: {command}"
        )


def describe_accuracy(rows: Sequence[MetricRow]) -> dict[str, Any]:
    """Return the metadata of one service day: the main metrics, the largest drift, and two tables."""
    values: MetricValues = {(row.measure, row.dimension, row.member): row.value for row in rows}
    counts = {(row.measure, row.dimension, row.member): row.n for row in rows}
    main = {
        "mae_seconds": values["mae_seconds", "all", "all"],
        "eta_benchmark_score": values["eta_benchmark", "all", "all"],
        "matched_share": values["matched_share", "all", "all"],
    }
    windows = [
        {
            "predicted": horizon,
            "predictions": counts["within_mbta_window", "predicted_horizon", horizon],
            "share": values["within_mbta_window", "predicted_horizon", horizon],
            **{
                position: values["within_mbta_window", "predicted_horizon, position", f"{horizon}, {position}"]
                for position in accuracy.POSITIONS
            },
        }
        for horizon in MBTA_WINDOWS
    ]
    return {
        **{name: value for name, value in main.items() if value is not None},
        **_describe_drift(rows),
        "within_mbta_window": table_metadata(windows),
        **_describe_routes(rows, values),
    }


def _read_reference(model_registry: ModelRegistry, model_version: str) -> DriftReference:
    """Read what drift of a model is measured against. Raises BundleError if it is no longer stored."""
    production_model = model_registry.get("production_model", model_version)
    training_set = model_registry.get("training_set", production_model.manifest["training_set"])
    return DriftReference.from_training_set(load_model(production_model), read_rows(training_set))


def _describe_drift(rows: Sequence[MetricRow]) -> dict[str, Any]:
    drift = {row.member: row.value for row in rows if row.measure == "feature_drift" and row.value is not None}
    if not drift:
        return {}
    features = sorted(drift, key=lambda name: -drift[name])[:MAX_NAMED_FEATURES]
    return {
        "worst_feature_drift": drift[features[0]],
        "drifted_most": ", ".join(f"{name} {drift[name]:.2f}" for name in features),
    }


def _describe_routes(rows: Sequence[MetricRow], values: MetricValues) -> dict[str, Any]:
    routes = [row.member for row in rows if row.measure == "mae_seconds" and row.dimension == "route_id"]
    if not routes:
        return {}
    table = [
        {"route": route}
        | {
            f"{stops} ahead": values["mae_seconds", "route_id, stops_ahead", f"{route}, {stops}"]
            for stops in schema.STOPS_AHEAD
        }
        for route in routes
    ]
    return {"mae_seconds_by_route": table_metadata(table)}
