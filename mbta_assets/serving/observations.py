"""What vehicles have reported on a service day: the state of each vehicle on each of its trips, and its stop visits.

They are those of `transit.stop_visits`, kept up to date from one update at a time. At which visits a report may count
is known to `timetable`, which of them is meant to `transit.placement`. The queries that follow are made in `stream`.
"""

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeAlias

from mbta_assets.serving.network_runs import NetworkRuns
from mbta_assets.serving.scheduled_trip import MICROSECOND, ScheduledTrip, missing_first, to_microseconds
from mbta_assets.serving.timetable import Timetable, clean_id
from mbta_assets.serving.trip_state import (
    LocatedReport,
    Place,
    Report,
    RouteDirection,
    StopVisit,
    TripKey,
    TripState,
    VehicleUpdate,
    has_trip_id,
    to_route_direction,
)
from mbta_assets.transit import plausibility
from mbta_assets.transit.placement import Progress

MAX_DISORDER = timedelta(minutes=5)
"""Updates of a vehicle's trip are out of order by this much at most; if one is older, one of the clocks is wrong."""
RunTimes: TypeAlias = tuple[float | None, float | None]
"""The latest run time in seconds, and the mean of the latest ones."""


class StopArrivals(list[StopVisit]):
    """The visits of a stop with an arrival, in order of it."""

    def __init__(self) -> None:
        super().__init__()
        self.recent_runs: dict[tuple[str, bool, int], RunTimes] = {}
        """Run times to the stop, by origin, whether they begin with the movement there, and the number of arrivals that
        count. Nothing that comes later changes them, as a run begins before it ends, unless the arrivals change."""

    def insert_visit(self, visit: StopVisit, now: datetime) -> None:
        """Insert a visit that arrived now."""
        self.recent_runs.clear()
        _insert_arrival(self, visit, now)

    def remove_visit(self, visit: StopVisit) -> None:
        """Remove a visit."""
        self.recent_runs.clear()
        self.remove(visit)


@dataclass(slots=True)
class _VehicleState:
    """The observations of one vehicle across its trips."""

    visits: list[StopVisit] = field(default_factory=list)
    """Its visits in order of their first updates."""
    unassigned_number: int = 0
    """The number of the latest stretch that it ran without a trip."""
    unassigned_stop_id: str | None = None
    """The stop of that stretch."""


class Observations:
    """The trips of vehicles, and their visits of stops, that the updates of a service day show."""

    def __init__(self, timetable: Timetable) -> None:
        self.trips: dict[TripKey, TripState] = {}
        self.keys_by_trip: dict[str, list[TripKey]] = {}
        """The keys of each trip, one for each of its vehicles, by trip_id."""
        self.arrivals_by_stop: dict[str, StopArrivals] = defaultdict(StopArrivals)
        self.arrivals_by_route: dict[RouteDirection, list[StopVisit]] = {}
        """Visits with an arrival, in order of it."""
        self.network_runs = NetworkRuns()
        self.implausible_updates = self.late_updates = self.revoked_updates = 0
        self._timetable = timetable
        self._vehicles: dict[str, _VehicleState] = {}

    def add(self, updates: Iterable[VehicleUpdate]) -> None:
        """Add updates in any order; repeated updates have no effect."""
        reports = [report for update in updates if (report := self._read(update)) is not None]
        if len(reports) == 1:  # as in most calls
            located = self._add(reports[0])
            if located is not None:
                self._count(located)
            return
        reports.sort(key=_report_order)
        for _, simultaneous in groupby(reports, key=_moment):
            self._count_all([found for report in simultaneous if (found := self._add(report)) is not None])

    def find_departure(self, visit: StopVisit) -> datetime | None:
        """Return when the vehicle of a visit first reported to be at or on its way to another stop, or None."""
        visits = self._vehicles[visit.vehicle_id].visits
        index = bisect_right(visits, visit.order, key=_visit_order)
        return visits[index].order[0] if index < len(visits) else None

    def _read(self, update: VehicleUpdate) -> Report | None:
        """Return the report of an update, or None if it does not count because of its time, or names no stop.

        A position that is not plausible is missing.
        """
        trip_id, stop_id = clean_id(update.trip_id), clean_id(update.stop_id)
        timetable = self._timetable
        trip = None if trip_id is None else timetable.scheduled_trips.get(trip_id)
        candidates: tuple[int, ...] = ()
        if trip is not None:
            candidates = timetable.find_visits(trip, stop_id, update.current_stop_sequence)
        if stop_id is None and not candidates:
            return None
        if not timetable.is_of_trip(trip, update.updated_at):
            self.implausible_updates += 1
            return None
        if trip is not None and candidates:
            candidates = _select_plausible(trip, candidates, update.is_moving, update.updated_at)
            if not candidates:
                self.implausible_updates += 1
                return None
        latitude, longitude = update.latitude, update.longitude
        if not plausibility.is_plausible_position(latitude, longitude, timetable.box):
            latitude = longitude = None
        if (
            trip_id != update.trip_id
            or stop_id != update.stop_id
            or latitude != update.latitude
            or longitude != update.longitude
        ):
            update = replace(update, trip_id=trip_id, stop_id=stop_id, latitude=latitude, longitude=longitude)
        return Report(update, candidates)

    def _add(self, report: Report) -> LocatedReport | None:
        """Take in a report unless it is late, and return it at the visit at which it counts."""
        update = report.update
        vehicle = self._vehicles.get(update.id)
        if vehicle is None:
            vehicle = self._vehicles[update.id] = _VehicleState()
        key = _assign_trip_key(update, vehicle)
        trip = self.trips.get(key)
        if trip is not None and trip.revoked and update in trip.revoked:
            return None
        if trip is None or update.updated_at >= trip.last_updated_at:
            return self._locate(key, report)
        self.late_updates += 1
        if trip.last_updated_at - update.updated_at > MAX_DISORDER:
            self._challenge(trip, report)
        return None

    def _challenge(self, trip: TripState, report: Report) -> None:
        """Revoke the newer reports of a trip once there are fewer of them than of such late ones in a row."""
        challengers, time = trip.challengers, report.update.updated_at
        if challengers and challengers[-1].update.updated_at - time > MAX_DISORDER:
            challengers.clear()
        if not challengers or time > challengers[-1].update.updated_at:
            challengers.append(report)
        begin = challengers[0].update.updated_at
        newer = {taken.update.updated_at for taken in trip.reports if taken.update.updated_at > begin}
        if len(challengers) > len(newer):
            self.late_updates -= len(challengers)
            self._revoke(trip, challengers)

    def _revoke(self, trip: TripState, challengers: Sequence[Report]) -> None:
        """Make a trip what its reports up to the first challenger, and all challengers, make it."""
        del self.trips[trip.key]
        for visit in trip.visits.values():
            self._vehicles[visit.vehicle_id].visits.remove(visit)
            if visit.arrived_at is not None:
                self.arrivals_by_stop[visit.stop_id].remove_visit(visit)
                self.arrivals_by_route[visit.route_direction].remove(visit)
                if visit.run is not None:
                    self.network_runs.remove(visit.arrived_at, *visit.run)
        begin = challengers[0].update.updated_at
        revoked = {report.update for report in trip.reports if report.update.updated_at > begin}
        kept = [report for report in (*trip.reports, *challengers) if report.update not in revoked]
        for _, simultaneous in groupby(kept, key=_moment):
            located = [self._locate(trip.key, report) for report in simultaneous]
            self._count_all([found for found in located if found is not None])
        self.trips[trip.key].revoked = trip.revoked | revoked
        self.revoked_updates += len(revoked)

    def _locate(self, key: TripKey, report: Report) -> LocatedReport | None:
        """Take in a report that is not older than the others of its trip, and return it at the visit that it is about.

        Return None if it repeats another, or if the order of the visit is not known.
        """
        update, candidates = report
        trip = self.trips.get(key)
        if trip is None:
            trip = self._begin_trip(key, update)
        if trip.last_updated_at == update.updated_at:
            if update in trip.latest:
                return None
            trip.latest.append(update)
        else:
            trip.last_updated_at = update.updated_at
            trip.latest = [update]
        trip.reports.append(report)
        if trip.challengers:
            trip.challengers.clear()
        scheduled = trip.scheduled
        if scheduled is None or not candidates:
            return LocatedReport(update, trip, update.stop_id or "", update.stop_id or "")
        index = candidates[0]
        if len(candidates) > 1 and trip.progress is None:
            trip.progress = Progress()
            for earlier in trip.reports[:-1]:
                _place(scheduled, trip.progress, earlier)
        if trip.progress is not None:
            index = _place(scheduled, trip.progress, report)
        if index in scheduled.unordered:
            return None
        return LocatedReport(update, trip, index, scheduled.stop_times[index].stop_id)

    def _begin_trip(self, key: TripKey, update: VehicleUpdate) -> TripState:
        """Return a new state of a vehicle on a trip."""
        scheduled = self._timetable.scheduled_trips.get(key[1]) if has_trip_id(key) else None
        trip = self.trips[key] = TripState(key, scheduled, update.updated_at)
        if has_trip_id(key):
            keys = self.keys_by_trip.setdefault(key[1], [])
            if key not in keys:
                keys.append(key)
        return trip

    def _count_all(self, located: list[LocatedReport]) -> None:
        """Take in simultaneous reports of a vehicle at the visits that they are about, the order of which decides."""
        if len(located) > 1:
            located.sort(key=_location_order)
        for report in located:
            self._count(report)

    def _count(self, report: LocatedReport) -> None:
        """Take in a report at the visit that it is about."""
        update, trip, place, stop_id = report
        now, moving = update.updated_at, update.current_status != "STOPPED_AT"
        if trip.located and trip.located[0].update.updated_at == now:
            trip.located.append(report)
        else:
            trip.located = [report]
        if trip.first_counted_at is None:
            trip.first_counted_at = now
        if place and place.__class__ is int:
            trip.has_left_origin = True
        state = place, moving
        if trip.state != state:
            trip.state_started_at[state] = now if trip.state else None
            trip.state = state
        visit = trip.visits.get(place) or self._begin_visit(report)
        if moving and visit.movement_started_at is None and not visit.is_first_observation:
            visit.movement_started_at = now
        elif not moving and visit.arrived_at is None:
            self._record_arrival(visit, now)

    def _begin_visit(self, report: LocatedReport) -> StopVisit:
        """Return the new visit that a report is about."""
        update, trip, place, stop_id = report
        now = update.updated_at
        visit = StopVisit(
            trip=trip,
            place=place,
            stop_id=stop_id,
            vehicle_id=update.id,
            route_direction=to_route_direction(update.route_id, update.direction_id),
            order=(now, trip.key, update.is_moving, stop_id, _place_order(place)),
            is_first_observation=now == trip.first_counted_at,
        )
        trip.visits[place] = visit
        visits = self._vehicles[update.id].visits
        if visits and visit.order < visits[-1].order:
            insort(visits, visit, key=_visit_order)
        else:
            visits.append(visit)
        return visit

    def _record_arrival(self, visit: StopVisit, now: datetime) -> None:
        """Record the first arrival of a visit, with its delay where the timetable has one."""
        visit.arrived_at = now
        trip, place = visit.trip, visit.place
        scheduled = None
        if trip.scheduled is not None and isinstance(place, int):
            scheduled = trip.scheduled.stop_times[place].arrival_time
        if scheduled is not None:
            visit.delay_us = (now - scheduled) // MICROSECOND
        previous = trip.last_arrival
        if previous and previous.delay_us is not None and visit.delay_us is not None:
            visit.delay_change_us = visit.delay_us - previous.delay_us
            if previous.arrived_at is not None:
                run_us = (now - previous.arrived_at) // MICROSECOND
                visit.run = run_us, run_us - visit.delay_change_us
                self.network_runs.add(now, *visit.run)
        trip.last_arrival = visit
        self.arrivals_by_stop[visit.stop_id].insert_visit(visit, now)
        _insert_arrival(self.arrivals_by_route.setdefault(visit.route_direction, []), visit, now)


def _select_plausible(
    trip: ScheduledTrip, candidates: tuple[int, ...], moving: bool, time: datetime
) -> tuple[int, ...]:
    """Return those of some visits of a trip at which its vehicle can be at a time."""
    selected = []
    for index in candidates:
        previous_departure = trip.stop_times[index - 1].leaves if index else None
        if plausibility.can_be_at_stop(time, moving, trip.stop_times[index].arrival_time, previous_departure):
            selected.append(index)
    return candidates if len(selected) == len(candidates) else tuple(selected)


def _place(trip: ScheduledTrip, progress: Progress, report: Report) -> int:
    """Return the index of the visit that the next report of a vehicle on a trip is about; -1 without candidates."""
    update, candidates = report
    if not candidates:
        return -1
    visits = trip.candidates(update.is_moving)
    return progress.place(
        to_microseconds(update.updated_at),
        update.stop_id,
        update.is_moving,
        update.current_stop_sequence,
        [visits[index] for index in candidates],
    )


def _insert_arrival(arrivals: list[StopVisit], visit: StopVisit, now: datetime) -> None:
    """Insert a visit that arrived now among others in order of arrival."""
    last = arrivals[-1].arrived_at if arrivals else None
    if last is None or last < now:
        arrivals.append(visit)
    else:
        insort(arrivals, visit, key=_arrival_order)


def _assign_trip_key(update: VehicleUpdate, vehicle: _VehicleState) -> TripKey:
    """Return the trip of an update; a vehicle without a trip starts a new one whenever its stop changes."""
    if update.trip_id is not None:
        return 0, update.trip_id, update.id
    if vehicle.unassigned_stop_id != update.stop_id:
        vehicle.unassigned_stop_id = update.stop_id
        vehicle.unassigned_number += 1
    return 1, update.id, vehicle.unassigned_number


def _moment(report: Report) -> tuple[Any, ...]:
    """Return the time of a report and its trip, by which reports of one moment are grouped."""
    update = report.update
    trip = (1, update.id) if update.trip_id is None else (0, update.trip_id, update.id)
    return update.updated_at, trip


def _report_order(report: Report) -> tuple[Any, ...]:
    """Return the sort key of a report: its time, its trip, its status, and the stop and stop sequence that it names."""
    update = report.update
    named = missing_first(update.stop_id, update.current_stop_sequence)
    return *_moment(report), update.is_moving, *named


def _location_order(report: LocatedReport) -> tuple[Any, ...]:
    """Return the sort key of a report among simultaneous ones of a vehicle."""
    return report.trip.key, report.update.is_moving, report.stop_id, _place_order(report.place)


def _visit_order(visit: StopVisit) -> tuple[Any, ...]:
    """Return the sort key of a visit among those of its vehicle."""
    return visit.order


def _arrival_order(visit: StopVisit) -> tuple[Any, ...]:
    """Return the sort key of an arrival."""
    return visit.arrived_at, visit.trip.key, visit.stop_id, _place_order(visit.place)


def _place_order(place: Place) -> int:
    """Return the sort key of a visit among those of a trip at one stop."""
    return place if isinstance(place, int) else -1
