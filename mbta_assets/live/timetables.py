"""The timetables of running service days, read from the configured source.

A day that begins soon is read in the background. Where a timetable cannot be read, that is a problem which health
reports, and it is tried again.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, timedelta
from typing import Any, TypeVar

import pandas as pd
import pyarrow as arrow

from mbta_assets.gcp import CloudError
from mbta_assets.realtime.places import ArchiveError
from mbta_assets.serving import Stop, StopTime, Timetable, Trip, VehicleUpdate, logs
from mbta_assets.serving.timetable import NO_FREQUENCY_TRIPS, FrequencyTrip
from mbta_assets.sources import Source, SourceError
from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets.sources.gtfs.trip_index import ActiveDay, TripIndex, format_clock
from mbta_assets.sources.gtfs.trips import ACTIVE, list_active_trips
from mbta_assets.transit.service_day import start_time

RETRY_SECONDS = 60.0
"""Time after a failure in which a timetable is not read again."""
CHECK_SECONDS = 300.0
"""Time after which the timetable of a day is compared with the source's."""
DAYS_IN_MEMORY = 5
ONE_DAY = timedelta(days=1)
Record = TypeVar("Record", StopTime, Stop, Trip, VehicleUpdate)


@dataclass
class _Stored:
    timetable: Timetable | None
    version: str
    checked_at: float


class Timetables:
    """Timetables and trip indexes by service day."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stored: dict[date, _Stored] = {}
        self._active: dict[date, tuple[str, ActiveDay]] = {}
        self._indexes: dict[date, tuple[tuple[str, ...], TripIndex]] = {}
        self._threads: dict[date, threading.Thread] = {}
        self._lock = threading.Lock()
        self.problems: dict[date, str] = {}
        """Why a timetable cannot be read, by service day."""

    def read(self, service_date: date) -> Timetable | None:
        """Return the timetable of a day, the same object until the source has another; None if it cannot be read.

        Only the first time of a day waits until it is read; later it is compared with the source's in the background.
        """
        stored = self._stored.get(service_date)
        if stored is None:
            self.read_ahead(service_date).join()
            stored = self._stored.get(service_date)
        else:
            pause = RETRY_SECONDS if stored.timetable is None else CHECK_SECONDS
            if time.monotonic() - stored.checked_at >= pause:
                self.read_ahead(service_date)
        return stored.timetable if stored else None

    def read_ahead(self, service_date: date) -> threading.Thread:
        """Read the timetable of a day in the background, in one thread at a time, and return that."""
        with self._lock:
            thread = self._threads.get(service_date)
            if thread is None:
                thread = threading.Thread(target=self._refresh, args=[service_date], name="timetable", daemon=True)
                self._threads[service_date] = thread
                thread.start()
            return thread

    def _refresh(self, service_date: date) -> None:
        """Read the timetable of a day, unless the stored one is still the source's."""
        stored = self._stored.get(service_date)
        timetable, version = (stored.timetable, stored.version) if stored else (None, "")
        problem = None
        try:
            current = self._describe_version(service_date)
            if timetable is None or current != version:
                timetable, version = self._load(service_date), current
        except (SourceError, StaticFeedError, ArchiveError, CloudError) as error:
            problem = str(error)
        except Exception as error:
            logs.write_exception("reading a timetable failed", error, service_date=service_date)
            problem = f"Reading the timetable of {service_date} failed unexpectedly. {type(error).__name__}: {error}"
        with self._lock:
            self._stored[service_date] = _Stored(timetable, version, time.monotonic())
            self.problems = {day: text for day, text in self.problems.items() if day != service_date}
            if problem is not None:
                self.problems[service_date] = problem
            for day in sorted(self._stored)[:-DAYS_IN_MEMORY]:
                del self._stored[day]
                self.problems.pop(day, None)
            del self._threads[service_date]

    def index(self, service_date: date) -> TripIndex:
        """Return the index of the trips of a day and of the days before and after it."""
        days = [service_date + n * ONE_DAY for n in (-1, 0, 1)]
        versions = tuple(self._stored[day].version if day in self._stored else "" for day in days)
        stored = self._indexes.get(service_date)
        if stored is None or stored[0] != versions:
            stored = versions, TripIndex([self._index_day(day, of) for day, of in zip(days, versions, strict=True)])
            self._indexes[service_date] = stored
            for day in sorted(self._indexes)[:-DAYS_IN_MEMORY]:
                del self._indexes[day]
                self._active.pop(day, None)
        return stored[1]

    def _index_day(self, day: date, version: str) -> ActiveDay:
        if day not in self._active or self._active[day][0] != version:
            self._active[day] = version, ActiveDay(day, self._list_active(day))
        return self._active[day][1]

    def _list_active(self, day: date) -> arrow.Table:
        """Return the trips of a day as `ACTIVE`; none if it has no timetable."""
        if isinstance(self._source, GtfsSource):
            feeds = self._source.static_feeds
            try:
                return list_active_trips(day, lambda of: feeds.find(of)[1], required=False)
            except (ArchiveError, CloudError):
                return ACTIVE.empty_table()
        timetable = self._stored[day].timetable if day in self._stored else None
        return ACTIVE.empty_table() if timetable is None else _to_active(timetable)

    def _describe_version(self, day: date) -> str:
        if isinstance(self._source, GtfsSource):
            return self._source.static_feeds.describe_version(day)
        return "stored"

    def _load(self, day: date) -> Timetable:
        tables = {table: self._source.read(table, day).rows for table in ("schedule", "stop", "trip")}
        return Timetable(
            day,
            make_records(tables["schedule"], StopTime),
            make_records(tables["stop"], Stop),
            make_records(tables["trip"], Trip),
            self._list_frequency_trips(day),
        )

    def _list_frequency_trips(self, day: date) -> Mapping[str, FrequencyTrip]:
        """Return what identifies the trips of frequencies.txt of a day, by id."""
        if not isinstance(self._source, GtfsSource):
            return NO_FREQUENCY_TRIPS
        trips = self._source.static_feeds.find(day)[1].trips(day)
        names, feed_names, starts = (trips[name].to_pylist() for name in ("id", "trip_id", "first_seconds"))
        return {
            name: FrequencyTrip(feed_name, format_clock(start))
            for name, feed_name, start in zip(names, feed_names, starts, strict=True)
            if name != feed_name
        }


def make_records(rows: pd.DataFrame, record_type: type[Record]) -> Iterator[Record]:
    """Yield the rows of an upstream table as records, in their order."""
    names = [field.name for field in fields(record_type) if field.name in rows]
    columns = []
    for name in names:
        values = rows[name].astype(object).where(rows[name].notna(), None)
        is_time = isinstance(rows[name].dtype, pd.DatetimeTZDtype)
        columns.append([v.to_pydatetime() if is_time and v is not None else v for v in values])
    return (record_type(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


def _to_active(timetable: Timetable) -> arrow.Table:
    """Return the trips of a timetable as `ACTIVE`."""
    start = start_time(timetable.service_date)
    rows: list[dict[str, Any]] = []
    for trip_id, trip in timetable.trips.items():
        if trip_id is None:
            continue
        scheduled = timetable.scheduled_trips.get(trip_id)
        times = (scheduled.first_time, scheduled.last_time) if scheduled else (None, None)
        first, last = (None if time is None else int((time - start).total_seconds()) for time in times)
        rows.append(
            {
                "service_date": timetable.service_date,
                "starts": int(start.astimezone(UTC).timestamp()),
                "is_frequent": False,
                "trip_id": trip_id,
                "route_id": trip.route_id,
                "direction_id": trip.direction_id,
                "first_seconds": first,
                "last_seconds": last,
            }
        )
    return arrow.Table.from_pylist(rows, ACTIVE)
