"""Shared parts of the models' assets: the asset decorator, the metadata of searches, and their configuration.

Configuration classes build the plain data that `ml.training` takes.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import dagster as dg
from pydantic import Field, model_validator

from mbta_assets.defs.machines import PARALLEL_TRIALS
from mbta_assets.defs.metadata import plot_metadata, table_metadata
from mbta_assets.defs.resources.experiment_tracker import ExperimentTracker
from mbta_assets.ml.training.hyperparameters import DistillationConfig, NetworkConfig, SearchBudget, TrainConfig
from mbta_assets.ml.training.search_spaces import Choice, LogUniform, Uniform, UniformInteger
from mbta_assets.ml.training.tuning import Result
from mbta_assets.plots.models import draw_error_against_size, draw_learning_curves, draw_parallel_coordinates
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.provenance import list_references

model_asset = partial(
    dg.asset,
    group_name="models",
    pool="cores",
    tags=PARALLEL_TRIALS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
"""Decorator of an asset that is a model, with the arguments of `dagster.asset` besides.

The function returns a `Draft`, which is stored as a bundle of the asset, of the group `models`. Its arguments are the
bundles that it is made from, by asset. It is the only training at a time, as all of them are in the pool `cores`.
"""

ERROR_LABEL = "validation MAE (seconds)"
TRIALS_TITLE = "Trials of the search, cut where they were stopped"


def read_held_out(model_registry: ModelRegistry, model: Bundle, name: str) -> Bundle:
    """Read the twin of a model that did not learn the validation part: a bundle `name` that its manifest names."""
    return model_registry.get(name, list_references(model.manifest)[name])


class FloatRange(dg.Config):
    """Range of a hyperparameter that is a float."""

    low: float = Field(description="Lower end.")
    high: float = Field(description="Upper end.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        """Raise ValueError if the ends are not in order."""
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must not be larger")
        return self

    def to_uniform(self) -> Uniform:
        """Return the uniform distribution."""
        return Uniform(self.low, self.high)

    def to_log_uniform(self) -> LogUniform:
        """Return the log-uniform distribution. Raises ValueError if the range is not positive."""
        if self.low <= 0:
            raise ValueError(f"low is {self.low}; it must be positive, as the logarithm is uniform")
        return LogUniform(self.low, self.high)


class IntegerRange(dg.Config):
    """Range of a hyperparameter that is an integer, both ends included."""

    low: int = Field(description="Lower end.")
    high: int = Field(description="Upper end.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        """Raise ValueError if the ends are not in order."""
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; low must not be larger")
        return self

    def to_uniform(self) -> UniformInteger:
        """Return the uniform distribution."""
        return UniformInteger(self.low, self.high)


class TextChoice(dg.Config):
    """Values of a hyperparameter that is a text, with their probabilities."""

    values: list[str] = Field(min_length=1, description="Values to draw from.")
    probabilities: list[float] | None = Field(
        default=None, description="Probability of each value; unset, all are equal."
    )

    @model_validator(mode="after")
    def _check_probabilities(self) -> Self:
        """Raise ValueError unless there is a probability for each value and they sum to 1."""
        given = self.probabilities
        if given is not None and (len(given) != len(self.values) or abs(sum(given) - 1) > 1e-9 or min(given) < 0):
            raise ValueError(f"probabilities are {given} for {self.values}; give one for each value, with the sum 1")
        return self

    def to_choice(self) -> Choice:
        """Return the categorical distribution."""
        return Choice(self.values, self.probabilities)


def require_keys(configurations: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Return the configurations. Raise ValueError if there are none, or if one lacks a key."""
    if not configurations:
        raise ValueError("there are no first configurations; give at least one")
    for configuration in configurations:
        missing = [key for key in keys if key not in configuration]
        if missing:
            raise ValueError(f"the configuration {configuration} lacks {', '.join(missing)}")
    return configurations


class SearchConfig(dg.Config):
    """Size of a search and successive halving of its trials."""

    folds: int = Field(
        default=3,
        ge=1,
        description="Maximum number of folds that a trial is judged on: the validation part, and whole service days "
        "before it, each predicted from the days before.",
    )
    trial_rows: int = Field(
        default=40_000, ge=100, description="Maximum number of training rows of a fold, and of validation rows."
    )
    halving_factor: int = Field(
        default=2, ge=2, description="At each rung of successive halving the best 1 / factor of the trials go on."
    )
    grace_fraction: float = Field(
        default=0.2, gt=0, le=1, description="Fraction of a full trial after which it is first compared with others."
    )

    def build_budget(self, trials: int) -> SearchBudget:
        """Return the size of a search with so many trials."""
        return SearchBudget(trials, self.folds, self.trial_rows, self.grace_fraction, self.halving_factor)


class ArchitectureConfig(dg.Config):
    """Parts of the architecture of a network that are not searched, unless a configuration names them."""

    frequencies: int = Field(default=4, ge=1, description="Number of frequencies of a periodic embedding.")
    frequency_scale: float = Field(default=0.05, gt=0, description="Standard deviation of the initial frequencies.")
    batch_norm: bool = Field(default=True, description="Batch normalization after each dense layer.")
    category_dropout: float = Field(
        default=0.01, ge=0, lt=1, description="Fraction of category codes set to unknown in training."
    )

    def build_network(self) -> NetworkConfig:
        """Return the architecture as plain data."""
        return NetworkConfig(
            frequencies=self.frequencies,
            frequency_scale=self.frequency_scale,
            batch_norm=self.batch_norm,
            category_dropout=self.category_dropout,
        )


class OptimizationConfig(dg.Config):
    """Optimization of a network: AdamW on a one-cycle schedule with early stopping."""

    batch_size: int = Field(default=2048, ge=2, description="Maximum number of rows per batch.")
    min_steps_per_epoch: int = Field(
        default=64, ge=1, description="Minimum number of steps per epoch; small data gets smaller batches."
    )
    warmup_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Fraction of the steps in which the learning rate rises to its peak."
    )
    max_gradient_norm: float = Field(default=1.0, gt=0, description="Norm that gradients are clipped to.")
    patience: int = Field(
        default=8, ge=1, description="Epochs without a smaller validation error after which training stops."
    )
    early_stopping_rows: int = Field(
        default=20_000, ge=100, description="Maximum number of validation rows for the error after each epoch."
    )

    def build_training(self) -> TrainConfig:
        """Return the optimization as plain data."""
        return TrainConfig(
            batch_size=self.batch_size,
            min_steps_per_epoch=self.min_steps_per_epoch,
            warmup_fraction=self.warmup_fraction,
            max_gradient_norm=self.max_gradient_norm,
            patience=self.patience,
            early_stopping_rows=self.early_stopping_rows,
        )


class TeacherLossConfig(dg.Config):
    """Weighting of the labels and of the teacher's predictions in the loss."""

    teacher_weight: float = Field(
        default=0.7, gt=0, le=1, description="Weight of the teacher's predictions, unless a configuration sets it."
    )
    huber_delta: float = Field(
        default=0.3, ge=0, description="Error, in units of the scale, up to which the loss to the teacher is quadratic."
    )
    bound_quantile: float = Field(
        default=0.95, gt=0, le=1, description="Quantile of the teacher's errors beyond which its weight decreases."
    )

    def build_distillation(self) -> DistillationConfig:
        """Return the weighting as plain data."""
        return DistillationConfig(self.teacher_weight, self.huber_delta, self.bound_quantile)


def search_metadata(
    name: str,
    trials: Sequence[Result],
    tracker: ExperimentTracker,
    extra: Mapping[str, Any],
    unit: str,
    per_step: int = 1,
) -> dict[str, Any]:
    """Log the trials of a search and return them as a table, their learning curves and the place of the log.

    A step of a learning curve is `per_step` of `unit`, such as boosting rounds. `extra` is logged with each trial.
    """
    rows = [
        {"trial": trial.index, "validation_mae_seconds": trial.best, unit: len(trial.curve) * per_step}
        | {key: str(value) if isinstance(value, list) else value for key, value in trial.configuration.items()}
        for trial in sorted(trials, key=lambda trial: trial.best)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    curves = {
        f"trial {trial.index}": [((index + 1) * per_step, error) for index, error in enumerate(trial.curve)]
        for trial in trials
    }
    compared = [
        {
            ERROR_LABEL if name == "validation_mae_seconds" else name: row.get(name)
            for name in columns
            if name not in ("trial", unit)
        }
        for row in rows
    ]
    group = f"{name}-{datetime.now(UTC):%Y-%m-%d}"
    return {
        "trials": table_metadata([{column: row.get(column) for column in columns} for row in rows]),
        "learning_curves": plot_metadata(
            lambda axes: draw_learning_curves(axes, curves, unit, ERROR_LABEL, TRIALS_TITLE)
        ),
        "hyperparameters": plot_metadata(lambda axes: draw_parallel_coordinates(axes, compared, ERROR_LABEL)),
        "experiments": tracker.log_search(name, group, trials, extra) or "not logged",
    }


def training_metadata(curves: Mapping[str, Sequence[tuple[int, float]]], unit: str) -> dict[str, Any]:
    """Return a plot of the errors in seconds after steps of final trainings, of which validation chose the number."""
    title = "Training on the training part"
    return {"training": plot_metadata(lambda axes: draw_learning_curves(axes, curves, unit, ERROR_LABEL, title))}


def number_epochs(history: Sequence[float]) -> list[tuple[int, float]]:
    """Return the errors after each epoch with its number, from 1."""
    return list(enumerate(history, 1))


def selection_metadata(key: str, table: Sequence[Mapping[str, Any]], selected: str) -> dict[str, Any]:
    """Return named rows with sizes and errors as a table under `key`, and as a plot of error against size."""
    points = {row["name"]: (row["size_bytes"], row["validation_mae_seconds"]) for row in table}
    return {
        "chosen": selected,
        key: table_metadata([{**row, "chosen": row["name"] == selected} for row in table]),
        "error_against_size": plot_metadata(
            lambda axes: draw_error_against_size(axes, points, [selected], ERROR_LABEL)
        ),
    }
