"""The timetable of a service day, in the order in which trips call at their stops."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Any

from mbta_assets.serving.moment import canonical
from mbta_assets.transit.formulas import NO_TIMETABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledStop:
    """A row of `schedule`: when a trip should be at one of its stops."""

    trip_id: str
    stop_id: str
    arrival_time: datetime | None = None
    departure_time: datetime | None = None
    stop_sequence: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """A row of `stop`: a platform."""

    id: str
    name: str | None = None
    platform_name: str | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trip:
    """A row of `trip`."""

    id: str
    name: str | None = None
    route_id: str | None = None
    direction_id: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A stop in the course of a trip."""

    stop_id: str
    arrival: datetime | None
    departure: datetime | None
    previous_departure: datetime | None
    """Of the call before."""


class Timetable:
    """What is known of a service day before it begins."""

    def __init__(
        self,
        service_date: date,
        schedule: Iterable[ScheduledStop],
        stops: Iterable[Stop] = (),
        trips: Iterable[Trip] = (),
    ) -> None:
        self.service_date = service_date
        rows = [row for row in schedule if not row.trip_id.startswith(NO_TIMETABLE)]
        self.due: dict[tuple[str, str], datetime] = {}
        """By trip and stop, the scheduled arrival that delays are counted from."""
        for row in rows:
            if row.arrival_time is not None:
                visit = row.trip_id, canonical(row.stop_id)
                self.due[visit] = min(row.arrival_time, self.due.get(visit, row.arrival_time))
        self.calls = {trip: _calls(list(of_trip)) for trip, of_trip in groupby(_sorted(rows), lambda row: row.trip_id)}
        """By trip, its calls in order."""
        self.position = {
            (trip, call.stop_id): position for trip, calls in self.calls.items() for position, call in enumerate(calls)
        }
        """By trip and stop, which of the calls it is, from 0."""
        self.stops = _first(stops, lambda stop: canonical(stop.id), _stop_order)
        self.trips = _first(trips, lambda trip: trip.id, _trip_order)


def _sorted(rows: list[ScheduledStop]) -> list[ScheduledStop]:
    """The first row of each trip and stop that has a time, in the order of trips and of their calls."""
    timed = [row for row in rows if row.arrival_time is not None or row.departure_time is not None]
    first = _first(
        timed,
        lambda row: (row.trip_id, canonical(row.stop_id)),
        lambda row: (row.arrival_time or row.departure_time, *_missing_first(row.stop_sequence)),
    )
    return sorted(
        first.values(),
        key=lambda row: (
            row.trip_id,
            row.arrival_time or row.departure_time,
            row.arrival_time is not None,
            row.departure_time is None,
            *_missing_first(row.stop_sequence),
            canonical(row.stop_id),
        ),
    )


def _calls(rows: list[ScheduledStop]) -> list[Call]:
    left = [None, *(row.departure_time or row.arrival_time for row in rows)]
    return [
        Call(canonical(row.stop_id), row.arrival_time, row.departure_time, previous)
        for row, previous in zip(rows, left, strict=False)
    ]


def _stop_order(stop: Stop) -> tuple[Any, ...]:
    own_name = canonical(stop.id) == stop.id
    values = (None if own_name else stop.id, stop.name, stop.platform_name, stop.latitude, stop.longitude)
    return _missing_first(*values)


def _trip_order(trip: Trip) -> tuple[Any, ...]:
    return _missing_first(trip.name, trip.route_id, trip.direction_id)


def _missing_first(*values: Any) -> tuple[Any, ...]:
    """Values to sort by, where a missing one comes first."""
    return tuple((value is not None, 0 if value is None else value) for value in values)


def _first(rows: Iterable[Any], key: Any, order: Any) -> dict[Any, Any]:
    """By key, the row that comes first in some order."""
    found: dict[Any, Any] = {}
    for row in rows:
        name = key(row)
        if name not in found or order(row) < order(found[name]):
            found[name] = row
    return found
