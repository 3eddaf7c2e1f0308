"""The asset `distilled_student`: a small network taught by a teacher, computed in `ml.training.distillation`."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, field_validator

from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.models.common import (
    ArchitectureConfig,
    FloatRange,
    OptimizationConfig,
    SearchConfig,
    TeacherLossConfig,
    TextChoice,
    model_asset,
    number_epochs,
    read_held_out,
    require_keys,
    search_metadata,
    training_metadata,
)
from mbta_assets.defs.resources.experiment_tracker import ExperimentTracker
from mbta_assets.defs.resources.ray_cluster import RayCluster
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.training.search_spaces import Choice, SearchSpace
from mbta_assets.ml.training.xgboost_model import HELD_OUT as TREES_HELD_OUT
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mbta_assets.ml.training.distillation import StudentTraining

PIECEWISE_LINEAR: dict[str, Any] = {
    "hidden": [48, 24], "numeric": "piecewise_linear", "bins": 8, "numeric_dim": 2, "embedding_dim": 2,
    "learning_rate": 0.03, "weight_decay": 0.01, "weight": 0.5,
}  # fmt: skip
WIDE = {**PIECEWISE_LINEAR, "hidden": [80, 40], "bins": 6, "numeric_dim": 1}
"""Wider layers in place of wider embeddings, at the same size."""


class StudentSpace(dg.Config):
    """Search space of the student; the fields are drawn in this order."""

    first_configurations: list[dict[str, Any]] = Field(
        default=[
            PIECEWISE_LINEAR,
            WIDE,
            {**PIECEWISE_LINEAR, "weight": 0.7},
            {**WIDE, "weight": 0.7},
            {**PIECEWISE_LINEAR, "numeric": "linear_relu"},
            {**PIECEWISE_LINEAR, "numeric": "none", "hidden": [64, 32]},
        ],
        description="Configurations that every search begins with.",
    )
    hidden: list[list[int]] = Field(
        default=[[80, 40], [64, 32], [48, 24], [64, 24]], min_length=1, description="Widths of the dense layers."
    )
    numeric: TextChoice = Field(
        default=TextChoice(values=["piecewise_linear", "periodic", "none"], probabilities=[0.7, 0.15, 0.15]),
        description="Embedding of numeric features.",
    )
    bins: list[int] = Field(default=[4, 6, 8], min_length=1, description="Bins of a piecewise-linear embedding.")
    numeric_dim: list[int] = Field(default=[1, 2], min_length=1, description="Dimensions of the embedding of a number.")
    embedding_dim: list[int] = Field(default=[2, 3], min_length=1, description="Dimensions of that of a category.")
    learning_rate: FloatRange = Field(
        default=FloatRange(low=0.015, high=0.04),
        description="Peak learning rate of the one-cycle schedule, log-uniform.",
    )
    weight_decay: FloatRange = Field(
        default=FloatRange(low=0.001, high=0.1), description="Decoupled weight decay, log-uniform."
    )
    teacher_weight: FloatRange = Field(
        default=FloatRange(low=0.3, high=0.8),
        description="Weight of the teacher in the loss (`weight` of a configuration).",
    )

    @field_validator("first_configurations")
    @classmethod
    def _check_first(cls, configurations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Raise ValueError if a key is missing that training reads."""
        return require_keys(configurations, "hidden", "weight")

    def build_search_space(self) -> SearchSpace:
        """Return the search space as plain data."""
        return SearchSpace(
            self.first_configurations,
            {
                "hidden": Choice(self.hidden),
                "numeric": self.numeric.to_choice(),
                "bins": Choice(self.bins),
                "numeric_dim": Choice(self.numeric_dim),
                "embedding_dim": Choice(self.embedding_dim),
                "learning_rate": self.learning_rate.to_log_uniform(),
                "weight_decay": self.weight_decay.to_log_uniform(),
                "weight": self.teacher_weight.to_uniform(),
            },
        )


class SyntheticRowsConfig(dg.Config):
    """Rows without a label, made of others, from which a student learns more of its teachers."""

    per_row: int = Field(default=7, ge=0, description="Number of synthetic rows for each observed one.")
    max_rows: int = Field(
        default=300_000,
        ge=0,
        description="Number of rows, observed and synthetic, beyond which no further ones are made.",
    )
    replaced: float = Field(
        default=0.2, ge=0, le=1, description="Fraction of the values of a synthetic row that are those of another row."
    )


class StudentConfig(SearchConfig):
    """Search and final training of the student."""

    epochs: int = Field(default=16, ge=2, description="Epochs of the final training; the best by validation is kept.")
    max_rows_seen: int = Field(
        default=7_000_000,
        ge=1,
        description="Training rows, each counted once an epoch, beyond which there are fewer epochs, but at least 3.",
    )
    trial_epochs: int = Field(default=6, ge=2, description="Epochs of a trial.")
    draws_per_trial: int = Field(
        default=4,
        ge=1,
        description="Random configurations per trial, as those too large for the size budget are left out.",
    )
    max_size_bytes: int = Field(default=60_000, ge=1, description="Maximum size of the quantized student's bundle.")
    max_fraction_of_teacher: float = Field(
        default=1 / 8,
        gt=0,
        le=1,
        description="Maximum size of the quantized student's bundle as a fraction of the teacher's.",
    )
    min_network_bytes: int = Field(
        default=20_000,
        ge=1,
        description="Size that the quantized network may have, however much the lookup and the names of stops take.",
    )
    tree_fractions: list[float] = Field(
        default=[0.0, 0.25, 0.5, 0.75],
        min_length=1,
        description="Fractions of the trees in the mixture with the pruned teacher, of which validation selects one.",
    )
    space: StudentSpace = Field(default=StudentSpace(), description="Search space.")
    synthetic_rows: SyntheticRowsConfig = Field(
        default=SyntheticRowsConfig(), description="Rows beside the observed ones, labelled by the teachers."
    )
    loss: TeacherLossConfig = Field(default=TeacherLossConfig(), description="Loss towards labels and teacher.")
    architecture: ArchitectureConfig = Field(
        default=ArchitectureConfig(), description="Architecture that is not searched."
    )
    optimization: OptimizationConfig = Field(
        default=OptimizationConfig(), description="Optimization that is not searched."
    )

    def build_training(self, trials: int, seed: int) -> "StudentTraining":
        """Return the hyperparameters as plain data."""
        # Imports torch; see `distilled_student`.
        from mbta_assets.ml.training.distillation import StudentTraining
        from mbta_assets.ml.training.size_budget import SizeBudget
        from mbta_assets.ml.training.synthetic_rows import SyntheticRows

        return StudentTraining(
            self.space.build_search_space(),
            self.build_budget(trials),
            self.draws_per_trial,
            self.trial_epochs,
            self.epochs,
            self.max_rows_seen,
            SizeBudget(self.max_size_bytes, self.max_fraction_of_teacher, self.min_network_bytes),
            self.tree_fractions,
            SyntheticRows(**self.synthetic_rows.model_dump()),
            self.loss.build_distillation(),
            self.architecture.build_network(),
            self.optimization.build_training(),
            seed,
        )


@model_asset(
    description="A small network taught by the pruned teacher, alone or mixed with trees as validation selects.",
    kinds={"pytorch", "ray"},
)
def distilled_student(
    context: dg.AssetExecutionContext,
    config: StudentConfig,
    settings: dg.ResourceParam[TrainingSettings],
    tracker: dg.ResourceParam[ExperimentTracker],
    model_registry: dg.ResourceParam[ModelRegistry],
    cluster: dg.ResourceParam[RayCluster],
    training_set: Bundle,
    runtime_lookup: Bundle,
    xgboost_model: Bundle,
    dnn_teacher: Bundle,
    pruned_teacher: Bundle,
) -> Draft:
    # Torch takes seconds to import; the code location imports this module and must load fast.
    from mbta_assets.ml.training.distillation import HELD_OUT, Teachers, distill_student
    from mbta_assets.ml.training.pruning import HELD_OUT as PRUNED_HELD_OUT

    training = config.build_training(settings.tune_trials, settings.seed)
    held_out_teachers = Teachers(
        read_held_out(model_registry, pruned_teacher, PRUNED_HELD_OUT),
        read_held_out(model_registry, xgboost_model, TREES_HELD_OUT),
    )
    teachers = Teachers(pruned_teacher, xgboost_model)
    distilled = distill_student(
        training_set, runtime_lookup, dnn_teacher, held_out_teachers, teachers, training, cluster.executor
    )
    held_out = model_registry.put(HELD_OUT, distilled.held_out)
    control = model_registry.put("untaught_student", distilled.control_draft())
    errors = [
        {"tree_fraction": key, "validation_mae_seconds": error} for key, error in distilled.mixture_errors.items()
    ]
    logged = {"training_set": training_set.digest, "seed": settings.seed}
    trials = search_metadata("distilled_student", distilled.trials, tracker, logged, "epochs")
    threads = cluster.executor.trial_resources.threads
    training_plot = training_metadata({"student": number_epochs(distilled.fitted.history)}, "epochs")
    context.add_output_metadata(
        {**distilled.describe(), "threads": threads, "teachers": table_metadata(errors), **training_plot, **trials}
    )
    return distilled.draft(held_out, control.digest)
