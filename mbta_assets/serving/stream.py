"""Follows a stream of vehicle updates and tells what is known at each: the events of `transit.events`, one by one."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mbta_assets.serving.moment import Moment, canonical
from mbta_assets.serving.timetable import Call, Timetable
from mbta_assets.transit.formulas import RECENT_RUNS, RECENT_SECONDS, STOPS_AHEAD, WRONG_SLOT_SECONDS

MICROSECOND = timedelta(microseconds=1)
MICROSECONDS = 1_000_000
WRONG_SLOT = timedelta(seconds=WRONG_SLOT_SECONDS)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class VehicleUpdate:
    """A row of `vehicle`: where a vehicle says it is."""

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
    def moving(self) -> bool:
        """Whether it is on its way to the stop."""
        return self.current_status != "STOPPED_AT"


TripKey = tuple[Any, ...]
"""Names a trip, and sorts as trips do: those with an id, then what vehicles without a trip do from stop to stop."""


Line = tuple[str, int]
"""A route and a direction, 2 where that is missing."""


@dataclass(slots=True)
class _Visit:
    """A trip at a stop. Delays are microseconds, so that sums of them are exact."""

    trip: TripKey
    stop: str
    line: Line
    begun_unseen: bool
    """Whether it is where the trip was first seen."""
    moved: datetime | None = None
    arrived: datetime | None = None
    left: datetime | None = None
    delay: int | None = None
    change: int | None = None


NEVER = _Visit((), "", ("", 2), True)
"""Stands for a visit that was not seen."""


@dataclass(slots=True)
class _Trip:
    first: datetime
    last: datetime
    state: tuple[str, bool] | None = None
    since: dict[tuple[str, bool], datetime | None] = field(default_factory=dict)
    """By stop and whether it moves, when the latest such state began; None where that was not seen."""
    last_arrival: _Visit | None = None
    reports: dict[str, list[VehicleUpdate]] = field(default_factory=dict)
    """By vehicle, what it said at its latest moment."""


@dataclass(slots=True)
class _Vehicle:
    visit: _Visit | None = None
    stretch: int = 0
    """Counts where it went without a trip."""
    stretch_to: str | None = None


class _Located(NamedTuple):
    update: VehicleUpdate
    following: int
    """Which call of the trip is next, from 0."""
    last_departure: datetime | None
    """When the vehicle was due to leave the call before."""


class Stream:
    """What is known of a service day, from its timetable and from what vehicles have reported until now.

    Updates of a vehicle come in the order of their times; those of different vehicles may overtake each other. What
    is older than what its trip has reported before is left out and counted in `overtaken`. The features of its
    moments are those that `transit_features` has for the same updates.
    """

    def __init__(self, timetable: Timetable) -> None:
        self.timetable = timetable
        self.overtaken = 0
        """So many updates came too late to count."""
        self._trips: dict[TripKey, _Trip] = {}
        self._vehicles: dict[str, _Vehicle] = {}
        self._visits: dict[tuple[TripKey, str], _Visit] = {}
        self._at_stop: dict[str, list[_Visit]] = {}
        self._of_line: dict[Line, list[_Visit]] = {}

    def update(self, updates: Iterable[VehicleUpdate]) -> None:
        """Take in updates, repeated ones too. Of those that come together the order does not matter."""
        for update in sorted((one for one in updates if one.stop_id is not None), key=_order):
            self._take(update, canonical(update.stop_id or ""))

    def moments(self, since: datetime | None = None) -> Iterator[Moment]:
        """What is known of each vehicle on a trip at its latest report, for each stop ahead that is predicted.

        With `since`, only of vehicles that have reported then or later.
        """
        for key in list(self._trips):
            yield from self.of_trip(key[1], since) if _is_named(key) else ()

    def of_trip(self, trip_id: str, since: datetime | None = None) -> Iterator[Moment]:
        """The same for one trip; nothing where it has not reported or has no stop ahead."""
        trip = self._trips.get(_named(trip_id))
        for reports in trip.reports.values() if trip else ():
            now = reports[0].updated_at
            # What another vehicle has said of the trip since is not known to this one.
            if trip and now == trip.last and (since is None or now >= since):
                yield from self._moments(trip_id, trip, reports)

    def _take(self, update: VehicleUpdate, stop: str) -> None:
        vehicle = self._vehicles.setdefault(update.id, _Vehicle())
        key = self._key(update, vehicle, stop)
        now = update.updated_at
        trip = self._trips.setdefault(key, _Trip(first=now, last=now))
        if now < trip.last:
            self.overtaken += 1
            return
        trip.last = now
        state = stop, update.moving
        if trip.state != state:
            trip.since[state] = now if trip.state else None
            trip.state = state
        visit = self._visits.get((key, stop))
        if visit is None:
            visit = _Visit(key, stop, _line(update.route_id, update.direction_id), now == trip.first)
            self._visits[key, stop] = visit
            if vehicle.visit:
                vehicle.visit.left = now
            vehicle.visit = visit
        if update.moving and visit.moved is None and not visit.begun_unseen:
            visit.moved = now
        elif not update.moving and visit.arrived is None:
            self._arrive(visit, trip, now)
        if update.id in trip.reports and trip.reports[update.id][0].updated_at == now:
            trip.reports[update.id].append(update)
        else:
            trip.reports[update.id] = [update]

    def _arrive(self, visit: _Visit, trip: _Trip, now: datetime) -> None:
        visit.arrived = now
        due = self.timetable.due.get((visit.trip[1], visit.stop)) if _is_named(visit.trip) else None
        if due is not None and due - now <= WRONG_SLOT:
            visit.delay = (now - due) // MICROSECOND
        before = trip.last_arrival
        if before and before.delay is not None and visit.delay is not None:
            visit.change = visit.delay - before.delay
        trip.last_arrival = visit
        insort(self._at_stop.setdefault(visit.stop, []), visit, key=_arrival_order)
        insort(self._of_line.setdefault(visit.line, []), visit, key=_arrival_order)

    def _moments(self, trip_id: str, trip: _Trip, reports: list[VehicleUpdate]) -> Iterator[Moment]:
        located = self._furthest_along(trip_id, reports)
        if located is None:
            return
        update, following, last_departure = located
        calls = self.timetable.calls[trip_id]
        platform, now = canonical(update.stop_id or ""), update.updated_at
        named = self.timetable.trips.get(trip_id)
        route_id = update.route_id if update.route_id is not None or named is None else named.route_id
        direction_id = update.direction_id if update.direction_id is not None or named is None else named.direction_id
        key, arrival = _named(trip_id), trip.last_arrival or NEVER
        before = self._last_at(platform, key, now)
        late, later = self._recent_delays(_line(route_id, direction_id), now)
        for stops_ahead in STOPS_AHEAD:
            target = following + stops_ahead - 1
            if not 0 < target < len(calls) or not self._is_awaited(key, calls[target]):
                continue
            stop_id, scheduled_arrival = calls[target].stop_id, calls[target].arrival
            assert scheduled_arrival is not None, "else it is not awaited"
            leader = self._last_at(stop_id, key, now)
            runs = self._recent_runs(platform, stop_id, update.moving, now)
            place = self.timetable.stops.get(stop_id)
            yield Moment(
                service_date=self.timetable.service_date,
                time_stamp=now,
                stop_id=stop_id,
                stops_ahead=stops_ahead,
                scheduled_arrival=scheduled_arrival,
                current_stop_id=platform,
                current_status=update.current_status,
                stops_behind=following,
                vehicle_id=update.id,
                trip_id=trip_id,
                route_id=route_id,
                direction_id=direction_id,
                current_latitude=update.latitude,
                current_longitude=update.longitude,
                destination_latitude=place.latitude if place else None,
                destination_longitude=place.longitude if place else None,
                scheduled_last_departure=last_departure,
                # A vehicle that stands has stood since its arrival, whatever flickered in between.
                state_since=trip.since.get((platform, True)) if update.moving else arrival.arrived,
                last_arrival=arrival.arrived,
                last_delay_seconds=_seconds(arrival.delay),
                last_change_seconds=_seconds(arrival.change),
                leader_arrival=leader.arrived,
                leader_delay_seconds=_seconds(leader.delay),
                platform_arrival=before.arrived,
                platform_left=before.left if before.left is not None and before.left < now else None,
                last_run_seconds=_seconds(runs[0] if runs else None),
                recent_run_seconds=_mean(runs),
                route_delay_seconds=late,
                route_change_seconds=later,
            )

    def _furthest_along(self, trip_id: str, reports: list[VehicleUpdate]) -> _Located | None:
        """Of what a vehicle said at one moment, what is furthest along its trip.

        None where nothing it said is on the timetable, or it runs another trip's slot.
        """
        found = []
        for update in reports:
            position = self.timetable.position.get((trip_id, canonical(update.stop_id or "")))
            if position is None:
                continue
            call = self.timetable.calls[trip_id][position]
            due = call.previous_departure if update.moving else call.arrival
            if position > 0 and due is not None and (due - update.updated_at) // SECOND * SECOND > WRONG_SLOT:
                continue
            following = position if update.moving else position + 1
            last_departure = call.previous_departure if update.moving else call.departure or call.arrival
            found.append(_Located(update, following, last_departure))
        return min(found, key=_furthest_first, default=None)

    def _is_awaited(self, key: TripKey, call: Call) -> bool:
        return call.arrival is not None and self._visits.get((key, call.stop_id), NEVER).arrived is None

    def _last_at(self, stop: str, key: TripKey, now: datetime) -> _Visit:
        """The last arrival of another trip at a stop before now, or `NEVER`."""
        arrivals = self._at_stop.get(stop, [])
        found = bisect_left(arrivals, now, key=_arrival) - 1
        if found >= 0 and arrivals[found].trip == key:
            found -= 1
        return arrivals[found] if found >= 0 else NEVER

    def _recent_runs(self, platform: str, target: str, moving: bool, now: datetime) -> list[int]:
        """Microseconds of the latest runs that ended before now, from a state at one stop to another, latest first."""
        arrivals = self._at_stop.get(target, [])
        runs: list[int] = []
        for index in range(bisect_left(arrivals, now, key=_arrival) - 1, -1, -1):
            start = self._visits.get((arrivals[index].trip, platform), NEVER)
            began, ended = start.moved if moving else start.arrived, arrivals[index].arrived
            if began is not None and ended is not None and ended > began:
                runs.append((ended - began) // MICROSECOND)
                if len(runs) == RECENT_RUNS:
                    break
        return runs

    def _recent_delays(self, line: Line, now: datetime) -> tuple[float | None, float | None]:
        """Mean delay, and mean change of it, over the arrivals of a line of late."""
        arrivals = self._of_line.get(line, [])
        begin = bisect_left(arrivals, now - timedelta(seconds=RECENT_SECONDS), key=_arrival)
        recent = arrivals[begin : bisect_left(arrivals, now, key=_arrival)]
        return (
            _mean([one.delay for one in recent if one.delay is not None]),
            _mean([one.change for one in recent if one.change is not None]),
        )

    @staticmethod
    def _key(update: VehicleUpdate, vehicle: _Vehicle, stop: str) -> TripKey:
        """The trip of an update; a vehicle without one makes a trip of each stretch to one stop."""
        if update.trip_id is not None:
            return _named(update.trip_id)
        if vehicle.stretch_to != stop:
            vehicle.stretch_to = stop
            vehicle.stretch += 1
        return 1, update.id, vehicle.stretch


def _named(trip_id: str) -> TripKey:
    return 0, trip_id


def _is_named(key: TripKey) -> bool:
    return key[0] == 0


def _line(route_id: str | None, direction_id: int | None) -> Line:
    return route_id or "", 2 if direction_id is None else direction_id


def _order(update: VehicleUpdate) -> tuple[Any, ...]:
    trip = (1, update.id) if update.trip_id is None else (0, update.trip_id)
    return update.updated_at, *trip, update.moving, canonical(update.stop_id or ""), update.id


def _arrival(visit: _Visit) -> Any:
    return visit.arrived


def _arrival_order(visit: _Visit) -> tuple[Any, ...]:
    return visit.arrived, visit.trip, visit.stop


def _furthest_first(located: _Located) -> tuple[Any, ...]:
    update = located.update
    return -located.following, update.current_status, update.latitude or -999, update.longitude or -999


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / MICROSECONDS


def _mean(microseconds: list[int]) -> float | None:
    return sum(microseconds) / MICROSECONDS / len(microseconds) if microseconds else None
