"""Trips that the agency has canceled and stops that it skips, as its TripUpdates said at last.

A trip has no stops behind it in later updates, so that a stop stays skipped until an update says otherwise.
"""

from datetime import date
from typing import Any, NamedTuple

import pyarrow as arrow

from mbta_assets.realtime.feed import Snapshot
from mbta_assets.sources.gtfs.feed_rows import TRIP, describe_trip, limit_time, number_rows, relationship_of_stop
from mbta_assets.sources.gtfs.queries import query_tables

CANCELED_TRIP, SKIPPED_STOP = "canceled_trip", "skipped_stop"
"""Reasons for which stop times of the timetable are left out."""
ALTERATIONS = arrow.schema(
    [*TRIP, ("reported_at", arrow.int64()), ("stop_id", arrow.string()), ("stop_sequence", arrow.int64())]
)
"""A canceled trip has a row without a stop. Its relationship is SCHEDULED, so that it has the id of the timetable."""


class _Stop(NamedTuple):
    stop_id: str | None
    stop_sequence: int | None


class Alterations:
    """Collects what TripUpdates alter."""

    def __init__(self) -> None:
        self._canceled: dict[tuple[Any, ...], int] = {}
        self._skipped: dict[tuple[Any, ...], dict[_Stop, int]] = {}

    def add(self, snapshot: Snapshot, fetched_at: float) -> None:
        """Add a snapshot, in order of time."""
        default_time = snapshot.header_time or int(fetched_at)
        for entity in snapshot.entities:
            if entity.HasField("trip_update"):
                self._add_update(entity.trip_update, default_time)

    def to_table(self) -> arrow.Table:
        """Return the altered trips and stops, typed as `ALTERATIONS`."""
        rows: list[tuple[Any, ...]] = [(*trip, time, None, None) for trip, time in self._canceled.items()]
        for trip, stops in self._skipped.items():
            if trip not in self._canceled:
                rows += [(*trip, time, *stop) for stop, time in stops.items()]
        return arrow.Table.from_pylist([dict(zip(ALTERATIONS.names, row, strict=True)) for row in rows], ALTERATIONS)

    def _add_update(self, update: Any, default_time: int) -> None:
        *trip_columns, relationship = describe_trip(update.trip)
        trip, time = (*trip_columns, "SCHEDULED"), limit_time(update.timestamp or default_time)
        if relationship in ("CANCELED", "DELETED"):
            self._canceled[trip] = time
            return
        self._canceled.pop(trip, None)
        if relationship != "SCHEDULED":
            return
        skipped = self._skipped.get(trip)
        for stop in update.stop_time_update:
            is_skipped = relationship_of_stop(stop) == "SKIPPED"
            if not is_skipped and not skipped:
                continue
            key = _Stop(stop.stop_id or None, stop.stop_sequence if stop.HasField("stop_sequence") else None)
            if is_skipped:
                skipped = self._skipped.setdefault(trip, {})
                skipped[key] = time
            elif skipped:
                skipped.pop(key, None)


_FIND = f"""
    WITH altered AS (
      SELECT r.trip_id, a.stop_id, a.stop_sequence
      FROM alterations AS a JOIN resolved AS r USING (row)
      WHERE r.service_date = $day AND r.trip_id IS NOT NULL
    )
    SELECT s.row, IF(
      BOOL_OR(a.stop_id IS NULL AND a.stop_sequence IS NULL), '{CANCELED_TRIP}', '{SKIPPED_STOP}'
    ) AS reason
    FROM stop_times AS s JOIN altered AS a
      ON a.trip_id = s.trip_id AND COALESCE(a.stop_sequence = s.stop_sequence, a.stop_id = s.stop_id, TRUE)
    GROUP BY s.row ORDER BY s.row
"""


def find_alterations(
    stop_times: arrow.Table, alterations: arrow.Table, resolved: arrow.Table, day: date
) -> arrow.Table:
    """Return the `row` of each of some stop times (n,) that is left out on a day, and the `reason`.

    `resolved` has the service day and the trip of each alteration.
    """
    tables = {"stop_times": number_rows(stop_times), "alterations": number_rows(alterations), "resolved": resolved}
    return query_tables(_FIND, {"day": day}, **tables)
