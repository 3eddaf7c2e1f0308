"""The features computed from their definitions, row by row, with dictionaries and lists: slow, and shares no code.

The definitions are the descriptions of the columns in `mbta_assets/transit/schema.py`, and the rules of the
point-in-time join. Times are integer microseconds since 1970. A missing value is None.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

SECOND = 1_000_000
HOUR = 3600 * SECOND
MISSING_ROUTE, MISSING_DIRECTION = "", 2

Row = Mapping[str, Any]
TripKey = tuple[Any, ...]
"""(0, trip), or (1, n) for the n-th stretch of vehicles without a trip."""


class StopTime(NamedTuple):
    """Scheduled times of a trip at a stop."""

    stop: str
    arrival: int | None
    departure: int | None


class Report(NamedTuple):
    """Report of a vehicle that counts at a stop."""

    time: int
    moving: bool
    stop: str
    vehicle: str
    status: str
    position: tuple[float, float] | None
    route: str | None
    direction: int | None


class Visit:
    """A trip at a stop: when it moved there, arrived and departed, and its delay."""

    def __init__(self, trip: TripKey, report: Report) -> None:
        self.trip, self.stop, self.vehicle = trip, report.stop, report.vehicle
        self.line = line_of(report.route, report.direction)
        self.first = report.time
        self.moved: int | None = None
        self.arrived: int | None = None
        self.departed: int | None = None
        self.delay: int | None = None
        self.change: int | None = None


def line_of(route: str | None, direction: int | None) -> tuple[str, int]:
    """Return the route and direction, with stand-ins for missing ones."""
    return route or MISSING_ROUTE, MISSING_DIRECTION if direction is None else direction


def microseconds(time: datetime | None) -> int | None:
    """Return a time in microseconds since 1970."""
    if time is None or time != time:
        return None
    since = time - datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def start_of_day(service_date: date) -> int:
    """Return noon minus twelve hours in Boston."""
    noon = datetime(service_date.year, service_date.month, service_date.day, 12, tzinfo=ZoneInfo("America/New_York"))
    start = microseconds(noon.astimezone(ZoneInfo("UTC")) - timedelta(hours=12))
    return 0 if start is None else start


class PlainDay:
    """A service day's upstream tables, and the features of any of its reports."""

    def __init__(
        self,
        service_date: date,
        vehicle: Iterable[Row],
        trip: Iterable[Row],
        stop: Iterable[Row],
        schedule: Iterable[Row],
    ) -> None:
        self.service_date, self.start = service_date, start_of_day(service_date)
        self.trips = {row["id"]: row for row in trip}
        self.stops = {row["id"]: row for row in stop}
        self.stop_times = self._order_stop_times(schedule)
        self.reports: dict[TripKey, list[Report]] = defaultdict(list)
        self._collect_reports(vehicle)
        self.visits: dict[tuple[TripKey, str], Visit] = {}
        self.visits_of_trip: dict[TripKey, list[Visit]] = defaultdict(list)
        self._make_visits()
        self.arrivals_at: dict[str, list[Visit]] = defaultdict(list)
        self.arrivals_on: dict[tuple[str, int], list[Visit]] = defaultdict(list)
        for visit in self.visits.values():
            if visit.arrived is not None:
                self.arrivals_at[visit.stop].append(visit)
                self.arrivals_on[visit.line].append(visit)
        for visits in self.arrivals_at.values():
            visits.sort(key=lambda visit: (visit.arrived, visit.trip))

    def _order_stop_times(self, schedule: Iterable[Row]) -> dict[str, list[StopTime]]:
        """Return the stop times of each trip by time; none arrives at its first stop."""
        rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in schedule:
            arrival, departure = microseconds(row["arrival_time"]), microseconds(row["departure_time"])
            due = departure if arrival is None else arrival
            if due is not None and not row["trip_id"].startswith(("ADDED-", "NONREV-")):
                order = (due, arrival is not None, departure is None, row["stop_sequence"] or 0, row["stop_id"])
                rows[row["trip_id"]].append((order, StopTime(row["stop_id"], arrival, departure)))
        ordered = {}
        for trip, of_trip in rows.items():
            stop_times = [stop_time for _, stop_time in sorted(of_trip)]
            origin = stop_times[0]
            stop_times[0] = StopTime(
                origin.stop, None, origin.arrival if origin.departure is None else origin.departure
            )
            ordered[trip] = stop_times
        return ordered

    def _collect_reports(self, vehicle: Iterable[Row]) -> None:
        """Collect the reports that count by trip, and those without a trip by vehicle and stretch at one stop."""
        without_trip: dict[str, list[Report]] = defaultdict(list)
        for row in vehicle:
            stop, trip = self._find_stop(row["trip_id"], row["stop_id"]), row["trip_id"]
            time = microseconds(row["updated_at"])
            moving = row["current_status"] != "STOPPED_AT"
            if stop is None or time is None or not self._is_plausible(trip, time):
                continue
            if not self._can_be_there(trip, stop, time, moving):
                continue
            latitude, longitude = row["latitude"], row["longitude"]
            has_position = latitude == latitude and longitude == longitude and None not in (latitude, longitude)
            report = Report(
                time, moving, stop, row["id"], row["current_status"],
                (latitude, longitude) if has_position else None, row["route_id"], row["direction_id"],
            )  # fmt: skip
            if trip is None:
                without_trip[row["id"]].append(report)
            else:
                self.reports[0, trip].append(report)
        stretch = 0
        for name in sorted(without_trip):
            before = None
            for report in sorted(without_trip[name], key=lambda report: report[:4]):
                stretch += report.stop != before
                before = report.stop
                self.reports[1, stretch].append(report)
        for reports in self.reports.values():
            reports.sort(key=lambda report: report[:4])

    def _find_stop(self, trip: str | None, stop: str | None) -> str | None:
        """Return the stop at which a report counts: the trip's own, else its first one in the same station."""
        stop_times = self.stop_times.get(trip or "", [])
        if stop is None or any(stop_time.stop == stop for stop_time in stop_times):
            return stop
        station = self.stops.get(stop, {}).get("parent_station")
        for stop_time in stop_times:
            if station is not None and self.stops.get(stop_time.stop, {}).get("parent_station") == station:
                return stop_time.stop
        return stop

    def _is_plausible(self, trip: str | None, time: int) -> bool:
        """Return whether a time is within twelve hours of the trip, or in the thirty hours of the service day."""
        stop_times = self.stop_times.get(trip or "")
        if not stop_times:
            return self.start <= time < self.start + 30 * HOUR
        first = stop_times[0].departure or 0
        last = max((due.departure if due.arrival is None else due.arrival) or 0 for due in stop_times)
        return first - 12 * HOUR <= time <= last + 12 * HOUR

    def _can_be_there(self, trip: str | None, stop: str, time: int, moving: bool) -> bool:
        """Return whether a trip can be at a stop: at most half an hour early, and twelve hours late to arrive."""
        before = None
        for due in self.stop_times.get(trip or "", []):
            left = before and (before.arrival if before.departure is None else before.departure)
            if due.stop == stop and before is not None:
                if not moving and due.arrival is not None:
                    return -1800 * SECOND <= time - due.arrival <= 12 * HOUR
                return left is None or time - left >= -1800 * SECOND
            before = due
        return True

    def _make_visits(self) -> None:
        """Make the visits of each trip, with their times and delays."""
        by_vehicle: dict[str, list[Visit]] = defaultdict(list)
        for trip in sorted(self.reports):
            reports = self.reports[trip]
            for report in reports:
                if (trip, report.stop) not in self.visits:
                    visit = self.visits[trip, report.stop] = Visit(trip, report)
                    self.visits_of_trip[trip].append(visit)
                    by_vehicle[visit.vehicle].append(visit)
                visit = self.visits[trip, report.stop]
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
        """Add the delay of each arrival of a trip, and its change since the arrival before."""
        arrivals_due = {due.stop: due.arrival for due in self.stop_times.get(trip[1], [])} if trip[0] == 0 else {}
        before = None
        for visit in sorted(self._arrivals_of(trip), key=lambda visit: (visit.arrived, visit.stop)):
            due = arrivals_due.get(visit.stop)
            if due is not None and visit.arrived is not None:
                visit.delay = visit.arrived - due
                if before is not None and before.delay is not None:
                    visit.change = visit.delay - before.delay
            before = visit

    def _arrivals_of(self, trip: TripKey) -> list[Visit]:
        return [visit for visit in self.visits_of_trip[trip] if visit.arrived is not None]

    def compute(self, vehicle: str, trip: str, time: int, stops_ahead: int) -> dict[str, Any] | None:
        """Return every feature and the label of one row; None if there is no such row."""
        located = self._locate(vehicle, trip, time)
        if located is None:
            return None
        report, next_index, last_departure = located
        index = next_index + stops_ahead - 1
        stop_times = self.stop_times[trip]
        if not 0 < index < len(stop_times) or stop_times[index].arrival is None:
            return None
        due, key = stop_times[index], (0, trip)
        there = self.visits.get((key, due.stop))
        if there is not None and there.arrived is not None and time >= there.arrived:
            return None
        named = self.trips.get(trip, {})
        direction = named.get("direction_id") if report.direction is None else report.direction
        line = line_of(report.route or named.get("route_id"), direction)
        arrival = due.arrival or 0
        label = None if there is None or there.arrived is None else there.arrived - arrival
        return {
            "stop_id": due.stop,
            "current_stop_id": report.stop,
            "current_status": report.status,
            "stops_behind": next_index,
            "delay_seconds": seconds(label),
            "distance_travel_miles": self._distance(report, due.stop),
            "scheduled_seconds_ahead": seconds(arrival - time),
            "seconds_late_already": max(time - arrival, 0) / SECOND,
            "scheduled_run_seconds": seconds(None if last_departure is None else arrival - last_departure),
            **self._calendar(time),
            **self._of_trip(key, report, last_departure),
            **self._of_leader(key, report, due.stop),
            **self._of_runs(report, due.stop),
            **self._of_line(line, time),
        }

    def _locate(self, vehicle: str, trip: str, time: int) -> tuple[Report, int, int | None] | None:
        """Return the report furthest along the trip, the number of stops behind it, and its last departure."""
        candidates = []
        stop_times = self.stop_times[trip]
        for report in self.reports[0, trip]:
            if report.vehicle != vehicle or report.time != time:
                continue
            for index, due in enumerate(stop_times):
                if due.stop != report.stop:
                    continue
                before = stop_times[index - 1] if index else None
                left = None if before is None else before.arrival if before.departure is None else before.departure
                departs = due.arrival if due.departure is None else due.departure
                furthest = -(index if report.moving else index + 1)
                position = report.position or (-math.inf, -math.inf)
                candidates.append(((furthest, report.status, position), report, left if report.moving else departs))
        if not candidates:
            return None
        (furthest, _, _), report, last_departure = min(candidates, key=lambda candidate: candidate[0])
        return report, -furthest, last_departure

    def _distance(self, report: Report, stop: str) -> float | None:
        """Return the great-circle distance in miles."""
        there = self.stops.get(stop, {})
        if report.position is None or there.get("latitude") is None or there.get("longitude") is None:
            return None
        here = [math.radians(degrees) for degrees in report.position]
        to = [math.radians(there["latitude"]), math.radians(there["longitude"])]
        half = math.sin((to[0] - here[0]) / 2) ** 2
        half += math.cos(here[0]) * math.cos(to[0]) * math.sin((to[1] - here[1]) / 2) ** 2
        return 2 * 3958.7613 * math.asin(math.sqrt(half))

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
        last = max(arrivals, key=lambda visit: (visit.arrived, visit.stop), default=None)
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
            state = (other.stop, other.moving)
            if other.time > report.time:
                break
            if state != before and state == (report.stop, report.moving):
                since = other.time if before is not None else None
            before = state
        return since

    def _last_other(self, key: TripKey, stop: str, now: int) -> Visit | None:
        """Return the last arrival of another trip at a stop before now."""
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

    def _of_runs(self, report: Report, destination: str) -> dict[str, Any]:
        """Return the run times of the latest three vehicles that went from the current stop to the destination."""
        runs = []
        for visit in self.arrivals_at[destination]:
            begin = self.visits.get((visit.trip, report.stop))
            began = None if begin is None else begin.moved if report.moving else begin.arrived
            if began is not None and visit.arrived is not None and began < visit.arrived < report.time:
                runs.append(visit.arrived - began)
        latest = runs[-3:]
        return {
            "last_run_seconds": seconds(latest[-1] if latest else None),
            "recent_run_seconds": sum(latest) / len(latest) / SECOND if latest else None,
        }

    def _of_line(self, line: tuple[str, int], now: int) -> dict[str, Any]:
        """Return the means over the arrivals of the route and direction in the last half hour."""
        recent = [v for v in self.arrivals_on[line] if v.arrived is not None and now - 1800 * SECOND <= v.arrived < now]
        delays = [visit.delay for visit in recent if visit.delay is not None]
        changes = [visit.change for visit in recent if visit.change is not None]
        return {
            "route_delay_seconds": sum(delays) / len(delays) / SECOND if delays else None,
            "route_change_seconds": sum(changes) / len(changes) / SECOND if changes else None,
        }


def seconds(duration: int | None) -> float | None:
    """Return microseconds in seconds."""
    return None if duration is None else duration / SECOND
