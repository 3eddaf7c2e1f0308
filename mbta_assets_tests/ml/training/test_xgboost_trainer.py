"""Trees are stopped and chosen by their error in seconds."""

import numpy as np
import pytest

from mbta_assets.defs.models.xgboost_model import WITH_ALL_INPUTS
from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.ml.training.hyperparameters import BoostingConfig
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer


def make_rows(n: int, seed: int) -> Arrays:
    """Return rows of which those with a small scale are noise, and the others a function of the only feature."""
    random = np.random.default_rng(seed)
    feature, is_noise = random.uniform(-1, 1, n).astype(np.float32), random.random(n) < 0.5
    scale = np.where(is_noise, 1, 100).astype(np.float32)
    target = np.where(is_noise, random.normal(0, 3, n), np.sin(4 * feature)).astype(np.float32)
    numeric = np.column_stack([feature, is_noise]).astype(np.float32)
    return Arrays(numeric, np.zeros((n, 1), np.int32), np.zeros(n, np.float32), scale, target * scale)


def test_reported_errors_are_seconds_and_the_best_round_is_that_of_the_smallest() -> None:
    train, validation = make_rows(3_000, 0), make_rows(2_000, 1)
    names = ["feature", "is_noise", "category"]
    trainer = XGBoostTrainer(WITH_ALL_INPUTS, names, BoostingConfig(60, 20, 1), seed=0)
    curve: list[float] = []
    booster = xgboost_trainer.fit(trainer, train, validation, curve.append)
    features = xgboost_trainer.stack_features(validation)
    errors = [
        validation.mean_absolute_error(booster.inplace_predict(features, iteration_range=(0, rounds + 1)))
        for rounds in range(booster.num_boosted_rounds())
    ]
    assert curve[: len(errors)] == pytest.approx(np.minimum.accumulate(errors), rel=1e-4)
    assert min(errors) == errors[-1] and len(errors) > 1
