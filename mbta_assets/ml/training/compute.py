"""Compute of trainings: what one process may use, the Ray session, and independent tasks on it.

Hyperparameter searches belong to `tuning`, data-parallel trainings to `distributed`.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mbta_assets.agency import AGENCY, worker_environment
from mbta_assets.progress.lines import LINE_SECONDS, ProgressLog

Item = TypeVar("Item")
Value = TypeVar("Value")

MAX_RETRIES_ON_NODE_FAILURE = 5
"""Maximum number of times that a trial, task or group of workers is started again after its node was lost."""


@dataclass(frozen=True)
class Resources:
    """CPU cores and GPUs of one process that trains a model."""

    cpus: float = 1
    gpus: float = 0

    @property
    def threads(self) -> int:
        """Return the number of threads that fill the cores, at least 1."""
        return max(1, int(self.cpus))

    @property
    def device(self) -> str:
        """Return "cuda" in a process that has a GPU usable by torch, else "cpu"."""
        if self.gpus <= 0:
            return "cpu"
        import torch  # takes seconds to import, and trees need it for this question only

        return "cuda" if torch.cuda.is_available() else "cpu"


ONE_CORE = Resources()


def count_usable_cores() -> int:
    """Return the number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start one on this machine's cores, until the context ends.

    A remote cluster is sent this package, so that its nodes need only the dependencies, and the agency's settings.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # By default workers have a niceness of 15, and nearly stand still beside another program, a second run say.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray  # takes seconds to import; the code location imports this module and must load fast

    runtime_env = {"py_modules": [str(Path(__file__).parents[2])], "env_vars": worker_environment(AGENCY)}
    ray.init(
        address=address or "local",  # never another cluster that happens to run on this machine
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        ignore_reinit_error=True,
        runtime_env=runtime_env if address else None,
    )
    try:
        yield
    finally:
        ray.shutdown()


def require_resources(resources: Resources, workers: int) -> None:
    """Raise ValueError unless the running Ray session has the resources of so many workers.

    Without them Ray would wait forever, and say nothing.
    """
    import ray  # see `ray_session`

    available = ray.cluster_resources()
    for name, required in (("CPU", workers * resources.cpus), ("GPU", workers * resources.gpus)):
        count = available.get(name, 0)
        if required > count:
            raise ValueError(
                f"a search or training needs {required:g} Ray {name}s, and this machine has {count:g}: "
                f"lower MBTA_TRIAL_{name}S or the number of workers"
            )


def map_tasks(
    function: Callable[[Item, Any, Resources], Value],
    items: Sequence[tuple[Item, Any]],
    resources: Resources = ONE_CORE,
) -> list[Value]:
    """Return `function(item, data, resources)` of each item and its data, in order, run in parallel.

    Call it within a `ray_session`. Data that several items have is stored once. A task whose node is lost runs again
    on another.
    """
    import ray  # see `ray_session`

    stored = {key: ray.put(data) for key, data in {id(data): data for _, data in items}.items()}
    task: Any = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=MAX_RETRIES_ON_NODE_FAILURE)(
        function
    )
    tasks = [task.remote(item, stored[id(data)], resources) for item, data in items]
    progress, pending = ProgressLog("parallel training", "networks"), tasks
    while pending:
        _, pending = ray.wait(pending, timeout=LINE_SECONDS, fetch_local=False)
        progress.update(len(tasks) - len(pending), len(tasks))
    progress.end(len(tasks))
    return ray.get(tasks)
