"""What vehicles have reported on a service day: the state of each trip, and its visits of stops.

They are those of `transit.stop_visits`, kept up to date from one update at a time. The queries that follow from them
are made in `stream`; which updates count, and at which stop, is decided by `timetable`.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from mbta_assets.serving.timetable import Timetable, clean_id
from mbta_assets.transit import plausibility

MICROSECOND = timedelta(microseconds=1)
MAX_DISORDER = timedelta(minutes=5)
"""Updates of a trip are out of order by this much at most; if one is older, one of the clocks is wrong."""


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
class StopVisit:
    """A trip at a stop. Delays are whole microseconds, so that their sums are exact."""

    trip_key: TripKey
    stop_id: str
    vehicle_id: str
    route_direction: RouteDirection
    order: tuple[Any, ...]
    """Sort key among the visits of the vehicle; it begins with the time of the first update."""
    is_first_observation: bool
    """True if the trip was first observed here, so that the start of its movement to the stop is unknown."""
    movement_started_at: datetime | None = None
    arrived_at: datetime | None = None
    delay_us: int | None = None
    delay_change_us: int | None = None


UNOBSERVED_VISIT = StopVisit((), "", "", ("", 2), (), True)


@dataclass(slots=True)
class TripState:
    """The observations of one trip."""

    first_updated_at: datetime
    last_updated_at: datetime
    state: tuple[str, bool] | None = None
    """The stop of the latest update and whether the vehicle was moving."""
    state_started_at: dict[tuple[str, bool], datetime | None] = field(default_factory=dict)
    """The start of the latest period in each state; None if the trip was first observed in it."""
    last_arrival: StopVisit | None = None
    latest_updates: dict[str, list[VehicleUpdate]] = field(default_factory=dict)
    """The updates of each vehicle that share its latest time, by vehicle id."""
    updates: list[VehicleUpdate] = field(default_factory=list)
    """All updates that count, in order of time."""
    challengers: list[VehicleUpdate] = field(default_factory=list)
    """The latest updates, in order of time, if they were so late that their clock or that of those before is wrong."""
    revoked: set[VehicleUpdate] = field(default_factory=set)
    """Updates that do not count, because others have shown that their time is wrong."""


@dataclass(slots=True)
class _VehicleState:
    """The observations of one vehicle across its trips."""

    visits: list[StopVisit] = field(default_factory=list)
    """The visits that it was the first to report, in order of their first updates."""
    unassigned_number: int = 0
    """The number of the latest stretch that it ran without a trip."""
    unassigned_stop_id: str | None = None
    """The stop of that stretch."""


class Observations:
    """The trips, and their visits of stops, that the updates of a service day show."""

    def __init__(self, timetable: Timetable) -> None:
        self.trips: dict[TripKey, TripState] = {}
        self.visits: dict[tuple[TripKey, str], StopVisit] = {}
        """The visits by trip and stop."""
        self.arrivals_by_stop: dict[str, list[StopVisit]] = {}
        """Visits with an arrival, in order of it."""
        self.arrivals_by_route: dict[RouteDirection, list[StopVisit]] = {}
        """The same visits by route and direction."""
        self.implausible_updates = self.late_updates = self.revoked_updates = 0
        self._timetable = timetable
        self._vehicles: dict[str, _VehicleState] = {}

    def add(self, updates: Iterable[VehicleUpdate]) -> None:
        """Add updates in any order; repeated updates have no effect."""
        placed = [found for update in updates if (found := self._place(update)) is not None]
        if len(placed) > 1:
            placed.sort(key=_update_order)
        for update in placed:
            self._add(update)

    def find_departure(self, visit: StopVisit) -> datetime | None:
        """Return when the vehicle of a visit first reported to be at or on its way to another stop, or None."""
        if visit is UNOBSERVED_VISIT:
            return None
        visits = self._vehicles[visit.vehicle_id].visits
        index = bisect_right(visits, visit.order, key=_visit_order)
        return visits[index].order[0] if index < len(visits) else None

    def _place(self, update: VehicleUpdate) -> VehicleUpdate | None:
        """Return an update with clean ids at the stop where it counts, or None if it does not count.

        A position that is not plausible is missing.
        """
        trip_id, reported_stop = clean_id(update.trip_id), clean_id(update.stop_id)
        if reported_stop is None:
            return None
        moving = update.current_status != "STOPPED_AT"
        stop_id = self._timetable.place_report(trip_id, reported_stop, moving, update.updated_at)
        if stop_id is None:
            self.implausible_updates += 1
            return None
        latitude, longitude = update.latitude, update.longitude
        if not plausibility.is_plausible_position(latitude, longitude, self._timetable.box):
            latitude = longitude = None
        if (
            trip_id == update.trip_id
            and stop_id == update.stop_id
            and latitude == update.latitude
            and longitude == update.longitude
        ):
            return update
        return replace(update, trip_id=trip_id, stop_id=stop_id, latitude=latitude, longitude=longitude)

    def _add(self, update: VehicleUpdate) -> None:
        """Add an update unless it is late."""
        vehicle = self._vehicles.get(update.id)
        if vehicle is None:
            vehicle = self._vehicles[update.id] = _VehicleState()
        key = _assign_trip_key(update, vehicle)
        trip = self.trips.get(key)
        if trip is not None and trip.revoked and update in trip.revoked:
            return
        if trip is None or update.updated_at >= trip.last_updated_at:
            self._apply(key, update)
            return
        self.late_updates += 1
        if trip.last_updated_at - update.updated_at > MAX_DISORDER:
            self._challenge(key, trip, update)

    def _challenge(self, key: TripKey, trip: TripState, update: VehicleUpdate) -> None:
        """Revoke the newer updates of a trip once there are fewer of them than of such late ones in a row."""
        challengers = trip.challengers
        if challengers and challengers[-1].updated_at - update.updated_at > MAX_DISORDER:
            challengers.clear()
        if not challengers or update.updated_at > challengers[-1].updated_at:
            challengers.append(update)
        begin = challengers[0].updated_at
        if len(challengers) > len({newer.updated_at for newer in trip.updates if newer.updated_at > begin}):
            self.late_updates -= len(challengers)
            self._revoke(key, trip, challengers)

    def _revoke(self, key: TripKey, trip: TripState, challengers: Sequence[VehicleUpdate]) -> None:
        """Make a trip what its updates up to the first challenger, and all challengers, make it."""
        del self.trips[key]
        for stop_id in {update.stop_id or "" for update in trip.updates}:
            visit = self.visits.pop((key, stop_id))
            self._vehicles[visit.vehicle_id].visits.remove(visit)
            if visit.arrived_at is not None:
                self.arrivals_by_stop[visit.stop_id].remove(visit)
                self.arrivals_by_route[visit.route_direction].remove(visit)
        revoked = {update for update in trip.updates if update.updated_at > challengers[0].updated_at}
        for update in (*trip.updates, *challengers):
            if update not in revoked:
                self._apply(key, update)
        self.trips[key].revoked = trip.revoked | revoked
        self.revoked_updates += len(revoked)

    def _apply(self, key: TripKey, update: VehicleUpdate) -> None:
        """Add an update that is not older than the others of its trip."""
        now, stop_id, moving = update.updated_at, update.stop_id or "", update.current_status != "STOPPED_AT"
        trip = self.trips.get(key)
        if trip is None:
            trip = self.trips[key] = TripState(first_updated_at=now, last_updated_at=now)
        latest = trip.latest_updates.get(update.id)
        if latest and latest[0].updated_at == now:
            if update in latest:
                return
            latest.append(update)
        else:
            trip.latest_updates[update.id] = [update]
        trip.updates.append(update)
        if trip.challengers:
            trip.challengers.clear()
        trip.last_updated_at = now
        state = stop_id, moving
        if trip.state != state:
            trip.state_started_at[state] = now if trip.state else None
            trip.state = state
        visit = self.visits.get((key, stop_id)) or self._begin_visit(key, trip, update)
        if moving and visit.movement_started_at is None and not visit.is_first_observation:
            visit.movement_started_at = now
        elif not moving and visit.arrived_at is None:
            self._record_arrival(visit, trip, now)

    def _begin_visit(self, key: TripKey, trip: TripState, update: VehicleUpdate) -> StopVisit:
        """Return a new visit of a trip at the stop of an update."""
        now, stop_id = update.updated_at, update.stop_id or ""
        visit = StopVisit(
            trip_key=key,
            stop_id=stop_id,
            vehicle_id=update.id,
            route_direction=to_route_direction(update.route_id, update.direction_id),
            order=(now, key, update.is_moving, stop_id),
            is_first_observation=now == trip.first_updated_at,
        )
        self.visits[key, stop_id] = visit
        visits = self._vehicles[update.id].visits
        if visits and visit.order < visits[-1].order:
            insort(visits, visit, key=_visit_order)
        else:
            visits.append(visit)
        return visit

    def _record_arrival(self, visit: StopVisit, trip: TripState, now: datetime) -> None:
        """Record the first arrival of a visit, with its delay where the timetable has one."""
        visit.arrived_at = now
        scheduled = None
        if has_trip_id(visit.trip_key):
            scheduled = self._timetable.scheduled_arrival(visit.trip_key[1], visit.stop_id)
        if scheduled is not None:
            visit.delay_us = (now - scheduled) // MICROSECOND
        previous = trip.last_arrival
        if previous and previous.delay_us is not None and visit.delay_us is not None:
            visit.delay_change_us = visit.delay_us - previous.delay_us
        trip.last_arrival = visit
        insort(self.arrivals_by_stop.setdefault(visit.stop_id, []), visit, key=_arrival_order)
        insort(self.arrivals_by_route.setdefault(visit.route_direction, []), visit, key=_arrival_order)


def to_trip_key(trip_id: str) -> TripKey:
    """Return the key of a trip that has an id."""
    return 0, trip_id


def has_trip_id(key: TripKey) -> bool:
    """Return whether a key is of a trip that has an id."""
    return key[0] == 0


def to_route_direction(route_id: str | None, direction_id: int | None) -> RouteDirection:
    """Return a route and direction with missing values replaced."""
    return route_id or "", 2 if direction_id is None else direction_id


def _assign_trip_key(update: VehicleUpdate, vehicle: _VehicleState) -> TripKey:
    """Return the trip of an update; a vehicle without a trip starts a new one whenever its stop changes."""
    if update.trip_id is not None:
        return 0, update.trip_id
    if vehicle.unassigned_stop_id != update.stop_id:
        vehicle.unassigned_stop_id = update.stop_id
        vehicle.unassigned_number += 1
    return 1, update.id, vehicle.unassigned_number


def _update_order(update: VehicleUpdate) -> tuple[Any, ...]:
    """Return the sort key of an update: its time, its trip, then whatever makes the order unique."""
    trip = (1, update.id) if update.trip_id is None else (0, update.trip_id)
    return update.updated_at, *trip, update.is_moving, update.stop_id, update.id


def _visit_order(visit: StopVisit) -> tuple[Any, ...]:
    """Return the sort key of a visit among those of its vehicle."""
    return visit.order


def _arrival_order(visit: StopVisit) -> tuple[Any, ...]:
    """Return the sort key of an arrival."""
    return visit.arrived_at, visit.trip_key, visit.stop_id
