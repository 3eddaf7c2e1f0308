"""Stores with a small but real production model, and servers of them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mbta_assets.defs.monitoring.network_snapshot import build_snapshot
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.evaluation.accuracy import (
    make_accuracy_table,
    score_agency,
    score_beside_agency,
    score_predictions,
)
from mbta_assets.ml.evaluation.accuracy_history import make_history
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.intervals import IntervalCalibration
from mbta_assets.ml.inference.model import INTERVAL_FILE, ONNX_FILE, ONNX_KIND, Model, load_onnx, predict_delay
from mbta_assets.ml.inference.preprocessing import Preprocessor
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.training import dataset
from mbta_assets.ml.training.cross_fitting import compute_out_of_fold
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, ArrivalQuery
from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry
from mbta_assets.storage.reports import ACCURACY_HISTORY, LEADERBOARD, NETWORK_SNAPSHOT, ReportStore, name_model_report
from mbta_assets_tests.support.days import SIMULATED_DAYS, Simulation
from mbta_assets_tests.support.function_server import FunctionServer, serve_predictions
from mbta_assets_tests.support.workers import make_once

SEEDS = (0, 1)


@dataclass(frozen=True)
class TrainedModels:
    """Two models trained on the first of the simulated days, and data to test them on."""

    test_rows: pd.DataFrame
    """Labelled rows of the test part."""
    last_day: pd.DataFrame
    """Features of the last day."""
    stop_names: pd.DataFrame
    bundles: list[Bundle]
    """Two networks with the same preprocessing and different weights."""


@pytest.fixture(scope="session")
def trained_models(tmp_path_factory: pytest.TempPathFactory, simulation: Simulation) -> TrainedModels:
    """Return two small networks, trained once for all processes; tests must not change them."""
    rows = simulation.rows[simulation.rows["delay_seconds"].notna()].reset_index(drop=True)
    train, validation, test = (rows[rows["part"] == part].reset_index(drop=True) for part in dataset.PARTS)

    def train_models(directory: Path) -> None:
        for seed in SEEDS:
            _train_model(directory / f"model{seed}", train, validation, seed)

    directory = make_once(tmp_path_factory, "served_models", train_models)
    bundles = [bundle.read(directory / f"model{seed}") for seed in SEEDS]
    stops = simulation.stops.rename(columns={"id": "stop_id", "name": "destination"})
    return TrainedModels(test, simulation.last_day, stops[["stop_id", "destination", "platform_name"]], bundles)


def _train_model(directory: Path, train: pd.DataFrame, validation: pd.DataFrame, seed: int) -> Bundle:
    """Train a small network, export it to ONNX and write it as a bundle with calibrated intervals."""
    from mbta_assets.ml.training import onnx_export
    from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig
    from mbta_assets.ml.training.network_trainer import fit
    from mbta_assets.ml.training.teacher import CALENDAR_FEATURES

    out_of_fold = compute_out_of_fold(train)
    encoder = Encoder.fit(train, dataset.NUMERIC_FEATURES, dataset.CATEGORICAL_FEATURES)
    lookup = MedianRunTime.fit(train)
    preprocessor = Preprocessor.fit(encoder.drop_columns(CALENDAR_FEATURES), lookup, train, out_of_fold[:, 0])
    network = fit(
        NetworkConfig(hidden=(32, 16)),
        TrainConfig(epochs=2, seed=seed),
        preprocessor.transform(train, "lookup", out_of_fold),
        preprocessor.transform(validation, "lookup"),
    ).network
    onnx = onnx_export.to_onnx(network)
    delay = predict_delay(preprocessor, "lookup", load_onnx(onnx), validation)
    interval = IntervalCalibration.fit(validation, validation["delay_seconds"].to_numpy() - delay)
    files = {ONNX_FILE: onnx, INTERVAL_FILE: interval.to_bytes(), **preprocessor.to_files()}
    features = preprocessor.feature_names
    return bundle.write(directory, ONNX_KIND, files, residual_to="lookup", features=features, seed=seed)


@dataclass
class ModelStore:
    """A store with a registry, and the trained models that can be promoted in it."""

    root: Path
    models: list[Bundle]

    def set_shadow(self, model: Bundle | Draft | None) -> None:
        """Put a model into the shadow of the production model, or none."""
        registry = ModelRegistry(self.root)
        registry.make_current(SHADOW_MODEL, registry.put(SHADOW_MODEL, model).digest if model else None)

    def promote(self, model: Bundle | Draft) -> str:
        """Store a model, make it the production model and return its digest."""
        registry = ModelRegistry(self.root)
        stored = registry.put("production_model", model)
        registry.set_current("production_model", stored.digest, registry.current_digest("production_model"), "promoted")
        return stored.digest


@pytest.fixture
def empty_store(tmp_path: Path, trained_models: TrainedModels) -> ModelStore:
    """Return a store without a production model."""
    return ModelStore(tmp_path / "store", trained_models.bundles)


@pytest.fixture
def model_store(empty_store: ModelStore) -> ModelStore:
    """Return a store whose production model is the first model."""
    empty_store.promote(empty_store.models[0])
    return empty_store


def make_accuracy_days(trained_models: TrainedModels) -> dict[str, pd.DataFrame]:
    """Return `prediction_accuracy` of five weeks, where the agency predicts a third of the arrivals a minute late.

    The test days come last, and on the last one errors are four times as large. The others have the errors of the first
    test day times a factor, twice as large in a storm.
    """
    tables: dict[str, pd.DataFrame] = {}
    model, rows = Model(trained_models.bundles[0]), trained_models.test_rows
    days = sorted(rows["service_date"].unique())
    for day in days:
        of_day = rows[rows["service_date"] == day].reset_index(drop=True)
        label = of_day["delay_seconds"].to_numpy()
        error = (model.predict(of_day) - label) * (4 if day == days[-1] else 1)
        of_day["agency_delay_seconds"] = np.where(np.arange(len(of_day)) % 3 == 0, label + 60, np.nan)
        ours = [*score_predictions(of_day, label + error), *score_beside_agency(of_day, label + error)]
        parts = {"a" * 64: ours, AGENCY_BASELINE: score_agency(of_day)}
        tables[str(day)] = pd.concat(
            [make_accuracy_table(day, version, scores) for version, scores in parts.items()], ignore_index=True
        )
    earlier = [days[0] - timedelta(days=n) for n in range(33, 0, -1)]
    factors = np.random.default_rng(0).uniform(0.85, 1.15, len(earlier)) * np.where(np.arange(len(earlier)) == 20, 2, 1)
    first = tables[str(days[0])]
    is_ours = (first["model_version"] != AGENCY_BASELINE) & (first["measure"] == "mae_seconds")
    of_earlier = {
        str(day): first.assign(service_date=day, value=first["value"].where(~is_ours, first["value"] * factor))
        for day, factor in zip(earlier, factors, strict=True)
    }
    return {**of_earlier, **tables}


@pytest.fixture(scope="session")
def full_store(tmp_path_factory: pytest.TempPathFactory, trained_models: TrainedModels) -> ModelStore:
    """Return a store with the first model, the leaderboard and the snapshot of the last day, which must not change."""
    store = ModelStore(tmp_path_factory.mktemp("full") / "store", trained_models.bundles)
    version, model, reports = store.promote(store.models[0]), Model(store.models[0]), ReportStore(store.root)
    test_rows = trained_models.test_rows
    delay = model.predict(test_rows)
    assert model.interval
    row = metrics.make_leaderboard_row("quantized_student", test_rows, delay)
    row |= {"version": version, "interval": metrics.score_interval(model.interval, test_rows, delay)}
    baselines = metrics.predict_baselines(test_rows)
    board = [row, *(metrics.make_leaderboard_row(name, test_rows, delay) for name, delay in baselines.items())]
    snapshot = build_snapshot(SIMULATED_DAYS[-1], trained_models.last_day, trained_models.stop_names)
    reports.write(LEADERBOARD, json.dumps(board).encode())
    reports.write(NETWORK_SNAPSHOT, snapshot.to_bytes())
    reports.write(ACCURACY_HISTORY, json.dumps(make_history(make_accuracy_days(trained_models))).encode())
    reports.write(name_model_report(version), b"<!doctype html><title>Model</title>")
    return store


@pytest.fixture
def store_copy(full_store: ModelStore, tmp_path: Path) -> ModelStore:
    """Return a copy of the full store, which may be changed."""
    shutil.copytree(full_store.root, tmp_path / "copy")
    return ModelStore(tmp_path / "copy", full_store.models)


@pytest.fixture(scope="module")
def server(full_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionServer]:
    """Serve the full store to the tests of a module."""
    with serve_predictions(full_store.root, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def query_json(query: ArrivalQuery = EXAMPLE_QUERY, **changes: Any) -> dict[str, Any]:
    """Return a query as its JSON object, with some fields changed."""
    return {**json.loads(json.dumps(asdict(query), default=lambda value: value.isoformat())), **changes}
