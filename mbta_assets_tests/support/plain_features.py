"""The rows and features computed from their definitions, row by row, with dictionaries and lists, and no shared code.

The definitions are the descriptions of the columns in `mbta_assets/transit/schema.py`, and the rules of the
point-in-time join. Times are integer microseconds since 1970. A missing value is None. Trips are in `plain_trips`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any, NamedTuple

from mbta_assets_tests.support.plain_trips import (
    HOUR,
    SECOND,
    Named,
    Point,
    Row,
    StopTime,
    can_be_there,
    clean,
    find_miles,
    find_point,
    first_of,
    microseconds,
    place_all,
    read_timetable,
    start_of_day,
)

MISSING_ROUTE, MISSING_DIRECTION = "", 2
ARRIVAL, DEPARTURE = "arrival", "departure"
BENCHMARK = (1, 3, 5, 10)

TripKey = tuple[Any, ...]
"""(0, trip, vehicle), or (1, n) for the n-th stretch of vehicles without a trip."""
Place = tuple[Any, ...]
"""(0, position, "") of a visit of the timetable, or (1, 0, stop) of one that it does not have."""


class Report(NamedTuple):
    """Report of a vehicle that counts, and the stop visit that it is about, if the timetable has it."""

    time: int
    moving: bool
    stop: str
    place: Place
    vehicle: str
    status: str
    point: Point | None
    route: str | None
    direction: int | None
    visit: StopTime | None

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.time, self.moving, self.stop, self.place)

    @property
    def next_position(self) -> int:
        position = 0 if self.visit is None else self.visit.position
        return position if self.moving else position + 1


class Visit:
    """A vehicle's trip at a stop: when it moved there, arrived and departed, and its delay."""

    def __init__(self, trip: TripKey, report: Report) -> None:
        self.trip, self.stop, self.place = trip, report.stop, report.place
        self.due = None if report.visit is None else report.visit.arrival
        self.line = line_of(report.route, report.direction)
        self.first = report.time
        self.moved: int | None = None
        self.arrived: int | None = None
        self.departed: int | None = None
        self.delay: int | None = None
        self.change: int | None = None
        self.run: int | None = None


class RowKey(NamedTuple):
    """What identifies a row among those of a day, and the number of stops ahead."""

    vehicle: str
    trip: str
    time: int
    stops_ahead: int


def line_of(route: str | None, direction: int | None) -> tuple[str, int]:
    """Return the route and direction, with stand-ins for missing ones."""
    return route or MISSING_ROUTE, MISSING_DIRECTION if direction is None else direction


class PlainDay:
    """A service day's upstream tables, and the rows and features of any of its reports."""

    def __init__(
        self,
        service_date: date,
        vehicle: Iterable[Row],
        trip: Iterable[Row],
        stop: Iterable[Row],
        schedule: Iterable[Row],
    ) -> None:
        self.service_date, self.start = service_date, start_of_day(service_date)
        self.names = {clean(row["id"]): row for row in trip}
        self.stops = {clean(row["id"]): row for row in stop}
        self.stations = {name or "": clean(row.get("parent_station")) for name, row in self.stops.items()}
        points = {name or "": find_point(row) for name, row in self.stops.items()}
        self.points = {name: point for name, point in points.items() if point is not None}
        self.box = [(min(side) - 2, max(side) + 2) for side in zip(*self.points.values(), strict=True)]
        self.trips = read_timetable(schedule, self.points, self.start)
        self.dropped: dict[str, int] = defaultdict(int)
        self.reports: dict[TripKey, list[Report]] = defaultdict(list)
        self._collect_reports(list(vehicle))
        self.visits: dict[tuple[TripKey, Place], Visit] = {}
        self.visits_of_trip: dict[TripKey, list[Visit]] = defaultdict(list)
        self._make_visits()
        self.visits_at: dict[str, list[Visit]] = defaultdict(list)
        self.arrivals_at: dict[str, list[Visit]] = defaultdict(list)
        self.arrivals_on: dict[tuple[str, int], list[Visit]] = defaultdict(list)
        for visit in self.visits.values():
            self.visits_at[visit.stop].append(visit)
            if visit.arrived is not None:
                self.arrivals_at[visit.stop].append(visit)
                self.arrivals_on[visit.line].append(visit)
        for visits in self.arrivals_at.values():
            visits.sort(key=lambda visit: (visit.arrived, visit.trip, visit.place))

    def _collect_reports(self, vehicle: list[Row]) -> None:
        """Collect the reports that count by trip and vehicle, and those without a trip by stretch at one stop."""
        placed = self._place(vehicle)
        without_trip: dict[str, list[Report]] = defaultdict(list)
        for row in vehicle:
            trip, named, time = clean(row["trip_id"]), _name(row), microseconds(row["updated_at"])
            stop, visit = named.stop, None
            if time is None or not self._is_plausible(trip, time):
                self.dropped["time_out_of_range"] += 1
                continue
            timetable = self.trips.get(trip or "")
            if timetable is not None and timetable.find_visits(stop, named.sequence, self.stations):
                visit = placed.get((trip or "", row["id"]), {}).get(named)
                if visit is None or visit.has_unknown_order:
                    self.dropped["too_early_or_late" if visit is None else "order_unknown"] += 1
                    continue
                stop = visit.stop
            if stop is None:
                self.dropped["no_stop"] += 1
                continue
            report = Report(
                time, named.moving, stop, (1, 0, stop) if visit is None else (0, visit.position, ""), row["id"],
                row["current_status"], self._find_vehicle(row), row["route_id"], row["direction_id"], visit,
            )  # fmt: skip
            if trip is None:
                without_trip[row["id"]].append(report)
            else:
                self.reports[0, trip, row["id"]].append(report)
        stretch = 0
        for name in sorted(without_trip):
            before = None
            for report in sorted(without_trip[name], key=lambda report: report.order):
                stretch += report.stop != before
                before = report.stop
                self.reports[1, stretch].append(report)
        for reports in self.reports.values():
            reports.sort(key=lambda report: report.order)

    def _place(self, vehicle: list[Row]) -> dict[tuple[str, str], dict[Named, StopTime]]:
        """Return the stop visits of the reports of each trip and vehicle that may be about any."""
        possible: dict[tuple[str, str], dict[Named, list[StopTime]]] = defaultdict(dict)
        for row in vehicle:
            trip, named = clean(row["trip_id"]) or "", _name(row)
            if trip not in self.trips or not self._is_plausible(trip, named.time):
                continue
            visits = self.trips[trip].find_visits(named.stop, named.sequence, self.stations)
            visits = [visit for visit in visits if can_be_there(visit, named.time, named.moving)]
            if visits:
                possible[trip, row["id"]][named] = visits
        return {(trip, name): place_all(self.trips[trip], of_trip) for (trip, name), of_trip in possible.items()}

    def _is_plausible(self, trip: str | None, time: int) -> bool:
        """Return whether a time is within twelve hours of the trip, or in the thirty hours of the service day."""
        timetable = self.trips.get(trip or "")
        if timetable is None:
            return self.start <= time < self.start + 30 * HOUR
        return timetable.first_time - 12 * HOUR <= time <= timetable.last_time + 12 * HOUR

    def _find_vehicle(self, row: Row) -> Point | None:
        """Return the position of a vehicle, if it is within two degrees of the network."""
        point = find_point(row)
        if point is None or not all(
            low <= degrees <= high for degrees, (low, high) in zip(point, self.box, strict=False)
        ):
            return None
        return point

    def _make_visits(self) -> None:
        """Make the visits of each vehicle's trips, with their times and delays."""
        by_vehicle: dict[str, list[Visit]] = defaultdict(list)
        for trip in sorted(self.reports):
            reports = self.reports[trip]
            for report in reports:
                if (trip, report.place) not in self.visits:
                    visit = self.visits[trip, report.place] = Visit(trip, report)
                    self.visits_of_trip[trip].append(visit)
                    by_vehicle[report.vehicle].append(visit)
                visit = self.visits[trip, report.place]
                if report.moving and visit.moved is None and visit.first != reports[0].time:
                    visit.moved = report.time
                if not report.moving and visit.arrived is None:
                    visit.arrived = report.time
            self._add_delays(trip)
        for visits in by_vehicle.values():
            visits.sort(key=lambda visit: visit.first)
            for visit, following in zip(visits, visits[1:], strict=False):
                visit.departed = following.first

    def _add_delays(self, trip: TripKey) -> None:
        """Add the delay of each arrival of a vehicle's trip, and its change since the arrival before."""
        before = None
        for visit in sorted(self._arrivals_of(trip), key=_order_of_arrival):
            if visit.due is not None and visit.arrived is not None:
                visit.delay = visit.arrived - visit.due
                if before is not None and before.delay is not None:
                    visit.change = visit.delay - before.delay
                    visit.run = visit.arrived - (before.arrived or 0)
            before = visit

    def _arrivals_of(self, trip: TripKey) -> list[Visit]:
        return [visit for visit in self.visits_of_trip[trip] if visit.arrived is not None]

    def list_rows(self, every: bool = False) -> Iterator[RowKey]:
        """Yield the keys of the rows; `every` for those about every stop ahead of every report."""
        for key, reports in self.reports.items():
            if key[0] or key[1] not in self.trips:
                continue
            intervals = set()
            n_stops = len(self.trips[key[1]].stop_times)
            for time in sorted({report.time for report in reports if report.visit is not None}):
                second = self._local_second(time)
                interval = second // 600
                ahead = n_stops - self._locate(key, time).next_position + 1
                chosen = set(range(1, ahead + 1)) if every or interval not in intervals else _choose(second, ahead)
                intervals.add(interval)
                for stops_ahead in sorted({0} | chosen):
                    row = RowKey(key[2], key[1], time, stops_ahead)
                    if self.find_destination(row) is not None:
                        yield row

    def _local_second(self, time: int) -> int:
        """Return the whole seconds since the start of the day, and 86,400 for each day from 1970 to it."""
        return (time - self.start) // SECOND + (self.service_date - date(1970, 1, 1)).days * 86_400

    def find_destination(self, row: RowKey) -> StopTime | None:
        """Return the stop visit that a row is about; None if there can be no such row."""
        key = (0, row.trip, row.vehicle)
        if not any(report.time == row.time and report.visit is not None for report in self.reports.get(key, [])):
            return None
        report = self._locate(key, row.time)
        stop_times = self.trips[row.trip].stop_times
        if row.stops_ahead == 0:
            is_there = report.visit is not None and report.visit.position == 1
            under_way = any(_is_under_way(other) and other.time <= row.time for other in self.reports[key])
            return stop_times[0] if is_there and not under_way else None
        position = report.next_position + row.stops_ahead - 1
        if not 2 <= position <= len(stop_times):
            return None
        due = stop_times[position - 1]
        arrived = self._find_arrival(key, due)
        is_past = arrived is not None and row.time >= arrived
        return None if due.arrival is None or due.has_unknown_order or is_past else due

    def _find_arrival(self, key: TripKey, due: StopTime) -> int | None:
        """Return when a vehicle arrived at a visit of its trip."""
        there = self.visits.get((key, (0, due.position, "")))
        return None if there is None else there.arrived

    def _find_label(self, key: TripKey, row: RowKey, due: StopTime) -> int | None:
        """Return the delay of the arrival or departure that a row is about."""
        if row.stops_ahead:
            arrived = self._find_arrival(key, due)
            return None if arrived is None or due.arrival is None else arrived - due.arrival
        under_way = [report for report in self.reports[key] if _is_under_way(report)]
        if not under_way or due.departure is None:
            return None
        first = self._locate(key, under_way[0].time)
        delay = first.time - due.departure
        departs = first.moving and first.next_position == 2
        return delay if departs and -1800 * SECOND <= delay <= 12 * HOUR else None

    def compute(self, vehicle: str, trip: str, time: int, stops_ahead: int) -> dict[str, Any] | None:
        """Return every feature and the label of one row; None if there is no such row."""
        row = RowKey(vehicle, trip, time, stops_ahead)
        due, key = self.find_destination(row), (0, trip, vehicle)
        if due is None:
            return None
        report = self._locate(key, time)
        visit = report.visit
        named = self.names.get(trip, {})
        direction = named.get("direction_id") if report.direction is None else report.direction
        line = line_of(report.route or named.get("route_id"), direction)
        scheduled = first_of(due.arrival, due.departure) if stops_ahead else due.departure
        last_departure = None if visit is None else visit.previous_departure if report.moving else visit.left
        until = (scheduled or 0) - time
        return {
            "stop_id": due.stop,
            "stop_sequence": due.number,
            "event": ARRIVAL if stops_ahead else DEPARTURE,
            "current_stop_id": report.stop,
            "current_stop_sequence": None if visit is None else visit.number,
            "current_status": report.status,
            "timepoint": 1 if visit is not None and visit.timepoint == 1 else 0,
            "stops_behind": report.next_position - 1,
            "delay_seconds": seconds(self._find_label(key, row, due)),
            "distance_travel_miles": self._find_distance(report, due.stop),
            "scheduled_seconds_ahead": seconds(until),
            "seconds_late_already": max(-until, 0) / SECOND,
            "scheduled_run_seconds": seconds(None if last_departure is None else (scheduled or 0) - last_departure),
            "trip_start_seconds": seconds(self.trips[trip].first_time - self.start),
            **self._calendar(time),
            **self._of_trip(key, report, last_departure),
            **self._of_leader(key, report, due.stop),
            **self._of_runs(trip, report, due if stops_ahead else None),
            **self._of_line(line, time),
            "network_run_ratio": self._compare_runs(time),
        }

    def _locate(self, key: TripKey, time: int) -> Report:
        """Return the report of a vehicle on a trip at a time that is furthest along."""

        def rank(report: Report) -> tuple[Any, ...]:
            return (-report.next_position, report.status, report.point or (-math.inf, -math.inf))

        return min((r for r in self.reports[key] if r.time == time and r.visit is not None), key=rank)

    def _find_distance(self, report: Report, stop: str) -> float | None:
        """Return the great-circle distance in miles."""
        there = self.points.get(stop)
        return None if report.point is None or there is None else find_miles(report.point, there)

    def _calendar(self, time: int) -> dict[str, Any]:
        """Return the features of the date and of the time of the service day."""
        day = self.service_date
        seasons = {12: "winter", 1: "winter", 2: "winter", 3: "spring", 4: "spring", 5: "spring"}
        seasons |= {6: "summer", 7: "summer", 8: "summer", 9: "autumn", 10: "autumn", 11: "autumn"}
        angle = 2 * math.pi * (time - self.start) / SECOND / 86_400
        return {
            "month": day.month,
            "day_of_week": day.weekday(),
            "day_of_year": day.timetuple().tm_yday,
            "season": seasons[day.month],
            "sin_time": math.sin(angle),
            "cos_time": math.cos(angle),
        }

    def _of_trip(self, key: TripKey, report: Report, last_departure: int | None) -> dict[str, Any]:
        """Return the features of the trip's own state and arrivals, up to and including the time of the report."""
        now = report.time
        arrivals = [visit for visit in self._arrivals_of(key) if visit.arrived is not None and visit.arrived <= now]
        last = max(arrivals, key=_order_of_arrival, default=None)
        arrived = None if last is None else last.arrived
        since = self._state_since(key, report) if report.moving else arrived
        departed = since if report.moving else now
        known = departed is not None and last_departure is not None
        return {
            "seconds_in_state": seconds(None if since is None else now - since),
            "departure_delay_seconds": seconds((departed or 0) - (last_departure or 0) if known else None),
            "last_delay_seconds": seconds(None if last is None else last.delay),
            "last_change_seconds": seconds(None if last is None else last.change),
            "seconds_since_last_arrival": seconds(None if arrived is None else now - arrived),
        }

    def _state_since(self, key: TripKey, report: Report) -> int | None:
        """Return since when the trip is on its way to the stop; None if it was first observed so."""
        since, before = None, None
        for other in self.reports[key]:
            state = (other.place, other.moving)
            if other.time > report.time:
                break
            if state != before and state == (report.place, report.moving):
                since = other.time if before is not None else None
            before = state
        return since

    def _last_other(self, key: TripKey, stop: str, now: int) -> Visit | None:
        """Return the last arrival at a stop before now that is not of this vehicle's trip."""
        last = None
        for visit in self.arrivals_at[stop]:
            if visit.arrived is not None and visit.arrived < now and visit.trip != key:
                last = visit
        return last

    def _of_leader(self, key: TripKey, report: Report, stop: str) -> dict[str, Any]:
        """Return the features of the vehicles that were last at the destination and at the current stop."""
        now = report.time
        leader, platform = self._last_other(key, stop, now), self._last_other(key, report.stop, now)
        has_left = platform is not None and platform.departed is not None and platform.departed < now
        return {
            "leader_headway_seconds": seconds(None if leader is None else now - (leader.arrived or 0)),
            "leader_delay_seconds": seconds(None if leader is None else leader.delay),
            "platform_headway_seconds": seconds(None if platform is None else now - (platform.arrived or 0)),
            "platform_clear_seconds": seconds(now - (platform.departed or 0) if platform and has_left else None),
            "platform_occupied": 1 if platform is not None and not has_left else 0,
        }

    def _of_runs(self, trip: str, report: Report, due: StopTime | None) -> dict[str, Any]:
        """Return the run times of the latest three vehicles that went from the current stop to the destination.

        There are none to a stop that the vehicle visits before the visit in question, and none of a departure.
        """
        runs = []
        if due is not None and not self._is_visited_before(trip, report, due):
            for visit in self.visits_at[report.stop]:
                began = visit.moved if report.moving else visit.arrived
                end = self._find_end(visit, report.moving, due.stop)
                ended = None if end is None else end.arrived
                if began is not None and ended is not None and began < ended < report.time:
                    runs.append((ended, visit.trip, visit.place, ended - began))
        latest = [run[-1] for run in sorted(runs)[-3:]]
        return {
            "last_run_seconds": seconds(latest[-1] if latest else None),
            "recent_run_seconds": sum(latest) / len(latest) / SECOND if latest else None,
        }

    def _is_visited_before(self, trip: str, report: Report, due: StopTime) -> bool:
        """Return whether a vehicle serves a stop on the way to a visit of it."""
        on_the_way = self.trips[trip].stop_times[report.next_position - 1 : due.position - 1]
        return any(row.stop == due.stop for row in on_the_way)

    def _find_end(self, visit: Visit, moving: bool, destination: str) -> Visit | None:
        """Return the visit of a destination at which a run ends that begins with a visit of the current stop."""
        begin = visit.place[1] + (0 if moving else 1)
        timetable = self.trips.get(visit.trip[1]) if visit.trip[0] == 0 else None
        at_stop = [row for row in timetable.stop_times if row.stop == destination] if timetable else []
        if not at_stop:
            return self.visits.get((visit.trip, (1, 0, destination)))
        ahead = [row for row in at_stop if row.position >= begin]
        return self.visits.get((visit.trip, (0, ahead[0].position, ""))) if ahead else None

    def _of_line(self, line: tuple[str, int], now: int) -> dict[str, Any]:
        """Return the means over the arrivals of the route and direction in the last half hour."""
        recent = [v for v in self.arrivals_on[line] if v.arrived is not None and now - 1800 * SECOND <= v.arrived < now]
        delays = [visit.delay for visit in recent if visit.delay is not None]
        changes = [visit.change for visit in recent if visit.change is not None]
        return {
            "route_delay_seconds": sum(delays) / len(delays) / SECOND if delays else None,
            "route_change_seconds": sum(changes) / len(changes) / SECOND if changes else None,
        }

    def _compare_runs(self, now: int) -> float:
        """Return the ratio of run times in the last half hour to the scheduled ones, both with ten minutes besides."""
        observed = scheduled = 600 * SECOND
        for visit in self.visits.values():
            ended = visit.arrived
            if ended is None or not now - 1800 * SECOND <= ended < now or visit.run is None or visit.change is None:
                continue
            if visit.run <= HOUR and visit.run >= visit.change:
                observed, scheduled = observed + visit.run, scheduled + visit.run - visit.change
        return observed / scheduled


def _name(row: Row) -> Named:
    """Return what a report says of the vehicle."""
    moving = row["current_status"] != "STOPPED_AT"
    time = microseconds(row["updated_at"])
    return Named(0 if time is None else time, moving, clean(row["stop_id"]), row.get("current_stop_sequence"))


def _order_of_arrival(visit: Visit) -> tuple[Any, ...]:
    """Return what the arrivals of a trip are sorted by."""
    return (visit.arrived, visit.stop, visit.place)


def _is_under_way(report: Report) -> bool:
    """Return whether a vehicle is past the first stop of its trip."""
    return report.visit is not None and report.visit.position >= 2


def _choose(second: int, n_ahead: int) -> set[int]:
    """Return the stops ahead that a report has rows about: the benchmark and two others by a hash of its second."""
    others = [stops for stops in range(1, n_ahead + 1) if stops not in BENCHMARK]
    chosen = {stops for stops in BENCHMARK if stops <= n_ahead}
    state = second
    for left in (len(others), len(others) - 1):
        state = state * 48_271 % (2**31 - 1)
        if left <= 0:
            break
        if left == len(others):
            first = state % left
            chosen.add(others[first])
        else:
            chosen.add(others[(first + 1 + state % left) % len(others)])
    return chosen


def seconds(duration: int | None) -> float | None:
    """Return microseconds in seconds."""
    return None if duration is None else duration / SECOND
