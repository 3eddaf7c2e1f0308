"""The asset `xgboost_model`: gradient-boosted trees, computed in `ml.training.xgboost_model`."""

from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from mbta_assets.defs.metadata import plot_metadata, table_metadata
from mbta_assets.defs.models.common import (
    FloatRange,
    IntegerRange,
    SearchConfig,
    TextChoice,
    model_asset,
    require_keys,
    search_metadata,
    training_metadata,
)
from mbta_assets.defs.resources.experiment_tracker import ExperimentTracker
from mbta_assets.defs.resources.ray_cluster import RayCluster
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.training.hyperparameters import ABSOLUTE, HUBER, BoostingConfig
from mbta_assets.ml.training.search_spaces import SearchSpace
from mbta_assets.ml.training.xgboost_model import (
    HELD_OUT,
    XGBoostTraining,
    train_xgboost,
    use_absolute_loss_to_now,
)
from mbta_assets.ml.training.xgboost_trainer import SCALE, SECONDS
from mbta_assets.plots.models import draw_importance
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry

IN_SCALE: dict[str, Any] = {
    "residual_to": "lookup", "objective": HUBER, "eta": 0.1, "max_depth": 8, "min_child_weight": 20.0, "subsample": 0.8,
    "colsample_bynode": 0.7, "reg_lambda": 1.0, "reg_alpha": 0.0, "gamma": 0.0,
}  # fmt: skip
IN_SECONDS: dict[str, Any] = {**IN_SCALE, "unit": SECONDS, "max_depth": 9}
TO_NOW: dict[str, Any] = {**IN_SCALE, "residual_to": "now", "objective": ABSOLUTE, "max_depth": 9}
DEEP_TO_NOW: dict[str, Any] = {**TO_NOW, "max_depth": 11, "min_child_weight": 5.0, "colsample_bynode": 0.4}
MAX_IMPORTANCE_ROWS = 15


class XGBoostSpace(dg.Config):
    """Search space of the trees; the fields are drawn in this order."""

    first_configurations: list[dict[str, Any]] = Field(
        default=[IN_SECONDS, TO_NOW, IN_SCALE, DEEP_TO_NOW],
        description="Configurations that every search begins with.",
    )
    residual_to: TextChoice = Field(
        default=TextChoice(values=["lookup", "now"], probabilities=[0.8, 0.2]),
        description="Delay that the residual is relative to: of the run-time lookup, or of an arrival right now.",
    )
    objective: TextChoice = Field(
        default=TextChoice(values=[HUBER, ABSOLUTE]),
        description="Loss; a Huber loss relative to now becomes the absolute one.",
    )
    eta: FloatRange = Field(default=FloatRange(low=0.05, high=0.2), description="Learning rate, log-uniform.")
    max_depth: IntegerRange = Field(default=IntegerRange(low=4, high=11), description="Maximum depth of a tree.")
    min_child_weight: FloatRange = Field(
        default=FloatRange(low=1.0, high=60.0), description="Minimum weight of a leaf, log-uniform."
    )
    subsample: FloatRange = Field(default=FloatRange(low=0.5, high=1.0), description="Fraction of the rows per tree.")
    colsample_bynode: FloatRange = Field(
        default=FloatRange(low=0.3, high=1.0), description="Fraction of the columns per split."
    )
    reg_lambda: FloatRange = Field(
        default=FloatRange(low=0.1, high=30.0), description="L2 regularization of leaves, log-uniform."
    )
    reg_alpha: FloatRange = Field(
        default=FloatRange(low=0.01, high=10.0), description="L1 regularization of leaves, log-uniform."
    )
    gamma: FloatRange = Field(default=FloatRange(low=0.0, high=1.0), description="Minimum loss reduction of a split.")
    unit: TextChoice = Field(
        default=TextChoice(values=[SCALE, SECONDS]),
        description="Unit of the loss: the scale of the distance, so that all distances count the same, or seconds.",
    )

    @field_validator("first_configurations")
    @classmethod
    def _check_first(cls, configurations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Raise ValueError if a key is missing or no longer read, or if trees would learn next to nothing."""
        require_keys(configurations, "residual_to")
        for configuration in configurations:
            if "inputs" in configuration:
                raise ValueError(f"the configuration {configuration} has inputs: leave it out, trees have all inputs")
            if use_absolute_loss_to_now(configuration) != configuration:
                raise ValueError(
                    f"the configuration {configuration} has a loss that is flat where trees relative to now begin: "
                    f"set its objective to {ABSOLUTE}"
                )
        return configurations

    def build_search_space(self) -> SearchSpace:
        """Return the search space as plain data."""
        return SearchSpace(
            self.first_configurations,
            {
                "residual_to": self.residual_to.to_choice(),
                "objective": self.objective.to_choice(),
                "eta": self.eta.to_log_uniform(),
                "max_depth": self.max_depth.to_uniform(),
                "min_child_weight": self.min_child_weight.to_log_uniform(),
                "subsample": self.subsample.to_uniform(),
                "colsample_bynode": self.colsample_bynode.to_uniform(),
                "reg_lambda": self.reg_lambda.to_log_uniform(),
                "reg_alpha": self.reg_alpha.to_log_uniform(),
                "gamma": self.gamma.to_uniform(),
                "unit": self.unit.to_choice(),
            },
        )


class XGBoostConfig(SearchConfig):
    """Search and final training of the trees."""

    rounds: int = Field(
        default=200, ge=1, description="Maximum number of boosting rounds; early stopping on validation may end before."
    )
    trial_rounds: int = Field(default=120, ge=1, description="Maximum number of boosting rounds of a trial.")
    rounds_per_step: int = Field(
        default=20, ge=1, description="Boosting rounds of one step of a trial's learning curve."
    )
    patience_rounds: int = Field(
        default=60, ge=1, description="Boosting rounds without a smaller validation error after which training stops."
    )
    grace_fraction: float = Field(
        default=0.25, gt=0, le=1, description="Fraction of a full trial after which it is first compared with others."
    )
    space: XGBoostSpace = Field(default=XGBoostSpace(), description="Search space.")

    def build_training(self, trials: int, seed: int) -> XGBoostTraining:
        """Return the hyperparameters as plain data."""
        return XGBoostTraining(
            self.space.build_search_space(),
            self.build_budget(trials),
            BoostingConfig(self.trial_rounds, self.patience_rounds, min(self.rounds_per_step, self.trial_rounds)),
            BoostingConfig(self.rounds, self.patience_rounds, min(self.rounds_per_step, self.rounds)),
            seed,
        )


@model_asset(
    description="Gradient-boosted trees on the residual, tuned on the validation part with Ray Tune.",
    kinds={"xgboost", "ray"},
)
def xgboost_model(
    context: dg.AssetExecutionContext,
    config: XGBoostConfig,
    settings: dg.ResourceParam[TrainingSettings],
    tracker: dg.ResourceParam[ExperimentTracker],
    model_registry: dg.ResourceParam[ModelRegistry],
    cluster: dg.ResourceParam[RayCluster],
    training_set: Bundle,
    runtime_lookup: Bundle,
) -> Draft:
    training = config.build_training(settings.tune_trials, settings.seed)
    trained = train_xgboost(training_set, runtime_lookup, training, cluster.executor)
    held_out = model_registry.put(HELD_OUT, trained.held_out_draft())
    logged = {"training_set": training_set.digest, "seed": settings.seed}
    importance = list(trained.importance.items())[:MAX_IMPORTANCE_ROWS]
    context.add_output_metadata(
        {
            "validation_mae_seconds": min(trained.validation_mae.values()),
            "chosen": "mean" if len(trained.trees) > 1 else next(iter(trained.trees)),
            "residual_bases": table_metadata(
                [{"residual_to": base, "validation_mae_seconds": mae} for base, mae in trained.validation_mae.items()]
            ),
            "rounds": ", ".join(f"{base} {trees.num_boosted_rounds()}" for base, trees in trained.trees.items()),
            "threads": cluster.executor.tree_resources.threads,
            **training_metadata(
                {f"relative to {base}": curve for base, curve in trained.curves.items()}, "boosting rounds"
            ),
            **search_metadata(
                "xgboost_model", trained.trials, tracker, logged, "boosting rounds", config.rounds_per_step
            ),
            "importance": table_metadata(
                [
                    {"input": name, "share_of_gain": share, "error_growth_seconds": trained.permutation.get(name)}
                    for name, share in importance
                ]
            ),
            "importance_plot": plot_metadata(
                lambda gain, permuted: draw_importance(gain, permuted, trained.importance, trained.permutation),
                panels=2,
            ),
        }
    )
    return trained.draft(held_out)
