"""The settings that assets read. Everything else a setting decides is decided when the definitions are built."""

from typing import Self

import dagster as dg
from pydantic import Field

from mbta_assets.settings import Settings


class TrainingSettings(dg.ConfigurableResource):
    """Settings of training, which the launchpad can change for one run."""

    seed: int = Field(default=0, ge=0, description="Seed of the simulation and of training.")
    training_days: int = Field(
        default=28, ge=1, description="Number of latest service days that models are trained on."
    )
    tune_trials: int = Field(default=8, ge=1, description="Number of trials of each hyperparameter search.")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the settings of training that are part of a deployment's settings."""
        return cls(seed=settings.seed, training_days=settings.training_days, tune_trials=settings.tune_trials)
