"""The shadow: a candidate predicts on live traffic beside the production model, and is not served.

It predicts in a thread of its own, after production's predictions have been published, and what it has no time for it
leaves out. What it does wrong is counted and logged, and is no
reason for which the published feed should not be relied on. Which candidate that is, and until when, is decided in
`defs.production`.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge

from mbta_assets.serving import Predictor, logs
from mbta_assets.serving.live.dead_band import DeadBand
from mbta_assets.serving.live.engine import UpdateQueries
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.model_source import ModelSource
from mbta_assets.serving.refreshing_cache import RefreshingCache

KeepPublication: TypeAlias = Callable[[Publication], None]
"""Keeps what a model predicted."""


class Candidate(NamedTuple):
    """The candidate in the shadow."""

    predictor: Predictor | None
    """None if there is none."""


def make_candidate_cache(source: ModelSource, refresh_seconds: float) -> RefreshingCache[Candidate]:
    """Return a cache of the candidate in the shadow of a source's production model, of which there may be none."""

    def load_candidate(cached: Candidate | None) -> Candidate:
        """Return the cached candidate if it is still the one in the shadow, otherwise another one or none."""
        model = source.open_shadow()
        version = model.current_version() if model else None
        previous = cached.predictor if cached else None
        previous_version = previous.version if previous else None
        if cached is not None and version == previous_version:
            return cached
        candidate = Candidate(Predictor(model.load_bundle(version)) if model and version else None)
        if version != previous_version:
            logs.write("NOTICE", "shadow model changed", version=version, previous_version=previous_version)
        return candidate

    return RefreshingCache("shadow model", load_candidate, refresh_seconds)


class Shadow:
    """What a candidate predicts in the shadow, in a thread of its own, and its metrics."""

    def __init__(
        self,
        candidates: RefreshingCache[Candidate],
        registry: CollectorRegistry,
        keep: KeepPublication | None = None,
        dead_band_seconds: float = 0.0,
    ) -> None:
        """Count in a registry of metrics; each publication is given to `keep` if there is one.

        The dead band is that of production, so that both models are published by the same rule.
        """
        self._candidates, self._keep, self._dead_band = candidates, keep, DeadBand(dead_band_seconds)
        self._waiting: queue.Queue[UpdateQueries] = queue.Queue(maxsize=1)
        self._predictions = Counter(
            "mbta_live_shadow_predictions", "Predictions of the shadow model.", registry=registry
        )
        self._errors = Counter(
            "mbta_live_shadow_errors", "Updates that the shadow model did not predict.", registry=registry
        )
        self._skipped = Counter(
            "mbta_live_shadow_skipped", "Updates that came while the shadow model was busy.", registry=registry
        )
        self._seconds = Gauge(
            "mbta_live_shadow_seconds", "Time that the shadow model's latest update took.", registry=registry
        )
        self._model = Gauge(
            "mbta_live_shadow_model", "1 for the shadow model's version.", ["version"], registry=registry
        )
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def predict(self, queries: UpdateQueries, *, is_replay: bool = False) -> None:
        """Have an update predicted; one that comes while two others wait or are predicted is skipped.

        A replay goes on when it has been predicted, so that it skips none.
        """
        if is_replay:
            self._waiting.put(queries)
            self.wait()
            return
        try:
            self._waiting.put_nowait(queries)
        except queue.Full:
            self._skipped.inc()

    def wait(self) -> None:
        """Wait until all updates have been predicted."""
        self._waiting.join()

    def _run(self) -> None:
        """Predict what comes, for ever."""
        while True:
            queries = self._waiting.get()
            try:
                self._predict(queries)
            except Exception as error:  # whatever it is, production's predictions go on
                self._errors.inc()
                logs.write("WARNING", "shadow model failed", problem=f"{type(error).__name__}: {error}")
            finally:
                self._waiting.task_done()

    def _predict(self, queries: UpdateQueries) -> None:
        """Predict an update and keep the result, if there is a candidate."""
        began = time.perf_counter()
        predictor = self._candidates.get().predictor
        if predictor is None:
            self._seconds.set(0)
            self._model.clear()
            return
        publication = queries.predict(predictor, self._dead_band)
        if self._keep is not None:
            self._keep(publication)
        self._seconds.set(time.perf_counter() - began)
        self._predictions.inc(len(queries.queries))
        self._model.clear()
        self._model.labels(publication.model_version).set(1)
