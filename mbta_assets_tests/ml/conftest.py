"""A small regression problem like the real one: heavy-tailed seconds, missing values, hinges, categories, distances."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Arrays

if TYPE_CHECKING:
    from mbta_assets.ml.training.network_trainer import Fitted

STOPS = 30
STOPS_AHEAD = (1, 3, 5, 10)
FEATURE_NAMES = [*"abcdefgh", *"ijk"]
"""Names of the numeric columns of a `Problem`, then of its codes."""


@dataclass(frozen=True)
class Problem:
    """Rows, and the best possible prediction of each."""

    rows: Arrays
    oracle: np.ndarray
    """(n,) median of the target of each row, in units of the scale."""

    def oracle_error(self) -> float:
        """Return the mean absolute error that no model can beat, in seconds."""
        return self.rows.mean_absolute_error(self.oracle)


MakeProblem: TypeAlias = Callable[[int, int], Problem]
"""Makes a problem of n rows from a seed."""


def create_problem(n: int, seed: int) -> Problem:
    """Create n rows, 5% of them unlabelled, with the categories route, stop and stops ahead, which sets the scale."""
    generator = np.random.default_rng(seed)
    stop_effect = np.random.default_rng(0).normal(0, 8, STOPS)
    route, stop, distance = generator.integers(1, 5, n), generator.integers(1, STOPS, n), generator.integers(0, 4, n)
    ahead = np.array(STOPS_AHEAD)[distance]
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
    codes = np.column_stack([route, stop, 1 + distance])
    base, scales, labels, target = (
        column.astype(np.float32) for column in (delay, scale, label, (oracle - delay) / scale)
    )
    slowdown = np.ones(n, np.float32)
    return Problem(Arrays(numeric.astype(np.float32), codes.astype(np.int32), base, scales, labels, slowdown), target)


@pytest.fixture(scope="session")
def make_problem() -> MakeProblem:
    """Return a function that creates a problem of n rows from a seed."""
    return create_problem


@pytest.fixture(scope="session")
def train() -> Problem:
    """Return the training part."""
    return create_problem(8_000, seed=1)


@pytest.fixture(scope="session")
def validation() -> Problem:
    """Return the validation part."""
    return create_problem(4_000, seed=2)


@pytest.fixture(scope="session")
def teacher(train: Problem, validation: Problem) -> "Fitted":
    """Return a network trained on the training part; tests must not change it."""
    # Torch takes seconds to import, and most tests below this folder do without it.
    from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig
    from mbta_assets.ml.training.network_trainer import fit

    config = NetworkConfig(hidden=(64, 32), numeric="periodic")
    return fit(config, TrainConfig(epochs=8), train.rows, validation.rows)
