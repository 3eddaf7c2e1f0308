"""The settings that assets read. Everything else a setting decides is decided when the definitions are built."""

from typing import Any, Self

import dagster as dg
from pydantic import Field

from mbta_assets.settings import VARIABLES, Settings


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


def dump_public_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults and are no secrets, by name.

    They are the configuration of resources that read several of them: `Settings(**…)` makes the same settings again.
    """
    secrets = {variable.field for variable in VARIABLES if variable.secret}
    hidden = secrets | {"wandb_mode"}  # of no use to such a resource, and "online" requires a secret
    return settings.model_dump(mode="json", exclude_defaults=True, exclude=hidden)
