"""To which service day and trip a report belongs, one report at a time, for live predictions.

The rules are those of `trips`, which resolves the reports of a day at once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as arrow

from mbta_assets.sources.gtfs.trips import MAX_SECONDS_FROM_TRIP, QUARTER_SECONDS
from mbta_assets.transit.service_day import service_date_at

DESCRIBED_AS_SCHEDULED = ("SCHEDULED", "UNSCHEDULED")


class DescribedTrip(NamedTuple):
    """What a report says about its trip: the columns of `feed_rows.TRIP`."""

    trip_id: str | None
    route_id: str | None
    direction_id: int | None
    start_date: date | None
    start_seconds: int | None
    relationship: str


class ResolvedTrip(NamedTuple):
    """The service day and the trip of a report; route and direction are those of the timetable."""

    service_date: date
    trip_id: str | None
    route_id: str | None = None
    direction_id: int | None = None


@dataclass
class _Trip:
    route_id: str | None
    direction_id: int | None
    is_frequent: bool = False
    spans: list[tuple[int, int]] = field(default_factory=list)
    """First and last scheduled time of each run, epoch seconds."""


class ActiveDay:
    """The trips of a service day, by id and by start."""

    def __init__(self, service_date: date, active: arrow.Table) -> None:
        """Index trips with the columns of `trips.ACTIVE`."""
        self.service_date = service_date
        self.trips: dict[str, _Trip] = {}
        self.by_start: dict[tuple[str | None, int], list[tuple[str, int | None]]] = defaultdict(list)
        names = ("starts", "trip_id", "route_id", "direction_id", "is_frequent", "first_seconds", "last_seconds")
        for starts, trip_id, route_id, direction_id, is_frequent, first, last in zip(
            *(active[name].to_pylist() for name in names), strict=True
        ):
            trip = self.trips.setdefault(trip_id, _Trip(route_id, direction_id))
            trip.is_frequent |= is_frequent
            if first is not None:
                trip.spans.append((starts + first, starts + last))
                self.by_start[route_id, first].append((trip_id, direction_id))


class TripIndex:
    """The trips of a service day and of the days before and after it."""

    def __init__(self, days: Sequence[ActiveDay]) -> None:
        self._days = {day.service_date: day for day in days}

    def resolve(self, trip: DescribedTrip, reported_at: int) -> ResolvedTrip:
        """Return the service day and trip of a report of a time in epoch seconds."""
        service_date = trip.start_date or self._find_service_date(trip.trip_id, reported_at)
        day = self._days.get(service_date)
        trip_id = trip.trip_id
        if trip_id is None and trip.relationship == "SCHEDULED" and day is not None:
            trip_id = _find_only_trip(day, trip)
        scheduled = None if day is None or trip_id is None else day.trips.get(trip_id)
        if scheduled is None:
            return ResolvedTrip(service_date, trip_id)
        is_other = trip.relationship not in DESCRIBED_AS_SCHEDULED
        if is_other or (trip.relationship == "UNSCHEDULED" and not scheduled.is_frequent):
            trip_id = f"{trip.relationship}-{trip_id}"
        elif scheduled.is_frequent and trip.start_seconds is not None:
            trip_id = f"{trip_id}@{format_clock(trip.start_seconds)}"
        return ResolvedTrip(service_date, trip_id, scheduled.route_id, scheduled.direction_id)

    def _find_service_date(self, trip_id: str | None, reported_at: int) -> date:
        """Return the day on which a trip runs at about a time, or else that on which the time falls."""
        fallen_on = _fall_on(reported_at // QUARTER_SECONDS)
        candidates: list[tuple[Any, ...]] = []
        for service_date, day in self._days.items():
            days_off = abs((fallen_on - service_date).days)
            scheduled = day.trips.get(trip_id) if trip_id is not None and days_off <= 1 else None
            for first, last in scheduled.spans if scheduled else ():
                distance = max(0, first - reported_at, reported_at - last)
                candidates.append((distance, days_off, service_date))
        if candidates:
            distance, _, service_date = min(candidates)
            if distance <= MAX_SECONDS_FROM_TRIP:
                return service_date
        return fallen_on


@lru_cache(maxsize=1000)
def _fall_on(quarter: int) -> date:
    """Return the service day on which a quarter of an hour since the epoch falls; every time zone keeps to them."""
    return service_date_at(datetime.fromtimestamp(quarter * QUARTER_SECONDS, UTC))


def _find_only_trip(day: ActiveDay, trip: DescribedTrip) -> str | None:
    """Return the only trip of a route and direction with a start, or None."""
    if trip.route_id is None or trip.start_seconds is None:
        return None
    started = day.by_start.get((trip.route_id, trip.start_seconds), ())
    found = {trip_id for trip_id, direction_id in started if trip.direction_id in (None, direction_id)}
    return found.pop() if len(found) == 1 else None


def format_clock(seconds: int) -> str:
    """Return H:MM:SS as in the id of a trip that repeats."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
