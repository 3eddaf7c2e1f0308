"""The resource `cluster`: where hyperparameter searches and final trainings run, and with how many cores and GPUs.

How they run belongs to `ml.training.executor`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import dagster as dg
from pydantic import Field, PrivateAttr

from mbta_assets.ml.training.compute import Resources, count_usable_cores
from mbta_assets.ml.training.executor import TrainingExecutor


class RayCluster(dg.ConfigurableResource):
    """One Ray session per run, started when it is first used and closed when the run ends."""

    address: str | None = Field(default=None, description="Address of a Ray cluster; unset, this machine's cores.")
    trial_cpus: float = Field(
        default=1, gt=0, description="CPU cores, and so threads, of a trial, a parallel task or a data-parallel worker."
    )
    trial_gpus: float = Field(
        default=0, ge=0, description="GPUs of the same; if it is not 0, trainings use CUDA where it is available."
    )
    xgboost_workers: int = Field(
        default=1, ge=1, description="Workers that train the final XGBoost model data-parallel."
    )
    torch_workers: int = Field(default=1, ge=1, description="Workers that train each final network data-parallel.")
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of a final training in the process of the run; unset, its usable cores. The trained "
        "weights depend on it.",
    )
    _executor: TrainingExecutor | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Provide the resource for a run and close its Ray session at the end."""
        try:
            yield self
        finally:
            if self._executor is not None:
                self._executor.close()
                self._executor = None

    @property
    def executor(self) -> TrainingExecutor:
        """Return the executor of the run."""
        if self._executor is None:
            self._executor = TrainingExecutor(
                address=self.address,
                trial_resources=Resources(self.trial_cpus, self.trial_gpus),
                local_resources=Resources(self.threads or count_usable_cores(), self.trial_gpus),
                xgboost_workers=self.xgboost_workers,
                torch_workers=self.torch_workers,
            )
        return self._executor
