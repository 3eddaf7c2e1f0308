"""An independent checker of TripUpdates feeds, by the GTFS-realtime reference and the rules of the public validator.

https://github.com/MobilityData/gtfs-realtime-validator/blob/master/RULES.md numbers the rules that are named E… and W…
here; those named X… are requirements of the reference that it has no number for. It shares no code with the package.
"""

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self
from zoneinfo import ZoneInfo

from google.protobuf.message import DecodeError
from google.transit.gtfs_realtime_pb2 import FeedHeader, FeedMessage, TripDescriptor, TripUpdate

RULES = {
    "E001": "a time is not in POSIX seconds",
    "E002": "stop time updates are not strictly sorted by stop sequence",
    "E003": "the trip is not in the schedule",
    "E004": "the route is not in the schedule",
    "E009": "a stop that the trip serves more than once has no stop sequence",
    "E011": "the stop is not in the schedule",
    "E012": "a timestamp is later than the header's",
    "E017": "the content changed under the same header timestamp",
    "E018": "the header timestamp went back",
    "E020": "the start time is not written as HH:MM:SS",
    "E021": "the start date is not written as YYYYMMDD",
    "E022": "times do not increase along the trip",
    "E024": "the direction is not that of the schedule",
    "E025": "a departure comes before its arrival",
    "E035": "the route is not that of the trip in the schedule",
    "E036": "a stop sequence is repeated",
    "E037": "two updates in a row are about the same stop",
    "E038": "the version is not that of GTFS-realtime",
    "E039": "a full feed deletes an entity",
    "E040": "an update has neither a stop id nor a stop sequence",
    "E041": "the trip has no stop time updates",
    "E042": "a stop without data has an arrival or a departure",
    "E043": "an update has neither an arrival nor a departure",
    "E044": "an event has neither a time nor a delay",
    "E045": "the stop is not the one with that stop sequence",
    "E048": "the header has no timestamp",
    "E049": "the header has no incrementality",
    "E050": "a timestamp is in the future",
    "E051": "the trip has no such stop sequence",
    "E052": "a vehicle id is not unique",
    "W001": "the trip has no timestamp",
    "W002": "the trip has no vehicle id",
    "W006": "the trip has no trip id",
    "W007": "more than 35 seconds passed since the feed before",
    "W008": "the header timestamp is older than 65 seconds",
    "W009": "the schedule relationship is missing",
    "X001": "it is no feed",
    "X002": "an entity id is repeated",
    "X003": "the trip has two entities",
    "X004": "a delay is not the time minus the schedule",
    "X005": "a skipped stop has an arrival or a departure",
    "X006": "the uncertainty is negative",
    "X007": "an entity has no trip update",
    "X008": "stops are not in the order of the schedule",
}
EARLIEST_POSIX_TIME, LATEST_POSIX_TIME = 1_104_537_600, 4_102_444_800
"""2005, when GTFS was published, and 2100: outside are milliseconds, and seconds since midnight."""
FUTURE_TOLERANCE_SECONDS = 60
MAX_AGE_SECONDS, MAX_REFRESH_SECONDS = 65, 35
DELAY_TOLERANCE_SECONDS = 1
VERSIONS = ("1.0", "2.0")
SKIPPED, NO_DATA = TripUpdate.StopTimeUpdate.SKIPPED, TripUpdate.StopTimeUpdate.NO_DATA


class Finding(NamedTuple):
    """A violation of a rule; the entity id is empty if it is about the whole feed."""

    rule: str
    entity_id: str
    message: str


class StaticTrip(NamedTuple):
    """A row of `trips.txt`; None is not said, or not known."""

    route_id: str | None
    direction_id: int | None


class StaticStopTime(NamedTuple):
    """A row of `stop_times.txt`; times are seconds since noon minus twelve hours, None where they are blank."""

    stop_sequence: int | None
    stop_id: str
    arrival: int | None
    departure: int | None


@dataclass
class StaticFeed:
    """The schedule that a feed is about."""

    time_zone: str
    trips: Mapping[str, StaticTrip]
    stop_times: Mapping[str, Sequence[StaticStopTime]]
    """In the order of travel, by trip."""
    stops: set[str]
    routes: set[str] | None = None
    """None if they are not known."""
    repeated: dict[str, set[str]] = field(init=False)
    """The stops that a trip serves more than once, by trip."""

    def __post_init__(self) -> None:
        counts = {trip: Counter(row.stop_id for row in rows) for trip, rows in self.stop_times.items()}
        self.repeated = {trip: {stop for stop, visits in of.items() if visits > 1} for trip, of in counts.items()}

    @classmethod
    def from_gtfs(cls, path: Path) -> Self:
        """Read a zip file of GTFS."""
        with zipfile.ZipFile(path) as archive:

            def rows(name: str) -> list[dict[str, str]]:
                with archive.open(name) as file:
                    return list(csv.DictReader(io.TextIOWrapper(file, "utf-8-sig")))

            trips = {
                row["trip_id"]: StaticTrip(row["route_id"], _to_int(row.get("direction_id")))
                for row in rows("trips.txt")
            }
            stop_times: dict[str, list[StaticStopTime]] = {trip: [] for trip in trips}
            for row in rows("stop_times.txt"):
                times = (_to_seconds(row["arrival_time"]), _to_seconds(row["departure_time"]))
                stop_times[row["trip_id"]].append(StaticStopTime(int(row["stop_sequence"]), row["stop_id"], *times))
            for of_trip in stop_times.values():
                of_trip.sort(key=lambda row: row.stop_sequence or 0)
            return cls(
                rows("agency.txt")[0]["agency_timezone"],
                trips,
                stop_times,
                {row["stop_id"] for row in rows("stops.txt")},
                {row["route_id"] for row in rows("routes.txt")},
            )

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], time_zone: str, service_date: str) -> Self:
        """Return the schedule in the upstream tables (`trip`, `stop`, `schedule`) of a service day, YYYYMMDD."""
        start = start_of_service_day(service_date, time_zone)
        trips = {
            row.id: StaticTrip(_or_none(row.route_id), _or_none(row.direction_id, int))
            for row in tables["trip"].itertuples()
        }
        schedule = tables["schedule"]
        due = schedule["arrival_time"].fillna(schedule["departure_time"])
        stop_times: dict[str, list[StaticStopTime]] = {}
        for row in schedule.assign(due=due).sort_values(["trip_id", "due", "stop_sequence"]).itertuples():
            times = (
                _or_none(time, lambda time: int(time.timestamp()) - start)
                for time in (row.arrival_time, row.departure_time)
            )
            sequence = _or_none(row.stop_sequence, int)
            stop_times.setdefault(row.trip_id, []).append(StaticStopTime(sequence, row.stop_id, *times))
        return cls(time_zone, trips, stop_times, set(tables["stop"]["id"]))


class TripUpdatesValidator:
    """A checker of successive feeds about one schedule."""

    def __init__(self, static: StaticFeed) -> None:
        self._static = static
        self._previous: FeedMessage | None = None
        self._previous_at: float | None = None

    def check(self, content: bytes, now: float) -> list[Finding]:
        """Return the findings in the bytes of the next feed, as it was fetched at a time in epoch seconds."""
        feed = FeedMessage()
        try:
            feed.ParseFromString(content)
        except DecodeError as error:
            return [Finding("X001", "", str(error))]
        findings = [*self._check_header(feed, now), *_check_ids(feed)]
        for entity in feed.entity:
            violations = self._check_entity(entity, feed.header.timestamp, now)
            findings += [Finding(rule, entity.id, message) for rule, message in violations]
        self._previous, self._previous_at = feed, now
        return findings

    def _check_header(self, feed: FeedMessage, now: float) -> Iterator[Finding]:
        header = feed.header
        if header.gtfs_realtime_version not in VERSIONS:
            yield Finding("E038", "", repr(header.gtfs_realtime_version))
        if not header.HasField("incrementality"):
            yield Finding("E049", "", "")
        if header.incrementality == FeedHeader.FULL_DATASET:
            yield from (Finding("E039", entity.id, "") for entity in feed.entity if entity.is_deleted)
        if not header.timestamp:
            yield Finding("E048", "", "")
            return
        yield from (Finding(rule, "", message) for rule, message in _check_timestamp(header.timestamp, now))
        if now - header.timestamp > MAX_AGE_SECONDS:
            yield Finding("W008", "", f"{now - header.timestamp:.0f} s")
        if self._previous is None or self._previous_at is None:
            return
        before = self._previous.header.timestamp
        if header.timestamp < before:
            yield Finding("E018", "", f"{before} to {header.timestamp}")
        if header.timestamp == before and feed != self._previous:
            yield Finding("E017", "", str(before))
        passed = max(now - self._previous_at, header.timestamp - before)
        if passed > MAX_REFRESH_SECONDS:
            yield Finding("W007", "", f"{passed:.0f} s")

    def _check_entity(self, entity: Any, header_time: int, now: float) -> Iterator[tuple[str, str]]:
        if not entity.HasField("trip_update"):
            yield "X007", ""
            return
        update = entity.trip_update
        if not update.vehicle.id:
            yield "W002", ""
        if not update.timestamp:
            yield "W001", ""
        else:
            yield from _check_timestamp(update.timestamp, now)
            if header_time and update.timestamp > header_time:
                yield "E012", f"{update.timestamp} after {header_time}"
        yield from self._check_trip(update.trip)
        if not update.stop_time_update and update.trip.schedule_relationship != TripDescriptor.CANCELED:
            yield "E041", ""
        yield from self._check_stops(update.trip, update.stop_time_update)
        yield from _check_order(update.stop_time_update)
        yield from self._check_delays(update.trip, update.stop_time_update)

    def _check_trip(self, trip: Any) -> Iterator[tuple[str, str]]:
        if not trip.trip_id:
            yield "W006", ""
        if not trip.HasField("schedule_relationship"):
            yield "W009", ""
        if trip.start_date and not _is_date(trip.start_date):
            yield "E021", trip.start_date
        if trip.start_time and not re.fullmatch(r"\d{1,3}:[0-5]\d:[0-5]\d", trip.start_time):
            yield "E020", trip.start_time
        if trip.route_id and self._static.routes is not None and trip.route_id not in self._static.routes:
            yield "E004", trip.route_id
        if not trip.trip_id or trip.schedule_relationship == TripDescriptor.ADDED:
            return
        scheduled = self._static.trips.get(trip.trip_id)
        if scheduled is None:
            yield "E003", trip.trip_id
            return
        if trip.route_id and scheduled.route_id is not None and trip.route_id != scheduled.route_id:
            yield "E035", f"{trip.route_id}, not {scheduled.route_id}"
        if trip.HasField("direction_id") and scheduled.direction_id not in (None, trip.direction_id):
            yield "E024", f"{trip.direction_id}, not {scheduled.direction_id}"

    def _check_stops(self, trip: Any, updates: Iterable[Any]) -> Iterator[tuple[str, str]]:
        """Compare each update with the schedule of its trip."""
        rows = self._static.stop_times.get(trip.trip_id, ())
        by_sequence = {row.stop_sequence: row.stop_id for row in rows if row.stop_sequence is not None}
        position = -1
        for update in updates:
            yield from _check_update(update)
            if update.stop_id and update.stop_id not in self._static.stops:
                yield "E011", update.stop_id
            if not update.HasField("stop_sequence"):
                if update.stop_id in self._static.repeated.get(trip.trip_id, ()):
                    yield "E009", update.stop_id
                later = [index for index, row in enumerate(rows) if row.stop_id == update.stop_id and index > position]
                if rows and not later:
                    yield "X008", update.stop_id
                position = later[0] if later else position
            elif rows and update.stop_sequence not in by_sequence:
                yield "E051", str(update.stop_sequence)
            elif rows and update.stop_id and by_sequence[update.stop_sequence] != update.stop_id:
                yield "E045", f"{update.stop_sequence} is {by_sequence[update.stop_sequence]}, not {update.stop_id}"

    def _check_delays(self, trip: Any, updates: Iterable[Any]) -> Iterator[tuple[str, str]]:
        """Compare delays with times and the schedule, where the schedule has the time of the visit."""
        if not _is_date(trip.start_date):
            return
        start = start_of_service_day(trip.start_date, self._static.time_zone)
        rows = self._static.stop_times.get(trip.trip_id, ())
        for update in updates:
            for name in ("arrival", "departure"):
                event = getattr(update, name)
                if not (update.HasField(name) and event.HasField("time") and event.HasField("delay")):
                    continue
                due = [getattr(row, name) for row in rows if _is_same_visit(row, update)]
                delays = [event.time - start - seconds for seconds in due if seconds is not None]
                if delays and all(abs(event.delay - delay) > DELAY_TOLERANCE_SECONDS for delay in delays):
                    yield "X004", f"{name} at {update.stop_id}: {event.delay} s, not {delays}"


def start_of_service_day(date: str, time_zone: str) -> int:
    """Return the epoch seconds from which the times of a service day, YYYYMMDD, count: noon minus twelve hours."""
    noon = datetime.strptime(date, "%Y%m%d").replace(hour=12, tzinfo=ZoneInfo(time_zone))
    return int((noon.astimezone(ZoneInfo("UTC")) - timedelta(hours=12)).timestamp())


def _check_ids(feed: FeedMessage) -> Iterator[Finding]:
    """Find ids that more than one entity has."""
    entities: Counter[str] = Counter()
    vehicles: Counter[str] = Counter()
    trips: Counter[tuple[str, str, str]] = Counter()
    for entity in feed.entity:
        trip, vehicle = entity.trip_update.trip, entity.trip_update.vehicle.id
        identity = (trip.trip_id, trip.start_date, trip.start_time)
        for rule, counter, key in (
            ("X002", entities, entity.id),
            ("E052", vehicles, vehicle),
            ("X003", trips, identity),
        ):
            counter[key] += 1  # type: ignore[index]
            if counter[key] > 1 and (any(key) if isinstance(key, tuple) else key):  # type: ignore[index]
                yield Finding(rule, entity.id, str(key))


def _check_timestamp(timestamp: int, now: float) -> Iterator[tuple[str, str]]:
    """Check the timestamp of a header or a trip."""
    if not EARLIEST_POSIX_TIME <= timestamp < LATEST_POSIX_TIME:
        yield "E001", str(timestamp)
    elif timestamp > now + FUTURE_TOLERANCE_SECONDS:
        yield "E050", f"{timestamp - now:.0f} s ahead"


def _check_update(update: Any) -> Iterator[tuple[str, str]]:
    """Check what an update has, and its events."""
    events = [getattr(update, name) for name in ("arrival", "departure") if update.HasField(name)]
    where = update.stop_id or str(update.stop_sequence)
    if not update.HasField("stop_id") and not update.HasField("stop_sequence"):
        yield "E040", ""
    if update.schedule_relationship in (SKIPPED, NO_DATA):
        if events:
            yield "X005" if update.schedule_relationship == SKIPPED else "E042", where
    elif not events:
        yield "E043", where
    for event in events:
        if not event.HasField("time") and not event.HasField("delay"):
            yield "E044", where
        if event.HasField("time") and not EARLIEST_POSIX_TIME <= event.time < LATEST_POSIX_TIME:
            yield "E001", f"{where}: {event.time}"
        if event.uncertainty < 0:
            yield "X006", f"{where}: {event.uncertainty}"
    if update.arrival.time and update.departure.time and update.departure.time < update.arrival.time:
        yield "E025", where


def _check_order(updates: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Check each update against the ones before it."""
    sequence: int | None = None
    latest: int | None = None
    stop_id: str | None = None
    for update in updates:
        where = update.stop_id or str(update.stop_sequence)
        if update.HasField("stop_sequence"):
            if sequence is not None and update.stop_sequence == sequence:
                yield "E036", where
            if sequence is not None and update.stop_sequence <= sequence:
                yield "E002", f"{update.stop_sequence} after {sequence}"
            sequence = update.stop_sequence
        if update.stop_id and update.stop_id == stop_id:
            yield "E037", where
        stop_id = update.stop_id
        times = [event.time for event in (update.arrival, update.departure) if event.HasField("time")]
        if times and latest is not None and min(times) <= latest:
            yield "E022", f"{where}: {min(times)} after {latest}"
        latest = max(times, default=latest)


def _is_same_visit(row: StaticStopTime, update: Any) -> bool:
    """Return whether a row of the schedule is the visit of an update; without a stop sequence it may be several."""
    if update.HasField("stop_sequence"):
        return bool(row.stop_sequence == update.stop_sequence)
    return bool(row.stop_id == update.stop_id)


def _is_date(text: str) -> bool:
    """Return whether a text is a date as GTFS writes it."""
    if not re.fullmatch(r"\d{8}", text):
        return False
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True


def _to_int(text: str | None) -> int | None:
    return int(text) if text else None


def _to_seconds(text: str) -> int | None:
    """Return HH:MM:SS in seconds, None if it is blank."""
    if not text.strip():
        return None
    hours, minutes, seconds = map(int, text.split(":"))
    return hours * 3600 + minutes * 60 + seconds


def _or_none(value: Any, convert: Any = str) -> Any:
    """Return a value of a data frame, None if it is missing."""
    return None if str(value) in ("None", "<NA>", "NaT", "nan") else convert(value)
