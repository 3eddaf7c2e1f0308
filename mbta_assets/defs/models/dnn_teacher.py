"""The asset `dnn_teacher`: a large network, computed in `ml.training.teacher`."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, field_validator

from mbta_assets.defs.models.common import (
    ArchitectureConfig,
    FloatRange,
    OptimizationConfig,
    SearchConfig,
    TextChoice,
    model_asset,
    number_epochs,
    require_keys,
    search_metadata,
    training_metadata,
)
from mbta_assets.defs.resources.experiment_tracker import ExperimentTracker
from mbta_assets.defs.resources.ray_cluster import RayCluster
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.training.hyperparameters import ALL_INPUTS, REDUCED_INPUTS
from mbta_assets.ml.training.search_spaces import Choice, SearchSpace
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mbta_assets.ml.training.teacher import TeacherTraining

PLAIN: dict[str, Any] = {
    "inputs": ALL_INPUTS, "hidden": [128, 64, 32, 16], "numeric": "none", "embedding_dim": 4, "dropout": 0.1,
    "learning_rate": 0.01, "weight_decay": 0.01,
}  # fmt: skip
"""A plain multilayer perceptron, the network of the previous system, with an absolute loss."""
PIECEWISE_LINEAR: dict[str, Any] = {
    "inputs": REDUCED_INPUTS, "hidden": [320, 160, 64], "numeric": "piecewise_linear", "bins": 16, "numeric_dim": 4,
    "embedding_dim": 4, "dropout": 0.0, "learning_rate": 0.006, "batch_size": 512, "weight_decay": 0.01,
}  # fmt: skip


class TeacherSpace(dg.Config):
    """Search space of the teacher; the fields are drawn in this order."""

    first_configurations: list[dict[str, Any]] = Field(
        default=[
            PIECEWISE_LINEAR,
            {**PIECEWISE_LINEAR, "numeric": "periodic"},
            {**PIECEWISE_LINEAR, "numeric": "linear_relu"},
            PLAIN,
            {**PIECEWISE_LINEAR, "inputs": ALL_INPUTS},
            {**PIECEWISE_LINEAR, "numeric": "none"},
        ],
        description="Configurations that every search begins with.",
    )
    inputs: TextChoice = Field(
        default=TextChoice(values=[REDUCED_INPUTS, ALL_INPUTS], probabilities=[0.8, 0.2]),
        description="Columns that the network reads: without the feature group calendar, or all.",
    )
    hidden: list[list[int]] = Field(
        default=[[320, 160, 64], [384, 128], [256, 256, 64]], min_length=1, description="Widths of the dense layers."
    )
    numeric: TextChoice = Field(
        default=TextChoice(values=["piecewise_linear", "periodic"], probabilities=[0.7, 0.3]),
        description="Embedding of numeric features.",
    )
    bins: list[int] = Field(default=[12, 16, 24], min_length=1, description="Bins of a piecewise-linear embedding.")
    numeric_dim: list[int] = Field(default=[4, 6], min_length=1, description="Dimensions of the embedding of a number.")
    embedding_dim: list[int] = Field(default=[2, 4, 6], min_length=1, description="Dimensions of that of a category.")
    dropout: list[float] = Field(
        default=[0.0, 0.05, 0.1], min_length=1, description="Dropout rate after a dense layer."
    )
    learning_rate: FloatRange = Field(
        default=FloatRange(low=0.003, high=0.012),
        description="Peak learning rate of the one-cycle schedule, log-uniform.",
    )
    batch_size: list[int] = Field(default=[512, 1024], min_length=1, description="Maximum number of rows per batch.")
    weight_decay: FloatRange = Field(
        default=FloatRange(low=0.001, high=0.1), description="Decoupled weight decay, log-uniform."
    )
    huber_delta: list[float] = Field(
        default=[0.0, 0.3],
        min_length=1,
        description="Error, in units of the scale, up to which the loss is quadratic (`smooth` of a configuration).",
    )

    @field_validator("first_configurations")
    @classmethod
    def _check_first(cls, configurations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Raise ValueError if a key is missing that training reads."""
        return require_keys(configurations, "inputs", "hidden")

    def build_search_space(self) -> SearchSpace:
        """Return the search space as plain data."""
        return SearchSpace(
            self.first_configurations,
            {
                "inputs": self.inputs.to_choice(),
                "hidden": Choice(self.hidden),
                "numeric": self.numeric.to_choice(),
                "bins": Choice(self.bins),
                "numeric_dim": Choice(self.numeric_dim),
                "embedding_dim": Choice(self.embedding_dim),
                "dropout": Choice(self.dropout),
                "learning_rate": self.learning_rate.to_log_uniform(),
                "batch_size": Choice(self.batch_size),
                "weight_decay": self.weight_decay.to_log_uniform(),
                "smooth": Choice(self.huber_delta),
            },
        )


class TeacherConfig(SearchConfig):
    """Search and final training of the teacher."""

    epochs: int = Field(default=6, ge=2, description="Epochs of the final training; the best by validation is kept.")
    max_rows_seen: int = Field(
        default=2_600_000,
        ge=1,
        description="Training rows, each counted once an epoch, beyond which there are fewer epochs, but at least 3.",
    )
    trial_rows: int = Field(
        default=30_000, ge=100, description="Maximum number of training rows of a fold, and of validation rows."
    )
    trial_epochs: int = Field(default=5, ge=2, description="Epochs of a trial.")
    space: TeacherSpace = Field(default=TeacherSpace(), description="Search space.")
    architecture: ArchitectureConfig = Field(
        default=ArchitectureConfig(), description="Architecture that is not searched."
    )
    optimization: OptimizationConfig = Field(
        default=OptimizationConfig(), description="Optimization that is not searched."
    )

    def build_training(self, trials: int, seed: int) -> "TeacherTraining":
        """Return the hyperparameters as plain data."""
        from mbta_assets.ml.training.teacher import TeacherTraining  # torch; see `dnn_teacher`

        return TeacherTraining(
            self.space.build_search_space(),
            self.build_budget(trials),
            self.trial_epochs,
            self.epochs,
            self.max_rows_seen,
            self.architecture.build_network(),
            self.optimization.build_training(),
            seed,
        )


@model_asset(
    description="A large network on the residual, its architecture and optimization tuned with Ray Tune.",
    kinds={"pytorch", "ray"},
)
def dnn_teacher(
    context: dg.AssetExecutionContext,
    config: TeacherConfig,
    settings: dg.ResourceParam[TrainingSettings],
    tracker: dg.ResourceParam[ExperimentTracker],
    model_registry: dg.ResourceParam[ModelRegistry],
    cluster: dg.ResourceParam[RayCluster],
    training_set: Bundle,
    runtime_lookup: Bundle,
) -> Draft:
    # Torch takes seconds to import; the code location imports this module and must load fast.
    from mbta_assets.ml.training.teacher import HELD_OUT, train_teacher

    training = config.build_training(settings.tune_trials, settings.seed)
    trained = train_teacher(training_set, runtime_lookup, training, cluster.executor)
    held_out = model_registry.put(HELD_OUT, trained.held_out)
    logged = {"training_set": training_set.digest, "seed": settings.seed}
    context.add_output_metadata(
        {
            **trained.describe(),
            "threads": cluster.executor.network_resources.threads,
            **training_metadata({"teacher": number_epochs(trained.fitted.history)}, "epochs"),
            **search_metadata("dnn_teacher", trained.trials, tracker, logged, "epochs"),
        }
    )
    return trained.draft(held_out)
