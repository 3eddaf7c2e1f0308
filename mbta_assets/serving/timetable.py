"""The timetable of a service day: the rows of `trip`, `stop` and `schedule`, indexed for the stream.

It answers which trip a report is of, and at which stop visits of the trip it may count; the order of these is that of
`scheduled_trip`. Nothing here changes during the service day; what vehicles report is kept in `observations`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from mbta_assets.serving.scheduled_trip import (
    Position,
    ScheduledTrip,
    StopPattern,
    StopTime,
    make_pattern,
    missing_first,
    order_trip,
)
from mbta_assets.transit import plausibility, service_day
from mbta_assets.transit.formulas import UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.plausibility import BLANKS, TimeRange

Row = TypeVar("Row")
Key = TypeVar("Key")


class FrequencyTrip(NamedTuple):
    """What identifies a run of a trip of frequencies.txt in GTFS."""

    trip_id: str
    """Trip, which has several runs a day."""
    start_time: str
    """HH:MM:SS, which may be past 24:00:00."""


NO_FREQUENCY_TRIPS: Mapping[str, FrequencyTrip] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """A row of `stop`: a platform, with its position in degrees and its station."""

    id: str
    """Stop."""
    name: str | None = None
    """Name of the station."""
    platform_name: str | None = None
    """Name of the platform, as signed."""
    latitude: float | None = None
    """In degrees."""
    longitude: float | None = None
    """In degrees."""
    parent_station: str | None = None
    """Station that it is a platform of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trip:
    """A row of `trip`."""

    id: str
    """Trip, unique in the service day."""
    name: str | None = None
    """Name that riders know it by."""
    route_id: str | None = None
    """Route of the trip."""
    direction_id: int | None = None
    """Direction of the trip, 0 or 1."""


class Timetable:
    """The scheduled trips of a service day."""

    def __init__(
        self,
        service_date: date,
        schedule: Iterable[StopTime],
        stops: Iterable[Stop] = (),
        trips: Iterable[Trip] = (),
        frequency_trips: Mapping[str, FrequencyTrip] = NO_FREQUENCY_TRIPS,
    ) -> None:
        self.service_date = service_date
        """Date of the service day."""
        self.start_time = service_day.start_time(service_date)
        """Time at which the service day starts."""
        named = _first_by_key(stops, lambda stop: clean_id(stop.id), _stop_order)
        self.stops = {stop_id: _clean_stop(stop) for stop_id, stop in named.items()}
        """The stops by id, their positions None where they are not plausible."""
        self.trips = _first_by_key(trips, lambda trip: clean_id(trip.id), _trip_order)
        """The rows of `trip` by id, also of trips that are not scheduled."""
        self.frequency_trips = frequency_trips
        """What identifies the trips of frequencies.txt, by id."""
        self.box = plausibility.enclose_stops((stop.latitude, stop.longitude) for stop in self.stops.values())
        """The box in which vehicles can be."""
        self.scheduled_trips = self._order_trips(schedule)
        """The scheduled trips by id."""
        self._day_range = TimeRange.from_trip(self.start_time, None)
        self._trip_ranges = {
            trip_id: TimeRange.from_trip(self.start_time, (trip.first_time, trip.last_time))
            for trip_id, trip in self.scheduled_trips.items()
        }

    def find_visits(self, trip: ScheduledTrip, stop_id: str | None, stop_sequence: int | None) -> tuple[int, ...]:
        """Return the indices of the visits of a trip that a report may be about, ascending; nothing if it has none.

        They are those at the stop that it names, else in the station of that stop; a report that names no stop is about
        the visit with its stop sequence.
        """
        if stop_id is None:
            return trip.find_sequence(stop_sequence)
        at_stop = trip.pattern.at_stop.get(stop_id)
        if at_stop is not None:
            return at_stop
        station = self._find_station(stop_id)
        return () if station is None else trip.pattern.in_station.get(station, ())

    def is_of_trip(self, trip: ScheduledTrip | None, time: datetime) -> bool:
        """Return whether a time belongs to a trip, or to the service day where the trip has no schedule."""
        earliest, latest = self._day_range if trip is None else self._trip_ranges[trip.trip_id]
        return earliest <= time <= latest

    def _order_trips(self, schedule: Iterable[StopTime]) -> dict[str, ScheduledTrip]:
        """Return the trips with their stop times in order.

        Rows without an id, and those of added and non-revenue trips, are left out; a time that is not plausible is
        missing.
        """
        plausible = TimeRange.from_service_day(self.start_time)
        rows: dict[str, list[StopTime]] = defaultdict(list)
        for row in schedule:
            cleaned = _clean_stop_time(row, plausible)
            if cleaned is not None:
                rows[cleaned.trip_id].append(cleaned)
        patterns: dict[tuple[str, ...], StopPattern] = {}
        trips = {}
        for trip_id, of_trip in rows.items():
            stop_times, is_trusted, unordered = order_trip(of_trip, self._find_position)
            if not stop_times:
                continue
            stop_ids = tuple(stop_time.stop_id for stop_time in stop_times)
            pattern = patterns.get(stop_ids)
            if pattern is None:
                pattern = patterns[stop_ids] = make_pattern(stop_ids, self._find_station)
            last_time = max(due for stop_time in stop_times if (due := stop_time.due) is not None)
            trips[trip_id] = ScheduledTrip(trip_id, stop_times, pattern, is_trusted, unordered, last_time)
        return trips

    def _find_position(self, stop_id: str) -> Position | None:
        """Return the position of a stop."""
        stop = self.stops.get(stop_id)
        if stop is None or stop.latitude is None or stop.longitude is None:
            return None
        return stop.latitude, stop.longitude

    def _find_station(self, stop_id: str) -> str | None:
        """Return the parent station of a stop."""
        stop = self.stops.get(stop_id)
        return None if stop is None else stop.parent_station


def clean_id(text: str | None) -> str | None:
    """Return an id without blanks around it, or None if nothing is left."""
    return None if text is None else text.strip(BLANKS) or None


def _clean_stop_time(row: StopTime, plausible: TimeRange) -> StopTime | None:
    """Return a stop time with clean ids and plausible times, or None if it lacks an id or its trip has no schedule."""
    trip_id, stop_id = clean_id(row.trip_id), clean_id(row.stop_id)
    arrival, departure = row.arrival_time, row.departure_time
    if arrival is not None and not plausible.earliest <= arrival <= plausible.latest:
        arrival = None
    if departure is not None and not plausible.earliest <= departure <= plausible.latest:
        departure = None
    if trip_id is None or stop_id is None or trip_id.startswith(UNSCHEDULED_TRIP_PREFIXES):
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


def _stop_order(stop: Stop) -> tuple[Any, ...]:
    """Return the sort key of a stop among those with the same id."""
    return missing_first(stop.name, stop.platform_name, stop.latitude, stop.longitude, stop.parent_station)


def _trip_order(trip: Trip) -> tuple[Any, ...]:
    """Return the sort key of a trip among those with the same id."""
    return missing_first(trip.name, trip.route_id, trip.direction_id)


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
