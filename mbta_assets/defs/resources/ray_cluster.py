"""The Ray cluster that searches and training run on: an existing one, or this machine's cores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training import tuning
from mbta_assets.ml.training.xgboost_trainer import Growth

THREADS = 2
"""Of what is trained by itself in this process; what is trained side by side has one each."""


class Cluster(dg.ConfigurableResource):
    """One Ray session for a whole run, begun when first used: a session takes seconds to begin."""

    address: str | None = None
    trial_cpus: float = 1
    trial_gpus: float = 0
    xgboost_workers: int = 1
    """How many workers grow the final trees together."""
    torch_workers: int = 1
    """How many workers train each final network together."""
    _session: ExitStack | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Cluster"]:
        """The cluster for the time of a run; its session ends with the run."""
        try:
            yield self
        finally:
            if self._session:
                self._session.close()
                self._session = None

    def search(
        self, trial: tuning.Trial, configurations: Sequence[tuning.Configuration], data: Any, halving: tuning.Halving
    ) -> list[tuning.Result]:
        """See `tune.search`; a single trial on this machine needs no session."""
        if len(configurations) == 1 and self.address is None:
            return tuning.alone(trial, configurations[0], data)
        self._begin()
        return tuning.search(trial, configurations, data, halving, self._resources)

    def grow_trees(self, growth: Growth, train: Iterable[Arrays], validation: Arrays | None = None) -> Any:
        """The booster of the rows of all blocks: in this process, or on `xgboost_workers`."""
        from mbta_assets.ml.training import distributed, xgboost_trainer

        if self.xgboost_workers == 1:
            return xgboost_trainer.fit(replace(growth, threads=THREADS), Arrays.concat(train), validation)
        self._begin()
        return distributed.grow_trees(growth, train, validation, self.xgboost_workers, self._resources)

    def train_network(self, call: Callable[..., Any], item: Any, data: Any) -> Any:
        """`call(item, data, threads=…)`, which trains a network: in this process, or on `torch_workers`."""
        if self.torch_workers == 1:
            return call(item, data, threads=THREADS)
        return self._together(call, item, data)

    def train_networks(self, call: Callable[..., Any], items: Sequence[Any], data: Any) -> list[Any]:
        """`call(item, data)` for each item: side by side, or one after the other, each on `torch_workers`."""
        if self.torch_workers == 1:
            self._begin()
            return tuning.each(call, items, data, self._resources)
        return [self._together(call, item, data) for item in items]

    def _together(self, call: Callable[..., Any], item: Any, data: Any) -> Any:
        from mbta_assets.ml.training import distributed

        self._begin()
        return distributed.together(call, item, data, self.torch_workers, self._resources)

    @property
    def _resources(self) -> tuning.Resources:
        return tuning.Resources(self.trial_cpus, self.trial_gpus)

    def _begin(self) -> None:
        if self._session is None:
            self._session = ExitStack()
            self._session.enter_context(tuning.ray_session(self.address))
