"""The arrival queries that follow from the vehicle updates of a service day.

They have the features that `transit_features` has for the same updates. What the updates show is kept in
`observations`, the scheduled part of the day in `timetable`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mbta_assets.serving.arrival_query import ArrivalQuery
from mbta_assets.serving.observations import Observations, RunTimes, StopArrivals
from mbta_assets.serving.queries import (
    MICROSECONDS_PER_SECOND,
    VEHICLE_FIELDS,
    Queries,
    ScheduledEvent,
    VehicleQueries,
)
from mbta_assets.serving.scheduled_trip import MICROSECOND, ScheduledTrip, missing_first, to_microseconds
from mbta_assets.serving.timetable import Timetable
from mbta_assets.serving.trip_state import (
    Place,
    RouteDirection,
    StopVisit,
    TripKey,
    TripState,
    VehicleUpdate,
    has_trip_id,
    to_route_direction,
)
from mbta_assets.transit.distances import DEPARTURE
from mbta_assets.transit.formulas import RECENT_DELAY_WINDOW_SECONDS, RECENT_RUN_COUNT


class _TripPosition(NamedTuple):
    """The position of a vehicle among the stop visits of its trip; visits are numbered from 0."""

    update: VehicleUpdate
    current_index: int
    """Index of the visit at which it stands or to which it is moving."""
    next_index: int
    """Index of the visit at which it arrives next."""


class Stream:
    """The observed state of a service day: its timetable and the vehicle updates so far.

    Updates of one vehicle should come in order of time; those of different vehicles may be interleaved. Then the
    queries are those of the table. An update that does not count in the table either is ignored: one whose time is not
    of its trip at that stop or of the service day, that names no stop, or that is about a stop whose order in the trip
    the schedule does not say.

    Where a trip serves a stop more than once, `transit.placement` says which visit an update is about. Simultaneous
    updates of a vehicle should be given in one call, as they are put in an order.

    An update that is older than the latest one of its vehicle on its trip is late and ignored. If it is older by more
    than `observations.MAX_DISORDER`, a clock is wrong, of the late updates or of the newer ones, and the majority
    decides: once more updates in a row are so late than there are newer ones, the newer ones are revoked and the late
    ones count. So neither a clock in the past nor one in the future silences a vehicle.
    """

    def __init__(self, timetable: Timetable) -> None:
        self.timetable = timetable
        """The scheduled trips of the service day."""
        self._observed = Observations(timetable)
        self._events: dict[str, list[tuple[ScheduledEvent | None, StopArrivals]]] = {}
        """The events of trips that have been observed, by trip_id, with the arrivals at their stops."""

    @property
    def implausible_updates(self) -> int:
        """Return the number of updates that were ignored because of their time."""
        return self._observed.implausible_updates

    @property
    def late_updates(self) -> int:
        """Return the number of updates that were ignored because they were late."""
        return self._observed.late_updates

    @property
    def revoked_updates(self) -> int:
        """Return the number of updates that later ones have shown to have a wrong time."""
        return self._observed.revoked_updates

    def update(self, updates: Iterable[VehicleUpdate]) -> None:
        """Add updates in any order; repeated updates have no effect."""
        self._observed.add(updates)

    def iter_queries(self, since: datetime | None = None) -> Iterator[ArrivalQuery]:
        """Yield a query for each vehicle on a trip and each stop ahead, as of the vehicle's latest update on that trip.

        A vehicle that has not left the first stop of its trip has a query about its departure too. With `since`, trips
        on which the vehicle's latest update is older are left out.
        """
        yield from Queries(self.list_vehicles(since))

    def iter_trip_queries(self, trip_id: str, since: datetime | None = None) -> Iterator[ArrivalQuery]:
        """Yield the queries of all vehicles of a trip; none if it has not been observed or has no stop ahead."""
        keys = self._observed.keys_by_trip.get(trip_id, ())
        yield from Queries([vehicle for key in keys if (vehicle := self._make_queries(key, since)) is not None])

    def list_vehicles(self, since: datetime | None = None) -> list[VehicleQueries]:
        """Return the queries of `iter_queries` by vehicle; those of vehicles that have any."""
        return [
            vehicle
            for key in self._observed.trips
            if has_trip_id(key) and (vehicle := self._make_queries(key, since)) is not None
        ]

    def _make_queries(self, key: TripKey, since: datetime | None) -> VehicleQueries | None:
        """Return the queries of a vehicle on a trip: its departure, then the arrivals at the stops ahead in order.

        Return None if there are none.
        """
        trip = self._observed.trips[key]
        scheduled = trip.scheduled
        if since is not None and trip.last_updated_at < since:
            self._events.pop(key[1], None)
            return None
        position = _find_position(trip)
        if scheduled is None or position is None or (since is not None and position.update.updated_at < since):
            return None
        of_trip = self._events.get(scheduled.trip_id)
        if of_trip is None:
            of_trip = self._events[scheduled.trip_id] = self._list_events(scheduled)
        visits, begin = trip.visits, max(position.next_index, 1)
        indices = [
            index
            for index in range(begin, len(of_trip))
            if (index not in visits or visits[index].arrived_at is None) and index not in scheduled.unordered
        ]
        if position.current_index == 0 and not trip.has_left_origin:
            indices.insert(0, 0)
        events = [(event, index) for index in indices if (event := of_trip[index][0]) is not None]
        if not events:
            return None
        arrivals = [(index, of_trip[index][1]) for _, index in events]
        return VehicleQueries(
            VEHICLE_FIELDS.arrange(self._vehicle_fields(trip, scheduled, position)),
            [event for event, _ in events],
            _observe_stops(trip, scheduled, position, arrivals),
        )

    def _list_events(self, scheduled: ScheduledTrip) -> list[tuple[ScheduledEvent | None, StopArrivals]]:
        """Return the event of each visit of a trip, None where the schedule has no time, and the arrivals at its stop.

        The event is the arrival there, or the departure from the first stop.
        """
        events: list[tuple[ScheduledEvent | None, StopArrivals]] = []
        for index, stop_time in enumerate(scheduled.stop_times):
            time = stop_time.arrival_time if index else stop_time.departure_time
            stop = self.timetable.stops.get(stop_time.stop_id)
            position = (stop.latitude, stop.longitude) if stop else (None, None)
            event = None
            if time is not None:
                sequence = scheduled.stop_sequence(index)
                event = ScheduledEvent(stop_time.stop_id, sequence, time, *position, to_microseconds(time))
            events.append((event, self._observed.arrivals_by_stop[stop_time.stop_id]))
        return events

    def _vehicle_fields(self, trip: TripState, scheduled: ScheduledTrip, position: _TripPosition) -> dict[str, Any]:
        """Return the query fields that do not depend on the predicted stop."""
        update, index = position.update, position.current_index
        now, is_moving, current = update.updated_at, update.is_moving, scheduled.stop_times[index]
        route_id, direction_id = self._route_and_direction(scheduled.trip_id, update)
        arrival, arrived_at = trip.last_arrival, trip.last_arrival and trip.last_arrival.arrived_at
        arrivals = self._observed.arrivals_by_stop[current.stop_id]
        previous = _find_latest_of_others(arrivals, trip, _count_before(arrivals, now))
        left_at = self._observed.find_departure(previous) if previous else None
        route_delay, route_change = self._recent_delays(to_route_direction(route_id, direction_id), now)
        return {
            "service_date": self.timetable.service_date,
            "time_stamp": now,
            "current_stop_id": current.stop_id,
            "current_stop_sequence": scheduled.stop_sequence(index),
            "current_status": update.current_status,
            "timepoint": current.timepoint,
            "stops_behind": position.next_index,
            "vehicle_id": update.id,
            "trip_id": scheduled.trip_id,
            "route_id": route_id,
            "direction_id": direction_id,
            "current_latitude": update.latitude,
            "current_longitude": update.longitude,
            "scheduled_last_departure": scheduled.previous_departure(index) if is_moving else current.leaves,
            "scheduled_start": scheduled.first_time,
            # A standing vehicle has stood since its arrival, even if its status has changed in between.
            "state_since": trip.state_started_at.get((index, True)) if is_moving else arrived_at,
            "last_arrival": arrived_at,
            "last_delay_seconds": _seconds(arrival.delay_us) if arrival else None,
            "last_change_seconds": _seconds(arrival.delay_change_us) if arrival else None,
            "platform_arrival": previous and previous.arrived_at,
            "platform_left": left_at if left_at is not None and left_at < now else None,
            "route_delay_seconds": route_delay,
            "route_change_seconds": route_change,
            "network_run_ratio": self._observed.network_runs.compute_ratio(now),
        }

    def _route_and_direction(self, trip_id: str, update: VehicleUpdate) -> tuple[str | None, int | None]:
        """Return the route and direction of an update, taken from the trip where the update has none."""
        trip = self.timetable.trips.get(trip_id)
        route_id, direction_id = update.route_id, update.direction_id
        if trip is not None and route_id is None:
            route_id = trip.route_id
        if trip is not None and direction_id is None:
            direction_id = trip.direction_id
        return route_id, direction_id

    def _recent_delays(self, route_direction: RouteDirection, now: datetime) -> tuple[float | None, float | None]:
        """Return the mean delay and mean change of delay, in seconds, of a route's arrivals in the last half hour."""
        arrivals = self._observed.arrivals_by_route.get(route_direction, ())
        begin = bisect_left(arrivals, now - timedelta(seconds=RECENT_DELAY_WINDOW_SECONDS), key=_arrival_time)
        recent = arrivals[begin : _count_before(arrivals, now)]
        return (
            _mean_seconds([visit.delay_us for visit in recent if visit.delay_us is not None]),
            _mean_seconds([visit.delay_change_us for visit in recent if visit.delay_change_us is not None]),
        )


def _observe_stops(
    trip: TripState, scheduled: ScheduledTrip, position: _TripPosition, arrivals: Iterable[tuple[int, StopArrivals]]
) -> list[tuple[Any, ...]]:
    """Return the `OBSERVED_FIELDS` of the visits with some indices, whose stops have had some arrivals."""
    now, is_moving, next_index = position.update.updated_at, position.update.is_moving, position.next_index
    origin = scheduled.stop_times[position.current_index].stop_id
    is_repeated = scheduled.pattern.is_repeated
    observed: list[tuple[Any, ...]] = []
    for index, at_stop in arrivals:
        stops_ahead = index - next_index + 1 if index else DEPARTURE
        if not at_stop:
            observed.append((stops_ahead, None, None, None, None))
            continue
        count = _count_before(at_stop, now)
        runs: RunTimes = (None, None)
        if index and not (is_repeated and scheduled.is_served_before(index, next_index)):
            runs = _find_recent_runs(at_stop, origin, is_moving, count)
        leader = _find_latest_of_others(at_stop, trip, count)
        if leader is None:
            observed.append((stops_ahead, None, None, *runs))
        else:
            observed.append((stops_ahead, leader.arrived_at, _seconds(leader.delay_us), *runs))
    return observed


def _find_position(trip: TripState) -> _TripPosition | None:
    """Return the position furthest along the trip by the reports of the latest time; None if none is at its stops."""
    positions = [
        _TripPosition(report.update, report.place, report.place if report.update.is_moving else report.place + 1)
        for report in trip.located
        if isinstance(report.place, int)
    ]
    return min(positions, key=_furthest_first, default=None) if len(positions) != 1 else positions[0]


def _count_before(arrivals: Sequence[StopVisit], now: datetime) -> int:
    """Return the number of arrivals, given in order, that were before `now`."""
    if not arrivals or _arrival_time(arrivals[-1]) < now:
        return len(arrivals)
    return bisect_left(arrivals, now, key=_arrival_time)


def _find_latest_of_others(arrivals: Sequence[StopVisit], trip: TripState, count: int) -> StopVisit | None:
    """Return the latest of the first `count` arrivals at a stop that is not of a vehicle's own trip."""
    for index in range(count - 1, -1, -1):
        if arrivals[index].trip is not trip:
            return arrivals[index]
    return None


def _find_recent_runs(arrivals: StopArrivals, origin: str, is_moving: bool, count: int) -> RunTimes:
    """Return the latest of the runs that `_list_recent_runs` lists, and their mean, in seconds."""
    key = origin, is_moving, count
    found = arrivals.recent_runs.get(key)
    if found is None:
        runs = _list_recent_runs(arrivals, origin, is_moving, count)
        found = arrivals.recent_runs[key] = _seconds(runs[0]) if runs else None, _mean_seconds(runs)
    return found


def _list_recent_runs(arrivals: Sequence[StopVisit], origin: str, is_moving: bool, count: int) -> list[int]:
    """Return the run times in microseconds of the latest runs that ended with one of the first `count` arrivals.

    The latest comes first. A run starts with the movement to the origin if `is_moving`, otherwise with the arrival
    there, and ends with one of the arrivals at the destination, the first of its trip from there on.
    """
    runs: list[int] = []
    for index in range(count - 1, -1, -1):
        end = arrivals[index]
        ended_at, visits = end.arrived_at, end.trip.visits
        for place in _find_origins(end, origin, is_moving):
            start = visits.get(place)
            if start is None:
                continue
            started_at = start.movement_started_at if is_moving else start.arrived_at
            if started_at is not None and ended_at is not None and ended_at > started_at:
                runs.append((ended_at - started_at) // MICROSECOND)
                if len(runs) == RECENT_RUN_COUNT:
                    return runs
    return runs


def _find_origins(end: StopVisit, origin: str, is_moving: bool) -> Sequence[Place]:
    """Return the visits of the origin from which an arrival is the trip's next one at its stop, the latest first."""
    scheduled, place = end.trip.scheduled, end.place
    if scheduled is None:
        return (origin,)
    at_origin = scheduled.pattern.at_stop.get(origin)
    if not isinstance(place, int):
        return at_origin[::-1] if at_origin else (origin,)
    if not scheduled.pattern.is_repeated:
        if at_origin is None:
            return (origin,)
        is_before = at_origin[0] <= place if is_moving else at_origin[0] < place
        return at_origin if is_before else ()
    at_destination = scheduled.pattern.at_stop[end.stop_id]
    if at_origin is None:
        return (origin,) if at_destination[0] == place else ()
    before = max((other for other in at_destination if other < place), default=-1)
    begin, last = (before + 1, place) if is_moving else (before, place - 1)
    return [index for index in reversed(at_origin) if begin <= index <= last]


def _arrival_time(visit: StopVisit) -> Any:
    """Return the arrival time of a visit that has one."""
    return visit.arrived_at


def _furthest_first(position: _TripPosition) -> tuple[Any, ...]:
    """Return the sort key by which the position furthest along its trip comes first."""
    update = position.update
    return -position.next_index, update.current_status, *missing_first(update.latitude, update.longitude)


def _seconds(microseconds: int | None) -> float | None:
    """Convert microseconds to seconds."""
    return None if microseconds is None else microseconds / MICROSECONDS_PER_SECOND


def _mean_seconds(microseconds: list[int]) -> float | None:
    """Return the mean of microseconds in seconds, or None if there are none."""
    return sum(microseconds) / MICROSECONDS_PER_SECOND / len(microseconds) if microseconds else None
