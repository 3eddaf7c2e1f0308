"""An independent checker of TripUpdates feeds, by the GTFS-realtime reference and the rules of the public validator.

https://github.com/MobilityData/gtfs-realtime-validator/blob/master/RULES.md numbers the rules that are named E… and W…
here; those named X… are requirements of the reference that it has no number for. It shares no code with the package.

Its other rules cannot be judged from TripUpdates and a schedule: they are about vehicle positions (E026 to E029, W004),
alerts (E030 to E034), the schedule by itself (E010, for example), or several feeds at a time (E047, W003).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from google.transit.gtfs_realtime_pb2 import FeedHeader, FeedMessage, TripDescriptor, TripUpdate

from mbta_assets_tests.support.static_feed import StaticFeed, StaticStopTime, start_of_service_day, to_seconds

RULES = {
    "E001": "a time is not in POSIX seconds",
    "E002": "stop time updates are not strictly sorted by stop sequence",
    "E003": "the trip is not in the schedule",
    "E004": "the route is not in the schedule",
    "E006": "a trip by frequency has no start date or no start time",
    "E009": "a stop that the trip serves more than once has no stop sequence",
    "E011": "the stop is not in the schedule",
    "E012": "a timestamp is later than the header's",
    "E013": "a trip by frequency is not unscheduled",
    "E015": "the stop is a station or an entrance",
    "E016": "an added trip is in the schedule",
    "E017": "the content changed under the same header timestamp",
    "E018": "the header timestamp went back",
    "E019": "a trip by frequency does not start at a multiple of the headway",
    "E020": "the start time is not written as HH:MM:SS",
    "E021": "the start date is not written as YYYYMMDD",
    "E022": "times do not increase along the trip",
    "E023": "the start time is not that of the schedule",
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
    "E046": "a delay has no time, and the schedule has none either",
    "E048": "the header has no timestamp",
    "E049": "the header has no incrementality",
    "E050": "a timestamp is in the future",
    "E051": "the trip has no such stop sequence",
    "E052": "a vehicle id is not unique",
    "W001": "the trip has no timestamp",
    "W002": "the trip has no vehicle id",
    "W005": "a trip by frequency has no vehicle id",
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
    "X009": "the trip does not run on its start date",
    "X010": "an event is before the header's timestamp",
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
            if self._static.frequencies.get(update.trip.trip_id):
                yield "W005", ""
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
        yield from _check_past(update.stop_time_update, header_time)
        yield from self._check_delays(update.trip, update.stop_time_update)

    def _check_trip(self, trip: Any) -> Iterator[tuple[str, str]]:
        if not trip.trip_id:
            yield "W006", ""
        if not trip.HasField("schedule_relationship"):
            yield "W009", ""
        if trip.start_date and not _is_date(trip.start_date):
            yield "E021", trip.start_date
        if trip.start_time and not _is_time(trip.start_time):
            yield "E020", trip.start_time
        if trip.route_id and self._static.routes is not None and trip.route_id not in self._static.routes:
            yield "E004", trip.route_id
        scheduled = self._static.trips.get(trip.trip_id)
        if trip.schedule_relationship == TripDescriptor.ADDED:
            if scheduled is not None:
                yield "E016", trip.trip_id
            return
        if not trip.trip_id:
            return
        if scheduled is None:
            yield "E003", trip.trip_id
            return
        if trip.route_id and scheduled.route_id is not None and trip.route_id != scheduled.route_id:
            yield "E035", f"{trip.route_id}, not {scheduled.route_id}"
        if trip.HasField("direction_id") and scheduled.direction_id not in (None, trip.direction_id):
            yield "E024", f"{trip.direction_id}, not {scheduled.direction_id}"
        dates = self._static.dates
        if trip.start_date and dates is not None and trip.start_date not in dates.get(scheduled.service_id or "", ()):
            yield "X009", trip.start_date
        yield from self._check_start(trip)

    def _check_start(self, trip: Any) -> Iterator[tuple[str, str]]:
        """Compare the start of a trip with the schedule, or with the headways of a trip by frequency."""
        frequencies = self._static.frequencies.get(trip.trip_id, ())
        start = to_seconds(trip.start_time) if _is_time(trip.start_time) else None
        if not frequencies:
            rows = self._static.stop_times.get(trip.trip_id, ())
            due = {time for row in rows[:1] for time in (row.arrival, row.departure) if time is not None}
            if start is not None and due and start not in due:
                yield "E023", trip.start_time
            return
        if not (trip.start_date and trip.start_time):
            yield "E006", ""
        if not all(row.is_exact for row in frequencies):
            if trip.schedule_relationship != TripDescriptor.UNSCHEDULED:
                yield "E013", ""
        elif start is not None and not any(
            row.start <= start < row.end and (start - row.start) % row.headway == 0 for row in frequencies
        ):
            yield "E019", trip.start_time

    def _check_stops(self, trip: Any, updates: Iterable[Any]) -> Iterator[tuple[str, str]]:
        """Compare each update with the schedule of its trip."""
        rows = self._static.stop_times.get(trip.trip_id, ())
        by_sequence = {row.stop_sequence: row.stop_id for row in rows if row.stop_sequence is not None}
        position = -1
        for update in updates:
            yield from _check_update(update)
            if update.stop_id and update.stop_id not in self._static.stops:
                yield "E011", update.stop_id
            if update.stop_id in self._static.stations:
                yield "E015", update.stop_id
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
        if rows and self._static.frequencies.get(trip.trip_id) and _is_time(trip.start_time):
            # The stop times of a trip by frequency say how long after its start it is where.
            start += (to_seconds(trip.start_time) or 0) - (rows[0].departure or rows[0].arrival or 0)
        for update in updates:
            for name in ("arrival", "departure"):
                event = getattr(update, name)
                if not update.HasField(name) or not event.HasField("delay"):
                    continue
                due = [getattr(row, name) for row in rows if _is_same_visit(row, update)]
                if not event.HasField("time"):
                    if due and all(seconds is None for seconds in due):
                        yield "E046", f"{name} at {update.stop_id}"
                    continue
                delays = [event.time - start - seconds for seconds in due if seconds is not None]
                if delays and all(abs(event.delay - delay) > DELAY_TOLERANCE_SECONDS for delay in delays):
                    yield "X004", f"{name} at {update.stop_id}: {event.delay} s, not {delays}"


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


def _check_past(updates: Iterable[Any], header_time: int) -> Iterator[tuple[str, str]]:
    """Find events that would have happened before the feed was made, though they are predicted."""
    for update in updates:
        for event in (update.arrival, update.departure):
            if event.HasField("time") and event.time < header_time:
                yield "X010", f"{update.stop_id or update.stop_sequence}: {event.time} before {header_time}"


def _is_same_visit(row: StaticStopTime, update: Any) -> bool:
    """Return whether a row of the schedule is the visit of an update; without a stop sequence it may be several."""
    if update.HasField("stop_sequence"):
        return bool(row.stop_sequence == update.stop_sequence)
    return bool(row.stop_id == update.stop_id)


def _is_time(text: str) -> bool:
    """Return whether a text is a time as GTFS writes it."""
    return bool(re.fullmatch(r"\d{1,3}:[0-5]\d:[0-5]\d", text))


def _is_date(text: str) -> bool:
    """Return whether a text is a date as GTFS writes it."""
    if not re.fullmatch(r"\d{8}", text):
        return False
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True
