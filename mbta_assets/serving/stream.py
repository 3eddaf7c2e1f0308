"""The state of a service day, kept up to date from vehicle updates, and the arrival queries that follow from it.

The stream observes the same stop visits as `transit.stop_visits`, one update at a time, so that its queries have the
features that `transit_features` has for the same updates. The scheduled part of the day is in `timetable`.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mbta_assets.serving.predictor import ArrivalQuery
from mbta_assets.serving.timetable import StopTime, Timetable, canonical_stop_id, missing_first
from mbta_assets.transit.formulas import MAX_EARLY_SECONDS, RECENT_DELAY_WINDOW_SECONDS, RECENT_RUN_COUNT, STOPS_AHEAD

MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_SECOND = 1_000_000
ONE_SECOND = timedelta(seconds=1)
MAX_EARLY = timedelta(seconds=MAX_EARLY_SECONDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class VehicleUpdate:
    """A row of `vehicle`: the position and status that a vehicle reported."""

    id: str
    updated_at: datetime
    current_status: str
    stop_id: str | None = None
    trip_id: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    route_id: str | None = None
    direction_id: int | None = None

    @property
    def is_moving(self) -> bool:
        """Return whether the vehicle is on its way to the stop."""
        return self.current_status != "STOPPED_AT"


TripKey = tuple[Any, ...]
"""(0, trip_id), or (1, vehicle_id, number) for a vehicle without a trip; its trips are numbered from stop to stop."""
RouteDirection = tuple[str, int]
"""(route_id, direction_id): an empty string and 2 stand for missing values."""


@dataclass(slots=True)
class _StopVisit:
    """A trip at a stop. Delays are whole microseconds, so that their sums are exact."""

    trip_key: TripKey
    stop_id: str
    route_direction: RouteDirection
    is_first_observation: bool
    """True if the trip was first observed here, so that the start of its movement to the stop is unknown."""
    movement_started_at: datetime | None = None
    arrived_at: datetime | None = None
    left_at: datetime | None = None
    delay_us: int | None = None
    delay_change_us: int | None = None


UNOBSERVED_VISIT = _StopVisit((), "", ("", 2), True)


@dataclass(slots=True)
class _TripState:
    """The observations of one trip."""

    first_updated_at: datetime
    last_updated_at: datetime
    state: tuple[str, bool] | None = None
    """The stop of the latest update and whether the vehicle was moving."""
    state_started_at: dict[tuple[str, bool], datetime | None] = field(default_factory=dict)
    """The start of the latest period in each state; None if the trip was first observed in it."""
    last_arrival: _StopVisit | None = None
    latest_updates: dict[str, list[VehicleUpdate]] = field(default_factory=dict)
    """The updates of each vehicle that share its latest time, by vehicle id."""


@dataclass(slots=True)
class _VehicleState:
    """The observations of one vehicle across its trips."""

    visit: _StopVisit | None = None
    unassigned_number: int = 0
    """The number of the latest stretch that it ran without a trip."""
    unassigned_stop_id: str | None = None
    """The stop of that stretch."""


class _TripPosition(NamedTuple):
    """The position of a vehicle in its trip's stop times."""

    update: VehicleUpdate
    next_index: int
    """Index of the next stop time."""
    last_departure: datetime | None
    """Scheduled departure from the stop time before that."""


class Stream:
    """The observed state of a service day: its timetable and the vehicle updates so far.

    Updates of one vehicle must come in order of time; those of different vehicles may be interleaved. An update that
    is older than the latest one of its trip is ignored and counted in `late_updates`.
    """

    def __init__(self, timetable: Timetable) -> None:
        self.timetable = timetable
        self.late_updates = 0
        """Number of ignored updates."""
        self._trips: dict[TripKey, _TripState] = {}
        self._vehicles: dict[str, _VehicleState] = {}
        self._visits: dict[tuple[TripKey, str], _StopVisit] = {}
        self._arrivals_by_stop: dict[str, list[_StopVisit]] = {}
        self._arrivals_by_route: dict[RouteDirection, list[_StopVisit]] = {}

    def update(self, updates: Iterable[VehicleUpdate]) -> None:
        """Add updates in any order; repeated updates have no effect."""
        for update in sorted((update for update in updates if update.stop_id is not None), key=_update_order):
            self._add(update, canonical_stop_id(update.stop_id or ""))

    def iter_queries(self, since: datetime | None = None) -> Iterator[ArrivalQuery]:
        """Yield a query for each vehicle on a trip and each predicted stop ahead, as of the vehicle's latest update.

        With `since`, vehicles whose latest update is older are left out.
        """
        for key in list(self._trips):
            if _has_trip_id(key):
                yield from self.iter_trip_queries(key[1], since)

    def iter_trip_queries(self, trip_id: str, since: datetime | None = None) -> Iterator[ArrivalQuery]:
        """Yield the queries of one trip; none if it has not been observed or has no predicted stop ahead."""
        trip = self._trips.get(_trip_key(trip_id))
        if trip is None:
            return
        for updates in trip.latest_updates.values():
            now = updates[0].updated_at
            # Another vehicle has reported on the trip since, so this one's state is out of date.
            if now == trip.last_updated_at and (since is None or now >= since):
                yield from self._iter_vehicle_queries(trip_id, trip, updates)

    def _add(self, update: VehicleUpdate, stop_id: str) -> None:
        """Add one update at a stop with its canonical id."""
        vehicle = self._vehicles.setdefault(update.id, _VehicleState())
        key = _assign_trip_key(update, vehicle, stop_id)
        now = update.updated_at
        trip = self._trips.setdefault(key, _TripState(first_updated_at=now, last_updated_at=now))
        if now < trip.last_updated_at:
            self.late_updates += 1
            return
        trip.last_updated_at = now
        state = stop_id, update.is_moving
        if trip.state != state:
            trip.state_started_at[state] = now if trip.state else None
            trip.state = state
        visit = self._get_visit(update, key, stop_id, vehicle, trip)
        if update.is_moving and visit.movement_started_at is None and not visit.is_first_observation:
            visit.movement_started_at = now
        elif not update.is_moving and visit.arrived_at is None:
            self._record_arrival(visit, trip, now)
        latest = trip.latest_updates.get(update.id)
        if latest and latest[0].updated_at == now:
            latest.append(update)
        else:
            trip.latest_updates[update.id] = [update]

    def _get_visit(
        self, update: VehicleUpdate, key: TripKey, stop_id: str, vehicle: _VehicleState, trip: _TripState
    ) -> _StopVisit:
        """Return the trip's visit of a stop; a new visit ends the vehicle's previous one."""
        visit = self._visits.get((key, stop_id))
        if visit is None:
            now = update.updated_at
            route_direction = _route_direction(update.route_id, update.direction_id)
            visit = _StopVisit(key, stop_id, route_direction, now == trip.first_updated_at)
            self._visits[key, stop_id] = visit
            if vehicle.visit:
                vehicle.visit.left_at = now
            vehicle.visit = visit
        return visit

    def _record_arrival(self, visit: _StopVisit, trip: _TripState, now: datetime) -> None:
        """Record the first arrival of a visit, with its delay where the timetable has one."""
        visit.arrived_at = now
        scheduled = None
        if _has_trip_id(visit.trip_key):
            scheduled = self.timetable.scheduled_arrivals.get((visit.trip_key[1], visit.stop_id))
        if scheduled is not None and scheduled - now <= MAX_EARLY:
            visit.delay_us = (now - scheduled) // MICROSECOND
        previous = trip.last_arrival
        if previous and previous.delay_us is not None and visit.delay_us is not None:
            visit.delay_change_us = visit.delay_us - previous.delay_us
        trip.last_arrival = visit
        insort(self._arrivals_by_stop.setdefault(visit.stop_id, []), visit, key=_arrival_order)
        insort(self._arrivals_by_route.setdefault(visit.route_direction, []), visit, key=_arrival_order)

    def _iter_vehicle_queries(
        self, trip_id: str, trip: _TripState, updates: list[VehicleUpdate]
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

    def _vehicle_fields(self, trip_id: str, trip: _TripState, position: _TripPosition) -> dict[str, Any]:
        """Return the query fields that do not depend on the predicted stop."""
        update = position.update
        stop_id, now = canonical_stop_id(update.stop_id or ""), update.updated_at
        route_id, direction_id = self._route_and_direction(trip_id, update)
        arrival = trip.last_arrival or UNOBSERVED_VISIT
        previous = self._latest_arrival(stop_id, _trip_key(trip_id), now)
        has_left = previous.left_at is not None and previous.left_at < now
        route_delay, route_change = self._recent_delays(_route_direction(route_id, direction_id), now)
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
            "platform_left": previous.left_at if has_left else None,
            "route_delay_seconds": route_delay,
            "route_change_seconds": route_change,
        }

    def _stop_fields(self, stop_time: StopTime, update: VehicleUpdate) -> dict[str, Any]:
        """Return the query fields of a predicted stop, as of the time of a vehicle's update."""
        now = update.updated_at
        leader = self._latest_arrival(stop_time.stop_id, _trip_key(stop_time.trip_id), now)
        runs = self._recent_runs(canonical_stop_id(update.stop_id or ""), stop_time.stop_id, update.is_moving, now)
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

        Return None if no update is at a stop of the trip, or all are so early that the vehicle must be running
        another trip.
        """
        positions = []
        for update in updates:
            index = self.timetable.stop_index.get((trip_id, canonical_stop_id(update.stop_id or "")))
            if index is None:
                continue
            stop_time = self.timetable.stop_times[trip_id][index]
            if update.is_moving:
                scheduled = last_departure = self.timetable.previous_departure(trip_id, index)
            else:
                scheduled = stop_time.arrival_time
                last_departure = stop_time.departure_time or stop_time.arrival_time
            # The join compares whole seconds.
            if index > 0 and scheduled and (scheduled - update.updated_at) // ONE_SECOND * ONE_SECOND > MAX_EARLY:
                continue
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
        visit = self._visits.get((_trip_key(stop_time.trip_id), stop_time.stop_id), UNOBSERVED_VISIT)
        return stop_time.arrival_time is not None and visit.arrived_at is None

    def _latest_arrival(self, stop_id: str, key: TripKey, now: datetime) -> _StopVisit:
        """Return the latest arrival of another trip at a stop before `now`, or `UNOBSERVED_VISIT`."""
        arrivals = self._arrivals_by_stop.get(stop_id, [])
        index = bisect_left(arrivals, now, key=_arrival_time) - 1
        if index >= 0 and arrivals[index].trip_key == key:
            index -= 1
        return arrivals[index] if index >= 0 else UNOBSERVED_VISIT

    def _recent_runs(self, origin: str, destination: str, is_moving: bool, now: datetime) -> list[int]:
        """Return the run times in microseconds of the latest runs that ended before `now`, the latest first.

        A run starts with the movement to the origin if `is_moving`, otherwise with the arrival there.
        """
        arrivals = self._arrivals_by_stop.get(destination, [])
        runs: list[int] = []
        for index in range(bisect_left(arrivals, now, key=_arrival_time) - 1, -1, -1):
            start = self._visits.get((arrivals[index].trip_key, origin), UNOBSERVED_VISIT)
            started_at = start.movement_started_at if is_moving else start.arrived_at
            ended_at = arrivals[index].arrived_at
            if started_at is not None and ended_at is not None and ended_at > started_at:
                runs.append((ended_at - started_at) // MICROSECOND)
                if len(runs) == RECENT_RUN_COUNT:
                    break
        return runs

    def _recent_delays(self, route_direction: RouteDirection, now: datetime) -> tuple[float | None, float | None]:
        """Return the mean delay and mean change of delay, in seconds, of a route's arrivals in the last half hour."""
        arrivals = self._arrivals_by_route.get(route_direction, [])
        begin = bisect_left(arrivals, now - timedelta(seconds=RECENT_DELAY_WINDOW_SECONDS), key=_arrival_time)
        recent = arrivals[begin : bisect_left(arrivals, now, key=_arrival_time)]
        return (
            _mean_seconds([visit.delay_us for visit in recent if visit.delay_us is not None]),
            _mean_seconds([visit.delay_change_us for visit in recent if visit.delay_change_us is not None]),
        )


def _assign_trip_key(update: VehicleUpdate, vehicle: _VehicleState, stop_id: str) -> TripKey:
    """Return the trip of an update; a vehicle without a trip starts a new one whenever its stop changes."""
    if update.trip_id is not None:
        return _trip_key(update.trip_id)
    if vehicle.unassigned_stop_id != stop_id:
        vehicle.unassigned_stop_id = stop_id
        vehicle.unassigned_number += 1
    return 1, update.id, vehicle.unassigned_number


def _trip_key(trip_id: str) -> TripKey:
    """Return the key of a trip that has an id."""
    return 0, trip_id


def _has_trip_id(key: TripKey) -> bool:
    """Return whether a key is of a trip that has an id."""
    return key[0] == 0


def _route_direction(route_id: str | None, direction_id: int | None) -> RouteDirection:
    """Return a route and direction with missing values replaced."""
    return route_id or "", 2 if direction_id is None else direction_id


def _update_order(update: VehicleUpdate) -> tuple[Any, ...]:
    """Return the sort key of an update: its time, its trip, then whatever makes the order unique."""
    trip = (1, update.id) if update.trip_id is None else (0, update.trip_id)
    return update.updated_at, *trip, update.is_moving, canonical_stop_id(update.stop_id or ""), update.id


def _arrival_time(visit: _StopVisit) -> Any:
    """Return the arrival time of a visit that has one."""
    return visit.arrived_at


def _arrival_order(visit: _StopVisit) -> tuple[Any, ...]:
    """Return the sort key of an arrival."""
    return visit.arrived_at, visit.trip_key, visit.stop_id


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
