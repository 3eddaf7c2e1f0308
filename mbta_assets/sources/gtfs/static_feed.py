"""A static feed: trips, stops and stop times of a service day, as a GTFS zip has them.

Times stay seconds from noon minus twelve hours, and may exceed a day. Which edition of the feed is valid on a day is
up to `validity`, and turning rows into the tables of the contract to `source`.
"""

import io
import re
import zipfile
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import csv

from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.transit.service_day import TIME_ZONE

COLUMNS = {
    "agency": ("agency_timezone",),
    "calendar": (
        *("service_id", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
        *("start_date", "end_date"),
    ),
    "calendar_dates": ("service_id", "date", "exception_type"),
    "feed_info": ("feed_start_date", "feed_end_date"),
    "frequencies": ("trip_id", "start_time", "end_time", "headway_secs", "exact_times"),
    "stop_times": ("trip_id", "arrival_time", "departure_time", "stop_id", "stop_sequence", "timepoint"),
    "stops": (
        *("stop_id", "stop_name", "platform_name", "platform_code", "stop_lat", "stop_lon"),
        *("location_type", "parent_station"),
    ),
    "trips": ("trip_id", "route_id", "service_id", "trip_short_name", "trip_headsign", "direction_id"),
}
"""Columns that are read of each file; one that is absent is missing in every row."""
REQUIRED_COLUMNS = {
    "stop_times": ("trip_id", "stop_id", "stop_sequence", "arrival_time"),
    "stops": ("stop_id",),
    "trips": ("trip_id", "route_id", "service_id"),
}
MAX_FREQUENT_TRIPS = 2000
"""Trips that one row of frequencies.txt may stand for."""

DERIVED = ("frequency", "stop_time", "trip_span")
"""Tables with numbers that are made of the files."""

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
        t.trip_id IN (SELECT trip_id FROM frequency) AS repeats
      FROM trips AS t LEFT JOIN trip_span AS f USING (trip_id)
      WHERE t.service_id IN (SELECT service_id FROM active)
      QUALIFY ROW_NUMBER() OVER (PARTITION BY t.trip_id ORDER BY t.service_id) = 1
    ),
    run AS (
      SELECT trip_id, UNNEST(range(begins, ends, headway)) AS starts
      FROM frequency WHERE is_exact AND headway > 0 AND (ends - begins) / headway <= {most_runs}
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

    @property
    def bounds(self) -> str:
        """Return the first and the last day of the timetable, in words."""
        return " to ".join(self._date_bounds)

    def trips(self, day: date) -> arrow.Table:
        """Return the trips of a service day, by id. Raises StaticFeedError.

        `trip_id` is the trip in the feed, which starts `shift` seconds later; `repeats` marks trips of frequencies.txt,
        which have no times of their own.
        """
        sql = _ACTIVE_TRIPS.format(
            weekday=f"{day:%A}".lower(), clock=CLOCK.format("starts"), most_runs=MAX_FREQUENT_TRIPS
        )
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
            FROM stops WHERE COALESCE(location_type, '0') = '0' AND stop_id IS NOT NULL
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

    def query(self, sql: str, parameters: dict[str, Any] | None = None, **tables: arrow.Table) -> arrow.Table:
        """Run SQL on the files, on `stop_time`, `trip_span` and `frequency`, and on further tables."""
        import duckdb  # takes a tenth of a second to import; the code location imports this module and must load fast

        with duckdb.connect() as connection:
            for name in set(_TABLE.findall(sql)):
                if name in tables:
                    connection.register(name, tables[name])
                elif name in COLUMNS:
                    connection.register(name, self._read(name))
                elif name in DERIVED:
                    connection.register(name, getattr(self, f"_{name}"))
            return connection.execute(sql, parameters or {}).to_arrow_table()

    @cached_property
    def _stop_time(self) -> arrow.Table:
        seconds = (
            "TRY_CAST(split_part({0}, ':', 1) AS BIGINT) * 3600 + TRY_CAST(split_part({0}, ':', 2) AS BIGINT) * 60 "
            "+ TRY_CAST(split_part({0}, ':', 3) AS BIGINT)"
        )
        return self.query(f"""
            SELECT trip_id, stop_id, {seconds.format("arrival_time")} AS arrival,
              {seconds.format("departure_time")} AS departure, TRY_CAST(stop_sequence AS BIGINT) AS stop_sequence,
              TRY_CAST(timepoint AS BIGINT) AS timepoint
            FROM stop_times WHERE trip_id IS NOT NULL AND stop_id IS NOT NULL
        """)

    @cached_property
    def _trip_span(self) -> arrow.Table:
        return self.query("""
            SELECT trip_id, MIN(COALESCE(departure, arrival)) AS first_seconds,
              MAX(COALESCE(arrival, departure)) AS last_seconds
            FROM stop_time GROUP BY trip_id
        """)

    @cached_property
    def _frequency(self) -> arrow.Table:
        seconds = "list_sum(list_transform(split({0}, ':'), (x, i) -> CAST(x AS BIGINT) * 60 ** (3 - i)))"
        return self.query(f"""
            SELECT trip_id, CAST({seconds.format("start_time")} AS BIGINT) AS begins,
              CAST({seconds.format("end_time")} AS BIGINT) AS ends, TRY_CAST(headway_secs AS BIGINT) AS headway,
              COALESCE(exact_times, '0') = '1' AS is_exact
            FROM frequencies
        """)

    @cached_property
    def _date_bounds(self) -> tuple[str, str]:
        """First and last day as YYYYMMDD: of feed_info.txt, else of the calendars."""
        info = self._read("feed_info").to_pylist()[:1]
        calendar, dates = self._read("calendar"), self._read("calendar_dates")
        firsts = [*calendar["start_date"].to_pylist(), *dates["date"].to_pylist()]
        lasts = [*calendar["end_date"].to_pylist(), *dates["date"].to_pylist()]
        first = (info and info[0]["feed_start_date"]) or min(filter(None, firsts), default="99991231")
        last = (info and info[0]["feed_end_date"]) or max(filter(None, lasts), default="00010101")
        return first, last

    def _read(self, table: str) -> arrow.Table:
        """Read a file as text, its columns in `COLUMNS`, padding removed, empty as missing. Raises StaticFeedError."""
        if table not in self._tables:
            self._tables[table] = self._parse(table)
        return self._tables[table]

    @cached_property
    def _tables(self) -> dict[str, arrow.Table]:
        return {}

    def _parse(self, table: str) -> arrow.Table:
        path = next((name for name in self._zip.namelist() if name.rpartition("/")[2] == f"{table}.txt"), None)
        types = dict.fromkeys(COLUMNS[table], arrow.string())
        content = self._zip.read(path) if path else b""
        header = content.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode(errors="replace")
        names = [name.strip().strip('"').strip() for name in header.split(",")]
        missing = [name for name in REQUIRED_COLUMNS.get(table, ()) if name not in names]
        if missing:
            raise StaticFeedError(
                f"{table}.txt of {self.origin} has no {', '.join(missing)}, but {', '.join(filter(None, names))}. "
                "Check that it is a GTFS schedule."
            )
        if not content.strip() or b"\n" not in content.strip():
            return arrow.schema(types.items()).empty_table()
        convert = csv.ConvertOptions(
            column_types=types, include_columns=list(types), include_missing_columns=True, strings_can_be_null=True
        )
        parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip")
        rows = None
        for encoding in ("utf8", "latin1"):
            read = csv.ReadOptions(column_names=names, skip_rows=1, encoding=encoding)
            try:
                rows = csv.read_csv(io.BytesIO(content), read, parse, convert)
                break
            except arrow.ArrowInvalid as error:
                problem = error
        if rows is None:
            raise StaticFeedError(f"{table}.txt of {self.origin} cannot be read: {problem}. Fetch it again.")
        trimmed = [pc.utf8_trim_whitespace(rows[name]) for name in types]
        columns = [pc.if_else(pc.equal(column, ""), None, column) for column in trimmed]
        return arrow.table(dict(zip(types, columns, strict=True)))
