"""Trees report their error in seconds whatever the unit of their loss, and those of both bases are averaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbta_assets.defs.models.xgboost_model import IN_SCALE
from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.run_time import OutdatedModel
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.ml.training.hyperparameters import BoostingConfig
from mbta_assets.ml.training.xgboost_model import select_bases
from mbta_assets.ml.training.xgboost_trainer import SCALE, SECONDS, XGBoostTrainer
from mbta_assets.storage import bundle


def make_rows(n: int, seed: int) -> Arrays:
    """Return rows of which those with a small scale are noise, and the others a function of the only feature."""
    random = np.random.default_rng(seed)
    feature, is_noise = random.uniform(-1, 1, n).astype(np.float32), random.random(n) < 0.5
    scale = np.where(is_noise, 1, 100).astype(np.float32)
    target = np.where(is_noise, random.normal(0, 3, n), np.sin(4 * feature)).astype(np.float32)
    numeric = np.column_stack([feature, is_noise]).astype(np.float32)
    base, slowdown = np.zeros(n, np.float32), random.choice([1, 1.5], n).astype(np.float32)
    return Arrays(numeric, np.zeros((n, 1), np.int32), base, scale, target * scale * slowdown, slowdown)


@pytest.mark.parametrize("unit", [SCALE, SECONDS])
def test_reported_errors_are_seconds_and_the_best_round_is_that_of_the_smallest_in_the_unit_of_the_loss(
    unit: str,
) -> None:
    train, validation = make_rows(3_000, 0), make_rows(2_000, 1)
    configuration = {**IN_SCALE, "unit": unit, "huber_slope": 1.0}
    trainer = XGBoostTrainer(configuration, BoostingConfig(60, 20, 1), seed=0)
    curve: list[float] = []
    booster = xgboost_trainer.fit(trainer, train, validation, curve.append)
    features = xgboost_trainer.stack_features(validation)
    scale = validation.scale if unit == SECONDS else 1
    residuals = [
        booster.inplace_predict(features, iteration_range=(0, rounds + 1)) / scale
        for rounds in range(booster.num_boosted_rounds())
    ]
    errors = [validation.mean_absolute_error(residual) for residual in residuals]
    assert curve[: len(errors)] == pytest.approx(np.minimum.accumulate(errors), rel=1e-4)
    in_units = [float(np.abs(scale * (residual - validation.target)).mean()) for residual in residuals]
    assert min(in_units) == pytest.approx(in_units[-1]) and len(errors) > 1
    points = xgboost_trainer.measure_learning_curve(booster, validation, seed=0)
    assert points == [(step, pytest.approx(errors[step - 1], rel=1e-4)) for step, _ in points]
    assert points[0][0] == 1 and points[-1][0] == len(errors)
    silent = xgboost_trainer.fit(trainer, train, validation)
    assert silent.save_raw("ubj") == booster.save_raw("ubj")


def test_the_mean_of_trees_of_both_bases_is_the_mean_of_their_delays(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 500
    ahead, lookup_delay = random.uniform(60, 900, n), random.normal(0, 60, n)
    numeric = np.column_stack([random.normal(size=n), lookup_delay, lookup_delay + ahead]).astype(np.float32)
    scale, label = np.full(n, 40, np.float32), (lookup_delay + random.normal(0, 30, n)).astype(np.float32)
    slowdown = random.choice([1, 1.5], n).astype(np.float32)
    slower = lookup_delay + (lookup_delay + ahead) * (slowdown - 1)
    bases = {"lookup": slower.astype(np.float32), "now": (-ahead).astype(np.float32)}
    codes = np.ones((n, 2), np.int32)
    rows = {base: Arrays(numeric, codes, value, scale, label, slowdown) for base, value in bases.items()}
    units = {"lookup": SECONDS, "now": SCALE}
    trees = {
        base: xgboost_trainer.fit(
            XGBoostTrainer({**IN_SCALE, "unit": units[base]}, BoostingConfig(5, 5, 1), 0),
            rows[base],
        )
        for base in bases
    }
    unit_seconds = {"lookup": slowdown, "now": scale * slowdown}
    delays = [
        rows[base].base + unit_seconds[base] * trees[base].inplace_predict(xgboost_trainer.stack_features(rows[base]))
        for base in bases
    ]
    files = {xgboost_trainer.file_name(base): bytes(booster.save_raw("ubj")) for base, booster in trees.items()}
    fields = {"trees": {xgboost_trainer.file_name(base): base for base in trees}}
    for residual_to in bases:
        stored = bundle.write(tmp_path / residual_to, "xgboost", files, residual_to=residual_to, **fields)
        residual = xgboost_trainer.load_trees(stored, residual_to)(rows[residual_to])
        assert rows[residual_to].base + rows[residual_to].unit * residual == pytest.approx(
            np.mean(delays, axis=0), abs=0.01
        )
        unknown = replace(rows[residual_to], codes=rows[residual_to].codes * [1, 0])
        residual = xgboost_trainer.load_trees(stored, residual_to)(unknown)
        assert rows[residual_to].base + rows[residual_to].unit * residual != pytest.approx(
            np.mean(delays, axis=0), abs=0.01
        )
    old = bundle.write(tmp_path / "old", "xgboost", {"model.ubj": b""}, residual_to="lookup")
    with pytest.raises(OutdatedModel, match="materialize xgboost_model"):
        xgboost_trainer.load_trees(old, "lookup")


def test_both_bases_are_selected_if_their_mean_is_better_than_each() -> None:
    rows = make_rows(50, 0)
    target, error = rows.target, np.full(50, 2.0)
    both = {"lookup": target + error, "now": target - error}
    assert select_bases(rows, both) == (("lookup", "now"), {**select_bases(rows, both)[1], "mean": pytest.approx(0)})
    assert select_bases(rows, {"lookup": target, "now": target + error})[0] == ("lookup",)
    assert select_bases(rows, {"lookup": target + error, "now": target})[0] == ("now",)
    assert select_bases(rows, {"lookup": target + error})[0] == ("lookup",)
