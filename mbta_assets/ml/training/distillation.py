"""Distillation: a small student network is trained towards the labels and the predictions of a teacher.

The teacher is the pruned network, alone or mixed with trees. Its parts, and then the student, are selected by models
that did not learn the validation part. Then the student goes on training for few epochs, on both parts and towards the
final teachers. The control `untaught_student` is the same network trained on the labels alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.dataset import read_labelled
from mbta_assets.ml.training.earlier_days import EARLIER_DAYS_FILE, predict_earlier_days
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import (
    MIN_EPOCHS,
    DistillationConfig,
    NetworkConfig,
    SearchBudget,
    TrainConfig,
    apply_configuration,
    limit_epochs,
)
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_data import RESIDUAL_TO, NetworkData
from mbta_assets.ml.training.network_trainer import Fitted, Further, Targets, fit, predict, train_further
from mbta_assets.ml.training.network_weights import from_bundle
from mbta_assets.ml.training.search_spaces import SearchSpace
from mbta_assets.ml.training.size_budget import SizeBudget, count_bytes, count_fixed_bytes
from mbta_assets.ml.training.synthetic_rows import SyntheticRows
from mbta_assets.ml.training.training_data import sample_indices
from mbta_assets.ml.training.tuning import Configuration, Report
from mbta_assets.storage.bundle import Bundle, Draft

FURTHER = Further(epochs=4, learning_rate=0.6)
"""Training in which a student learns the validation part too."""
HELD_OUT = "student_held_out"
"""Name of the student that was not trained on the validation part, in the registry."""
MAX_FOLD_ROWS = 150_000
"""Maximum number of rows that a student learns to predict an earlier service day; see `earlier_days`."""


@dataclass(frozen=True)
class Teachers:
    """The stored models that a student is taught by."""

    network: Bundle
    """The pruned teacher."""
    trees: Bundle

    def predict(self, rows: Arrays, all_columns: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Return the residuals (n,) that the network and the trees predict, in units of the scale.

        `rows` have the columns that the network reads; the trees read all.
        """
        network = predict(from_bundle(self.network), rows)
        return network, xgboost_trainer.load_trees(self.trees, RESIDUAL_TO)(all_columns)


@dataclass(frozen=True)
class StudentTraining:
    """Hyperparameters of the search and of the final training."""

    space: SearchSpace
    budget: SearchBudget
    draws_per_trial: int
    """Number of random configurations per trial, as those too large for the size budget are left out."""
    trial_epochs: int
    epochs: int
    max_rows_seen: int
    """Number of training rows, each counted once an epoch, of which there are more only in `MIN_EPOCHS` epochs."""
    size: SizeBudget
    tree_fractions: Sequence[float]
    """Fractions of the trees in the mixture with the network that are tried as a teacher."""
    synthetic_rows: SyntheticRows
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
    """n rows, observed and synthetic; those without a label are trained towards the teacher alone."""
    validation: Arrays
    teacher: np.ndarray
    """(n,) predictions of the teacher for the training rows, in units of the scale."""
    network: NetworkConfig
    optimization: TrainConfig
    distillation: DistillationConfig

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the training rows of worker `rank` of `world_size` (see `Arrays.shard`), with all validation rows."""
        return replace(self, train=self.train.shard(rank, world_size), teacher=self.teacher[rank::world_size])

    def subsample(self, max_rows: int) -> Self:
        """Draw at most `max_rows` training rows by the seed."""
        rows = sample_indices(len(self.train), max_rows, self.optimization.seed)
        return replace(self, train=self.train.take(rows), teacher=self.teacher[rows])

    def for_trials(self, max_rows: int, epochs: int) -> Self:
        """Draw at most `max_rows` training rows by the seed, for trials of so many epochs."""
        return replace(self.subsample(max_rows), optimization=self.optimization.for_trials(epochs))

    def end_after(self, epochs: int) -> Self:
        """Set the number of epochs that another training chose, and drop the validation rows, which do not choose here.

        The learning rate falls to its end within these epochs.
        """
        min_epochs = min(MIN_EPOCHS, self.optimization.epochs)
        optimization = replace(self.optimization, epochs=max(epochs, min_epochs))
        return replace(self, validation=self.validation.take(np.arange(0)), optimization=optimization)


@dataclass(frozen=True)
class DistilledStudent:
    """The selected student and its control, with the results of the search."""

    trials: list[tuning.Result]
    tree_fraction: float
    """Fraction of the trees in the mixture that taught it."""
    mixture_errors: dict[float, float]
    """Validation error in seconds of each fraction that was tried."""
    held_out: Draft
    """The bundle of the student trained on the training part."""
    fitted: Fitted
    """The student trained further, on the training and validation parts."""
    control: Fitted
    """Control: the student's architecture trained on the labels of the same parts alone."""
    data: NetworkData
    teachers: dict[str, Bundle]
    """Models that the student was taught by, or that set its size and columns, by asset."""
    workers: int

    @property
    def configuration(self) -> Configuration:
        """Return the selected configuration."""
        return tuning.best_result(self.trials).configuration

    def describe(self) -> dict[str, Any]:
        """Return errors and sizes; see `NetworkData.describe`."""
        of_distillation = {"tree_fraction": self.tree_fraction, "synthetic_rows": self.data.synthetic_rows}
        return {**self.data.describe(self.fitted), **of_distillation}

    def control_draft(self) -> Draft:
        """Return the bundle of the student trained on the labels alone."""
        return self.data.draft(self.control, _without_teacher(self.configuration), self.workers, self.teachers)

    def draft(self, held_out: Bundle, control_digest: str) -> Draft:
        """Return the bundle of the student, which names its teachers, its control, and the stored bundle `held_out`."""
        return self.data.draft(
            self.fitted,
            self.configuration,
            self.workers,
            {**self.teachers, HELD_OUT: held_out},
            teacher={
                **{name: self.teachers[name].digest for name in ("pruned_teacher", "xgboost_model")},
                "trees": self.tree_fraction,
            },
            synthetic_rows=self.data.synthetic_rows,
            control={"asset": "untaught_student", "digest": control_digest},
        )


def distill_student(
    training_set: Bundle,
    runtime_lookup: Bundle,
    teacher: Bundle,
    held_out: Teachers,
    final: Teachers,
    training: StudentTraining,
    executor: TrainingExecutor,
) -> DistilledStudent:
    """Search for a student within the size budget, train it with early stopping, and further on all learned parts.

    `held_out` are the teachers that did not learn the validation part. `teacher` sets the student's columns and size.
    """
    folds = NetworkData.iterate_folds(training_set, runtime_lookup, training.seed, training.budget.folds)
    all_columns = next(folds).with_synthetic_rows(training.synthetic_rows)
    data = all_columns.select_columns_of(teacher)
    training = replace(training, epochs=limit_epochs(training.epochs, len(data.train), training.max_rows_seen))
    fraction, errors = select_mixture(
        data.validation, *held_out.predict(data.validation, all_columns.validation), training.tree_fractions
    )
    distillation_data = _teach(data, all_columns, held_out, fraction, training)
    trials = _search(distillation_data, data, teacher, training, executor)
    configuration = tuning.best_result(trials).configuration
    of_labels = _without_teacher(configuration)
    students = [(item, distillation_data) for item in (configuration, of_labels)]
    fitted, control = executor.train_networks(train_configuration, students)
    earlier = _predict_earlier_days(folds, fitted, data, teacher, of_labels, training, executor)
    of_held_out = {"dnn_teacher": teacher, "pruned_held_out": held_out.network, "xgboost_held_out": held_out.trees}
    draft = data.draft(fitted, configuration, executor.torch_workers, of_held_out)
    draft = replace(draft, files={**draft.files, EARLIER_DAYS_FILE: earlier})
    del students, distillation_data, data, all_columns
    learned = NetworkData.of_learned_parts(training_set, runtime_lookup, training.seed)
    all_columns = learned.with_synthetic_rows(training.synthetic_rows)
    data = all_columns.select_columns_of(teacher)
    final_data = _teach(data, all_columns, final, fraction, training)
    started = [(configuration, fitted.network), (of_labels, control.network)]
    final_student, final_control = executor.train_networks(train_final, [(item, final_data) for item in started])
    return DistilledStudent(
        trials,
        fraction,
        errors,
        draft,
        fitted.replace_network(final_student),
        control.replace_network(final_control),
        data,
        {"dnn_teacher": teacher, "pruned_teacher": final.network, "xgboost_model": final.trees},
        executor.torch_workers,
    )


def _predict_earlier_days(
    folds: Iterable[NetworkData],
    fitted: Fitted,
    data: NetworkData,
    teacher: Bundle,
    of_labels: Configuration,
    training: StudentTraining,
    executor: TrainingExecutor,
) -> bytes:
    """Return the file with predictions of earlier service days, of students of some rows that have no teacher.

    Teachers have learned these days. `fitted` is the student that did not learn the validation part of `data`.
    """
    days, students = list[NetworkData](), list[tuple[Configuration, DistillationData]]()
    for fold in folds:
        day = fold.select_columns_of(teacher)
        rows = _make_data(day, np.zeros(len(day.train), np.float32), training)
        students.append((of_labels, rows.subsample(MAX_FOLD_ROWS).end_after(fitted.best_epoch)))
        days.append(day.drop_training_rows())
    networks = [of_day.network for of_day in executor.train_networks(train_configuration, students)]
    error = data.validation.absolute_errors(predict(fitted.network, data.validation))
    return predict_earlier_days(days, networks, read_labelled(data.training_set, "validation"), error)


def _teach(
    data: NetworkData, all_columns: NetworkData, teachers: Teachers, tree_fraction: float, training: StudentTraining
) -> DistillationData:
    """Return the rows of students with the predictions of a mixture of teachers."""
    network, trees = teachers.predict(data.train, all_columns.train)
    return _make_data(data, (1 - tree_fraction) * network + tree_fraction * trees, training)


def _make_data(data: NetworkData, teacher: np.ndarray, training: StudentTraining) -> DistillationData:
    """Return the rows of students with the predictions (n,) of a teacher."""
    return DistillationData(
        data.train,
        data.validation,
        teacher,
        training.network,
        replace(training.optimization, epochs=training.epochs, seed=training.seed),
        training.distillation,
    )


def _search(
    distillation_data: DistillationData,
    data: NetworkData,
    teacher: Bundle,
    training: StudentTraining,
    executor: TrainingExecutor,
) -> list[tuning.Result]:
    """Run the hyperparameter search on a subsample, among configurations within the size budget.

    It has one fold: the teacher has learned the days of earlier ones.
    """
    trial_data = distillation_data.for_trials(training.budget.rows, training.trial_epochs)
    max_bytes = training.size.for_network(teacher, count_fixed_bytes(data, teacher))
    configurations = select_configurations(training, trial_data.train, max_bytes)
    return executor.search(
        run_trial, configurations, [trial_data], training.budget.build_halving(training.trial_epochs)
    )


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
    """Return the configurations of a search that take at most `max_bytes`, or the smallest one if all take more.

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
    network, optimization, targets = _apply(configuration, data, resources)
    on_epoch = (lambda _, error: report(error)) if report else None
    return fit(network, optimization, data.train, data.validation, targets=targets, on_epoch=on_epoch)


def train_final(student: tuple[Configuration, Network], data: DistillationData, resources: Resources) -> Fitted:
    """Train a copy of a student on all rows for few epochs more."""
    configuration, network = student
    _, optimization, targets = _apply(configuration, data, resources)
    return train_further(network, optimization, FURTHER, data.train, targets)


def _apply(
    configuration: Configuration, data: DistillationData, resources: Resources
) -> tuple[NetworkConfig, TrainConfig, Targets | None]:
    """Return the architecture, optimization and targets of a configuration; without targets, they are the labels."""
    network, optimization = apply_configuration(configuration, data.network, data.optimization)
    optimization = replace(optimization, threads=resources.threads, device=resources.device)
    distillation = replace(data.distillation, teacher_weight=configuration["weight"])
    targets = distillation_targets(data.train, data.teacher, distillation) if configuration["weight"] else None
    return network, optimization, targets


def run_trial(configuration: Configuration, data: DistillationData, report: Report, resources: Resources) -> None:
    """Train one configuration of the search and report its learning curve."""
    train_configuration(configuration, data, resources, report)


def _without_teacher(configuration: Configuration) -> Configuration:
    """Return the configuration of the control, which is trained on the labels alone."""
    return {**configuration, "weight": 0.0}
