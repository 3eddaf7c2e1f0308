"""The `gtfs` source: service days of any agency, from its static feed and from the archive of its realtime feeds.

A day is read from the snapshots that were made from its start, noon minus twelve hours, until it has been over for a
few hours: a trip may end after the day has. Snapshots are read by `archive`, trips told by `trips`; this module puts
them into the columns of the contract.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc

from mbta_assets.realtime.feed import FeedError, parse_feed
from mbta_assets.realtime.places import ArchiveError, Place, open_feed_archive
from mbta_assets.settings import Settings
from mbta_assets.sources.conform import conform
from mbta_assets.sources.contract import (
    AbsentData,
    Fault,
    Source,
    SourceError,
    SourceRows,
    absent_day_fault,
    translate_faults,
)
from mbta_assets.sources.gtfs.alterations import Alterations, find_alterations
from mbta_assets.sources.gtfs.archive import MAX_BATCH_SECONDS, FeedArchive, FetchedSnapshot, Piece, UnreadablePiece
from mbta_assets.sources.gtfs.day_rows import DayRows
from mbta_assets.sources.gtfs.editions import Editions, StaticFeedError
from mbta_assets.sources.gtfs.feed_rows import RowBuilder, number_rows
from mbta_assets.sources.gtfs.static_feed import StaticFeed
from mbta_assets.sources.gtfs.static_file import Record
from mbta_assets.sources.gtfs.trips import TripResolver
from mbta_assets.sources.gtfs.validity import StaticFeeds
from mbta_assets.sources.rejection import describe_rows
from mbta_assets.transit.plausibility import SERVICE_DAY_HOURS
from mbta_assets.transit.service_day import service_date_at, start_time, to_time

NAME = "gtfs"
FEED_OF_TABLE = {"vehicle": "vehicle_positions", "schedule": "trip_updates", "agency_predictions": "trip_updates"}
"""Feeds on whose snapshots a table depends beside the static feed."""
TIMESTAMP = arrow.timestamp("us", "UTC")
UNREADABLE_SNAPSHOT, FREQUENCY_BASED = "unreadable_snapshot", "frequency_based"
"""Reasons of rejected rows beside those of `rejection` and `alterations`. A trip of frequencies.txt without exact times
has no scheduled times that a delay could be measured from."""
SETTLED_DAYS = 3
"""Days after which a batch of the collector no longer comes to a service day."""
DIGEST_DIGITS = 16
BATCH_ROWS = 300_000
"""Rows of snapshots that are in memory at once."""
ONE_DAY = timedelta(days=1)

# Queries on one batch, whose rows are numbered from $first_row, and on the rows of all batches.
_VEHICLES = """
    SELECT p.row + $first_row AS row, p.vehicle_id AS id, p.reported_at, p.current_status, p.latitude, p.longitude,
      COALESCE(p.stop_id, s.stop_id) AS stop_id, r.trip_id, COALESCE(p.route_id, r.route_id) AS route_id,
      COALESCE(p.direction_id, r.direction_id) AS direction_id, p.current_stop_sequence, p.bearing, p.speed,
      p.occupancy_status, p.stop_id AS said_stop, p.route_id AS said_route, p.direction_id AS said_direction
    FROM positions AS p
    JOIN resolved AS r USING (row)
    LEFT JOIN stop_times AS s
      ON p.stop_id IS NULL AND s.trip_id = r.trip_id AND s.stop_sequence = p.current_stop_sequence
    WHERE r.service_date = $day
"""
_DISTINCT_VEHICLES = """
    SELECT * EXCLUDE (row, said_stop, said_route, said_direction) FROM day_rows
    QUALIFY ROW_NUMBER() OVER (
      PARTITION BY id, reported_at, current_status, latitude, longitude, said_stop, trip_id, said_route, said_direction,
        current_stop_sequence, bearing, speed, occupancy_status
      ORDER BY row
    ) = 1
    ORDER BY reported_at, id, row
"""
# A prediction by delay alone counts from the timetable.
_PREDICTIONS = """
    WITH predicted AS (
      SELECT u.row + $first_row AS row, u.reported_at, r.trip_id, COALESCE(u.stop_id, s.stop_id) AS stop_id,
        COALESCE(u.stop_sequence, s.stop_sequence) AS stop_sequence, u.uncertainty,
        COALESCE(u.arrival, s.arrival + $start + u.arrival_delay) AS arrival,
        COALESCE(u.departure, s.departure + $start + u.departure_delay) AS departure
      FROM updates AS u
      JOIN resolved AS r USING (row)
      LEFT JOIN stop_times AS s
        ON s.trip_id = r.trip_id AND COALESCE(s.stop_sequence = u.stop_sequence, s.stop_id = u.stop_id)
      WHERE r.service_date = $day AND u.stop_relationship = 'SCHEDULED'
      QUALIFY ROW_NUMBER() OVER (PARTITION BY u.row ORDER BY s.stop_sequence) = 1
    )
    SELECT * FROM predicted WHERE COALESCE(arrival, departure) IS NOT NULL
"""
# A prediction that an update repeats in other words is said once.
_CHANGED_PREDICTIONS = """
    SELECT * EXCLUDE (row) FROM day_rows
    QUALIFY (arrival, departure) IS DISTINCT FROM LAG((arrival, departure)) OVER (
      PARTITION BY trip_id, stop_id, stop_sequence ORDER BY reported_at, row
    )
    ORDER BY reported_at, trip_id, stop_sequence, row
"""


class GtfsSource(Source):
    """Source of an agency's static feed and archived realtime feeds."""

    name = NAME
    optional_tables = frozenset({"agency_predictions"})

    def __init__(self, archive: Place, static_feed: str) -> None:
        """Read an archive; `static_feed` is the path or address that MBTA_GTFS_STATIC names."""
        self.archive = FeedArchive(archive)
        self.static_feeds = StaticFeeds(Editions(archive), static_feed)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source of the archive in the settings."""
        return cls(open_feed_archive(settings), settings.gtfs_static)

    def read(self, table: str, service_date: date) -> SourceRows:
        """Read all rows of a table on a service day: those that can be used, and those that are rejected.

        A day without a snapshot of TripUpdates has no `agency_predictions`. Raises SourceError where the table as a
        whole cannot be used, and CloudError where the archive is a bucket that cannot be read.
        """
        with _translate_errors(table, service_date):
            if table == "vehicle":
                return self._read_vehicles(service_date)
            if table == "agency_predictions":
                return self._read_predictions(service_date)
            feed = self._find_feed(service_date)
            if table == "schedule":
                return self._read_schedule(service_date, feed)
            if table == "stop":
                rows = feed.stops()
            else:
                rows = feed.trips(service_date).select(["id", "name", "route_id", "direction_id", "headsign"])
            return _add_rejected(_conform(table, rows, service_date), table, service_date, feed.rejected(table))

    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day that is over and that the archive has snapshots of.

        A day is over when no trip of it is expected to run any more, some hours after it has ended. The version has
        the digest of the static feed, and for tables with realtime data one of the names of their snapshots. A day that
        was settled long ago keeps its known version unless others make the archive. Raises SourceError or CloudError.
        """
        with _translate_errors(table, None):
            ended = datetime.now(UTC) - timedelta(hours=SERVICE_DAY_HOURS)
            settled = (ended - SETTLED_DAYS * ONE_DAY).date()
            versions = self._keep_settled(known_versions, settled)
            feed = FEED_OF_TABLE.get(table)
            pieces = self._group_pieces(feed, versions) if feed else {}
            days = pieces if table == "agency_predictions" else self._group_pieces("vehicle_positions", versions)
            for day in days:
                if start_time(day) > ended:
                    continue
                try:
                    parts = [self.static_feeds.describe_version(day)]
                except StaticFeedError:
                    continue  # the tables of the day cannot be read yet
                parts += [piece.version for piece in pieces.get(day, [])]
                versions[day] = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGEST_DIGITS]
            return versions

    def _find_feed(self, day: date) -> StaticFeed:
        return self.static_feeds.find(day)[1]

    def _read_vehicles(self, day: date) -> SourceRows:
        rows, unreadable = self._select_vehicles(day)
        return _add_rejected(_conform("vehicle", rows, day), "vehicle", day, unreadable)

    def _select_vehicles(self, day: date) -> tuple[arrow.Table, list[Record]]:
        """Return the reports of a day, and records of snapshots that cannot be read."""
        unreadable: list[Record] = []
        resolver, first_row = TripResolver(day, self._find_feed), 0
        with DayRows() as day_rows:
            for positions, _ in self._read_batches("vehicle_positions", day, unreadable):
                lacks_stop = positions["stop_id"].null_count > 0
                day_rows.insert(
                    _VEHICLES,
                    {"day": day, "first_row": first_row},
                    positions=number_rows(positions),
                    resolved=resolver.resolve(positions),
                    stop_times=resolver.stop_times if lacks_stop else _NO_STOP_TIMES,
                )
                first_row += len(positions)
            rows = day_rows.select(_DISTINCT_VEHICLES)
        return _with_times(rows, {"reported_at": "updated_at"}), unreadable

    def _read_predictions(self, day: date) -> SourceRows:
        table = "agency_predictions"
        try:
            rows, unreadable = self._select_predictions(day)
        except AbsentData:
            return SourceRows.empty(table)
        return _add_rejected(_conform(table, rows, day), table, day, unreadable)

    def _select_predictions(self, day: date) -> tuple[arrow.Table, list[Record]]:
        """Return the predictions of a day, and records of snapshots that cannot be read."""
        unreadable: list[Record] = []
        resolver, first_row = TripResolver(day, self._find_feed), 0
        with DayRows() as day_rows:
            for _, updates in self._read_batches("trip_updates", day, unreadable):
                day_rows.insert(
                    _PREDICTIONS,
                    {"day": day, "start": int(start_time(day).timestamp()), "first_row": first_row},
                    updates=number_rows(updates),
                    resolved=resolver.resolve(updates),
                    stop_times=resolver.stop_times,
                )
                first_row += len(updates)
            rows = day_rows.select(_CHANGED_PREDICTIONS)
        names = {"reported_at": "predicted_at", "arrival": "arrival_time", "departure": "departure_time"}
        return _with_times(rows, names), unreadable

    def _read_schedule(self, day: date, feed: StaticFeed) -> SourceRows:
        """Return the stop times of the day but for canceled trips, skipped stops and trips without exact times."""
        trips = feed.trips(day)
        stop_times = feed.stop_times(trips)
        alterations = self._read_alterations(day)
        resolved = TripResolver(day, self._find_feed).resolve(alterations)
        altered = find_alterations(stop_times, alterations, resolved, day)
        rejected = zip(altered["reason"].to_pylist(), stop_times.take(altered["row"]).to_pylist(), strict=True)
        records = feed.rejected("schedule", trips)
        records += [(reason, None, json.dumps(row)) for reason, row in rejected]
        records += [(FREQUENCY_BASED, None, json.dumps(row)) for row in feed.frequencies(trips)]
        if len(altered):
            usable = np.ones(len(stop_times), dtype=bool)
            usable[altered["row"].to_numpy()] = False
            stop_times = stop_times.filter(arrow.array(usable))
        start = int(start_time(day).timestamp())
        for name in ("arrival", "departure"):
            index = stop_times.column_names.index(name)
            stop_times = stop_times.set_column(index, name, pc.add(stop_times[name], start))
        rows = _with_times(stop_times, {"arrival": "arrival_time", "departure": "departure_time"})
        return _add_rejected(_conform("schedule", rows, day), "schedule", day, records)

    def _read_batches(
        self, feed: str, day: date, unreadable: list[Record]
    ) -> Iterator[tuple[arrow.Table, arrow.Table]]:
        """Yield the vehicle positions and stop time updates of the snapshots of a day, some of them at a time.

        Records of snapshots that cannot be read are added to `unreadable`. Raises Fault if none can be read.
        """
        builder, n_read = RowBuilder(), 0
        for snapshot in self.archive.read_snapshots(feed, *_window(day)):
            try:
                if isinstance(snapshot, UnreadablePiece):
                    raise FeedError(snapshot.problem)
                builder.add(parse_feed(snapshot.content, snapshot.place), snapshot.fetched_at)
                n_read += 1
            except FeedError as error:
                unreadable.append((UNREADABLE_SNAPSHOT, None, json.dumps({"problem": str(error)})))
            if len(builder) >= BATCH_ROWS:
                yield builder.take()
        if not n_read and unreadable:
            first = json.loads(unreadable[0][2])["problem"]
            raise Fault(f"none of the {len(unreadable)} snapshots can be read; the first: {first}", "Restore them")
        if not n_read:
            days = list(self._group_pieces(feed))
            problem = f"there is no snapshot of {feed} in {self.archive.place.name}"
            raise absent_day_fault(days, problem, "Run `mbta-assets collect`, or set MBTA_FEED_ARCHIVE")
        yield builder.take()

    def _read_alterations(self, day: date) -> arrow.Table:
        """Return what the TripUpdates of a day alter; of each batch the last snapshot is read."""
        alterations = Alterations()
        for piece in self.archive.find_pieces("trip_updates", *_window(day)):
            try:
                last: FetchedSnapshot = self.archive.read_piece(piece)[-1]
                alterations.add(parse_feed(last.content, last.place), last.fetched_at)
            except (ArchiveError, FeedError):
                continue  # it is reported where its predictions or positions are read
        return alterations.to_table()

    def _group_pieces(self, feed: str, skipped: Collection[date] = ()) -> dict[date, list[Piece]]:
        """Return the parts of the archive by service day, without some days.

        A part that falls on the hours after a service day is of that day and of the next one; a day of which there are
        only those hours is left out.
        """
        begin = 0.0
        if not self.archive.list_other_files():
            # Batches of a day (UTC) are of the service day of that date or of the one before.
            days = [day for day in self.archive.list_days(feed) if not {day - ONE_DAY, day} <= set(skipped)]
            if not days:
                return {}
            begin = _window(min(days) - ONE_DAY)[0]
        pieces = self.archive.find_pieces(feed, begin)
        firsts = [piece.first for piece in pieces]
        days = sorted({service_date_at(time) for first in firsts if first and (time := to_time(first))})
        grouped = {}
        for day in days:
            if day not in skipped:
                first, end = _window(day)
                near = pieces[bisect_left(firsts, first - MAX_BATCH_SECONDS) : bisect_left(firsts, end)]
                grouped[day] = [piece for piece in near if piece.last >= first]
        return grouped

    def _keep_settled(self, known_versions: Mapping[date, str], settled: date) -> dict[date, str]:
        """Return the known versions of days that the collector has settled; none where others make the archive."""
        if self.archive.list_other_files():
            return {}
        return {day: version for day, version in known_versions.items() if day < settled}


_NO_STOP_TIMES = arrow.schema(
    [("trip_id", arrow.string()), ("stop_id", arrow.string()), ("stop_sequence", arrow.int64())]
).empty_table()


def _window(day: date) -> tuple[float, float]:
    """Return the times, in epoch seconds, of the snapshots of a service day."""
    start = start_time(day)
    return start.timestamp(), (start + timedelta(hours=SERVICE_DAY_HOURS)).timestamp()


def _with_times(rows: arrow.Table, names: Mapping[str, str]) -> arrow.Table:
    """Return rows whose columns in epoch seconds are times, under other names."""
    for old, new in names.items():
        micros = pc.multiply(rows[old].cast(arrow.int64()), 1_000_000)
        rows = rows.set_column(rows.column_names.index(old), new, micros.cast(TIMESTAMP))
    return rows


def _conform(table: str, rows: arrow.Table, day: date) -> SourceRows:
    return conform(table, rows, day, NAME, exact_ids=True)


def _add_rejected(result: SourceRows, table: str, day: date, records: Sequence[Record]) -> SourceRows:
    if not records:
        return result
    rejected = pd.concat([result.rejected, describe_rows(table, day, records)], ignore_index=True)
    return SourceRows(result.rows, rejected)


@contextmanager
def _translate_errors(table: str, day: date | None) -> Iterator[None]:
    """Turn errors of the archive and of static feeds into SourceErrors with the table and the service day."""
    try:
        with translate_faults(NAME, table, day):
            yield
    except (ArchiveError, StaticFeedError) as error:
        of_day = f", service day {day}" if day else ""
        raise SourceError(f"source {NAME}, table {table}{of_day}: {error}") from error


SOURCE = GtfsSource
