"""The view of a publication that the live page shows: a route's lines with their stations, vehicles and arrivals.

A line is a route in one direction. Its stations are those of all trips of the running service days, merged into one
order, so that it is the same at each update. Where vehicles are, and when they arrive, comes from the publication.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

from mbta_assets.serving.lines import line_color, merge_stop_patterns, name_stops, name_terminals
from mbta_assets.serving.live.publication import Publication, StopPrediction, TripPrediction
from mbta_assets.serving.scheduled_trip import ScheduledTrip
from mbta_assets.serving.timetable import Stop, Timetable
from mbta_assets.transit.formulas import haversine_miles

SHOWN_EVENTS = 3
"""Number of the next arrivals, or departures, of a station that are shown."""
HALF_WAY = 0.5
StationKey = tuple[str, int]
"""A stop, and the number of times that a trip serves it again later."""
LineKey = tuple[str, int | None]
"""A route and a direction."""


@dataclass(frozen=True)
class LineStations:
    """The stations of a line in order of travel."""

    route_id: str
    direction_id: int | None
    towards: str
    keys: Sequence[StationKey]
    names: Mapping[str, str]
    """Names by stop."""

    @cached_property
    def index_of(self) -> Mapping[StationKey, int]:
        """Return the index of each station."""
        return {key: index for index, key in enumerate(self.keys)}


class Network:
    """The lines of some service days, each made when it is first asked for."""

    def __init__(self, timetables: Mapping[date, Timetable]) -> None:
        """Take the timetables by service date."""
        self.timetables = timetables
        self._lines: dict[LineKey, LineStations] = {}

    @cached_property
    def stops(self) -> Mapping[str, Stop]:
        """Return the stops of all days by id."""
        stops: dict[str, Stop] = {}
        for timetable in self.timetables.values():
            stops |= {stop_id: stop for stop_id, stop in timetable.stops.items() if stop_id is not None}
        return stops

    @cached_property
    def directions(self) -> Mapping[str, list[int | None]]:
        """Return the directions of each route that has scheduled trips, in order."""
        directions: dict[str, set[int | None]] = defaultdict(set)
        for route_id, direction_id in self._trips_by_line:
            directions[route_id].add(direction_id)
        return {route: sorted(of, key=lambda d: -1 if d is None else d) for route, of in sorted(directions.items())}

    @cached_property
    def _trips_by_line(self) -> Mapping[LineKey, list[ScheduledTrip]]:
        trips: dict[LineKey, list[ScheduledTrip]] = defaultdict(list)
        for timetable in self.timetables.values():
            for trip_id, scheduled in timetable.scheduled_trips.items():
                row = timetable.trips.get(trip_id)
                if row is not None and row.route_id is not None:
                    trips[row.route_id, row.direction_id].append(scheduled)
        return trips

    def find_trip(self, trip: TripPrediction) -> tuple[ScheduledTrip, LineKey] | None:
        """Return the scheduled trip of a vehicle and its line, as the timetable has them."""
        timetable = self.timetables.get(trip.service_date)
        if timetable is None:
            return None
        scheduled, row = timetable.scheduled_trips.get(trip.trip_id), timetable.trips.get(trip.trip_id)
        if scheduled is None or row is None or row.route_id is None:
            return None
        return scheduled, (row.route_id, row.direction_id)

    def line(self, key: LineKey) -> LineStations:
        """Return a line."""
        if key not in self._lines:
            patterns = Counter(list_stations(trip) for trip in self._trips_by_line[key]).most_common()
            order = merge_stop_patterns(pattern for pattern, _ in patterns)
            station_names = {
                stop_id: self.stops[stop_id].name or stop_id for stop_id, _ in order if stop_id in self.stops
            }
            platforms = {
                stop: f"{name} ({self.stops[stop].platform_name or stop})" for stop, name in station_names.items()
            }
            ends: Counter[str] = Counter()
            for pattern, trips in patterns:
                ends[pattern[-1][0]] += trips
            names = name_stops([stop for stop, _ in order], station_names, platforms)
            self._lines[key] = LineStations(*key, name_terminals(ends, station_names), order, names)
        return self._lines[key]


def list_stations(trip: ScheduledTrip) -> tuple[StationKey, ...]:
    """Return the stations that a trip serves, in order."""
    stop_ids = [stop_time.stop_id for stop_time in trip.stop_times]
    if not trip.repeated_stops:
        return tuple((stop_id, 0) for stop_id in stop_ids)
    left = Counter(stop_ids)
    stations = []
    for stop_id in stop_ids:
        left[stop_id] -= 1
        stations.append((stop_id, left[stop_id]))
    return tuple(stations)


def build_view(publication: Publication, network: Network, route_id: str | None) -> dict[str, Any]:
    """Return the view of a route as JSON; by default of the route with the most vehicles.

    A route that has no scheduled trip has no lines.
    """
    located = [(trip, found) for trip in publication.trips if (found := network.find_trip(trip)) is not None]
    vehicles = Counter(line[0] for _, (_, line) in located)
    if route_id is None:
        route_id = max(network.directions, key=lambda route: vehicles[route], default=None)
    lines = [(route_id, direction) for direction in network.directions.get(route_id, ())] if route_id else []
    return {
        "made_at": publication.made_at.isoformat(),
        "feed_time": publication.feed_time and publication.feed_time.isoformat(),
        "model_version": publication.model_version,
        "confidence_level": publication.confidence_level,
        "routes": [
            {"route_id": route, "color": line_color(route), "vehicles": vehicles[route]} for route in network.directions
        ],
        "route_id": route_id,
        "lines": [
            _describe_line(network, line, [(trip, found) for trip, (found, of) in located if of == line])
            for line in lines
        ],
    }


def _describe_line(
    network: Network, key: LineKey, trips: Sequence[tuple[TripPrediction, ScheduledTrip]]
) -> dict[str, Any]:
    """Return a line with its stations and their next arrivals, and its vehicles."""
    line = network.line(key)
    arrivals: dict[int, list[tuple[datetime, dict[str, Any]]]] = defaultdict(list)
    departures: dict[int, list[tuple[datetime, dict[str, Any]]]] = defaultdict(list)
    for trip, scheduled in trips:
        for index, stop in locate_stops(line, scheduled, trip.stops):
            events = departures if stop.event == "departure" else arrivals
            events[index].append((stop.predicted, _describe_event(trip.vehicle_id, stop)))
    return {
        "route_id": line.route_id,
        "direction_id": line.direction_id,
        "towards": line.towards,
        "color": line_color(line.route_id),
        "stations": [
            {
                "stop_id": stop_id,
                "name": line.names[stop_id],
                "arrivals": _select_next(arrivals[index]),
                "departures": _select_next(departures[index]),
            }
            for index, (stop_id, _) in enumerate(line.keys)
        ],
        "vehicles": [_describe_vehicle(network, line, trip, scheduled) for trip, scheduled in trips],
    }


def locate_stops(
    line: LineStations, scheduled: ScheduledTrip, stops: Iterable[StopPrediction]
) -> Iterator[tuple[int, StopPrediction]]:
    """Yield the stops ahead of a vehicle with the indices of their stations."""
    stations = list_stations(scheduled)
    visits = {scheduled.stop_sequence(index): index for index in range(len(stations))}
    for stop in stops:
        visit = visits.get(stop.stop_sequence) if stop.stop_sequence is not None else None
        if visit is not None and visit < len(stations):
            yield line.index_of[stations[visit]], stop


def _select_next(events: list[tuple[datetime, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the next events of a station, in order of time."""
    return [event for _, event in sorted(events, key=lambda row: row[0])[:SHOWN_EVENTS]]


def _describe_event(vehicle_id: str, stop: StopPrediction) -> dict[str, Any]:
    return {
        "vehicle_id": vehicle_id,
        "scheduled": stop.scheduled.isoformat(),
        "predicted": stop.predicted.isoformat(),
        "delay_seconds": round(stop.delay_seconds, 1),
        "earliest": stop.earliest and stop.earliest.isoformat(),
        "latest": stop.latest and stop.latest.isoformat(),
    }


def _describe_vehicle(
    network: Network, line: LineStations, trip: TripPrediction, scheduled: ScheduledTrip
) -> dict[str, Any]:
    """Return a vehicle with its position on the line: 2.5 is half way from the third station to the fourth."""
    ahead = next(locate_stops(line, scheduled, trip.stops), None)
    position = find_position(network, line, trip, scheduled)
    return {
        "vehicle_id": trip.vehicle_id,
        "trip_id": trip.trip_id,
        "position": None if position is None else round(position, 3),
        "is_standing": trip.current_status == "STOPPED_AT",
        "current_stop": line.names.get(trip.current_stop_id, trip.current_stop_id),
        "reported_at": trip.reported_at.isoformat(),
        "delay_seconds": None if ahead is None else round(ahead[1].delay_seconds, 1),
    }


def find_position(network: Network, line: LineStations, trip: TripPrediction, scheduled: ScheduledTrip) -> float | None:
    """Return where a vehicle is among the stations of its line; None if it is at none of its trip.

    One on its way is as far from the station before as its coordinates say, half way where they do not.
    """
    stations = list_stations(scheduled)
    visits = [
        visit
        for visit in range(len(stations))
        if stations[visit][0] == trip.current_stop_id
        and trip.current_stop_sequence in (None, scheduled.stop_sequence(visit))
    ]
    if not visits:
        return None
    current = line.index_of[stations[visits[0]]]
    if trip.current_status == "STOPPED_AT" or visits[0] == 0:
        return float(current)
    before = line.index_of[stations[visits[0] - 1]]
    share = _measure_progress(network, stations[visits[0] - 1][0], trip)
    return before + (current - before) * share


def _measure_progress(network: Network, stop_before: str, trip: TripPrediction) -> float:
    """Return the share of the way to its next stop that a vehicle has gone, 0.05 to 0.95, by its distance from both."""
    before, after = network.stops.get(stop_before), network.stops.get(trip.current_stop_id)
    positions = [(stop.latitude, stop.longitude) if stop else (None, None) for stop in (before, after)]
    positions.append((trip.latitude, trip.longitude))
    if any(value is None for position in positions for value in position):
        return HALF_WAY
    begin, end, vehicle = positions
    gone, left = (float(haversine_miles(*stop, *vehicle)) for stop in (begin, end))  # type: ignore[arg-type]
    return min(max(gone / (gone + left), 0.05), 0.95) if gone + left > 0 else HALF_WAY
