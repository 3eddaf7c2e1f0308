"""Teaches a small network what a large one knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mbta_assets.learning.dataset import Arrays
from mbta_assets.learning.network import NetworkConfig
from mbta_assets.learning.train import Fitted, OnEpoch, Targets, TrainConfig, fit


@dataclass(frozen=True)
class LessonConfig:
    """How much a teacher has to say."""

    weight: float = 0.7
    """The teacher's share of the loss; the label has the rest."""
    bound_quantile: float = 0.95
    """The teacher's error that this share of the labelled rows stays within. Beyond it the teacher's weight shrinks."""


def lesson(train: Arrays, teacher_seconds: np.ndarray, config: LessonConfig) -> Targets:
    """Targets of n rows: the label, and the teacher's delay (n,) in seconds.

    Where the teacher misses the label by more than the bound, its weight is bound / miss: what it says there pulls no
    harder than an error of the bound would (after Chen et al. 2017 and Takamoto et al. 2020). A row without a label
    has the teacher alone.
    """
    labelled = ~np.isnan(train.label)
    miss = np.abs(np.where(labelled, train.label - teacher_seconds, 0))
    bound = np.quantile(miss[labelled], config.bound_quantile)
    trust = bound / np.maximum(miss, bound)
    weights = np.stack([(1 - config.weight) * labelled, config.weight * trust], axis=1)
    seconds = np.stack([np.where(labelled, train.label, 0), teacher_seconds], axis=1)
    return Targets(seconds.astype(np.float32), weights.astype(np.float32))


def distil(
    network_config: NetworkConfig,
    train_config: TrainConfig,
    lesson_config: LessonConfig,
    train: Arrays,
    validation: Arrays,
    teacher_seconds: np.ndarray,
    *,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """A student taught by a teacher's delays (n,) in seconds for the n training rows, labelled or not."""
    targets = lesson(train, teacher_seconds, lesson_config)
    return fit(network_config, train_config, train, validation, targets=targets, on_epoch=on_epoch)


def best_teacher(label: np.ndarray, predictions: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The models whose mean prediction has the least validation MAE; labels (n,) and predictions (n,) in seconds."""
    labelled = ~np.isnan(label)
    groups = [group for size in range(1, len(predictions) + 1) for group in combinations(sorted(predictions), size)]

    def mae(group: tuple[str, ...]) -> float:
        mean = np.mean([predictions[name] for name in group], axis=0)
        return float(np.abs(mean - label)[labelled].mean())

    return min(groups, key=mae)
