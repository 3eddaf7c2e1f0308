"""The executor that searches and final trainings run on: this process, parallel tasks of Ray, or data-parallel workers.

What is trained belongs to the modules of the models; this module decides only where and with which resources.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training import compute, distributed, tuning, xgboost_trainer
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass
class TrainingExecutor:
    """Runs trainings in this process and on one Ray session, which starts when it is first needed."""

    address: str | None = None
    """Address of a Ray cluster; None for this machine's cores."""
    trial_resources: Resources = ONE_CORE
    """Resources of each trial, parallel task and data-parallel worker."""
    local_resources: Resources = ONE_CORE
    """Resources of a final training in this process."""
    xgboost_workers: int = 1
    """World size of the final training of trees."""
    torch_workers: int = 1
    """World size of the final training of each network."""
    _session: ExitStack | None = field(default=None, init=False, repr=False)

    @property
    def tree_resources(self) -> Resources:
        """Return the resources of the process, or of each worker, that trains the final trees."""
        return self.local_resources if self.xgboost_workers == 1 else self.trial_resources

    @property
    def network_resources(self) -> Resources:
        """Return the resources of the process, or of each worker, that trains a single final network."""
        return self.local_resources if self.torch_workers == 1 else self.trial_resources

    def search(
        self,
        trial: tuning.Trial,
        configurations: Sequence[tuning.Configuration],
        folds: Sequence[Any],
        halving: tuning.Halving,
    ) -> list[tuning.Result]:
        """Run the trials of a search; see `tuning.search`.

        Those of a single configuration run in this process, unless there is a cluster.
        """
        if len(configurations) == 1 and self.address is None:
            return tuning.run_trials(trial, configurations[0], folds, self.trial_resources)
        self._start_session()
        return tuning.search(trial, configurations, folds, halving, self.trial_resources)

    def train_trees(self, trainer: XGBoostTrainer, train: Iterable[Arrays], validation: Arrays | None = None) -> Any:
        """Train trees on the rows of all blocks and return the booster; see `XGBoostTrainer.train`."""
        if self.xgboost_workers == 1:
            trainer = replace(trainer, resources=self.tree_resources)
            return xgboost_trainer.fit(trainer, Arrays.concat(train), validation)
        self._start_session()
        return distributed.train_trees_data_parallel(
            trainer, train, validation, self.xgboost_workers, self.tree_resources
        )

    def train_network(self, function: Callable[[Item, Any, Resources], Value], item: Item, data: Any) -> Value:
        """Return `function(item, data, resources)`, which trains one network, in this process or data-parallel."""
        if self.torch_workers == 1:
            return function(item, data, self.network_resources)
        return self._train_data_parallel(function, item, data)

    def train_networks(
        self, function: Callable[[Item, Any, Resources], Value], items: Sequence[tuple[Item, Any]]
    ) -> list[Value]:
        """Return `function(item, data, resources)` of each item and its data, each of which trains one network.

        They run as parallel tasks, or one after the other if each is trained data-parallel.
        """
        if self.torch_workers == 1 and items:
            self._start_session()
            return compute.map_tasks(function, items, self.trial_resources)
        return [self._train_data_parallel(function, item, data) for item, data in items]

    def close(self) -> None:
        """End the Ray session, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _train_data_parallel(self, function: Callable[[Item, Any, Resources], Value], item: Item, data: Any) -> Value:
        self._start_session()
        return distributed.train_data_parallel(function, item, data, self.torch_workers, self.trial_resources)

    def _start_session(self) -> None:
        """Start the Ray session unless it is running: starting takes seconds.

        Raises ValueError if this machine can never start the workers; a cluster may still get further nodes.
        """
        if self._session is not None:
            return
        with ExitStack() as session:
            session.enter_context(compute.ray_session(self.address))
            if self.address is None:
                compute.require_resources(self.trial_resources, max(self.xgboost_workers, self.torch_workers))
            self._session = session.pop_all()
