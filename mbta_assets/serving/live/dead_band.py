"""Predictions that stay: a predicted time is kept while the model's next one differs from it by little.

Riders see a time of day. One that moves to and fro by seconds tells them nothing, and looks unreliable.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from mbta_assets.ml.inference.monotone import shift_delays
from mbta_assets.serving.predictor import PredictedEvents
from mbta_assets.serving.queries import Queries

SHARE_OF_TIME_AHEAD = 0.01
"""A change of at most this share of the time to the event is little."""
MIN_SECONDS_AHEAD = 60.0
"""Events that are nearer are predicted anew each time."""
MAX_VERSIONS = 2
"""Number of model versions whose predictions are remembered: production's, and that of a model in its shadow."""
TripKey: TypeAlias = tuple[Any, ...]


class DeadBand:
    """What has been predicted for each stop visit ahead of a vehicle, by model version."""

    def __init__(self, seconds: float) -> None:
        """Keep a time while the next one differs by 1% of the time ahead, and `seconds`, at most; with 0 none."""
        self._seconds = seconds
        self._kept: dict[str, Mapping[TripKey, Mapping[int, float]]] = {}

    def apply(self, version: str, queries: Queries, predicted: PredictedEvents) -> PredictedEvents:
        """Return the predictions for queries, those that have changed little as they were; intervals move along.

        Of visits that are no longer ahead nothing is remembered. No trip runs backwards by what is kept.
        """
        if not self._seconds or not queries:
            return predicted
        delays = predicted.delays
        ahead = queries.seconds_ahead + delays
        band = np.where(ahead >= MIN_SECONDS_AHEAD, np.minimum(self._seconds, SHARE_OF_TIME_AHEAD * ahead), -1.0)
        before = self._look_up(version, queries)
        held = np.where(np.abs(before - delays) <= band, before, delays)
        order = np.array(queries.values("stops_ahead"), dtype=np.int64)
        held = shift_delays(held, queries.seconds_ahead, order, queries.report_numbers)
        self._remember(version, queries, held)
        moved = held - delays
        return predicted._replace(
            delays=held, lower_delays=predicted.lower_delays + moved, upper_delays=predicted.upper_delays + moved
        )

    def _look_up(self, version: str, queries: Queries) -> np.ndarray:
        """Return the delays (n,) that were predicted last for the visits of queries, NaN where there were none."""
        kept = self._kept.get(version, {})
        before: list[float] = []
        for vehicle in queries.vehicles:
            of_trip = kept.get(_get_key(vehicle), {})
            before += [of_trip.get(event.scheduled_us, np.nan) for event in vehicle.events]
        return np.array(before, dtype=np.float64)

    def _remember(self, version: str, queries: Queries, delays: np.ndarray) -> None:
        """Remember the delays (n,) predicted for queries, and forget those of other visits and of old versions."""
        kept, begin, values = {}, 0, delays.tolist()
        for vehicle in queries.vehicles:
            end = begin + len(vehicle.events)
            times = [event.scheduled_us for event in vehicle.events]
            kept[_get_key(vehicle)] = dict(zip(times, values[begin:end], strict=True))
            begin = end
        self._kept.pop(version, None)
        self._kept[version] = kept
        for old in list(self._kept)[:-MAX_VERSIONS]:
            del self._kept[old]


def _get_key(vehicle: Any) -> TripKey:
    """Return what identifies a vehicle on a trip."""
    return vehicle.get("service_date"), vehicle.get("trip_id"), vehicle.get("vehicle_id")
