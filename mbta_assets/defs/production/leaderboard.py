"""Group `production`: the leaderboard of all models and baselines, and its check.

Scores are computed in `ml.evaluation.metrics`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any
from zlib import crc32

import dagster as dg
import numpy as np
import pandas as pd

from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.models import MODELS
from mbta_assets.defs.production.leaderboard_plots import plot_leaderboard, plot_model
from mbta_assets.defs.transit import compute_trip_features
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.evaluation.checks import models_losing_to_lookup
from mbta_assets.ml.evaluation.steadiness import measure_change_per_minute
from mbta_assets.ml.inference.latency import measure_median_latency_us
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.inference.transit_network import list_served_stops, require_network
from mbta_assets.ml.training.dataset import read_labelled
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.sources import Source, SourceError
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import LEADERBOARD, ReportStore
from mbta_assets.storage.tables import MissingPartition
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema
from mbta_assets.transit.formulas import STOPS_AHEAD

BASELINES = ("schedule", "persistence", "runtime_lookup", metrics.AGENCY_BASELINE, "oracle")
"""Rows of the leaderboard that are not stored models."""
MAX_ROWS_OF_WHOLE_TRIPS = 20_000
"""Number of rows of `transit_features` about the trips on which the change of predictions is measured."""


@dg.asset(
    group_name="production",
    description="Every model and baseline on the same untouched test rows, errors in seconds of delay.",
    ins={model: dg.AssetIn() for model in MODELS},
    kinds={"json"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def model_leaderboard(
    context: dg.AssetExecutionContext,
    reports: dg.ResourceParam[ReportStore],
    source: dg.ResourceParam[Source],
    model_registry: dg.ResourceParam[ModelRegistry],
    warehouse: dg.ResourceParam[Warehouse],
    training_set: Bundle,
    runtime_lookup: Bundle,
    **models: Bundle,
) -> dg.MaterializeResult:
    test = read_labelled(training_set, "test")
    for model in models.values():
        require_network(model, list_served_stops(test))
    controls = {}
    for control in (model.manifest["control"] for model in models.values() if "control" in model.manifest):
        controls[control["asset"]] = model_registry.get(control["asset"], control["digest"])
    scored = {name: score_model(name, bundle, test) for name, bundle in (models | controls).items()}
    for name in models:
        plots = plot_model(*scored[name], test)
        context.log_event(dg.AssetObservation(name, description="Errors on the test rows.", metadata=plots))
    baselines = predict_baselines(test, runtime_lookup, source)
    leaderboard = rank_models(baselines, [row for row, _ in scored.values()], test)
    in_order = compute_whole_trips(warehouse, source, training_set.manifest)
    changes = measure_steadiness(predict_baselines(in_order, runtime_lookup, source), models | controls, in_order)
    for row in leaderboard:
        row["change_per_minute_seconds"] = changes[row["model"]]
    location = reports.write(LEADERBOARD, json.dumps(leaderboard, indent=1).encode())
    rows: dict[str, Any] = {"test_rows": len(test), "rows_in_order": len(in_order), "training_set": training_set.digest}
    return dg.MaterializeResult(metadata={**describe_leaderboard(leaderboard), **location, **rows})


@dg.asset_check(
    asset="model_leaderboard",
    description="Require every model to beat the run-time lookup on the test part; otherwise it is not worth its size.",
)
def models_beat_the_lookup(reports: dg.ResourceParam[ReportStore]) -> dg.AssetCheckResult:
    leaderboard = json.loads(reports.read(LEADERBOARD))
    losing = models_losing_to_lookup(select_models(leaderboard))
    errors = {f"mae_seconds of {row['model']}": row["mae"] for row in leaderboard}
    return dg.AssetCheckResult(
        passed=not losing, severity=dg.AssetCheckSeverity.WARN, metadata={"losing": losing, **errors}
    )


def compute_whole_trips(warehouse: Warehouse, source: Source, training_set: Mapping[str, Any]) -> pd.DataFrame:
    """Compute rows of features about every stop ahead of each report on some trips of the test part.

    `training_set` is the manifest of one. Its test rows are drawn one by one, and the table has rows about a sample of
    the stops ahead, in which few of the moments are seen at which a stop is passed and predictions change most. The
    trips are of the latest service days whose rows are those that the training set was made from.
    """
    begin = next((part["from"] for part in training_set["parts"] if part["part"] == "test"), None)
    tables, left = [schema.empty_frame(schema.TransitFeatures)], MAX_ROWS_OF_WHOLE_TRIPS
    for name, version in sorted(training_set["data_versions"].items(), reverse=True):
        day = date.fromisoformat(name)
        if begin is None or left <= 0 or not _is_stored(warehouse, day, version):
            continue
        stored = warehouse.read("transit_features", day, ["trip_id", "time_stamp"])
        sizes = stored[stored["time_stamp"] >= pd.Timestamp(begin)].groupby("trip_id").size()
        sizes = sizes.iloc[np.argsort([crc32(str(trip).encode()) for trip in sizes.index], kind="stable")]
        sizes = sizes[sizes.cumsum() <= left]
        if sizes.empty:
            continue
        with suppress(MissingPartition, SourceError):  # the upstream tables of a stored day may be gone
            rows = compute_trip_features(warehouse, source, day, list(sizes.index))
            tables.append(rows[rows["time_stamp"] >= pd.Timestamp(begin)])
            left -= int(sizes.sum())
    return pd.concat(tables, ignore_index=True)


def _is_stored(warehouse: Warehouse, day: date, version: str) -> bool:
    """Return whether a version of a service day of features is the stored one."""
    try:
        return warehouse.tables.versions("transit_features", [day]) == {day: version}
    except MissingPartition:
        return False


def measure_steadiness(
    baselines: Mapping[str, np.ndarray], models: Mapping[str, Bundle], rows: pd.DataFrame
) -> Mapping[str, float | None]:
    """Return by how many seconds a minute the predicted times of each baseline and model change on n rows in order.

    It is None where rows that follow each other are missing, or a baseline does not predict them.
    """
    changes: dict[str, float | None] = defaultdict(lambda: None)
    if len(rows):
        changes |= {name: measure_change_per_minute(rows, delay) for name, delay in baselines.items()}
        for name, bundle in models.items():
            delay = correct_delays(rows, load_model(bundle).predict(rows)).delay
            changes[name] = measure_change_per_minute(rows, delay)
    return changes


def rank_models(
    baselines: Mapping[str, np.ndarray], models: Sequence[metrics.LeaderboardRow], test: pd.DataFrame
) -> list[metrics.LeaderboardRow]:
    """Return the leaderboard rows of models, and one for each baseline on n labelled rows, the lowest MAE first.

    `baselines` has the predicted delays (n,) in seconds by name, `runtime_lookup` among them; NaN where one predicts
    nothing, as the agency may. The agency is compared with the lookup on the rows of its predictions.
    """
    leaderboard = [metrics.make_leaderboard_row(name, test, delay) for name, delay in baselines.items()]
    leaderboard += models
    leaderboard.sort(key=lambda row: row["mae"])
    lookup = next(row for row in leaderboard if row["model"] == "runtime_lookup")
    for row in leaderboard:
        error = "mae_beside_agency" if row["model"] == metrics.AGENCY_BASELINE else "mae"
        row["beats_runtime_lookup"] = row[error] < lookup[error]
    return leaderboard


def select_models(leaderboard: list[metrics.LeaderboardRow]) -> list[metrics.LeaderboardRow]:
    """Return the rows of stored models, without baselines."""
    return [row for row in leaderboard if row["model"] not in BASELINES]


def describe_leaderboard(leaderboard: list[metrics.LeaderboardRow]) -> dict[str, Any]:
    """Return the metadata of a leaderboard: tables, plots and the best model's MAE."""
    models = select_models(leaderboard)
    return {
        "leaderboard": table_metadata(_shorten_rows(leaderboard)),
        **plot_leaderboard(leaderboard, models),
        "interval": table_metadata(_list_coverage(leaderboard)),
        "by_day": table_metadata(_list_days(leaderboard)),
        "losing_to_runtime_lookup": list(models_losing_to_lookup(models)),
        "best_model_mae_seconds": models[0]["mae"],
    }


def predict_baselines(test: pd.DataFrame, runtime_lookup: Bundle, source: Source) -> dict[str, np.ndarray]:
    """Return the delay (n,) in seconds that each baseline predicts, the oracle only if it knows every row."""
    lookup = MedianRunTime.from_bundle(runtime_lookup)
    predicted = {**metrics.predict_baselines(test), "runtime_lookup": lookup.predict_delay(test)}
    agency = metrics.get_agency_delays(test)
    if not np.isnan(agency).all():
        predicted[metrics.AGENCY_BASELINE] = agency
    oracle = source.oracle(test)
    if oracle is not None and not np.isnan(oracle).any():
        predicted["oracle"] = oracle
    return predicted


def score_model(name: str, bundle: Bundle, test: pd.DataFrame) -> tuple[metrics.LeaderboardRow, np.ndarray]:
    """Return the leaderboard row of a model, and the delay (n,) in seconds of each of n labelled rows.

    It is scored by what is published of it, which never runs backwards along a trip.
    """
    model = load_model(bundle)
    first_row = read_first_row(test)
    predicted = model.predict(test)
    published = correct_delays(test, predicted)
    row = {
        **metrics.make_leaderboard_row(name, test, published.delay),
        "corrected_trips": published.corrected_trips,
        "mae_uncorrected": float(np.abs(test["delay_seconds"].to_numpy() - predicted).mean()),
        "interval": metrics.score_interval(model.interval, test, published.delay) if model.interval else None,
        "version": bundle.digest,
        "size_bytes": bundle.size_bytes,
        "parameters": bundle.manifest.get("parameters"),
        "latency_us_p50": measure_median_latency_us(lambda: model.predict_row(first_row)),
    }
    return row, published.delay


def read_first_row(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the first row as plain Python values, as the predictor has them; missing texts are None, numbers NaN."""
    return {
        str(name): (None if values.dtype == object else np.nan) if pd.isna(values.iloc[0]) else values[:1].tolist()[0]
        for name, values in rows.items()
    }


def _shorten_rows(leaderboard: list[metrics.LeaderboardRow]) -> list[dict[str, Any]]:
    """Return the numbers of each row that fit a table of the UI, None where a row has none."""
    rows = [_shorten_row(row) for row in leaderboard]
    complete = max(rows, key=len)
    return [{name: row.get(name) for name in complete} for row in rows]


def _shorten_row(row: metrics.LeaderboardRow) -> dict[str, Any]:
    first = "mae", "size_bytes", "latency_us_p50", "n"
    names = (
        "mae_beside_agency", "mae_uncorrected", "corrected_trips", "rmse", "medae", "me", "smape", "r2",
        "change_per_minute_seconds", "parameters",
    )  # fmt: skip
    stops_ahead = [str(stops) for stops in STOPS_AHEAD if str(stops) in row["by_stops_ahead"]]
    return {
        "model": row["model"],
        **{name: row.get(name) for name in first},
        **{f"{stops} ahead": row["by_stops_ahead"][stops]["mae"] for stops in stops_ahead},
        **{position: errors["mae"] for position, errors in row["by_position"].items()},
        **{name: row.get(name) for name in names},
        "beats_runtime_lookup": row["beats_runtime_lookup"],
    }


def _list_coverage(leaderboard: list[metrics.LeaderboardRow]) -> list[dict[str, Any]]:
    """List the coverage of each model's prediction intervals, over all rows and by stops ahead."""
    return [
        {"model": row["model"], "stops ahead": stops, "confidence level": row["interval"]["confidence_level"]}
        | {name: part[name] for name in ("coverage", "mean_width_seconds", "n")}
        for row in leaderboard
        if row["interval"]
        for stops, part in {"all": row["interval"], **row["interval"]["by_stops_ahead"]}.items()
    ]


def _list_days(leaderboard: list[metrics.LeaderboardRow]) -> list[dict[str, Any]]:
    """List the error of each model and baseline on each test day, and the coverage of its prediction interval.

    That of adaptive ones is beside it, each day's corrected by the test days before.
    """
    return [
        {
            "model": row["model"],
            "service day": day,
            "n": errors["n"],
            "mae": errors["mae"],
            "coverage": row["interval"] and row["interval"]["by_day"][day]["coverage"],
            "mean_width_seconds": row["interval"] and row["interval"]["by_day"][day]["mean_width_seconds"],
            "adaptive coverage": row["interval"] and row["interval"]["adaptive"]["by_day"][day]["coverage"],
            "adaptive width": row["interval"] and row["interval"]["adaptive"]["by_day"][day]["mean_width_seconds"],
        }
        for row in leaderboard
        for day, errors in row["by_day"].items()
    ]
