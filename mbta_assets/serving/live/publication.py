"""The predictions of one update of the feed, as plain data: what the engine makes and everything published is made of.

Encodings belong to `trip_updates` and `network_view`.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal


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


@dataclass(frozen=True, slots=True)
class TripPrediction:
    """The state of a vehicle on a trip by its latest report, and the predictions for every stop ahead of it."""

    service_date: date
    trip_id: str
    route_id: str | None
    direction_id: int | None
    vehicle_id: str
    reported_at: datetime
    latitude: float | None
    longitude: float | None
    current_status: str
    current_stop_id: str
    current_stop_sequence: int | None
    stops: tuple[StopPrediction, ...]
    """In the order of the trip; the departure from its first stop comes first."""
    has_stop_sequences: bool = True
    """Whether stop sequences are those of the schedule; otherwise they are positions along the trip."""
    repeated_stops: frozenset[str] = frozenset()
    """Stops that the trip serves more than once, those behind the vehicle included."""


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
