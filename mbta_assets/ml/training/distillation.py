"""Teaches a small network what a large one knows."""

from dataclasses import dataclass

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.network_trainer import Targets

SHARES = (0.0, 0.25, 0.5)
"""Which shares of what is taught may come from trees."""


@dataclass(frozen=True)
class LessonConfig:
    """How much a teacher has to say."""

    weight: float = 0.7
    """The teacher's share of the loss; the label has the rest."""
    smooth: float = 0.3
    """See `Targets.smooth`: near the teacher the pull fades, where an absolute loss would go on jerking."""
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
    return Targets(values.astype(np.float32), weights.astype(np.float32), (0.0, config.smooth))


def best_mixture(target: np.ndarray, network: np.ndarray, trees: np.ndarray) -> tuple[float, dict[float, float]]:
    """The trees' share in the mixture of two predictions (n,) of a target (n,) with the least mean absolute error.

    Rows without a label, where the target is NaN, do not count. With the share come the errors of all shares tried.
    """
    errors = {
        share: float(np.nanmean(np.abs((1 - share) * network + share * trees - target), dtype=np.float64))
        for share in SHARES
    }
    return min(errors, key=errors.__getitem__), errors
