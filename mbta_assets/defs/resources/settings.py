"""The settings that assets read. Everything else a setting decides is decided when the definitions are built."""

from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import Field

from mbta_assets.settings import VARIABLES, Settings
from mbta_assets.storage.retention import Retention


class TrainingSettings(dg.ConfigurableResource):
    """Settings of training and promotion, which the launchpad can change for one run."""

    seed: int = Field(default=0, ge=0, description="Seed of the simulation and of training.")
    training_days: int = Field(
        default=28, ge=1, description="Number of latest service days that models are trained on."
    )
    tune_trials: int = Field(default=8, ge=1, description="Number of trials of each hyperparameter search.")
    live_arrivals: int = Field(
        default=0, ge=0, description="Number of arrivals that a candidate has to predict live; 0: none."
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the settings of training and promotion that are part of a deployment's settings."""
        return cls(
            seed=settings.seed,
            training_days=settings.training_days,
            tune_trials=settings.tune_trials,
            live_arrivals=settings.live_arrivals,
        )


class JoinSettings(dg.ConfigurableResource):
    """Settings of the point-in-time join, which the launchpad can change for one run."""

    every_stop_ahead: bool = Field(
        default=False, description="Whether there are rows about every stop ahead of an update, or about a sample."
    )


class TrainingLogs(dg.ConfigurableResource):
    """How many trainings Dagster remembers with their plots, which the launchpad can change for one run."""

    keep_plots: int = Field(default=100, ge=1, description="Number of latest trainings whose plots are kept.")


class RetentionSettings(dg.ConfigurableResource):
    """Settings of what is kept, which the launchpad can change for one run."""

    store: str = Field(description="Directory of staged service days and of files that were abandoned.")
    keep_versions: int = Field(
        ge=1, description="Number of latest moves of the production model, and of versions of each asset besides."
    )
    keep_staged_days: int = Field(ge=1, description="Number of days for which refused service days are kept.")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the settings of retention that are part of a deployment's settings."""
        return cls(
            store=str(settings.store),
            keep_versions=settings.keep_versions,
            keep_staged_days=settings.keep_staged_days,
        )

    def create_resource(self, context: dg.InitResourceContext) -> Retention:
        """Return the retention as plain data."""
        return Retention(Path(self.store), self.keep_versions, self.keep_staged_days)


def dump_public_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults and are no secrets, by name.

    They are the configuration of resources that read several of them: `Settings(**…)` makes the same settings again.
    """
    secrets = {variable.field for variable in VARIABLES if variable.secret}
    hidden = secrets | {"wandb_mode"}  # of no use to such a resource, and "online" requires a secret
    return settings.model_dump(mode="json", exclude_defaults=True, exclude=hidden)
