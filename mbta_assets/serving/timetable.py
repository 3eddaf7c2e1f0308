"""The timetable of a service day: the rows of `trip`, `stop` and `schedule`, indexed for the stream.

Stops are named as the timetable names them (`canonical_stop_id`). Nothing here changes during the service day; what
vehicles report is kept in `stream`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby
from typing import Any, TypeVar

from mbta_assets.transit.formulas import UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.platforms import PLATFORM_ALIASES

Row = TypeVar("Row")
Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True, slots=True)
class StopTime:
    """A row of `schedule`: the scheduled arrival and departure of a trip at one of its stops."""

    trip_id: str
    stop_id: str
    arrival_time: datetime | None = None
    departure_time: datetime | None = None
    stop_sequence: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """A row of `stop`: a platform, with its position in degrees."""

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


class Timetable:
    """The scheduled trips of a service day."""

    def __init__(
        self,
        service_date: date,
        schedule: Iterable[StopTime],
        stops: Iterable[Stop] = (),
        trips: Iterable[Trip] = (),
    ) -> None:
        self.service_date = service_date
        rows = [_with_canonical_stop(row) for row in schedule if not row.trip_id.startswith(UNSCHEDULED_TRIP_PREFIXES)]
        self.scheduled_arrivals = _earliest_arrivals(rows)
        """The scheduled arrival that delays are counted from, by (trip_id, stop_id)."""
        self.stop_times = {
            trip_id: list(of_trip) for trip_id, of_trip in groupby(_sort_by_trip(rows), lambda row: row.trip_id)
        }
        """The stop times of each trip in order of travel, by trip_id."""
        self.stop_index = {
            (trip_id, stop_time.stop_id): index
            for trip_id, stop_times in self.stop_times.items()
            for index, stop_time in enumerate(stop_times)
        }
        """The position of a stop in its trip, counted from 0, by (trip_id, stop_id)."""
        self.stops = _first_by_key(stops, lambda stop: canonical_stop_id(stop.id), _stop_order)
        self.trips = _first_by_key(trips, lambda trip: trip.id, _trip_order)

    def previous_departure(self, trip_id: str, index: int) -> datetime | None:
        """Return the scheduled departure from the stop before the stop at `index`, or None at the first stop."""
        if index == 0:
            return None
        previous = self.stop_times[trip_id][index - 1]
        return previous.departure_time or previous.arrival_time


def canonical_stop_id(stop_id: str) -> str:
    """Return the id that the timetable uses for a stop; a berth of a terminal has the id of its platform there."""
    return PLATFORM_ALIASES.get(stop_id, stop_id)


def _with_canonical_stop(row: StopTime) -> StopTime:
    """Return a stop time whose stop has its canonical id."""
    if row.stop_id in PLATFORM_ALIASES:
        return replace(row, stop_id=canonical_stop_id(row.stop_id))
    return row


def _earliest_arrivals(rows: Iterable[StopTime]) -> dict[tuple[str, str], datetime]:
    """Return the earliest scheduled arrival for each (trip_id, stop_id)."""
    earliest: dict[tuple[str, str], datetime] = {}
    for row in rows:
        if row.arrival_time is not None:
            key = row.trip_id, row.stop_id
            earliest[key] = min(row.arrival_time, earliest.get(key, row.arrival_time))
    return earliest


def _sort_by_trip(rows: Iterable[StopTime]) -> list[StopTime]:
    """Return the earliest stop time of each trip and stop, ordered by trip and then by order of travel.

    Rows without a time are left out.
    """
    timed = [row for row in rows if row.arrival_time is not None or row.departure_time is not None]
    earliest = _first_by_key(
        timed,
        lambda row: (row.trip_id, row.stop_id),
        lambda row: (row.arrival_time or row.departure_time, *missing_first(row.stop_sequence)),
    )
    return sorted(earliest.values(), key=_travel_order)


def _travel_order(row: StopTime) -> tuple[Any, ...]:
    """Return the sort key of a stop time: its trip, then its place in the trip."""
    return (
        row.trip_id,
        row.arrival_time or row.departure_time,
        row.arrival_time is not None,
        row.departure_time is None,
        *missing_first(row.stop_sequence),
        row.stop_id,
    )


def _stop_order(stop: Stop) -> tuple[Any, ...]:
    """Return the sort key of a stop among those with the same canonical id; the one with that id comes first."""
    alias = None if canonical_stop_id(stop.id) == stop.id else stop.id
    return missing_first(alias, stop.name, stop.platform_name, stop.latitude, stop.longitude)


def _trip_order(trip: Trip) -> tuple[Any, ...]:
    """Return the sort key of a trip among those with the same id."""
    return missing_first(trip.name, trip.route_id, trip.direction_id)


def missing_first(*values: Any) -> tuple[Any, ...]:
    """Return a sort key of values in which None sorts before everything else."""
    return tuple((value is not None, 0 if value is None else value) for value in values)


def _first_by_key(
    rows: Iterable[Row], get_key: Callable[[Row], Key], get_order: Callable[[Row], Any]
) -> dict[Key, Row]:
    """Return the row of each key that sorts first."""
    first: dict[Key, Row] = {}
    for row in rows:
        key = get_key(row)
        if key not in first or get_order(row) < get_order(first[key]):
            first[key] = row
    return first
