"""Teaches a small network what a large one knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mbta_assets.learning.dataset import Arrays
from mbta_assets.learning.train import Targets


@dataclass(frozen=True)
class LessonConfig:
    """How much a teacher has to say."""

    weight: float = 0.7
    """The teacher's share of the loss; the label has the rest."""
    bound_quantile: float = 0.95
    """The teacher's error that this share of the labelled rows stays within. Beyond it the teacher's weight shrinks."""


def lesson(train: Arrays, teacher: np.ndarray, config: LessonConfig) -> Targets:
    """Targets of n rows: the label, and what the teacher predicts (n,), both in units of the scale.

    Where the teacher misses the label by more than the bound, its weight is bound / miss: what it says there pulls no
    harder than an error of the bound would (after Chen et al. 2017 and Takamoto et al. 2020). A row without a label
    has the teacher alone.
    """
    labelled = ~np.isnan(train.label)
    miss = np.abs(np.where(labelled, train.target - teacher, 0))
    bound = np.quantile(miss[labelled], config.bound_quantile)
    trust = bound / np.maximum(miss, bound)
    weights = np.stack([(1 - config.weight) * labelled, config.weight * trust], axis=1)
    values = np.stack([np.where(labelled, train.target, 0), teacher], axis=1)
    return Targets(values.astype(np.float32), weights.astype(np.float32))


def best_teacher(
    target: np.ndarray, predictions: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], dict[tuple[str, ...], float]]:
    """The models whose mean prediction (n,) of a target (n,), NaN where unlabelled, has the least absolute error.

    With it the error of every group of models.
    """
    labelled = ~np.isnan(target)
    groups = [group for size in range(1, len(predictions) + 1) for group in combinations(sorted(predictions), size)]

    def error(group: tuple[str, ...]) -> float:
        mean = np.mean([predictions[name] for name in group], axis=0)
        return float(np.abs(mean - target)[labelled].mean())

    errors = {group: error(group) for group in groups}
    return min(errors, key=errors.__getitem__), errors
