"""Predictions of service days before the validation part, and how large the student's errors are beside theirs."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mbta_assets.ml.inference.run_time import LOOKUP_FILE, MedianRunTime
from mbta_assets.ml.training.assembly import build_training_set
from mbta_assets.ml.training.dataset import LEARNED_PARTS, SplitConfig, read_labelled, read_rows
from mbta_assets.ml.training.earlier_days import MAX_RATIO, MIN_RATIO, fit_error_ratio, predict_earlier_days
from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig
from mbta_assets.ml.training.network_data import NetworkData
from mbta_assets.ml.training.network_trainer import fit
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets_tests.support.days import Simulation

N = 9_000


@given(ratios=st.lists(st.floats(MIN_RATIO, MAX_RATIO), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_the_ratio_is_that_of_the_errors_at_each_distance(ratios: list[float], seed: int) -> None:
    random = np.random.default_rng(seed)
    stops_ahead, other_error = np.repeat([1, 2, 5], N // 3), random.exponential(60, N)
    curve = fit_error_ratio(stops_ahead, other_error * np.repeat(ratios, N // 3), other_error)
    np.testing.assert_allclose(curve.evaluate(np.array([1, 2, 5])), ratios, rtol=1e-9)


@pytest.mark.parametrize(("scale", "expected"), [(0.1, MIN_RATIO), (9.0, MAX_RATIO)])
def test_the_ratio_is_limited(scale: float, expected: float) -> None:
    other_error = np.linspace(1, 100, N)
    curve = fit_error_ratio(np.full(N, 3), scale * other_error, other_error)
    assert curve.evaluate(np.array([1, 3, 9])).tolist() == [expected] * 3


def test_without_any_error_nothing_is_corrected() -> None:
    curve = fit_error_ratio(np.full(N, 3), np.zeros(N), np.zeros(N))
    assert curve.evaluate(np.array([3])).tolist() == [1.0]


@pytest.mark.integration  # simulates ten service days, unless another test has
def test_each_earlier_day_is_predicted_by_a_network_that_learned_the_days_before(
    simulation: Simulation, tmp_path: Path
) -> None:
    features = simulation.rows.drop(columns="part")
    samples = [(pd.Timestamp(day).date(), rows[::20]) for day, rows in features.groupby(features["service_date"])]
    registry = ModelRegistry(tmp_path)
    training_set = registry.put("training_set", build_training_set(samples, SplitConfig()).draft({}, 300))
    learned = read_rows(training_set, parts=LEARNED_PARTS)
    lookup = Draft(
        "lookup", {LOOKUP_FILE: MedianRunTime.fit(learned).to_bytes()}, {"training_set": training_set.digest}
    )
    runtime_lookup = registry.put("runtime_lookup", lookup)
    _, *folds = NetworkData.iterate_folds(training_set, runtime_lookup, 0, 3)

    of_folds = [fit(NetworkConfig(hidden=(8,)), TrainConfig(epochs=2), fold.train, fold.validation) for fold in folds]
    networks = [fitted.network for fitted in of_folds]
    days = [fold.drop_training_rows() for fold in folds]

    validation = read_labelled(training_set, "validation")
    error = np.full(len(validation), 1e-3)  # of a student that is never wrong
    stored = parquet.read_table(io.BytesIO(predict_earlier_days(days, networks, validation, error))).to_pandas()
    of_days = learned.iloc[stored["place"]]
    days = sorted(learned["service_date"][learned["part"] == "train"].unique())
    assert stored["place"].is_monotonic_increasing and of_days["delay_seconds"].notna().all()
    assert sorted(of_days["service_date"].unique()) == days[-2:]
    assert (stored["error_ratio"] == MIN_RATIO).all()
    scheduled = of_days["delay_seconds"].abs().mean()
    assert (of_days["delay_seconds"].to_numpy() - stored["delay"]).abs().mean() < scheduled
