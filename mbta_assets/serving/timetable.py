"""The timetable of a service day: the rows of `trip`, `stop` and `schedule`, indexed for the stream.

The rules are those of `transit.reports`: scheduled times count if they are of the service day, a trip does not arrive
at its origin, and a report at any stop of a station counts for the stop that its trip serves there. Nothing here
changes during the service day; what vehicles report is kept in `observations`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby
from typing import Any, TypeVar

from mbta_assets.transit import plausibility, service_day
from mbta_assets.transit.formulas import UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.plausibility import BLANKS, TimeRange, TripTimes

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
    """A row of `stop`: a platform, with its position in degrees and its station."""

    id: str
    name: str | None = None
    platform_name: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    parent_station: str | None = None


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
        self.start_time = service_day.start_time(service_date)
        self.stop_times = {
            trip_id: _without_arrival_at_origin(list(stop_times))
            for trip_id, stop_times in groupby(self._select_stop_times(schedule), lambda row: row.trip_id)
        }
        """The stop times of each trip in order of travel, by trip_id."""
        self.stop_index = {
            (trip_id, stop_time.stop_id): index
            for trip_id, stop_times in self.stop_times.items()
            for index, stop_time in enumerate(stop_times)
        }
        """The position of a stop in its trip, counted from 0, by (trip_id, stop_id)."""
        self.trip_times = {trip_id: _find_trip_times(stop_times) for trip_id, stop_times in self.stop_times.items()}
        """The first and last scheduled time of each trip, by trip_id."""
        named = _first_by_key(stops, lambda stop: clean_id(stop.id), _stop_order)
        self.stops = {stop_id: _clean_stop(stop) for stop_id, stop in named.items()}
        """The stops by id, their positions None where they are not plausible."""
        self.trips = _first_by_key(trips, lambda trip: clean_id(trip.id), _trip_order)
        self.box = plausibility.enclose_stops((stop.latitude, stop.longitude) for stop in self.stops.values())
        """The box in which vehicles can be."""
        self._stop_in_station = self._index_stations()
        self._day_range = TimeRange.from_trip(self.start_time, None)
        self._trip_ranges = {
            trip_id: TimeRange.from_trip(self.start_time, trip_times) for trip_id, trip_times in self.trip_times.items()
        }

    def previous_departure(self, trip_id: str, index: int) -> datetime | None:
        """Return the scheduled departure from the stop before the stop at `index`, or None at the first stop."""
        if index == 0:
            return None
        previous = self.stop_times[trip_id][index - 1]
        return previous.departure_time or previous.arrival_time

    def scheduled_arrival(self, trip_id: str, stop_id: str) -> datetime | None:
        """Return the scheduled arrival of a trip at a stop, or None if it has none there."""
        index = self.stop_index.get((trip_id, stop_id))
        return None if index is None else self.stop_times[trip_id][index].arrival_time

    def place_report(self, trip_id: str | None, stop_id: str, moving: bool, time: datetime) -> str | None:
        """Return the stop at which a report of a trip counts, or None if the trip cannot be there at its time.

        It is the stop of the report if the trip serves it or has no schedule, otherwise the trip's first stop in the
        station.
        """
        of_trip = None if trip_id is None else self._trip_ranges.get(trip_id)
        if trip_id is None or of_trip is None:
            earliest, latest = self._day_range
            return stop_id if earliest <= time <= latest else None
        earliest, latest = of_trip
        if not earliest <= time <= latest:
            return None
        index = self.stop_index.get((trip_id, stop_id))
        if index is None:
            stop = self.stops.get(stop_id)
            stop_id = self._stop_in_station.get((trip_id, stop.parent_station if stop else None), stop_id)
            index = self.stop_index.get((trip_id, stop_id))
        if not index:
            return stop_id  # the origin, or no stop of the trip
        stop_times = self.stop_times[trip_id]
        previous = stop_times[index - 1]
        departure = previous.departure_time or previous.arrival_time
        is_plausible = plausibility.can_be_at_stop(time, moving, stop_times[index].arrival_time, departure)
        return stop_id if is_plausible else None

    def _select_stop_times(self, schedule: Iterable[StopTime]) -> list[StopTime]:
        """Return the earliest stop time of each trip and stop, ordered by trip and then by order of travel.

        Rows without an id or a plausible time, and those of added and non-revenue trips, are left out.
        """
        plausible = TimeRange.from_service_day(self.start_time)
        cleaned = (_clean_stop_time(row, plausible) for row in schedule)
        rows = [row for row in cleaned if row is not None]
        earliest = _first_by_key(rows, lambda row: (row.trip_id, row.stop_id), _choice_order)
        return sorted(earliest.values(), key=_travel_order)

    def _index_stations(self) -> dict[tuple[str | None, str | None], str]:
        """Return the first stop of each trip in each station, by (trip_id, parent_station)."""
        first: dict[tuple[str | None, str | None], str] = {}
        for trip_id, stop_times in self.stop_times.items():
            for stop_time in stop_times:
                stop = self.stops.get(stop_time.stop_id)
                if stop is not None and stop.parent_station is not None:
                    first.setdefault((trip_id, stop.parent_station), stop_time.stop_id)
        return first


def clean_id(text: str | None) -> str | None:
    """Return an id without blanks around it, or None if nothing is left."""
    return None if text is None else text.strip(BLANKS) or None


def _clean_stop_time(row: StopTime, plausible: TimeRange) -> StopTime | None:
    """Return a stop time with clean ids and plausible times, or None if it lacks one or its trip has no schedule."""
    trip_id, stop_id = clean_id(row.trip_id), clean_id(row.stop_id)
    arrival, departure = row.arrival_time, row.departure_time
    if arrival is not None and not plausible.earliest <= arrival <= plausible.latest:
        arrival = None
    if departure is not None and not plausible.earliest <= departure <= plausible.latest:
        departure = None
    if trip_id is None or stop_id is None or (arrival is None and departure is None):
        return None
    if trip_id.startswith(UNSCHEDULED_TRIP_PREFIXES):
        return None
    if (
        trip_id == row.trip_id
        and stop_id == row.stop_id
        and arrival is row.arrival_time
        and departure is row.departure_time
    ):
        return row  # as most are; a copy of every row takes most of the time
    return replace(row, trip_id=trip_id, stop_id=stop_id, arrival_time=arrival, departure_time=departure)


def _clean_stop(stop: Stop) -> Stop:
    """Return a stop with a clean station, and without a position that is not plausible."""
    is_plausible = plausibility.is_plausible_position(stop.latitude, stop.longitude)
    return replace(
        stop,
        latitude=stop.latitude if is_plausible else None,
        longitude=stop.longitude if is_plausible else None,
        parent_station=clean_id(stop.parent_station),
    )


def _without_arrival_at_origin(stop_times: list[StopTime]) -> list[StopTime]:
    """Return the stop times of a trip; at the first one an arrival only stands in for a missing departure."""
    first, *rest = stop_times
    return [replace(first, arrival_time=None, departure_time=first.departure_time or first.arrival_time), *rest]


def _find_trip_times(stop_times: list[StopTime]) -> TripTimes:
    """Return the first and last scheduled time of a trip."""
    times = [time for row in stop_times if (time := row.arrival_time or row.departure_time) is not None]
    return times[0], max(times)


def _choice_order(row: StopTime) -> tuple[Any, ...]:
    """Return the sort key of a stop time among those of a trip at one stop."""
    times = missing_first(row.stop_sequence, row.arrival_time, row.departure_time)
    return row.arrival_time or row.departure_time, *times


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
    """Return the sort key of a stop among those with the same id."""
    return missing_first(stop.name, stop.platform_name, stop.latitude, stop.longitude, stop.parent_station)


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
