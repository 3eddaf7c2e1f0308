"""The experiment tracker: each trial of a search as a Weights & Biases run, offline unless told otherwise."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbta_assets.ml.training.tuning import Result
from mbta_assets.settings import Settings


@dataclass(frozen=True)
class Tracker:
    """Logs searches to the project and in the mode of the settings."""

    settings: Settings

    def log_search(self, model: str, group: str, results: Sequence[Result], extra: Mapping[str, Any]) -> str | None:
        """Log one run for each trial, under a group. Returns a link to the group, or the directory of offline runs."""
        settings = self.settings
        if settings.wandb_mode == "disabled":
            return None
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        directory = settings.store / "experiments"
        directory.mkdir(parents=True, exist_ok=True)
        if settings.wandb_api_key:
            wandb.login(key=settings.wandb_api_key)
        link: str | None = None
        for result in results:
            with wandb.init(
                project=settings.wandb_project,
                group=group,
                name=f"{model}-{result.index}",
                config={**result.configuration, **extra},
                dir=directory,
                mode=settings.wandb_mode,
                reinit="create_new",
                settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, quiet=True),
            ) as run:
                for step, error in enumerate(result.curve, start=1):
                    run.log({"validation_error": error}, step=step)
                run.summary["best_validation_error"] = result.best
                link = run.project_url if settings.wandb_mode == "online" else None
        return f"{link}/groups/{group}" if link else str(Path(directory) / "wandb")
