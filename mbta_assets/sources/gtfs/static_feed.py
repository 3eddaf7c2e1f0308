"""A static feed: trips, stops and stop times of a service day, as a GTFS zip has them.

Times stay seconds from noon minus twelve hours, and may exceed a day. Which edition of the feed is valid on a day is
up to `validity`, and turning rows into the tables of the contract to `source`.
"""

import io
import json
import re
import zipfile
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as arrow

from mbta_assets.sources.gtfs.archive import DAMAGED_ZIP
from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.gtfs.queries import query_tables
from mbta_assets.sources.gtfs.static_file import COLUMNS, DATE, Record, StaticFile, read_static_file, to_seconds
from mbta_assets.transit.service_day import TIME_ZONE

DERIVED = ("frequency", "frequent_trip", "stop_time", "trip_span")
"""Tables that are made of the files."""
FILES_OF_TABLE = {
    "schedule": ("stop_times", "frequencies"),
    "stop": ("stops",),
    "trip": ("trips", "calendar", "calendar_dates"),
}
"""Files whose rejected rows are listed with a table of the contract."""

_TABLE = re.compile(r"(?:FROM|JOIN)\s+(\w+)")
# Trips of the day in $day; a trip of frequencies.txt with exact times is one trip for each of its starts.
_ACTIVE_TRIPS = """
    WITH active AS (
      SELECT service_id FROM calendar
      WHERE start_date <= $day AND $day <= end_date AND {weekday} = '1'
      EXCEPT SELECT service_id FROM calendar_dates WHERE date = $day AND exception_type = '2'
      UNION SELECT service_id FROM calendar_dates WHERE date = $day AND exception_type = '1'
    ),
    day_trip AS (
      SELECT t.*, f.first_seconds, f.last_seconds,
        t.trip_id IN (SELECT trip_id FROM frequent_trip) AS repeats
      FROM trips AS t LEFT JOIN trip_span AS f USING (trip_id)
      WHERE t.service_id IN (SELECT service_id FROM active)
      QUALIFY ROW_NUMBER() OVER (PARTITION BY t.trip_id ORDER BY t.service_id) = 1
    ),
    run AS (
      SELECT trip_id, UNNEST(range(begins, ends, headway)) AS starts
      FROM frequency WHERE is_exact
    )
    SELECT trip_id AS id, trip_id, 0 AS shift, route_id, TRY_CAST(direction_id AS BIGINT) AS direction_id,
      trip_short_name AS name, trip_headsign AS headsign, COALESCE(opens, first_seconds) AS first_seconds,
      COALESCE(closes - first_seconds, 0) + last_seconds AS last_seconds, repeats
    FROM day_trip LEFT JOIN (
      SELECT trip_id, MIN(begins) AS opens, MAX(ends) AS closes FROM frequency GROUP BY trip_id
    ) USING (trip_id)
    UNION ALL BY NAME
    SELECT DISTINCT trip_id || '@' || {clock} AS id, trip_id, starts - first_seconds AS shift, route_id,
      TRY_CAST(direction_id AS BIGINT) AS direction_id, trip_short_name AS name, trip_headsign AS headsign,
      starts AS first_seconds, starts - first_seconds + last_seconds AS last_seconds, FALSE AS repeats
    FROM day_trip JOIN run USING (trip_id)
    ORDER BY id
"""
CLOCK = "printf('%02d:%02d:%02d', {0} // 3600, {0} // 60 % 60, {0} % 60)"
"""SQL for the time of some seconds, as in the id of a trip that repeats."""


class StaticFeed:
    """A static feed in memory; its files are read when they are needed."""

    def __init__(self, content: bytes, origin: str) -> None:
        """Open the zip. Raises StaticFeedError."""
        self.origin = origin
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except zipfile.BadZipFile as error:
            raise StaticFeedError(f"{origin} is no zip file, or damaged: {error}. Fetch it again.") from error

    def require_time_zone(self) -> None:
        """Raise StaticFeedError if agency.txt names another time zone than MBTA_TIME_ZONE."""
        zones = set(self._read("agency")["agency_timezone"].drop_null().to_pylist())
        if zones and TIME_ZONE not in zones:
            named = " and ".join(sorted(zones))
            raise StaticFeedError(
                f"agency.txt of {self.origin} has the time zone {named}, and MBTA_TIME_ZONE is {TIME_ZONE}. Set it to "
                f"{sorted(zones)[0]}, or MBTA_GTFS_STATIC to the feed of another agency."
            )

    def covers(self, day: date) -> bool:
        """Return whether the feed has a timetable for a day, if only that nothing runs. Raises StaticFeedError."""
        firsts, lasts = self._date_bounds
        return firsts <= f"{day:%Y%m%d}" <= lasts

    def has_service_around(self, day: date) -> bool:
        """Return whether a day is between the first and the last day of the calendars. Raises StaticFeedError."""
        first, last = self._calendar_bounds
        return first <= f"{day:%Y%m%d}" <= last

    @property
    def bounds(self) -> str:
        """Return the first and the last day of the timetable, in words."""
        return " to ".join(self._date_bounds)

    def trips(self, day: date) -> arrow.Table:
        """Return the trips of a service day, by id. Raises StaticFeedError.

        `trip_id` is the trip in the feed, which starts `shift` seconds later; `repeats` marks trips of frequencies.txt,
        which have no times of their own.
        """
        sql = _ACTIVE_TRIPS.format(weekday=f"{day:%A}".lower(), clock=CLOCK.format("starts"))
        return self.query(sql, {"day": f"{day:%Y%m%d}"})

    def stop_times(self, trips: arrow.Table) -> arrow.Table:
        """Return the stop times of some trips that have times of their own. Raises StaticFeedError."""
        sql = """
            SELECT t.id AS trip_id, s.stop_id, s.arrival + t.shift AS arrival, s.departure + t.shift AS departure,
              s.stop_sequence, s.timepoint
            FROM trip_of_day AS t JOIN stop_time AS s ON s.trip_id = t.trip_id
            WHERE NOT t.repeats
            ORDER BY t.id, s.stop_sequence
        """
        return self.query(sql, trip_of_day=trips)

    def stops(self) -> arrow.Table:
        """Return the stops at which vehicles stop: neither stations nor their entrances. Raises StaticFeedError."""
        return self.query("""
            SELECT stop_id AS id, stop_name AS name, COALESCE(platform_name, platform_code) AS platform_name,
              TRY_CAST(stop_lat AS DOUBLE) AS latitude, TRY_CAST(stop_lon AS DOUBLE) AS longitude, parent_station
            FROM stops WHERE COALESCE(location_type, '0') = '0'
            ORDER BY id
        """)

    def frequencies(self, trips: arrow.Table) -> list[dict[str, Any]]:
        """Return the rows of frequencies.txt of some trips that have no exact times. Raises StaticFeedError."""
        sql = """
            SELECT f.* FROM frequencies AS f JOIN trip_of_day AS t ON t.id = f.trip_id
            WHERE t.repeats AND COALESCE(f.exact_times, '0') <> '1'
            ORDER BY f.trip_id, f.start_time
        """
        rows: list[dict[str, Any]] = self.query(sql, trip_of_day=trips).to_pylist()
        return rows

    def rejected(self, table: str, trips: arrow.Table | None = None) -> list[Record]:
        """Return the rejected rows of the files of a table of the contract. Raises StaticFeedError.

        Rows of other trips than `trips`, those of a service day, are left out; those of trips that the feed does not
        have are not.
        """
        records = [record for name in FILES_OF_TABLE[table] for record in self._file(name).rejected]
        if trips is None or not records:
            return records
        inactive = set(self._read("trips")["trip_id"].to_pylist()) - set(trips["trip_id"].to_pylist())
        return [record for record in records if json.loads(record[2]).get("trip_id") not in inactive]

    def query(self, sql: str, parameters: dict[str, Any] | None = None, **tables: arrow.Table) -> arrow.Table:
        """Run SQL on the files, on those in `DERIVED`, and on further tables."""
        for name in set(_TABLE.findall(sql)) - set(tables):
            if name in COLUMNS:
                tables[name] = self._read(name)
            elif name in DERIVED:
                tables[name] = getattr(self, f"_{name}")
        return query_tables(sql, parameters, **tables)

    @cached_property
    def _stop_time(self) -> arrow.Table:
        rows = self._read("stop_times")
        for old, new in {"arrival_time": "arrival", "departure_time": "departure"}.items():
            rows = rows.append_column(new, to_seconds(rows[old]))
        sql = """
            SELECT trip_id, stop_id, arrival, departure, TRY_CAST(stop_sequence AS BIGINT) AS stop_sequence,
              TRY_CAST(timepoint AS BIGINT) AS timepoint
            FROM timed
        """
        return self.query(sql, timed=rows)

    @cached_property
    def _trip_span(self) -> arrow.Table:
        return self.query("""
            SELECT trip_id, MIN(COALESCE(departure, arrival)) AS first_seconds,
              MAX(COALESCE(arrival, departure)) AS last_seconds
            FROM stop_time GROUP BY trip_id
        """)

    @cached_property
    def _frequency(self) -> arrow.Table:
        rows = self._read("frequencies")
        for old, new in {"start_time": "begins", "end_time": "ends"}.items():
            rows = rows.append_column(new, to_seconds(rows[old]))
        sql = """
            SELECT trip_id, begins, ends, TRY_CAST(headway_secs AS BIGINT) AS headway,
              COALESCE(exact_times, '0') = '1' AS is_exact
            FROM timed
        """
        return self.query(sql, timed=rows)

    @cached_property
    def _frequent_trip(self) -> arrow.Table:
        """Trips of frequencies.txt, with those of rejected rows: none of them has times of its own."""
        rejected = [json.loads(row).get("trip_id") for _, _, row in self._file("frequencies").rejected]
        trips = [*self._read("frequencies")["trip_id"].to_pylist(), *filter(None, rejected)]
        return arrow.table({"trip_id": arrow.array(trips, arrow.string())})

    @cached_property
    def _date_bounds(self) -> tuple[str, str]:
        """First and last day as YYYYMMDD: of feed_info.txt, else, or where that has no such day, of the calendars."""
        [info] = self._read("feed_info").to_pylist()[:1] or [{}]
        stated = (info.get("feed_start_date") or "", info.get("feed_end_date") or "")
        first, last = (
            day if re.match(DATE, day) else of_calendars
            for day, of_calendars in zip(stated, self._calendar_bounds, strict=True)
        )
        return first, last

    @cached_property
    def _calendar_bounds(self) -> tuple[str, str]:
        """First and last day of the calendars as YYYYMMDD."""
        calendar, dates = self._read("calendar"), self._read("calendar_dates")
        firsts = [*calendar["start_date"].to_pylist(), *dates["date"].to_pylist()]
        lasts = [*calendar["end_date"].to_pylist(), *dates["date"].to_pylist()]
        return min(firsts, default="99991231"), max(lasts, default="00010101")

    def _read(self, table: str) -> arrow.Table:
        """Return the rows of a file that can be used. Raises StaticFeedError."""
        return self._file(table).rows

    def _file(self, table: str) -> StaticFile:
        if table not in self._files:
            path = f"{self._folder}{table}.txt"
            try:
                content = self._zip.read(path) if path in self._zip.namelist() else b""
            except DAMAGED_ZIP as error:
                raise StaticFeedError(f"{path} of {self.origin} is damaged: {error}. Fetch it again.") from error
            self._files[table] = read_static_file(content, table, self.origin)
        return self._files[table]

    @cached_property
    def _files(self) -> dict[str, StaticFile]:
        return {}

    @cached_property
    def _folder(self) -> str:
        """Folder of the feed in the zip: the one nearest to its root that has a trips.txt. Raises StaticFeedError."""
        paths = [name for name in self._zip.namelist() if name.rpartition("/")[2] == "trips.txt"]
        depth = min((path.count("/") for path in paths), default=0)
        folders = sorted({path.removesuffix("trips.txt") for path in paths if path.count("/") == depth})
        if len(folders) > 1:
            raise StaticFeedError(
                f"{self.origin} has several feeds, in {' and '.join(folders)}. Make a zip of the files of one of them."
            )
        return folders[0] if folders else ""
