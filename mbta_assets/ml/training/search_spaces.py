"""Search spaces: the distributions that the hyperparameters of a model are drawn from.

The distributions of each model and its first configurations belong to the asset configurations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mbta_assets.ml.training.tuning import Configuration


class Distribution(Protocol):
    """Distribution of one hyperparameter."""

    def draw(self, random: np.random.Generator) -> Any:
        """Return a random value that JSON can hold."""


@dataclass(frozen=True)
class Choice:
    """Categorical distribution, uniform without probabilities."""

    values: Sequence[Any]
    probabilities: Sequence[float] | None = None

    def draw(self, random: np.random.Generator) -> Any:
        """Return one of the values."""
        return self.values[int(random.choice(len(self.values), p=self.probabilities))]


@dataclass(frozen=True)
class Uniform:
    """Uniform distribution of floats in [low, high)."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        """Return a float."""
        return float(random.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """Distribution of floats in [low, high) whose logarithm is uniform."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        """Return a float."""
        return float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))


@dataclass(frozen=True)
class UniformInteger:
    """Uniform distribution of integers from low to high, both included."""

    low: int
    high: int

    def draw(self, random: np.random.Generator) -> int:
        """Return an integer."""
        return int(random.integers(self.low, self.high + 1))


@dataclass(frozen=True)
class SearchSpace:
    """Configurations of a random search: fixed ones first, then random ones."""

    first: Sequence[Configuration]
    """Configurations that every search begins with."""
    distributions: Mapping[str, Distribution]
    """Distribution of each hyperparameter, in the order in which they are drawn."""

    def draw_configurations(self, random_draws: int, seed: int) -> list[Configuration]:
        """Return the first configurations and then so many random ones.

        The same seed gives the same sequence, whatever its length.
        """
        random = np.random.default_rng(seed)
        random_configurations = [
            {name: distribution.draw(random) for name, distribution in self.distributions.items()}
            for _ in range(random_draws)
        ]
        return [*self.first, *random_configurations]
