"""Group `monitoring`: what the production model predicts of each service day, and how that came true."""

from collections.abc import Iterator, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import dagster as dg
import pandas as pd

from mbta_assets.defs.freshness import EVERY_NIGHT
from mbta_assets.defs.io_managers import DayByDay, StoredTable
from mbta_assets.defs.metadata import OWNERS, daily, markdown_table
from mbta_assets.defs.partitions import days_asked, service_days
from mbta_assets.defs.training import rows_of
from mbta_assets.ml.evaluation import accuracy
from mbta_assets.ml.evaluation.accuracy import Measured
from mbta_assets.ml.evaluation.metrics import MBTA_WINDOWS
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.training.dataset import ROW_KEY
from mbta_assets.storage.bundle import Bundle, BundleError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.transit import schema
from mbta_assets.transit.formulas import STOPS_AHEAD

WORST = 3
JUDGED = [*ROW_KEY, "predicted_delay_seconds", "model_version"]


@dg.asset(
    group_name="monitoring",
    description=schema.DelayPredictions.__doc__,
    owners=OWNERS,
    kinds={"numpy"},
    metadata=daily("delay_predictions"),
    partitions_def=service_days,
    freshness_policy=EVERY_NIGHT,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="tables",
)
def delay_predictions(
    context: dg.AssetExecutionContext, transit_features: StoredTable, production_model: Bundle
) -> DayByDay:
    model = Model(production_model)

    def predict(day: date) -> pd.DataFrame:
        features = transit_features.read(day)
        context.add_asset_metadata({"model_version": production_model.digest}, partition_key=str(day))
        return accuracy.predictions(features, model.predict(features), production_model.digest)

    return DayByDay((day, predict(day)) for day in days_asked(context))


@dg.asset(
    group_name="monitoring",
    description=schema.PredictionAccuracy.__doc__,
    owners=OWNERS,
    kinds={"pandas", "scipy"},
    metadata=daily("prediction_accuracy"),
    partitions_def=service_days,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="tables",
)
def prediction_accuracy(
    context: dg.AssetExecutionContext,
    bundle_store: dg.ResourceParam[ModelRegistry],
    delay_predictions: StoredTable,
    transit_features: StoredTable,
) -> DayByDay:
    @lru_cache(maxsize=1)
    def reference(model_version: str) -> accuracy.Reference:
        production_model = bundle_store.get("production_model", model_version)
        training_set = bundle_store.get("training_set", production_model.manifest["training_set"])
        return accuracy.Reference.of(Model(production_model), rows_of(training_set))

    def measure() -> Iterator[tuple[date, pd.DataFrame]]:
        for day in days_asked(context):
            predictions, features = delay_predictions.read(day, JUDGED), transit_features.read(day)
            _must_be_about_the_same(day, predictions, features)
            predicted = predictions["predicted_delay_seconds"].to_numpy()
            model_version = None if predictions.empty else str(predictions["model_version"].iloc[0])
            measured = accuracy.came_true(features, predicted)
            described: dict[str, Any] = {}
            if model_version is None:
                described["drift_left_out"] = "The service day has no predictions."
            else:
                try:
                    measured += accuracy.drifted(features, predicted, reference(model_version))
                except BundleError as error:
                    described["drift_left_out"] = f"What the model learned from is no longer stored. {error}"
            context.add_asset_metadata(described | _described(measured), partition_key=str(day))
            yield day, accuracy.table(day, model_version, measured)

    return DayByDay(measure())


def _must_be_about_the_same(day: date, predictions: pd.DataFrame, features: pd.DataFrame) -> None:
    if not predictions[ROW_KEY].equals(features[ROW_KEY]):
        command = f"dagster asset materialize --select delay_predictions --partition {day}"
        raise ValueError(
            f"delay_predictions of service day {day} are about other rows than its transit_features, which were made "
            f"again since. Predict them too: {command}"
        )


def _described(measured: Sequence[Measured]) -> dict[str, Any]:
    """The metadata of one service day: its headline numbers, what drifted most, and two tables."""
    found = {(one.measure, one.dimension, one.member): one for one in measured}
    value = {key: one.value for key, one in found.items()}
    headline = {
        "mae_seconds": value["mae_seconds", "all", "all"],
        "eta_benchmark_score": value["eta_benchmark", "all", "all"],
        "matched_share": value["matched_share", "all", "all"],
    }
    described: dict[str, Any] = {name: number for name, number in headline.items() if number is not None}
    drift = {one.member: one.value for one in measured if one.measure == "feature_drift" and one.value is not None}
    if drift:
        most = sorted(drift, key=lambda name: -drift[name])[:WORST]
        described["worst_feature_drift"] = drift[most[0]]
        described["drifted_most"] = ", ".join(f"{name} {drift[name]:.2f}" for name in most)
    described["within_mbta_window"] = markdown_table(
        [
            {
                "predicted": horizon,
                "predictions": found["within_mbta_window", "predicted_horizon", horizon].n,
                "share": value["within_mbta_window", "predicted_horizon", horizon],
                **{
                    position: value["within_mbta_window", "predicted_horizon, position", f"{horizon}, {position}"]
                    for position in accuracy.POSITIONS
                },
            }
            for horizon in MBTA_WINDOWS
        ]
    )
    routes = [one.member for one in measured if one.measure == "mae_seconds" and one.dimension == "route_id"]
    if routes:
        described["mae_seconds_by_route"] = markdown_table(
            [
                {"route": route}
                | {f"{n} ahead": value["mae_seconds", "route_id, stops_ahead", f"{route}, {n}"] for n in STOPS_AHEAD}
                for route in routes
            ]
        )
    return described
