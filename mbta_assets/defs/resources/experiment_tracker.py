"""The resource `tracker`: logs each trial of a hyperparameter search as a run of Weights & Biases."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from mbta_assets.ml.training.tuning import Result


class ExperimentTracker(dg.ConfigurableResource):
    """Logs searches to a project of Weights & Biases, or to files of offline runs."""

    project: str = Field(description="Project that trials are logged to.")
    mode: Literal["online", "offline", "disabled"] = Field(
        default="offline", description="Where trials are logged, if at all."
    )
    directory: str = Field(description="Directory of the files of runs.")
    api_key: str | None = Field(default=None, description="API key of Weights & Biases, needed online.", repr=False)

    def log_search(self, model: str, group: str, trials: Sequence[Result], extra: Mapping[str, Any]) -> str | None:
        """Log a run of each trial, with `extra` added to its configuration, in one group.

        Returns the URL of the group, or the directory of offline runs; None if logging is disabled.
        """
        if self.mode == "disabled":
            return None
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # takes seconds to import; the code location imports this module and must load fast

        Path(self.directory).mkdir(parents=True, exist_ok=True)
        if self.api_key:
            wandb.login(key=self.api_key)
        project_url: str | None = None
        for trial in trials:
            with wandb.init(
                project=self.project,
                group=group,
                name=f"{model}-{trial.index}",
                config={**trial.configuration, **extra},
                dir=self.directory,
                mode=self.mode,
                reinit="create_new",
                settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, quiet=True),
            ) as run:
                for step, error in enumerate(trial.curve, start=1):
                    run.log({"validation_mae_seconds": error}, step=step)
                run.summary["best_validation_mae_seconds"] = trial.best
                project_url = run.project_url
        if self.mode == "online":
            return f"{project_url}/groups/{group}"
        return str(Path(self.directory) / "wandb")
