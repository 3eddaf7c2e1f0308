"""To which service day and trip a report belongs.

A report is of the service day in its `start_date`. Without one it is of the day on which its trip runs at about that
time, and else of the day on which its time falls; with a time that is none, such as one in milliseconds, of the day
that is read, where it is rejected. A trip id that is missing is that of the only trip of its route and
direction that starts then. A trip that repeats, as frequencies.txt says, is told apart by its start, `trip@08:30:00`.
An added, duplicated or canceled trip that has the id of a scheduled one gets another, `ADDED-trip`: its times are not
those of the timetable.
"""

from collections.abc import Callable
from datetime import date, timedelta
from functools import cached_property

import pyarrow as arrow
import pyarrow.compute as pc

from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.gtfs.feed_rows import TRIP, number_rows
from mbta_assets.sources.gtfs.queries import query_tables
from mbta_assets.sources.gtfs.static_feed import CLOCK, StaticFeed
from mbta_assets.transit.service_day import service_date_at, start_time, to_time

MAX_SECONDS_FROM_TRIP = 6 * 3600
"""A report without a start date that is further from a trip's scheduled times is of no run of that day."""
QUARTER_SECONDS = 900

# The stops of one update of a trip have the same trip and time: `report` has them once.
_RESOLVE = f"""
    WITH grouped AS (
      SELECT *, MIN(row) OVER (
        PARTITION BY trip_id, route_id, direction_id, start_date, start_seconds, trip_relationship, reported_at
      ) AS first_row
      FROM reports
    ),
    report AS (SELECT * FROM grouped WHERE row = first_row),
    candidate AS (
      SELECT r.row, a.service_date,
        GREATEST(0, a.starts + a.first_seconds - r.reported_at, r.reported_at - a.starts - a.last_seconds) AS distance
      FROM report AS r JOIN active AS a
        ON a.trip_id = r.trip_id AND abs(date_diff('day', r.day, a.service_date)) <= 1
      WHERE r.start_date IS NULL AND a.first_seconds IS NOT NULL
      QUALIFY ROW_NUMBER() OVER (
        PARTITION BY r.row ORDER BY distance, abs(date_diff('day', r.day, a.service_date)), a.service_date
      ) = 1
    ),
    dated AS (
      SELECT r.*, COALESCE(r.start_date, IF(c.distance <= {MAX_SECONDS_FROM_TRIP}, c.service_date, NULL), r.day)
        AS service_date
      FROM report AS r LEFT JOIN candidate AS c USING (row)
    ),
    only_one AS (
      SELECT d.row, MIN(a.trip_id) AS trip_id
      FROM dated AS d JOIN active AS a ON a.service_date = d.service_date AND a.route_id = d.route_id
        AND a.first_seconds = d.start_seconds AND (d.direction_id IS NULL OR a.direction_id = d.direction_id)
      WHERE d.trip_id IS NULL AND d.trip_relationship = 'SCHEDULED'
      GROUP BY d.row HAVING COUNT(DISTINCT a.trip_id) = 1
    ),
    named AS (
      SELECT d.row, d.service_date, d.trip_relationship, d.start_seconds, COALESCE(d.trip_id, o.trip_id) AS trip_id
      FROM dated AS d LEFT JOIN only_one AS o USING (row)
    )
    SELECT g.row, n.service_date,
      CASE
        WHEN a.trip_id IS NULL THEN n.trip_id
        WHEN n.trip_relationship NOT IN ('SCHEDULED', 'UNSCHEDULED') OR (
          n.trip_relationship = 'UNSCHEDULED' AND NOT a.is_frequent
        ) THEN n.trip_relationship || '-' || n.trip_id
        WHEN a.is_frequent AND n.start_seconds IS NOT NULL
          THEN n.trip_id || '@' || {CLOCK.format("n.start_seconds")}
        ELSE n.trip_id
      END AS trip_id,
      a.trip_id AS timetable_trip_id, a.route_id, a.direction_id
    FROM grouped AS g JOIN named AS n ON n.row = g.first_row LEFT JOIN (
      SELECT trip_id, service_date, ANY_VALUE(route_id) AS route_id, ANY_VALUE(direction_id) AS direction_id,
        BOOL_OR(is_frequent) AS is_frequent
      FROM active GROUP BY ALL
    ) AS a ON a.trip_id = n.trip_id AND a.service_date = n.service_date
    ORDER BY g.row
"""


class TripResolver:
    """Tells the trips of reports with times around a service day."""

    def __init__(self, day: date, find_feed: Callable[[date], StaticFeed]) -> None:
        """Resolve reports around a day; `find_feed` returns the static feed that is valid on a day."""
        self._day, self._find_feed = day, find_feed

    def resolve(self, reports: arrow.Table) -> arrow.Table:
        """Return `service_date` and `trip_id` of each report (n rows, in order).

        `reports` has the columns of `feed_rows.TRIP` and `reported_at` in epoch seconds. `timetable_trip_id` is the
        trip in the static feed, missing where it has none; `route_id` and `direction_id` are those of the timetable.
        Raises the errors of `find_feed`.
        """
        columns = [*TRIP.names, "reported_at"]
        days = _find_days(reports["reported_at"], otherwise=self._day)
        rows = number_rows(reports.select(columns)).append_column("day", days)
        return query_tables(_RESOLVE, reports=rows, active=self._active)

    @cached_property
    def stop_times(self) -> arrow.Table:
        """Return the stop times of the day. Raises the errors of `find_feed`."""
        feed = self._find_feed(self._day)
        return feed.stop_times(feed.trips(self._day))

    @cached_property
    def _active(self) -> arrow.Table:
        days = [self._day + timedelta(days=n) for n in (-1, 0, 1)]
        tables = [list_active_trips(near, self._find_feed, required=near == self._day) for near in days]
        return arrow.concat_tables(tables)


def list_active_trips(day: date, find_feed: Callable[[date], StaticFeed], *, required: bool) -> arrow.Table:
    """Return the trips of a day with the epoch seconds from which their times count; none if it has no timetable.

    Raises StaticFeedError if a timetable is required.
    """
    try:
        trips = find_feed(day).trips(day)
    except StaticFeedError:
        if required:
            raise
        return ACTIVE.empty_table()
    n = len(trips)
    columns = {
        "service_date": arrow.array([day] * n, arrow.date32()),
        "starts": arrow.array([int(start_time(day).timestamp())] * n, arrow.int64()),
        "is_frequent": pc.or_(trips["repeats"], pc.not_equal(trips["id"], trips["trip_id"])),
    }
    names = [name for name in ACTIVE.names if name not in columns]
    return arrow.table(columns | {name: trips[name] for name in names}).cast(ACTIVE)


ACTIVE = arrow.schema(
    [
        ("service_date", arrow.date32()),
        ("starts", arrow.int64()),
        ("is_frequent", arrow.bool_()),
        ("trip_id", arrow.string()),
        ("route_id", arrow.string()),
        ("direction_id", arrow.int64()),
        ("first_seconds", arrow.int64()),
        ("last_seconds", arrow.int64()),
    ]
)


def _find_days(times: arrow.ChunkedArray, otherwise: date) -> arrow.Array:
    """Return the service day on which each time in epoch seconds falls, another for those that are no times."""
    quarters = pc.divide(times, QUARTER_SECONDS)  # every time zone begins its hours at a quarter of UTC's
    distinct = pc.unique(quarters)
    begins = [to_time(quarter * QUARTER_SECONDS) for quarter in distinct.to_pylist()]
    days = [otherwise if begin is None else service_date_at(begin) for begin in begins]
    return arrow.array(days, arrow.date32()).take(pc.index_in(quarters, value_set=distinct).combine_chunks())
