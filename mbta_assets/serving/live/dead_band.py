"""Predictions that stay: a predicted time is kept while the model's next one differs from it by little.

Riders see a time of day. One that moves to and fro by seconds tells them nothing, and looks unreliable.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np

from mbta_assets.ml.inference.monotone import shift_delays
from mbta_assets.serving.predictor import PredictedEvents
from mbta_assets.serving.queries import VEHICLE_FIELDS, Queries

SHARE_OF_TIME_AHEAD = 0.01
"""A change of at most this share of the time to the event is little."""
MIN_SECONDS_AHEAD = 60.0
"""Events that are nearer are predicted anew each time."""
TRIP_KEY = ("service_date", "trip_id", "vehicle_id")
"""Fields that identify a vehicle on a trip."""
TripKey: TypeAlias = tuple[Any, ...]
VisitKey: TypeAlias = tuple[int, str]


class DeadBand:
    """What a model has predicted for each stop visit ahead of a vehicle; another version begins anew."""

    def __init__(self, seconds: float) -> None:
        """Keep a time while the next one differs by 1% of the time ahead, and `seconds`, at most; with 0 none."""
        self._seconds = seconds
        self._version = ""
        self._kept: Mapping[TripKey, Mapping[VisitKey, float]] = {}

    def apply(self, version: str, queries: Queries, predicted: PredictedEvents) -> PredictedEvents:
        """Return the predictions for queries, those that have changed little as they were; intervals move along.

        Of visits that are no longer ahead nothing is remembered. No trip runs backwards by what is kept.
        """
        if not self._seconds or not queries:
            return predicted
        delays = predicted.delays
        ahead = queries.seconds_ahead + delays
        band = np.where(ahead >= MIN_SECONDS_AHEAD, np.minimum(self._seconds, SHARE_OF_TIME_AHEAD * ahead), -1.0)
        visits = list(_list_visits(queries))
        before = self._look_up(visits) if version == self._version else np.full(len(delays), np.nan)
        held = np.where(np.abs(before - delays) <= band, before, delays)
        order = np.array(queries.values("stops_ahead"), dtype=np.int64)
        held = shift_delays(held, queries.seconds_ahead, order, queries.report_numbers)
        self._version = version
        self._remember(visits, held)
        moved = held - delays
        return predicted._replace(
            delays=held, lower_delays=predicted.lower_delays + moved, upper_delays=predicted.upper_delays + moved
        )

    def _look_up(self, ahead: Iterable[tuple[TripKey, list[VisitKey]]]) -> np.ndarray:
        """Return the delays (n,) that were predicted last for the visits ahead, NaN where there were none."""
        before: list[float] = []
        for trip, visits in ahead:
            of_trip = self._kept.get(trip, {})
            before += [of_trip.get(visit, np.nan) for visit in visits]
        return np.array(before, dtype=np.float64)

    def _remember(self, ahead: Iterable[tuple[TripKey, list[VisitKey]]], delays: np.ndarray) -> None:
        """Remember the delays (n,) of the visits ahead, and forget those of others."""
        values = iter(delays.tolist())
        self._kept = {trip: dict(zip(visits, islice(values, len(visits)), strict=True)) for trip, visits in ahead}


def _list_visits(queries: Queries) -> Iterator[tuple[TripKey, list[VisitKey]]]:
    """Yield what identifies each vehicle on a trip, with what identifies the visits ahead of it, in order.

    A visit is not told by its scheduled time alone: in whole minutes, several stops of a trip have the same.
    """
    get_key = itemgetter(*map(VEHICLE_FIELDS.names.index, TRIP_KEY))
    visits = zip(queries.values("scheduled_us"), queries.values("stop_id"), strict=True)
    for vehicle in queries.vehicles:
        yield get_key(vehicle.values), list(islice(visits, len(vehicle.events)))
