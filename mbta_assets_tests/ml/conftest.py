"""A small problem shaped like the real one: heavy-tailed seconds, missing values, hinges, categories, four horizons."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Arrays

STOPS = 30
STOPS_AHEAD = (1, 3, 5, 10)


@dataclass(frozen=True)
class Problem:
    """Rows, and the best that can be said about them."""

    rows: Arrays
    oracle: np.ndarray
    """(n,) the median of each row's target, in units of the scale."""

    def oracle_error(self) -> float:
        """Mean absolute error in units of the scale that no model can beat."""
        return float(np.nanmean(np.abs(self.rows.target - self.oracle)))


def make_problem(n: int, seed: int) -> Problem:
    """n rows; 5% unlabelled; categories route, stop and stops ahead, which gives the scale."""
    generator = np.random.default_rng(seed)
    stop_effect = np.random.default_rng(0).normal(0, 8, STOPS)
    route, stop, horizon = generator.integers(1, 5, n), generator.integers(1, STOPS, n), generator.integers(0, 4, n)
    ahead = np.array(STOPS_AHEAD)[horizon]
    delay = np.clip(generator.standard_t(2.5, n) * 150 + 60, -1500, 6000)
    elapsed, headway, hour = generator.exponential(60, n), generator.lognormal(5.7, 0.5, n), generator.uniform(5, 25, n)
    leader = 0.8 * delay + generator.normal(0, 60, n)
    rush = np.exp(-(((hour - 8) / 1.5) ** 2))
    oracle = delay + np.maximum(elapsed - 80, 0) + ahead * (15 * rush * route / 4 + stop_effect[stop] / 3)
    oracle += 0.5 * np.maximum(leader - delay, 0)
    scale = 8 * ahead**0.8
    label = oracle + scale * generator.standard_t(3, n)
    label[generator.random(n) < 0.05] = np.nan
    numeric = np.column_stack([delay, elapsed, headway, leader, leader - delay, hour * 3600, np.full(n, 42.36), ahead])
    numeric[generator.random(n) < 0.1, 2] = np.nan
    codes = np.column_stack([route, stop, 1 + horizon])
    base, scale, label, target = (
        column.astype(np.float32) for column in (delay, scale, label, (oracle - delay) / scale)
    )
    return Problem(Arrays(numeric.astype(np.float32), codes.astype(np.int32), base, scale, label), target)


@pytest.fixture(scope="session")
def problem() -> Callable[[int, int], Problem]:
    """Makes a problem of n rows from a seed."""
    return make_problem


@pytest.fixture(scope="session")
def train() -> Problem:
    """The training part."""
    return make_problem(8_000, seed=1)


@pytest.fixture(scope="session")
def validation() -> Problem:
    """The validation part."""
    return make_problem(4_000, seed=2)


@pytest.fixture(scope="session")
def teacher(train: Problem, validation: Problem):
    """A network trained on the training part; tests must not change it."""
    from mbta_assets.ml.training.network import NetworkConfig
    from mbta_assets.ml.training.network_trainer import TrainConfig, fit

    config = NetworkConfig(hidden=(64, 32), numeric="periodic")
    return fit(config, TrainConfig(epochs=8), train.rows, validation.rows)
