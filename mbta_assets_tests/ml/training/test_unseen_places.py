"""Every kind of model predicts stops and routes that it has not seen, about as well as the lookup does without them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.defs.models.xgboost_model import IN_SCALE
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ResidualFunction, load_onnx, predict_delay
from mbta_assets.ml.training import int8_variants, network_trainer, onnx_export, xgboost_trainer
from mbta_assets.ml.training.cross_fitting import (
    FIT_COLUMNS,
    CrossFittedPreprocessor,
    prepare_training_data,
    select_learned,
)
from mbta_assets.ml.training.dataset import CATEGORICAL_FEATURES, NUMERIC_FEATURES, SplitConfig, assign_parts
from mbta_assets.ml.training.hyperparameters import BoostingConfig, NetworkConfig, TrainConfig
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer
from mbta_assets.sources.files import FilesSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.support.days import REAL, build
from mbta_assets_tests.support.real_day import SEED_UPSTREAM

PLACES = ("stop_id", "current_stop_id", "route_id")
MAX_ROWS = 200
MAX_RATIO = 1.5
"""Of the error of a model that knows nothing of the places, to that of the lookup."""


@dataclass(frozen=True, repr=False)
class Trained:
    """Models that were trained on the first part of a day."""

    rows: pd.DataFrame
    """Labelled rows of the whole day with their parts."""
    predict: "dict[str, partial[np.ndarray]]"
    """Predicts the delays (n,) of n rows, by kind of model."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the labelled rows of the real day with their parts."""
    source, stored = FilesSource(SEED_UPSTREAM), ParquetTables(tmp_path_factory.mktemp("day"))
    features = build(stored, REAL, {name: source.read(name, REAL).rows for name in schema.UPSTREAM})
    features = features.assign(part=assign_parts(features, SplitConfig()))
    return features[features["delay_seconds"].notna() & (features["part"] != "")].reset_index(drop=True)


@pytest.fixture(scope="module")
def trained(rows: pd.DataFrame) -> Trained:
    """Return small models of each kind: the lookup, trees, a network and its int8."""
    encoder = Encoder.fit(rows[rows["part"] == "train"], NUMERIC_FEATURES, CATEGORICAL_FEATURES)
    fitted = CrossFittedPreprocessor.fit(encoder, rows[FIT_COLUMNS], select_learned(rows))
    preprocessor, (data, _) = fitted.preprocessor, prepare_training_data(fitted, rows, [rows], 0)
    trees = {
        base: xgboost_trainer.fit(
            XGBoostTrainer({**IN_SCALE, "residual_to": base}, BoostingConfig(20, 20, 10), 0),
            data.train.relative_to(base),
        )
        for base in ("lookup", "now")
    }
    train, validation = data.train.relative_to("lookup"), data.validation.relative_to("lookup")
    config = TrainConfig(epochs=2, min_steps_per_epoch=16)
    onnx = onnx_export.to_onnx(network_trainer.fit(NetworkConfig(hidden=(32, 16)), config, train, validation).network)
    residuals: dict[str, ResidualFunction] = {
        "trees": partial(xgboost_trainer.predict_residual, trees, "lookup"),
        "trees relative to now": partial(xgboost_trainer.predict_residual, {"now": trees["now"]}, "lookup"),
        "network": load_onnx(onnx),
        "int8": load_onnx(int8_variants.quantize_weights(onnx)),
    }
    residuals["residual base"] = lambda arrays: np.zeros(len(arrays), np.float32)
    predict = {name: partial(predict_delay, preprocessor, "lookup", residual) for name, residual in residuals.items()}
    return Trained(rows, {"runtime_lookup": partial(preprocessor.lookup.predict_delay), **predict})


def rename(rows: pd.DataFrame, share_by_place: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Return rows in which a share of the values of each column is new; a stop has one name wherever it is."""
    draw = np.random.default_rng(seed)
    stops = sorted({*rows["stop_id"], *rows["current_stop_id"].dropna()})
    is_new = dict(zip(stops, draw.random(len(stops)), strict=True))
    changed = rows.copy()
    for place, share in share_by_place.items():
        values = [f"new {value}" if is_new.get(value, draw.random()) < share else value for value in rows[place]]
        changed[place] = pd.Series(values, rows.index, object)
    return changed


shares = st.floats(0, 1)


@given(stops=shares, routes=shares, seed=st.integers(0, 100))
@settings(max_examples=30)
def test_unseen_stops_and_routes_give_finite_predictions_that_make_sense(
    trained: Trained, stops: float, routes: float, seed: int
) -> None:
    asked = trained.rows.sample(MAX_ROWS, random_state=seed)
    asked = rename(asked, {"stop_id": stops, "current_stop_id": stops, "route_id": routes}, seed)
    scheduled = asked["scheduled_seconds_ahead"].to_numpy(dtype=np.float64)
    run = np.nan_to_num(asked["scheduled_run_seconds"].to_numpy(dtype=np.float64))
    for model, predict in trained.predict.items():
        ahead = scheduled + predict(asked)
        assert np.isfinite(ahead).all(), model
        assert (ahead >= -0.01).all(), model
        assert (ahead <= np.maximum(scheduled, 0) + 3 * run + 3600).all(), model


def test_models_that_know_no_place_are_hardly_worse_than_the_lookup_that_knows_none(trained: Trained) -> None:
    test = rename(trained.rows[trained.rows["part"] == "test"], dict.fromkeys(PLACES, 1.1), 0)
    label = test["delay_seconds"].to_numpy(dtype=np.float64)
    errors = {model: float(np.abs(predict(test) - label).mean()) for model, predict in trained.predict.items()}
    assert max(errors.values()) < MAX_RATIO * errors["runtime_lookup"], errors
    assert errors["trees relative to now"] == pytest.approx(errors["residual base"])
