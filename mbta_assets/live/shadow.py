"""A shadow model: predicts on live traffic beside the production model, and is not served.

It predicts after production's predictions have been published. What it does wrong is counted and logged, and is no
reason for which the published feed should not be relied on.
"""

import time
from collections.abc import Callable
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge

from mbta_assets.serving import Predictor, logs
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.refreshing_cache import RefreshingCache

KeepPublication: TypeAlias = Callable[[Publication], None]
"""Keeps what a model predicted."""


class Shadow:
    """A shadow model and its metrics."""

    def __init__(
        self, predictors: RefreshingCache[Predictor], registry: CollectorRegistry, keep: KeepPublication | None = None
    ) -> None:
        """Count in a registry of metrics; each publication is given to `keep` if there is one."""
        self._predictors, self._keep = predictors, keep
        self._predictions = Counter(
            "mbta_live_shadow_predictions", "Predictions of the shadow model.", registry=registry
        )
        self._errors = Counter(
            "mbta_live_shadow_errors", "Updates that the shadow model did not predict.", registry=registry
        )
        self._seconds = Gauge(
            "mbta_live_shadow_seconds", "Time that the shadow model's latest update took.", registry=registry
        )
        self._model = Gauge(
            "mbta_live_shadow_model", "1 for the shadow model's version.", ["version"], registry=registry
        )

    def predict(self, publish: Callable[[Predictor], Publication]) -> None:
        """Predict an update with `publish` and keep the result; never raises an Exception."""
        began = time.perf_counter()
        try:
            publication = publish(self._predictors.get())
            if self._keep is not None:
                self._keep(publication)
        except Exception as error:  # whatever it is, production's predictions go on
            self._errors.inc()
            logs.write("WARNING", "shadow model failed", problem=f"{type(error).__name__}: {error}")
            return
        self._seconds.set(time.perf_counter() - began)
        self._predictions.inc(sum(len(trip.stops) for trip in publication.trips))
        self._model.clear()
        self._model.labels(publication.model_version).set(1)
