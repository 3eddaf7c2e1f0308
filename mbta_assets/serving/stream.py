"""The arrival queries that follow from the vehicle updates of a service day.

They have the features that `transit_features` has for the same updates. What the updates show is kept in
`observations`, the scheduled part of the day in `timetable`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mbta_assets.serving.observations import (
    MICROSECOND,
    UNOBSERVED_VISIT,
    Observations,
    RouteDirection,
    StopVisit,
    TripKey,
    TripState,
    VehicleUpdate,
    has_trip_id,
    to_route_direction,
    to_trip_key,
)
from mbta_assets.serving.predictor import ArrivalQuery
from mbta_assets.serving.timetable import StopTime, Timetable, missing_first
from mbta_assets.transit.formulas import RECENT_DELAY_WINDOW_SECONDS, RECENT_RUN_COUNT, STOPS_AHEAD

MICROSECONDS_PER_SECOND = 1_000_000


class _TripPosition(NamedTuple):
    """The position of a vehicle in its trip's stop times."""

    update: VehicleUpdate
    next_index: int
    """Index of the next stop time."""
    last_departure: datetime | None
    """Scheduled departure from the stop time before that."""


class Stream:
    """The observed state of a service day: its timetable and the vehicle updates so far.

    Updates of one vehicle should come in order of time; those of different vehicles may be interleaved. Then the
    queries are those of the table. An update that does not count in the table either is ignored: one whose time is not
    of its trip at that stop or of the service day, or that names no stop.

    An update that is older than the latest one of its trip is late and ignored. If it is older by more than
    `observations.MAX_DISORDER`, a clock is wrong, of the late updates or of the newer ones, and the majority decides:
    once more updates in a row are so late than there are newer ones, the newer ones are revoked and the late ones
    count. So neither a clock in the past nor one in the future silences a trip.
    """

    def __init__(self, timetable: Timetable) -> None:
        self.timetable = timetable
        self._observed = Observations(timetable)

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
        """Yield a query for each vehicle on a trip and each predicted stop ahead, as of the vehicle's latest update.

        With `since`, vehicles whose latest update is older are left out.
        """
        for key in list(self._observed.trips):
            if has_trip_id(key):
                yield from self.iter_trip_queries(key[1], since)

    def iter_trip_queries(self, trip_id: str, since: datetime | None = None) -> Iterator[ArrivalQuery]:
        """Yield the queries of one trip; none if it has not been observed or has no predicted stop ahead."""
        trip = self._observed.trips.get(to_trip_key(trip_id))
        if trip is None:
            return
        for updates in trip.latest_updates.values():
            now = updates[0].updated_at
            # Another vehicle has reported on the trip since, so this one's state is out of date.
            if now == trip.last_updated_at and (since is None or now >= since):
                yield from self._iter_vehicle_queries(trip_id, trip, updates)

    def _iter_vehicle_queries(
        self, trip_id: str, trip: TripState, updates: list[VehicleUpdate]
    ) -> Iterator[ArrivalQuery]:
        """Yield a query for each predicted stop that a vehicle has ahead, from its updates of one time."""
        position = self._locate(trip_id, updates)
        if position is None:
            return
        vehicle_fields = self._vehicle_fields(trip_id, trip, position)
        stop_times = self.timetable.stop_times[trip_id]
        for stops_ahead in STOPS_AHEAD:
            index = position.next_index + stops_ahead - 1
            if 0 < index < len(stop_times) and self._is_expected(stop_times[index]):
                stop_fields = self._stop_fields(stop_times[index], position.update)
                yield ArrivalQuery(stops_ahead=stops_ahead, **vehicle_fields, **stop_fields)

    def _vehicle_fields(self, trip_id: str, trip: TripState, position: _TripPosition) -> dict[str, Any]:
        """Return the query fields that do not depend on the predicted stop."""
        update = position.update
        stop_id, now = update.stop_id or "", update.updated_at
        route_id, direction_id = self._route_and_direction(trip_id, update)
        arrival = trip.last_arrival or UNOBSERVED_VISIT
        previous = self._latest_arrival(stop_id, to_trip_key(trip_id), now)
        left_at = self._observed.find_departure(previous)
        route_delay, route_change = self._recent_delays(to_route_direction(route_id, direction_id), now)
        return {
            "service_date": self.timetable.service_date,
            "time_stamp": now,
            "current_stop_id": stop_id,
            "current_status": update.current_status,
            "stops_behind": position.next_index,
            "vehicle_id": update.id,
            "trip_id": trip_id,
            "route_id": route_id,
            "direction_id": direction_id,
            "current_latitude": update.latitude,
            "current_longitude": update.longitude,
            "scheduled_last_departure": position.last_departure,
            # A standing vehicle has stood since its arrival, even if its status has changed in between.
            "state_since": trip.state_started_at.get((stop_id, True)) if update.is_moving else arrival.arrived_at,
            "last_arrival": arrival.arrived_at,
            "last_delay_seconds": _seconds(arrival.delay_us),
            "last_change_seconds": _seconds(arrival.delay_change_us),
            "platform_arrival": previous.arrived_at,
            "platform_left": left_at if left_at is not None and left_at < now else None,
            "route_delay_seconds": route_delay,
            "route_change_seconds": route_change,
        }

    def _stop_fields(self, stop_time: StopTime, update: VehicleUpdate) -> dict[str, Any]:
        """Return the query fields of a predicted stop, as of the time of a vehicle's update."""
        now = update.updated_at
        leader = self._latest_arrival(stop_time.stop_id, to_trip_key(stop_time.trip_id), now)
        runs = self._recent_runs(update.stop_id or "", stop_time.stop_id, update.is_moving, now)
        stop = self.timetable.stops.get(stop_time.stop_id)
        return {
            "stop_id": stop_time.stop_id,
            "scheduled_arrival": stop_time.arrival_time,
            "destination_latitude": stop.latitude if stop else None,
            "destination_longitude": stop.longitude if stop else None,
            "leader_arrival": leader.arrived_at,
            "leader_delay_seconds": _seconds(leader.delay_us),
            "last_run_seconds": _seconds(runs[0] if runs else None),
            "recent_run_seconds": _mean_seconds(runs),
        }

    def _locate(self, trip_id: str, updates: list[VehicleUpdate]) -> _TripPosition | None:
        """Return the position furthest along the trip among updates of one time.

        Return None if no update is at a stop of the trip.
        """
        positions = []
        for update in updates:
            index = self.timetable.stop_index.get((trip_id, update.stop_id or ""))
            if index is None:
                continue
            stop_time = self.timetable.stop_times[trip_id][index]
            if update.is_moving:
                last_departure = self.timetable.previous_departure(trip_id, index)
            else:
                last_departure = stop_time.departure_time or stop_time.arrival_time
            next_index = index if update.is_moving else index + 1
            positions.append(_TripPosition(update, next_index, last_departure))
        return min(positions, key=_furthest_first, default=None)

    def _route_and_direction(self, trip_id: str, update: VehicleUpdate) -> tuple[str | None, int | None]:
        """Return the route and direction of an update, taken from the trip where the update has none."""
        trip = self.timetable.trips.get(trip_id)
        route_id, direction_id = update.route_id, update.direction_id
        if trip is not None and route_id is None:
            route_id = trip.route_id
        if trip is not None and direction_id is None:
            direction_id = trip.direction_id
        return route_id, direction_id

    def _is_expected(self, stop_time: StopTime) -> bool:
        """Return whether a stop has a scheduled arrival and the trip has not been observed to arrive there."""
        visit = self._observed.visits.get((to_trip_key(stop_time.trip_id), stop_time.stop_id), UNOBSERVED_VISIT)
        return stop_time.arrival_time is not None and visit.arrived_at is None

    def _latest_arrival(self, stop_id: str, key: TripKey, now: datetime) -> StopVisit:
        """Return the latest arrival of another trip at a stop before `now`, or `UNOBSERVED_VISIT`."""
        arrivals = self._observed.arrivals_by_stop.get(stop_id, [])
        index = bisect_left(arrivals, now, key=_arrival_time) - 1
        if index >= 0 and arrivals[index].trip_key == key:
            index -= 1
        return arrivals[index] if index >= 0 else UNOBSERVED_VISIT

    def _recent_runs(self, origin: str, destination: str, is_moving: bool, now: datetime) -> list[int]:
        """Return the run times in microseconds of the latest runs that ended before `now`, the latest first.

        A run starts with the movement to the origin if `is_moving`, otherwise with the arrival there.
        """
        visits, arrivals = self._observed.visits, self._observed.arrivals_by_stop.get(destination, [])
        runs: list[int] = []
        for index in range(bisect_left(arrivals, now, key=_arrival_time) - 1, -1, -1):
            start = visits.get((arrivals[index].trip_key, origin), UNOBSERVED_VISIT)
            started_at = start.movement_started_at if is_moving else start.arrived_at
            ended_at = arrivals[index].arrived_at
            if started_at is not None and ended_at is not None and ended_at > started_at:
                runs.append((ended_at - started_at) // MICROSECOND)
                if len(runs) == RECENT_RUN_COUNT:
                    break
        return runs

    def _recent_delays(self, route_direction: RouteDirection, now: datetime) -> tuple[float | None, float | None]:
        """Return the mean delay and mean change of delay, in seconds, of a route's arrivals in the last half hour."""
        arrivals = self._observed.arrivals_by_route.get(route_direction, [])
        begin = bisect_left(arrivals, now - timedelta(seconds=RECENT_DELAY_WINDOW_SECONDS), key=_arrival_time)
        recent = arrivals[begin : bisect_left(arrivals, now, key=_arrival_time)]
        return (
            _mean_seconds([visit.delay_us for visit in recent if visit.delay_us is not None]),
            _mean_seconds([visit.delay_change_us for visit in recent if visit.delay_change_us is not None]),
        )


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
