"""Trips computed from their definitions with dictionaries and lists: their stop visits, and what a report is about.

Slow, and without code of the package. Times are integer microseconds since 1970. A missing value is None.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

SECOND = 1_000_000
HOUR = 3600 * SECOND
EARTH_RADIUS_MILES = 3958.7613
METRES_PER_MILE = 1609.344

Row = Mapping[str, Any]


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


def clean(text: str | None) -> str | None:
    """Return an id without blanks around it; None if nothing is left."""
    return (text or "").strip(" \t\r\n") or None


def first_of(*values: int | None) -> int | None:
    """Return the first value that is not missing."""
    return next((value for value in values if value is not None), None)


Point = tuple[float, float]


def find_point(row: Row) -> Point | None:
    """Return the latitude and longitude of a row, if both are there, in range and not at null island."""
    latitude, longitude = row.get("latitude"), row.get("longitude")
    if latitude is None or longitude is None or latitude != latitude or longitude != longitude:
        return None
    if abs(latitude) > 90 or abs(longitude) > 180 or (abs(latitude) < 1 and abs(longitude) < 1):
        return None
    return latitude, longitude


def find_miles(here: Point, there: Point) -> float:
    """Return the great-circle distance of two points in miles."""
    phi, other_phi = math.radians(here[0]), math.radians(there[0])
    half = math.sin((other_phi - phi) / 2) ** 2
    half += math.cos(phi) * math.cos(other_phi) * math.sin(math.radians(there[1] - here[1]) / 2) ** 2
    return 2 * EARTH_RADIUS_MILES * math.asin(math.sqrt(min(half, 1)))


@dataclass
class StopTime:
    """A stop visit of a trip's timetable."""

    stop: str
    arrival: int | None
    departure: int | None
    sequence: int | None
    timepoint: int | None
    is_interpolated: bool = False
    has_unknown_order: bool = False
    position: int = 0
    previous_departure: int | None = None
    number: int = 0
    """Its `stop_sequence`: the feed's if that can be trusted, else the position."""

    @property
    def due(self) -> int | None:
        return first_of(self.arrival, self.departure)

    @property
    def left(self) -> int | None:
        return first_of(self.departure, self.arrival)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Return what stop times in the order of travel are sorted by first."""
        return (self.due, self.arrival is not None, self.departure is None)


@dataclass
class PlainTrip:
    """The timetable of a trip."""

    stop_times: list[StopTime]
    """In the order of travel; position 1 is the first."""
    is_trusted: bool
    """Whether the feed's stop sequences identify its stop visits."""
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Number of rows of `schedule` that are not used, by reason."""

    @classmethod
    def from_rows(cls, rows: Sequence[StopTime], points: Mapping[str, Point]) -> "PlainTrip | None":
        """Return the timetable of a trip's rows; None if none of them has a time."""
        kept = _drop_repeats(rows)
        sequences = [row.sequence for row in kept]
        trip = cls([], None not in sequences and len(set(sequences)) == len(sequences))
        trip.counts["repeated"] += len(rows) - len(kept)
        if trip.is_trusted:
            _interpolate(kept, points)
        timed = [row for row in kept if row.due is not None]
        trip.counts["no_time"] += len(kept) - len(timed)
        timed.sort(key=lambda row: (*row.kind, -1 if row.sequence is None else row.sequence, row.stop))
        for before, row in zip([None, *timed], timed, strict=False):
            if row.sequence is None and before is not None and row.stop == before.stop:
                trip.counts["repeated"] += 1
            else:
                trip.stop_times.append(row)
        trip._number()
        return trip if timed else None

    def _number(self) -> None:
        """Mark the stop times whose order is unknown, and give each its position and number."""
        tied = defaultdict(list)
        for row in self.stop_times:
            tied[row.kind].append(row)
        for rows in tied.values():
            sequences = {row.sequence for row in rows}
            for row in rows:
                row.has_unknown_order = len(rows) > 1 and (None in sequences or len(sequences) < len(rows))
        before = None
        for position, row in enumerate(self.stop_times, 1):
            row.position = position
            row.number = row.sequence if self.is_trusted and row.sequence is not None else position
            if before is None:
                row.arrival, row.departure = None, row.left
            else:
                row.previous_departure = before.left
            before = row

    @property
    def first_time(self) -> int:
        """Return the departure from the first stop."""
        return self.stop_times[0].left or 0

    @property
    def last_time(self) -> int:
        """Return the latest arrival."""
        return max(row.due or 0 for row in self.stop_times)

    def find_visits(self, stop: str | None, sequence: int | None, stations: Mapping[str, str | None]) -> list[StopTime]:
        """Return the stop visits that a report may be about, whatever its time."""
        if stop is None:
            return [row for row in self.stop_times if self.is_trusted and row.sequence == sequence is not None]
        at_stop = [row for row in self.stop_times if row.stop == stop]
        station = stations.get(stop)
        if at_stop or station is None:
            return at_stop
        return [row for row in self.stop_times if stations.get(row.stop) == station]


def _drop_repeats(rows: Sequence[StopTime]) -> list[StopTime]:
    """Return the rows of a trip without those that repeat another's stop and sequence, or stop and time without one."""
    latest = 1 << 62
    first: dict[Any, StopTime] = {}
    order = sorted(rows, key=lambda row: (first_of(row.due, latest), row.arrival or -latest, row.departure or -latest))
    for row in order:
        named_again = (row.stop, row.due, None) if row.sequence is None else (row.stop, row.sequence)
        first.setdefault(named_again, row)
    return list(first.values())


def _interpolate(rows: Sequence[StopTime], points: Mapping[str, Point]) -> None:
    """Give times to the rows of a trip without any that lie between two rows with times."""
    timed = sorted((row for row in rows if row.due is not None), key=lambda row: (*row.kind, row.sequence))
    for before, after in zip(timed, timed[1:], strict=False):
        following = [row.sequence or 0 for row in timed if (row.sequence or 0) > (before.sequence or 0)]
        end = min(following, default=1 << 62)
        blank = [row for row in rows if row.due is None and (before.sequence or 0) < (row.sequence or 0) < end]
        blank.sort(key=lambda row: row.sequence or 0)
        begin, total = before.left or 0, max((after.due or 0) - (before.left or 0), 0) // SECOND
        offsets = _spread([before, *blank, after], total, points)
        for row, offset in zip(blank, offsets, strict=False):
            row.is_interpolated = True
            row.arrival = row.departure = begin + offset * SECOND


def _spread(rows: Sequence[StopTime], total: int, points: Mapping[str, Point]) -> list[int]:
    """Return the seconds from the first of some rows to each between it and the last, `total` seconds later."""
    way = [points.get(row.stop) for row in rows]
    metres = [
        None if here is None or there is None else math.floor(find_miles(here, there) * METRES_PER_MILE + 0.5)
        for here, there in zip(way, way[1:], strict=False)
    ]
    lengths = [length for length in metres if length is not None]
    if len(lengths) < len(metres) or sum(lengths) == 0:
        lengths = [1] * len(metres)
    length = sum(lengths)
    return [(2 * total * sum(lengths[:n]) + length) // (2 * length) for n in range(1, len(lengths))]


def can_be_there(due: StopTime, time: int, moving: bool) -> bool:
    """Return whether a vehicle can be on its way to a visit or stand there, not half an hour early or 12 hours late."""
    if not moving and due.arrival is not None:
        return -1800 * SECOND <= time - due.arrival <= 12 * HOUR
    return due.previous_departure is None or time - due.previous_departure >= -1800 * SECOND


class Named(NamedTuple):
    """What a report says: distinct ones of a vehicle on a trip are placed in the order of this."""

    time: int
    moving: bool
    stop: str | None
    sequence: int | None

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.time, self.moving, self.stop or "", -(1 << 62) if self.sequence is None else self.sequence)


def place_all(trip: PlainTrip, candidates: Mapping[Named, Sequence[StopTime]]) -> dict[Named, StopTime]:
    """Return the stop visit of each report of a vehicle on a trip, from the visits that each may be about."""
    placed: dict[Named, StopTime] = {}
    delay, stretches = 0, 0
    before: Named | None = None
    for report in sorted(candidates, key=lambda named: named.order):
        possible = candidates[report]
        repeats = (
            before is not None
            and (report.stop, report.moving, report.sequence) == (before.stop, before.moving, before.sequence)
            and [row.position for row in possible] == [row.position for row in candidates[before]]
            and report.time - before.time <= 120 * SECOND
        )
        if repeats and before is not None:
            chosen = placed[before]
        else:
            is_first, forgets = stretches == 0, stretches % 400 == 0
            delay = 0 if forgets else delay
            behind = -1 if forgets or before is None else placed[before].position
            stretches += 1
            named = [row for row in possible if trip.is_trusted and row.sequence == report.sequence is not None]
            costs = []
            for n, row in enumerate(possible):
                cost, returns = _find_cost(row, report, delay, is_first), row.position < behind
                costs.append((returns and cost > 90 * SECOND, cost + 120 * SECOND * returns, n))
            chosen = named[0] if named else possible[min(costs)[-1]]
        earliest, latest = find_delays(chosen, report)
        delay = min(max(delay, earliest), latest)
        placed[report] = chosen
        before = report
    return placed


def find_delays(due: StopTime, report: Named) -> tuple[int, int]:
    """Return the least and the largest delay with which a report about a visit agrees."""
    begins, ends = (due.previous_departure, due.due) if report.moving else (due.due, due.left)
    if due.position == 1:
        begins = None
    ends = max(ends or 0, ends or 0 if begins is None else begins)
    return report.time - ends, 1 << 62 if begins is None else report.time - begins


def _find_cost(due: StopTime, report: Named, delay: int, is_first: bool) -> int:
    """Return by how much the delay changes if a report is about a visit; a loss counts twice.

    The first report is at a visit at which it is on time, within two minutes, else at one where it is not later than 25
    minutes.
    """
    least, largest = find_delays(due, report)
    gain = least - delay
    if is_first:
        gain = 0 if gain <= 120 * SECOND else max(1, gain - 1500 * SECOND)
    return max(gain, 2 * (delay - largest), 0)


def read_timetable(schedule: Iterable[Row], points: Mapping[str, Point], start: int) -> dict[str, PlainTrip]:
    """Return the trips of a service day that have stop times."""
    rows: dict[str, list[StopTime]] = defaultdict(list)
    for row in schedule:
        trip, stop = clean(row["trip_id"]), clean(row["stop_id"])
        if trip is None or stop is None or trip.startswith(("ADDED-", "NONREV-")):
            continue
        times = [microseconds(row[name]) for name in ("arrival_time", "departure_time")]
        arrival, departure = (
            time if time is not None and start - 24 * HOUR <= time < start + 72 * HOUR else None for time in times
        )
        rows[trip].append(StopTime(stop, arrival, departure, row.get("stop_sequence"), row.get("timepoint")))
    trips = {trip: PlainTrip.from_rows(of_trip, points) for trip, of_trip in rows.items()}
    return {name: trip for name, trip in trips.items() if trip is not None}
