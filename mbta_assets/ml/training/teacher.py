"""The teacher: a large network, its architecture and optimization selected by a hyperparameter search."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self

from mbta_assets.ml.training import tuning
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import (
    REDUCED_INPUTS,
    NetworkConfig,
    SearchBudget,
    TrainConfig,
    apply_configuration,
    limit_epochs,
)
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_data import RESIDUAL_TO, NetworkData
from mbta_assets.ml.training.network_trainer import Fitted, Further, fit, train_further
from mbta_assets.ml.training.search_spaces import SearchSpace
from mbta_assets.ml.training.training_data import TrainingData
from mbta_assets.ml.training.tuning import Configuration, Report
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.transit import schema

HELD_OUT = "teacher_held_out"
"""Name of the teacher that was not trained on the validation part, in the registry."""
FURTHER = Further(epochs=2, learning_rate=0.3)
"""Training in which a teacher learns the validation part too."""
CALENDAR_FEATURES = schema.feature_group("calendar")
"""Model inputs that are constant within a service day."""


@dataclass(frozen=True)
class TeacherTraining:
    """Hyperparameters of the search and of the final training."""

    space: SearchSpace
    budget: SearchBudget
    trial_epochs: int
    epochs: int
    max_rows_seen: int
    """Number of training rows, each counted once an epoch, of which there are more only in `MIN_EPOCHS` epochs."""
    network: NetworkConfig
    """Architecture where a configuration does not set it."""
    optimization: TrainConfig
    """Optimization where a configuration does not set it."""
    seed: int


@dataclass(frozen=True)
class TeacherData:
    """Rows, architecture and optimization of a teacher where its configuration does not set them."""

    data: TrainingData
    network: NetworkConfig
    optimization: TrainConfig

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the training rows of worker `rank` of `world_size`, with all validation rows."""
        return replace(self, data=self.data.shard(rank, world_size))


@dataclass(frozen=True)
class TrainedTeacher:
    """The selected teacher, with the results of the search."""

    trials: list[tuning.Result]
    held_out: Draft
    """The bundle of the teacher trained on the training part."""
    fitted: Fitted
    """The teacher trained further, on the training and validation parts."""
    data: NetworkData
    """Rows of both parts with the columns that the teacher reads."""
    workers: int

    @property
    def configuration(self) -> Configuration:
        """Return the selected configuration."""
        return tuning.best_result(self.trials).configuration

    def describe(self) -> dict[str, Any]:
        """Return errors and sizes; see `NetworkData.describe`."""
        return self.data.describe(self.fitted)

    def draft(self, held_out: Bundle) -> Draft:
        """Return the bundle of the teacher, which went on from the stored bundle `held_out`."""
        return self.data.draft(self.fitted, self.configuration, self.workers, {HELD_OUT: held_out})


def train_teacher(
    training_set: Bundle, runtime_lookup: Bundle, training: TeacherTraining, executor: TrainingExecutor
) -> TrainedTeacher:
    """Search for a configuration on folds of the labelled rows, and train it with early stopping on the training part.

    Then go on training for few epochs, on the training and validation parts.
    """
    folds = NetworkData.iterate_folds(training_set, runtime_lookup, training.seed, training.budget.search_folds)
    data = next(folds)
    trials = search_teachers(chain([data], folds), training, executor)
    configuration = tuning.best_result(trials).configuration
    dropped = CALENDAR_FEATURES if configuration["inputs"] == REDUCED_INPUTS else ()

    epochs = limit_epochs(training.epochs, len(data.train), training.max_rows_seen)
    optimization = replace(training.optimization, epochs=epochs, seed=training.seed)
    fitted = executor.train_network(
        train_configuration, configuration, TeacherData(data.data, training.network, optimization)
    )
    held_out = data.drop_columns(dropped).draft(fitted, configuration, executor.torch_workers)
    data = NetworkData.of_learned_parts(training_set, runtime_lookup, training.seed).drop_columns(dropped)
    final = executor.train_network(
        train_final, (configuration, fitted.network), TeacherData(data.data, training.network, optimization)
    )
    return TrainedTeacher(trials, held_out, fitted.replace_network(final), data, executor.torch_workers)


def search_teachers(
    folds: Iterable[NetworkData], training: TeacherTraining, executor: TrainingExecutor
) -> list[tuning.Result]:
    """Run the hyperparameter search on subsamples of folds, which are taken one at a time."""
    budget, seed = training.budget, training.seed
    optimization = replace(training.optimization, seed=seed).for_trials(training.trial_epochs)
    samples = [
        TeacherData(fold.data.drop_unlabelled().subsample(budget.rows), training.network, optimization)
        for fold in folds
    ]
    has_calendar = not CALENDAR_FEATURES.isdisjoint(samples[0].data.feature_names)
    return executor.search(
        run_trial,
        select_configurations(training.space, budget.trials, seed, has_calendar),
        samples,
        budget.build_halving(training.trial_epochs),
    )


def select_configurations(space: SearchSpace, trials: int, seed: int, has_calendar: bool) -> list[Configuration]:
    """Return the configurations of a search; none reads the calendar where the training set has none.

    Configurations that become equal by that are tried once.
    """
    configurations = space.draw_configurations(trials, seed)
    if not has_calendar:
        without_calendar = [{**configuration, "inputs": REDUCED_INPUTS} for configuration in configurations]
        configurations = [
            configuration
            for index, configuration in enumerate(without_calendar)
            if configuration not in without_calendar[:index]
        ]
    return configurations[:trials]


def train_configuration(
    configuration: Configuration, data: TeacherData, resources: Resources = ONE_CORE, report: Report | None = None
) -> Fitted:
    """Train a teacher of one configuration; `report` gets the validation error after each epoch."""
    rows = data.data
    if configuration["inputs"] == REDUCED_INPUTS:
        rows = rows.drop_columns(CALENDAR_FEATURES)
    network, optimization = apply_configuration(configuration, data.network, data.optimization)
    optimization = replace(optimization, threads=resources.threads, device=resources.device)
    train, validation = rows.train.relative_to(RESIDUAL_TO), rows.validation.relative_to(RESIDUAL_TO)
    on_epoch = (lambda _, error: report(error)) if report else None
    return fit(network, optimization, train, validation, on_epoch=on_epoch)


def train_final(teacher: tuple[Configuration, Network], data: TeacherData, resources: Resources = ONE_CORE) -> Fitted:
    """Train a copy of a teacher on all rows for few epochs more; they have the columns that it reads."""
    configuration, network = teacher
    _, optimization = apply_configuration(configuration, data.network, data.optimization)
    optimization = replace(optimization, threads=resources.threads, device=resources.device)
    return train_further(network, optimization, FURTHER, data.data.train.relative_to(RESIDUAL_TO))


def run_trial(configuration: Configuration, data: TeacherData, report: Report, resources: Resources) -> None:
    """Train one configuration of the search and report its learning curve."""
    train_configuration(configuration, data, resources, report)
