"""The Ray cluster that searches and side-by-side training run on: an existing one, or this machine's cores."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from mbta_assets.learning import tune


class Cluster(dg.ConfigurableResource):
    """One Ray session for a whole run, begun when first used: a session takes seconds to begin."""

    address: str | None = None
    trial_cpus: float = 1
    trial_gpus: float = 0
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
        self, trial: tune.Trial, configurations: Sequence[tune.Configuration], data: Any, halving: tune.Halving
    ) -> list[tune.Result]:
        """See `tune.search`; a single trial on this machine needs no session."""
        if len(configurations) == 1 and self.address is None:
            return tune.alone(trial, configurations[0], data)
        self._begin()
        return tune.search(trial, configurations, data, halving, self._resources)

    def each(self, call: Callable[[Any, Any], Any], items: Sequence[Any], data: Any) -> list[Any]:
        """See `tune.each`."""
        self._begin()
        return tune.each(call, items, data, self._resources)

    @property
    def _resources(self) -> tune.Resources:
        return tune.Resources(self.trial_cpus, self.trial_gpus)

    def _begin(self) -> None:
        if self._session is None:
            self._session = ExitStack()
            self._session.enter_context(tune.ray_session(self.address))
