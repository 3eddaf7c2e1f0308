"""Distillation: a small student network is trained towards the labels and the predictions of a teacher.

The teacher is the pruned network, alone or mixed with trees. The control `untaught_student` is the same network trained
on the labels alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training import tuning
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import (
    DistillationConfig,
    NetworkConfig,
    SearchBudget,
    TrainConfig,
    apply_configuration,
)
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_data import NetworkData, predict_with_trees
from mbta_assets.ml.training.network_trainer import Fitted, Targets, fit, predict
from mbta_assets.ml.training.network_weights import from_bundle, to_files
from mbta_assets.ml.training.search_spaces import SearchSpace
from mbta_assets.ml.training.training_data import sample_indices
from mbta_assets.ml.training.tuning import Configuration, Report
from mbta_assets.storage.bundle import Bundle, Draft

MANIFEST_BYTES = 3_500
"""Size to reserve for the manifest of a student, without its provenance."""


@dataclass(frozen=True)
class SizeBudget:
    """Maximum size of the bundle of a student."""

    max_bytes: int
    max_fraction_of_teacher: float

    def for_teacher(self, teacher: Bundle) -> int:
        """Return the maximum size in bytes for a student of this teacher."""
        return int(min(self.max_bytes, teacher.size_bytes * self.max_fraction_of_teacher))


@dataclass(frozen=True)
class StudentTraining:
    """Hyperparameters of the search and of the final training."""

    space: SearchSpace
    budget: SearchBudget
    draws_per_trial: int
    """Number of random configurations per trial, as those too large for the size budget are left out."""
    trial_epochs: int
    epochs: int
    size: SizeBudget
    tree_fractions: Sequence[float]
    """Fractions of the trees in the mixture with the network that are tried as a teacher."""
    distillation: DistillationConfig
    """Weighting of the loss; a configuration sets the weight of the teacher."""
    network: NetworkConfig
    """Architecture where a configuration does not set it."""
    optimization: TrainConfig
    """Optimization where a configuration does not set it."""
    seed: int


@dataclass(frozen=True)
class DistillationData:
    """Rows that students are trained on, with the predictions of their teacher."""

    train: Arrays
    """n rows; those without a label are trained towards the teacher alone."""
    validation: Arrays
    teacher: np.ndarray
    """(n,) predictions of the teacher for the training rows, in units of the scale."""
    network: NetworkConfig
    optimization: TrainConfig
    distillation: DistillationConfig

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the training rows of worker `rank` of `world_size` (see `Arrays.shard`), with all validation rows."""
        return replace(self, train=self.train.shard(rank, world_size), teacher=self.teacher[rank::world_size])

    def subsample(self, max_rows: int, epochs: int) -> Self:
        """Draw at most `max_rows` training rows by the seed and set the number of epochs."""
        rows = sample_indices(len(self.train), max_rows, self.optimization.seed)
        optimization = replace(self.optimization, epochs=epochs)
        return replace(self, train=self.train.take(rows), teacher=self.teacher[rows], optimization=optimization)


@dataclass(frozen=True)
class TeacherMixture:
    """The mixture of a network and trees whose predictions students are trained towards."""

    tree_fraction: float
    errors: dict[float, float]
    """Validation error in seconds of each fraction that was tried."""
    train: np.ndarray
    """(n,) predictions for the training rows, in units of the scale."""


@dataclass(frozen=True)
class DistilledStudent:
    """The selected student and its control, with the results of the search."""

    trials: list[tuning.Result]
    mixture: TeacherMixture
    fitted: Fitted
    control: Fitted
    """Control: the student's architecture trained on the labels alone."""
    data: NetworkData
    teachers: dict[str, Bundle]
    """Models that the student was taught by, or that set its size and columns, by asset."""
    workers: int

    @property
    def configuration(self) -> Configuration:
        """Return the selected configuration."""
        return tuning.best_result(self.trials).configuration

    def describe(self) -> dict[str, Any]:
        """Return errors and sizes, and the gain of distillation."""
        return {
            **self.data.describe(self.fitted),
            "validation_mae_seconds_without_teacher": self.control.validation_error,
            "gain_of_distillation": 1 - self.fitted.validation_error / self.control.validation_error,
            "tree_fraction": self.mixture.tree_fraction,
        }

    def control_draft(self) -> Draft:
        """Return the bundle of the student trained on the labels alone."""
        return self.data.draft(self.control, _without_teacher(self.configuration), self.workers, self.teachers)

    def draft(self, control_digest: str) -> Draft:
        """Return the bundle of the student, which names its teachers and its control."""
        return self.data.draft(
            self.fitted,
            self.configuration,
            self.workers,
            self.teachers,
            teacher={
                **{name: self.teachers[name].digest for name in ("pruned_teacher", "xgboost_held_out")},
                "trees": self.mixture.tree_fraction,
            },
            control={"asset": "untaught_student", "digest": control_digest},
        )


def distill_student(
    training_set: Bundle,
    runtime_lookup: Bundle,
    held_out_trees: Bundle,
    teacher: Bundle,
    pruned_teacher: Bundle,
    training: StudentTraining,
    executor: TrainingExecutor,
) -> DistilledStudent:
    """Search for a student within the size budget, and train it with and without its teacher."""
    all_columns = NetworkData.from_bundles(training_set, runtime_lookup, training.seed)
    data = all_columns.select_columns_of(teacher)
    mixture = mix_teachers(data, from_bundle(pruned_teacher), held_out_trees, all_columns, training.tree_fractions)
    optimization = replace(training.optimization, epochs=training.epochs, seed=training.seed)
    distillation_data = DistillationData(
        data.train, data.validation, mixture.train, training.network, optimization, training.distillation
    )
    trial_data = distillation_data.subsample(training.budget.rows, training.trial_epochs)
    teachers = {"xgboost_held_out": held_out_trees, "dnn_teacher": teacher, "pruned_teacher": pruned_teacher}
    max_bytes = training.size.for_teacher(teacher) - _count_fixed_bytes(data, teachers)
    trials = executor.search(
        run_trial,
        select_configurations(training, trial_data.train, max_bytes),
        trial_data,
        training.budget.build_halving(training.trial_epochs),
    )
    best = tuning.best_result(trials).configuration
    fitted, control = executor.train_networks(train_configuration, [best, _without_teacher(best)], distillation_data)
    return DistilledStudent(trials, mixture, fitted, control, data, teachers, executor.torch_workers)


def mix_teachers(
    data: NetworkData, network: Network, trees: Bundle, all_columns: NetworkData, tree_fractions: Sequence[float]
) -> TeacherMixture:
    """Mix the predictions of a network and of trees by the fraction of the trees that validation selects."""
    train, validation = data.train, data.validation
    trees_train, trees_validation = predict_with_trees(trees, all_columns)
    fraction, errors = select_mixture(validation, predict(network, validation), trees_validation, tree_fractions)
    mixed = (1 - fraction) * predict(network, train) + fraction * trees_train
    return TeacherMixture(fraction, errors, mixed)


def select_mixture(
    validation: Arrays, network: np.ndarray, trees: np.ndarray, tree_fractions: Sequence[float]
) -> tuple[float, dict[float, float]]:
    """Return the fraction of the trees with the smallest error, and the errors in seconds of all fractions.

    `network` and `trees` are residuals (n,) of the validation rows.
    """
    errors = {
        fraction: validation.mean_absolute_error((1 - fraction) * network + fraction * trees)
        for fraction in tree_fractions
    }
    return min(errors, key=errors.__getitem__), errors


def distillation_targets(train: Arrays, teacher: np.ndarray, config: DistillationConfig) -> Targets:
    """Return targets of n rows: the label, and the teacher's prediction (n,) in units of the scale.

    Where the error of the teacher exceeds the bound, its weight is multiplied by bound / error, so that it pulls no
    harder than at the bound (after Chen et al. 2017 and Takamoto et al. 2020). A row without a label has the teacher's
    prediction alone.
    """
    labelled = ~np.isnan(train.label)
    error = np.abs(np.where(labelled, train.target - teacher, 0))
    bound = np.quantile(error[labelled], config.bound_quantile)
    trust = bound / np.maximum(error, bound)
    weights = np.stack([(1 - config.teacher_weight) * labelled, config.teacher_weight * trust], axis=1)
    values = np.stack([np.where(labelled, train.target, 0), teacher], axis=1)
    return Targets(values.astype(np.float32), weights.astype(np.float32), (0.0, config.huber_delta))


def select_configurations(training: StudentTraining, train: Arrays, max_bytes: int) -> list[Configuration]:
    """Return the configurations of a search whose files are at most `max_bytes`, or the smallest one if all are larger.

    `train` are training rows enough to tell the sizes by.
    """
    trials = training.budget.trials
    configurations = training.space.draw_configurations(training.draws_per_trial * trials, training.seed)
    sizes = [count_bytes(configuration, training.network, train) for configuration in configurations]
    fitting = [configuration for configuration, size in zip(configurations, sizes, strict=True) if size <= max_bytes]
    return fitting[:trials] or [configurations[int(np.argmin(sizes))]]


def train_configuration(
    configuration: Configuration, data: DistillationData, resources: Resources = ONE_CORE, report: Report | None = None
) -> Fitted:
    """Train a student of one configuration; one with `weight` 0 is trained on the labels alone.

    `report` gets the validation error after each epoch.
    """
    network, optimization = apply_configuration(configuration, data.network, data.optimization)
    optimization = replace(optimization, threads=resources.threads, device=resources.device)
    teacher_weight = configuration["weight"]
    distillation = replace(data.distillation, teacher_weight=teacher_weight)
    targets = distillation_targets(data.train, data.teacher, distillation) if teacher_weight else None
    on_epoch = (lambda _, error: report(error)) if report else None
    return fit(network, optimization, data.train, data.validation, targets=targets, on_epoch=on_epoch)


def run_trial(configuration: Configuration, data: DistillationData, report: Report, resources: Resources) -> None:
    """Train one configuration of the search and report its learning curve."""
    train_configuration(configuration, data, resources, report)


def count_bytes(configuration: Configuration, network: NetworkConfig, train: Arrays) -> int:
    """Return the total size of the files of a network with this configuration, whose weights are not sparse."""
    architecture, _ = apply_configuration(configuration, network, TrainConfig())
    return sum(map(len, to_files(Network.from_training_rows(architecture, train)).values()))


def _without_teacher(configuration: Configuration) -> Configuration:
    """Return the configuration of the control, which is trained on the labels alone."""
    return {**configuration, "weight": 0.0}


def _count_fixed_bytes(data: NetworkData, teachers: Mapping[str, Bundle]) -> int:
    """Return the size of the files of a bundle beside the network: preprocessor and manifest."""
    preprocessor = sum(map(len, data.stored_preprocessor.to_files().values()))
    return preprocessor + MANIFEST_BYTES + len(json.dumps(data.make_provenance(teachers), indent=1))
