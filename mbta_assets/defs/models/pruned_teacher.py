"""The asset `pruned_teacher`: the teacher made smaller, computed in `ml.training.pruning`."""

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from mbta_assets.defs.models.common import (
    OptimizationConfig,
    TeacherLossConfig,
    model_asset,
    number_epochs,
    read_held_out,
    selection_metadata,
    training_metadata,
)
from mbta_assets.defs.resources.ray_cluster import RayCluster
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mbta_assets.ml.training.pruning import PruningTraining


class CutConfig(dg.Config):
    """The parts of the teacher that a candidate lacks."""

    neurons: float = Field(
        default=0.0, ge=0, lt=1, description="Fraction of the neurons removed from each hidden layer."
    )
    weights: float = Field(default=0.0, ge=0, lt=1, description="Fraction of the remaining dense weights set to zero.")


class FineTuningConfig(OptimizationConfig):
    """Fine-tuning of the candidates: AdamW on a one-cycle schedule with early stopping."""

    batch_size: int = Field(default=1024, ge=2, description="Maximum number of rows per batch.")
    warmup_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Fraction of the steps in which the learning rate rises to its peak."
    )


class PruningConfig(dg.Config):
    """Candidates, their fine-tuning, and the selection of one."""

    cuts: list[CutConfig] = Field(
        default=[
            {"weights": 0.8},
            {"neurons": 0.5},
            {"neurons": 0.75},
            {"neurons": 0.5, "weights": 0.6},
            {"neurons": 0.5, "weights": 0.8},
        ],
        validate_default=True,  # the launchpad shows plain values only
        description="Candidates beside the teacher that is fine-tuned without being pruned.",
    )
    epochs: int = Field(default=2, ge=1, description="Epochs of fine-tuning of each candidate.")
    max_rows: int = Field(default=200_000, ge=100, description="Maximum number of training rows, drawn by the seed.")
    learning_rate: float = Field(default=0.003, gt=0, description="Peak learning rate of the one-cycle schedule.")
    ramp_fraction: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Fraction of fine-tuning in which weights are zeroed; in the rest it recovers.",
    )
    pruning_steps: int = Field(default=20, ge=1, description="Number of times that further weights are zeroed.")
    width_multiple: int = Field(
        default=8, ge=1, description="Widths of pruned layers are rounded to multiples of this."
    )
    max_error_increase: float = Field(
        default=0.01,
        ge=0,
        description="Maximum relative increase of the validation error, at any number of stops ahead.",
    )
    preferred_size: float = Field(
        default=0.5, gt=0, le=1, description="Fraction of the teacher's parameters that is preferred as the maximum."
    )
    loss: TeacherLossConfig = Field(default=TeacherLossConfig(), description="Loss towards labels and teacher.")
    optimization: FineTuningConfig = Field(default=FineTuningConfig(), description="Fine-tuning.")

    def build_training(self, seed: int) -> "PruningTraining":
        """Return the hyperparameters as plain data."""
        from mbta_assets.ml.training.pruning import Cut, PruningTraining  # torch; see `pruned_teacher`
        from mbta_assets.ml.training.sparsity import SparsitySchedule

        return PruningTraining(
            [Cut(cut.neurons, cut.weights) for cut in self.cuts],
            SparsitySchedule(self.ramp_fraction, self.pruning_steps),
            self.width_multiple,
            self.max_rows,
            self.max_error_increase,
            self.preferred_size,
            self.loss.build_distillation(),
            replace(
                self.optimization.build_training(), epochs=self.epochs, learning_rate=self.learning_rate, seed=seed
            ),
        )


@model_asset(
    description="The teacher with neurons removed, weights zeroed or both: the smallest whose error is close to it.",
    kinds={"pytorch"},
)
def pruned_teacher(
    context: dg.AssetExecutionContext,
    config: PruningConfig,
    settings: dg.ResourceParam[TrainingSettings],
    model_registry: dg.ResourceParam[ModelRegistry],
    cluster: dg.ResourceParam[RayCluster],
    training_set: Bundle,
    runtime_lookup: Bundle,
    dnn_teacher: Bundle,
) -> Draft:
    # Torch takes seconds to import; the code location imports this module and must load fast.
    from mbta_assets.ml.training.pruning import HELD_OUT, TEACHER_HELD_OUT, prune_teacher

    training = config.build_training(settings.seed)
    held_out_teacher = read_held_out(model_registry, dnn_teacher, TEACHER_HELD_OUT)
    pruned = prune_teacher(training_set, runtime_lookup, held_out_teacher, dnn_teacher, training, cluster.executor)
    held_out = model_registry.put(HELD_OUT, pruned.held_out)
    control = model_registry.put("unpruned_teacher", pruned.control_draft())
    selection = selection_metadata("candidates", pruned.to_table(), pruned.selected.cut.name)
    threads = cluster.executor.trial_resources.threads
    curves = {candidate.cut.name: number_epochs(candidate.fitted.history) for candidate in pruned.candidates}
    context.add_output_metadata(
        {**pruned.describe(), "threads": threads, **selection, **training_metadata(curves, "epochs")}
    )
    return pruned.draft(held_out, control.digest)
