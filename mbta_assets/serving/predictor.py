"""From moments to delays, with one version of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.model import Model
from mbta_assets.serving.moment import EXAMPLE, Moment, feature_columns
from mbta_assets.serving.store import Store
from mbta_assets.storage.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Range:
    """Where an arrival lies as often as is promised."""

    promise: float
    """The share of arrivals."""
    least_delay_seconds: float
    most_delay_seconds: float
    earliest_arrival: datetime
    latest_arrival: datetime


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one moment."""

    delay_seconds: float
    """Positive is late."""
    predicted_arrival: datetime
    """The scheduled arrival and the delay."""
    interval: Range | None
    """None where the model was stored without one."""
    model_version: str
    """Digest of the bundle."""


class Predictor:
    """One version of the model, opened once to predict many times, by any number of threads at once."""

    def __init__(self, stored: Bundle) -> None:
        """Open a bundle and try it. Raises BundleError where it is damaged."""
        self.stored = stored
        self.version = stored.digest
        self._model = Model(stored)
        self.predict([EXAMPLE])

    @classmethod
    def load(cls, where: str) -> Self:
        """The model of a directory or of a `gs://` address, as it is now; see `Store.at`.

        Raises BundleError or CloudError, which say what is there and what to do.
        """
        return cls(Store.at(where).bundle())

    def predict(self, moments: Sequence[Moment]) -> list[Prediction]:
        """What the model says of each moment."""
        if not moments:
            return []
        columns = feature_columns(moments)
        delay, least, most = self.delays(columns)
        scheduled = [moment.scheduled_arrival for moment in moments]
        ranges: list[Range | None] = [None] * len(moments)
        if self._model.interval:
            promise = self._model.interval.promise
            ranges = [
                Range(promise, low, high, _after(due, low), _after(due, high))
                for due, low, high in zip(scheduled, least.tolist(), most.tolist(), strict=True)
            ]
        return [
            Prediction(seconds, _after(due, seconds), between, self.version)
            for due, seconds, between in zip(scheduled, delay.tolist(), ranges, strict=True)
        ]

    def predict_one(self, moment: Moment) -> Prediction:
        """What the model says of one moment."""
        return self.predict([moment])[0]

    def delays(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted seconds of delay (n,) for feature columns of n rows, and the interval's least and most.

        Without an interval the two are NaN.
        """
        delay = self._model.predict(columns)
        if self._model.interval is None:
            return delay, np.full(len(delay), np.nan), np.full(len(delay), np.nan)
        return delay, *self._model.interval.bounds(columns, delay)


def _after(time: datetime, seconds: float) -> datetime:
    """A time some seconds later; the last there is where that lies beyond it."""
    try:
        return time + timedelta(seconds=seconds)
    except OverflowError:
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)
