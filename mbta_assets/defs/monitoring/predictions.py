"""Group `monitoring`: predictions of the production model for each service day, their accuracy, and their checks."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from functools import lru_cache
from itertools import product
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from mbta_assets.defs.daily_tables import DailyOutput, ServiceDay, check_frame, daily_table
from mbta_assets.defs.freshness import NIGHTLY
from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.monitoring.history import plot_history, plot_predictions, read_history, write_history
from mbta_assets.defs.monitoring.scorecard import describe_scores
from mbta_assets.defs.partitions import requested_days
from mbta_assets.defs.transit import read_agency_predictions
from mbta_assets.ml.evaluation import accuracy
from mbta_assets.ml.evaluation.accuracy import MetricRow
from mbta_assets.ml.evaluation.checks import accuracy_within_bounds, drift_within_bounds, predictions_unique
from mbta_assets.ml.evaluation.drift import DriftReference, measure_drift
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE, predict_baselines
from mbta_assets.ml.evaluation.service_quality import measure_service
from mbta_assets.ml.inference.transit_network import list_served_stops, require_network
from mbta_assets.ml.training.dataset import read_labelled, read_rows
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.sources import Source, SourceError
from mbta_assets.sources.gtfs.published import PublishedPredictions
from mbta_assets.storage.bundle import Bundle, BundleError
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry
from mbta_assets.storage.reports import ReportStore
from mbta_assets.storage.tables import MissingPartition
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema
from mbta_assets.transit.agency_delays import ARRIVAL_COLUMNS, list_agency_arrivals
from mbta_assets.transit.formulas import STOPS_AHEAD

MAX_NAMED_FEATURES = 3
BASELINE = "persistence"
"""Baseline beside which a day is shown; it needs nothing but the rows."""
PREDICTION_COLUMNS = [
    *schema.ROW_KEY, "event", "predicted_delay_seconds", "predicted_arrival", "model_version", "out_of_sample",
    "published_at", "role",
]  # fmt: skip
"""Columns of `delay_predictions` that accuracy is measured of."""

MetricValues = dict[tuple[str, str, str], float | None]
"""By measure, dimension and member."""


@daily_table(
    group_name="monitoring",
    description=inspect.getdoc(schema.DelayPredictions),
    kinds={"numpy"},
    freshness_policy=NIGHTLY,
    checks=[check_frame(predictions_unique)],
)
def delay_predictions(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    model_registry: dg.ResourceParam[ModelRegistry],
    published: dg.ResourceParam[PublishedPredictions],
    transit_features: StoredTable,
    production_model: Bundle,
) -> DailyOutput:
    model, version = load_model(production_model), production_model.digest
    last = requested_days(context)[-1]

    def predict(day: date) -> ServiceDay:
        served = schema.to_frame(published.read(day))
        if len(served):
            rows = accuracy.make_served_table(served, _list_learned(model_registry, served, day))
            plots = plot_predictions(warehouse, day, rows) if day == last else {}
            return ServiceDay(rows, metadata={**_describe_served(rows), **plots})
        features = transit_features.read(day)
        require_network(production_model, list_served_stops(features))
        out_of_sample = not accuracy.has_learned_from(production_model.manifest, day)
        predicted = accuracy.correct_predictions(features, model.predict(features))
        made = accuracy.make_predictions_table(features, predicted, version, out_of_sample=out_of_sample)
        rows = accuracy.replace_version(read_stored_predictions(warehouse, day), made, version)
        metadata = {"model_version": version, "out_of_sample": out_of_sample, "predictions": len(made)}
        metadata |= plot_predictions(warehouse, day, made) if day == last else {}
        return ServiceDay(rows, metadata=metadata)

    return DailyOutput(predict)


@daily_table(
    group_name="monitoring",
    description=inspect.getdoc(schema.PredictionAccuracy),
    deps=["schedule", "stop", "agency_predictions"],
    kinds={"pandas", "scipy"},
    checks=[check_frame(drift_within_bounds, blocking=False), check_frame(accuracy_within_bounds, blocking=False)],
)
def prediction_accuracy(
    context: dg.AssetExecutionContext,
    model_registry: dg.ResourceParam[ModelRegistry],
    warehouse: dg.ResourceParam[Warehouse],
    source: dg.ResourceParam[Source],
    reports: dg.ResourceParam[ReportStore],
    delay_predictions: StoredTable,
    transit_features: StoredTable,
) -> DailyOutput:
    last = requested_days(context)[-1]
    read_reference = lru_cache(maxsize=4)(lambda version: _read_reference(model_registry, version))

    def measure(day: date) -> ServiceDay:
        stored, features = read_predictions(delay_predictions, day), transit_features.read(day)
        predictions = stored[stored["out_of_sample"]]
        is_shadow = has_role(predictions, schema.SHADOW)
        in_shadow, predictions = predictions[is_shadow], predictions[~is_shadow]
        scored, metadata = dict[str, list[MetricRow]](), dict[str, Any]()
        for version, of_version in predictions.groupby("model_version", sort=True):
            scored[str(version)], of_model = _measure_version(str(version), of_version, features, read_reference)
            metadata = {"model_version": str(version), **of_model}
        of_agency, baselines = _score_others(predictions, features)
        for version, of_version in in_shadow.groupby("model_version", sort=True):
            name = accuracy.name_shadow(str(version))
            scored[name], _ = _measure_version(str(version), of_version, features, None)
        served = stored[has_role(stored, schema.PRODUCTION)]
        if len(served):
            agency, omitted = _read_agency_arrivals(warehouse, source, day)
            scored[accuracy.PUBLISHED], service = measure_service(served, features, agency)
            of_agency, metadata = [*of_agency, *service], {**metadata, **omitted}
        if of_agency:
            scored[AGENCY_BASELINE] = of_agency
        tables = [accuracy.make_accuracy_table(day, version, rows) for version, rows in scored.items()]
        if scored:
            metadata |= describe_scores(scored, baselines)
        else:
            metadata = {"omitted": "There is no prediction by a model that had not learned from this service day."}
        rows = pd.concat([schema.empty_frame(schema.PredictionAccuracy), *tables], ignore_index=True)
        if day == last:
            history = read_history(warehouse, day, rows)
            write_history(reports, history)
            metadata |= plot_history(history, day)
        return ServiceDay(rows, metadata=metadata)

    return DailyOutput(measure)


def _list_learned(model_registry: ModelRegistry, served: pd.DataFrame, day: date) -> dict[str, bool]:
    """Return whether each model version that predicted live has learned from the day, of those that are stored."""
    learned = {}
    for version, asset in product(served["model_version"].unique(), ("production_model", SHADOW_MODEL)):
        with suppress(BundleError):
            learned[str(version)] = accuracy.has_learned_from(model_registry.read_manifest(asset, version), day)
    return learned


def _describe_served(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the metadata of published predictions."""
    minutes = rows.groupby("role")["published_at"].nunique()
    return {
        "predictions": len(rows),
        "model_version": ", ".join(sorted(rows["model_version"].unique())),
        "out_of_sample": bool(rows["out_of_sample"].all()),
        **{f"minutes published by {role}": int(count) for role, count in minutes.items()},
    }


def _describe_accuracy(rows: Sequence[MetricRow]) -> dict[str, Any]:
    """Return the metadata of a model version on one service day: the main metrics, the largest drift, and the routes.

    The UI charts the numbers from day to day.
    """
    values: MetricValues = {(row.measure, row.dimension, row.member): row.value for row in rows}
    main = {
        "mae_seconds": values["mae_seconds", "all", "all"],
        "eta_benchmark_score": values["eta_benchmark", "all", "all"],
        "matched_share": values["matched_share", "all", "all"],
    }
    return {
        **{name: value for name, value in main.items() if value is not None},
        **_describe_drift(rows),
        **_describe_routes(rows, values),
    }


def read_stored_predictions(warehouse: Warehouse, day: date) -> pd.DataFrame:
    """Read the published predictions of a service day; without rows if there are none, or none of stop visits."""
    try:
        stored = warehouse.read("delay_predictions", day)
    except MissingPartition:
        return schema.empty_frame(schema.DelayPredictions)
    if "stop_sequence" not in stored:  # stored by an earlier release, whose predictions match no row any more
        return schema.empty_frame(schema.DelayPredictions)
    return _complete(stored)


def read_predictions(stored: StoredTable, day: date) -> pd.DataFrame:
    """Read `PREDICTION_COLUMNS` of a service day's predictions. Raises MissingPartition."""
    try:
        rows = stored.read(day, PREDICTION_COLUMNS)
    except KeyError:  # stored by an earlier release, which did not have them all
        rows = _complete(stored.read(day))[PREDICTION_COLUMNS]
    return _complete(rows)


def has_role(predictions: pd.DataFrame, role: str) -> pd.Series:
    """Return which predictions (n,) were made live in a role; others have none."""
    return (predictions["role"] == role).fillna(False).astype(bool)


def _complete(stored: pd.DataFrame) -> pd.DataFrame:
    """Return predictions with the columns that earlier releases did not store; those have learned from every day."""
    empty = schema.empty_frame(schema.DelayPredictions)
    added = {name: pd.Series(pd.NA, stored.index, empty[name].dtype) for name in ("published_at", "role")}
    complete = stored.assign(**{name: values for name, values in added.items() if name not in stored})
    if "out_of_sample" not in complete:
        complete = complete.assign(out_of_sample=False)
    return complete.assign(out_of_sample=complete["out_of_sample"].fillna(False).astype(bool))


def _measure_version(
    version: str,
    predictions: pd.DataFrame,
    features: pd.DataFrame,
    read_reference: Callable[[str], DriftReference] | None,
) -> tuple[list[MetricRow], dict[str, Any]]:
    """Return the metrics of a model version's predictions for a service day, and their description.

    Predictions are matched with the features by key: features that were made again may have other rows. Without
    `read_reference`, drift is not measured.
    """
    scored = features.merge(predictions[[*schema.ROW_KEY, "predicted_delay_seconds"]], on=schema.ROW_KEY)
    predicted = scored.pop("predicted_delay_seconds").to_numpy(dtype=np.float64)
    rows = accuracy.score_predictions(scored, predicted) + accuracy.score_beside_agency(scored, predicted)
    unmatched = len(predictions) - len(scored)
    metadata: dict[str, Any] = {"predictions": len(predictions), "predictions_without_features": unmatched}
    if read_reference is None:
        return rows, metadata
    try:
        rows += measure_drift(scored, predicted, read_reference(version))
    except BundleError as error:
        metadata["drift_omitted"] = f"The training set of the model is no longer stored. {error}"
    return rows, metadata | _describe_accuracy(rows)


def _read_reference(model_registry: ModelRegistry, model_version: str) -> DriftReference:
    """Read what drift of a model is measured against. Raises BundleError if it is no longer stored."""
    production_model = model_registry.get("production_model", model_version)
    training_set = model_registry.get("training_set", production_model.manifest["training_set"])
    model = load_model(production_model)
    train = read_rows(training_set, model.preprocessor.encoder.numeric, ["train"])
    return DriftReference.from_rows(model, train, read_labelled(training_set, "test"))


def _score_others(
    predictions: pd.DataFrame, features: pd.DataFrame
) -> tuple[list[MetricRow], dict[str, list[MetricRow]]]:
    """Return the scores of the agency and of the baseline for the rows and times of a service day's predictions.

    Without predictions there are none.
    """
    if predictions.empty:
        return [], {}
    moments = predictions[[*schema.ROW_KEY, "published_at"]].drop_duplicates()
    rows = features.merge(moments, on=schema.ROW_KEY)
    baseline = predict_baselines(rows)[BASELINE]
    return accuracy.score_agency(rows), {BASELINE: accuracy.score_predictions(rows, baseline)}


def _read_agency_arrivals(warehouse: Warehouse, source: Source, day: date) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the agency's predicted arrivals of a service day, and metadata that says why they are left out.

    There are no arrivals where the source has none, or the schedule that tells their stop visits is gone.
    """
    predictions = read_agency_predictions(warehouse, source, day, ARRIVAL_COLUMNS)
    schedule, stop, omitted = schema.empty_frame(schema.Schedule), schema.empty_frame(schema.Stop), dict[str, str]()
    if len(predictions):
        try:
            schedule, stop = (warehouse.read(table, day) for table in ("schedule", "stop"))
        except (MissingPartition, SourceError) as error:
            omitted = {"agency_service_omitted": f"The schedule of the service day is no longer stored. {error}"}
    return list_agency_arrivals(predictions, schedule, stop, day), omitted


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
            for stops in STOPS_AHEAD
        }
        for route in routes
    ]
    return {"mae_seconds_by_route": table_metadata(table)}
