"""Hyperparameters of networks and trees as plain data, without torch or XGBoost.

The ranges they are searched in belong to `search_spaces`; their defaults for a deployment, to the asset configurations.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from mbta_assets.ml.training.tuning import Configuration, Halving

ABSOLUTE, HUBER = "reg:absoluteerror", "reg:pseudohubererror"
"""Losses of trees, by XGBoost's names."""
TRIAL_AVERAGE_DECAY = 0.85
"""Decay of the moving average of the weights in a trial."""
NumericEmbedding = Literal["none", "linear_relu", "periodic", "piecewise_linear"]

ALL_INPUTS, REDUCED_INPUTS = "all", "steady"
"""Values of `inputs` in a configuration, stored with the model: all columns, or without some feature groups."""


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a network. The names of the fields are stored in `network.json`."""

    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the dense layers."""
    embedding_dim: int = 4
    """Dimensions of the embedding of each category."""
    numeric: NumericEmbedding = "periodic"
    """Embedding of a numeric feature beside its scaled value (https://arxiv.org/abs/2203.05556)."""
    numeric_dim: int = 4
    """Dimensions of the embedding of each numeric feature."""
    frequencies: int = 4
    """Number of frequencies of a periodic embedding."""
    frequency_scale: float = 0.05
    """Standard deviation of the initial frequencies."""
    bins: int = 16
    """Number of bins of a piecewise-linear embedding, equally filled by the training values; ties leave fewer."""
    dropout: float = 0.0
    """Dropout rate after each dense layer."""
    batch_norm: bool = True
    """Batch normalization after each dense layer."""
    category_dropout: float = 0.01
    """Fraction of category codes set to unknown in training, so that the unknown code learns an average embedding."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimization of a network: AdamW on a one-cycle schedule, with early stopping on the validation error."""

    learning_rate: float = 0.01
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    epochs: int = 8
    """Maximum number of epochs, and the length of the schedule."""
    batch_size: int = 2048
    """Maximum number of rows per batch."""
    min_steps_per_epoch: int = 64
    """Minimum number of steps per epoch; small data gets smaller batches."""
    warmup_fraction: float = 0.2
    """Fraction of the steps in which the learning rate rises to its peak."""
    huber_delta: float = 0.0
    """Error in units of the scale up to which the loss of labels is quadratic; 0 for an absolute loss."""
    max_gradient_norm: float = 1.0
    """Norm that gradients are clipped to."""
    patience: int = 8
    """Number of epochs without a smaller validation error after which training stops."""
    early_stopping_rows: int = 20_000
    """Maximum number of validation rows, evenly spaced, for the error after each epoch."""
    average_decay: float = 0.0
    """Decay of the moving average of the weights, a step; 0 for the weights of the last step."""
    seed: int = 0
    threads: int = 1
    """Number of CPU threads; the weights depend on it."""
    device: str = "cpu"
    """Torch device."""

    def for_trials(self, epochs: int) -> Self:
        """Return the optimization of trials of so many epochs.

        Trials are compared in the middle of their schedule, where the learning rate is at its highest and the weights
        of a single step say little of what they lead to.
        """
        return replace(self, epochs=epochs, average_decay=TRIAL_AVERAGE_DECAY)


MIN_EPOCHS = 3


def limit_epochs(epochs: int, rows: int, max_rows_seen: int) -> int:
    """Return a smaller number of epochs of many rows: as many as see `max_rows_seen`, but `MIN_EPOCHS` or more."""
    return min(epochs, max(MIN_EPOCHS, round(max_rows_seen / max(1, rows))))


@dataclass(frozen=True)
class DistillationConfig:
    """Weighting of the labels and of the teacher's predictions in the loss of a student."""

    teacher_weight: float = 0.7
    """Weight of the teacher's predictions; that of the labels is 1 minus it."""
    huber_delta: float = 0.3
    """Error in units of the scale up to which the loss to the teacher is quadratic."""
    bound_quantile: float = 0.95
    """Quantile of the teacher's absolute errors beyond which its weight decreases."""


@dataclass(frozen=True)
class BoostingConfig:
    """Number of boosting rounds and early stopping of trees."""

    max_rounds: int
    """Maximum number of boosting rounds."""
    patience_rounds: int
    """Number of rounds without a smaller validation error after which training stops."""
    rounds_per_step: int
    """Number of rounds between two reports of a trial; a step of its learning curve."""

    @property
    def steps(self) -> int:
        """Return the number of steps that a full trial reports, at least 1."""
        return max(1, self.max_rounds // self.rounds_per_step)


@dataclass(frozen=True)
class SearchBudget:
    """Size of a hyperparameter search and of its trials."""

    trials: int
    """Number of configurations."""
    folds: int
    """Maximum number of walk-forward folds that each configuration is judged on."""
    rows: int
    """Maximum number of training rows of a fold, and of validation rows."""
    grace_fraction: float
    """Fraction of a full trial after which it is first compared with others."""
    halving_factor: int
    """Inverse of the fraction of trials that go on at each rung."""

    @property
    def search_folds(self) -> int:
        """Return the maximum number of folds of a search: one where there is nothing to choose from."""
        return self.folds if self.trials > 1 else 1

    def build_halving(self, steps: int, within: str | None = None) -> Halving:
        """Return the successive halving of trials of so many steps; for `within` see `Halving`."""
        return Halving.from_fraction(steps, self.grace_fraction, self.halving_factor, within)


_TRAIN_FIELDS = {
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "batch_size": "batch_size",
    "smooth": "huber_delta",
}
"""Fields of `TrainConfig` by their key in a configuration, which is stored with the model."""
_OTHER_KEYS = {"inputs", "weight"}
"""Keys of a configuration that concern neither the architecture nor the optimization."""


def apply_configuration(
    configuration: Configuration, network: NetworkConfig, training: TrainConfig
) -> tuple[NetworkConfig, TrainConfig]:
    """Return the architecture and optimization with the values of a searched configuration.

    Raises ValueError for a key that names no hyperparameter.
    """
    architecture: dict[str, Any] = {}
    optimization: dict[str, Any] = {}
    network_fields = {field.name for field in fields(NetworkConfig)}
    for key, value in configuration.items():
        if key in network_fields:
            architecture[key] = tuple(value) if key == "hidden" else value
        elif key in _TRAIN_FIELDS:
            optimization[_TRAIN_FIELDS[key]] = value
        elif key not in _OTHER_KEYS:
            allowed = sorted(network_fields | _TRAIN_FIELDS.keys() | _OTHER_KEYS)
            raise ValueError(f"{key!r} is no hyperparameter of a network; use one of {', '.join(allowed)}")
    return replace(network, **architecture), replace(training, **optimization)
