"""The predictions of one update of the feed, as plain data: what the engine makes and everything published is made of.

Encodings belong to `trip_updates` and `network_view`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from itertools import compress
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from mbta_assets.serving.predictor import PredictedEvents, shift_time
from mbta_assets.serving.queries import MICROSECONDS_PER_SECOND, Queries
from mbta_assets.serving.scheduled_trip import to_microseconds
from mbta_assets.serving.timetable import FrequencyTrip
from mbta_assets.transit.distances import DEPARTURE


@dataclass(frozen=True, slots=True)
class StopPrediction:
    """The predicted arrival of a trip at one of its stop visits, or departure from its first stop."""

    stop_sequence: int | None
    stop_id: str
    event: Literal["arrival", "departure"]
    scheduled: datetime
    predicted: datetime
    delay_seconds: float
    """The model's output, unrounded."""
    earliest: datetime | None
    """Begin of the prediction interval; None if the model has none."""
    latest: datetime | None
    stops_ahead: int
    """Number of stops to it; 0 for a departure."""


class RoundedStops(NamedTuple):
    """Predictions in whole seconds, in columns of the same length."""

    stop_sequences: Sequence[int | None]
    stop_ids: Sequence[str]
    events: Sequence[str]
    """`arrival` or `departure`."""
    times: Sequence[int]
    """POSIX seconds."""
    scheduled: Sequence[int]
    """POSIX seconds."""
    half_widths: Sequence[int | None]
    """Half the width of each prediction interval, rounded up; None if there is none."""

    @classmethod
    def from_predictions(cls, stops: Sequence[StopPrediction]) -> Self:
        """Round predictions."""
        return cls(
            [stop.stop_sequence for stop in stops],
            [stop.stop_id for stop in stops],
            [stop.event for stop in stops],
            [round_half_up(to_microseconds(stop.predicted)) for stop in stops],
            [round_half_up(to_microseconds(stop.scheduled)) for stop in stops],
            [_halve_interval(stop) for stop in stops],
        )

    def slice(self, begin: int, end: int) -> "RoundedStops":
        """Return the predictions from `begin` up to `end`, which is excluded."""
        return RoundedStops(**{name: column[begin:end] for name, column in self._asdict().items()})

    def select(self, is_selected: Sequence[bool]) -> "RoundedStops":
        """Return the predictions of a mask."""
        return RoundedStops(**{name: list(compress(column, is_selected)) for name, column in self._asdict().items()})


@dataclass(frozen=True, eq=False)
class StopColumns:
    """The predictions for all stop visits of a publication, in columns."""

    queries: Queries
    delays: np.ndarray
    """(n,) seconds."""
    lower_delays: np.ndarray | None
    """(n,) seconds; None if the model has no interval."""
    upper_delays: np.ndarray | None

    @classmethod
    def from_predictions(cls, queries: Queries, predicted: PredictedEvents) -> Self:
        """Return the predictions for queries."""
        if predicted.confidence_level is None:
            return cls(queries, predicted.delays, None, None)
        return cls(queries, predicted.delays, predicted.lower_delays, predicted.upper_delays)

    @cached_property
    def events(self) -> Sequence[Literal["arrival", "departure"]]:
        """Return what is predicted of each stop visit."""
        return ["departure" if stops == DEPARTURE else "arrival" for stops in self.queries.values("stops_ahead")]

    def shift(self, seconds: np.ndarray) -> np.ndarray:
        """Return the scheduled times (n,), shifted by seconds (n,), in epoch microseconds, as `timedelta` rounds."""
        fraction, whole = np.modf(seconds)
        shift_us = np.rint(fraction * MICROSECONDS_PER_SECOND) + whole * MICROSECONDS_PER_SECOND
        return self.queries.scheduled_us + shift_us.astype(np.int64)

    @cached_property
    def rounded(self) -> RoundedStops:
        """Return the predictions as they are published."""
        half_widths: list[int] | list[None] = [None] * len(self.queries)
        if self.lower_delays is not None and self.upper_delays is not None:
            half_widths = halve_up(self.shift(self.upper_delays) - self.shift(self.lower_delays)).tolist()
        return RoundedStops(
            self.queries.values("stop_sequence"),
            self.queries.values("stop_id"),
            self.events,
            round_half_up(self.shift(self.delays)).tolist(),
            round_half_up(self.queries.scheduled_us).tolist(),
            half_widths,
        )

    def make_stop(self, index: int) -> StopPrediction:
        """Return a prediction as an object."""
        event, lower, upper = self.queries.events[index], self.lower_delays, self.upper_delays
        scheduled, delay = event.scheduled_arrival, float(self.delays[index])
        return StopPrediction(
            event.stop_sequence,
            event.stop_id,
            self.events[index],
            scheduled,
            shift_time(scheduled, delay),
            delay,
            None if lower is None else shift_time(scheduled, float(lower[index])),
            None if upper is None else shift_time(scheduled, float(upper[index])),
            self.queries.values("stops_ahead")[index],
        )


class PredictedStops(Sequence[StopPrediction]):
    """Some consecutive predictions of columns; an item is made when it is read."""

    def __init__(self, columns: StopColumns, begin: int, end: int) -> None:
        self.columns, self.begin, self.end = columns, begin, end

    def __len__(self) -> int:
        """Return the number of predictions."""
        return self.end - self.begin

    def __iter__(self) -> Iterator[StopPrediction]:
        """Yield the predictions."""
        return iter(self[:])

    def __getitem__(self, index: Any) -> Any:
        """Return a prediction, or those of a slice as a tuple."""
        place = range(self.begin, self.end)[index]
        if isinstance(place, range):
            return tuple([self.columns.make_stop(n) for n in place])
        return self.columns.make_stop(place)

    def __eq__(self, other: object) -> bool:
        """Return whether the predictions are those of another sequence."""
        return isinstance(other, Sequence) and self[:] == tuple(other)

    def __hash__(self) -> int:
        """Return the hash of the predictions as a tuple."""
        return hash(self[:])


@dataclass(frozen=True, slots=True)
class TripPrediction:
    """The state of a vehicle on a trip by its latest report, and the predictions for every stop ahead of it."""

    service_date: date
    trip_id: str
    route_id: str | None
    """Route of the schedule; that of the report where the schedule has none."""
    direction_id: int | None
    """Direction of the schedule; that of the report where the schedule has none."""
    vehicle_id: str
    reported_at: datetime
    latitude: float | None
    longitude: float | None
    current_status: str
    current_stop_id: str
    current_stop_sequence: int | None
    stops: Sequence[StopPrediction]
    """In the order of the trip; the departure from its first stop comes first."""
    has_stop_sequences: bool = True
    """Whether stop sequences are those of the schedule; otherwise they are positions along the trip."""
    repeated_stops: frozenset[str] = frozenset()
    """Stops that the trip serves more than once, those behind the vehicle included."""
    frequency_trip: FrequencyTrip | None = None
    """What identifies a trip of frequencies.txt; None for others, which `trip_id` identifies."""


@dataclass(frozen=True, slots=True)
class Publication:
    """All predictions of one update."""

    made_at: datetime
    """Time of our clock, or of the replay's."""
    feed_time: datetime | None
    """Time in the header of the latest snapshot that was taken in."""
    model_version: str
    confidence_level: float | None
    """Confidence level of the prediction intervals; None if the model has none."""
    trips: tuple[TripPrediction, ...]
    """One for each trip, and each vehicle once."""


def round_half_up(microseconds: Any) -> Any:
    """Return whole seconds, as an integer or an array of them."""
    return (microseconds + MICROSECONDS_PER_SECOND // 2) // MICROSECONDS_PER_SECOND


def halve_up(microseconds: Any) -> Any:
    """Return half of microseconds in whole seconds, rounded up, as an integer or an array of them."""
    return -(-microseconds // (2 * MICROSECONDS_PER_SECOND))


def _halve_interval(stop: StopPrediction) -> int | None:
    """Return half the width of a prediction interval in whole seconds; None if there is none."""
    if stop.earliest is None or stop.latest is None:
        return None
    half: int = halve_up(to_microseconds(stop.latest) - to_microseconds(stop.earliest))
    return half
