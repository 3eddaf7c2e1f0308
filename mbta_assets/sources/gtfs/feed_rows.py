"""Typed rows of the entities of GTFS-realtime snapshots: vehicle positions, and the stop time updates of trips.

A vehicle that has not moved is repeated by snapshot after snapshot; each distinct report is one row. To which service
day and trip a row belongs is decided by `trips`, which knows the static feed.
"""

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as arrow
from google.transit.gtfs_realtime_pb2 import TripDescriptor, TripUpdate, VehiclePosition

from mbta_assets.realtime.feed import Snapshot
from mbta_assets.transit.service_day import to_time

TRIP = arrow.schema(
    [
        ("trip_id", arrow.string()),
        ("route_id", arrow.string()),
        ("direction_id", arrow.int64()),
        ("start_date", arrow.date32()),
        ("start_seconds", arrow.int64()),  # from noon minus twelve hours, as the static feed counts
        ("trip_relationship", arrow.string()),
    ]
)
"""Columns that describe a trip. The relationship is SCHEDULED where the feed says nothing."""
VEHICLE_POSITIONS = arrow.schema(
    [
        ("vehicle_id", arrow.string()),
        ("reported_at", arrow.int64()),  # epoch seconds
        *TRIP,
        ("current_status", arrow.string()),
        ("stop_id", arrow.string()),
        ("current_stop_sequence", arrow.int64()),
        ("latitude", arrow.float64()),
        ("longitude", arrow.float64()),
        ("bearing", arrow.float64()),
        ("speed", arrow.float64()),
        ("occupancy_status", arrow.string()),
    ]
)
STOP_TIME_UPDATES = arrow.schema(
    [
        ("reported_at", arrow.int64()),  # epoch seconds
        *TRIP,
        ("stop_id", arrow.string()),
        ("stop_sequence", arrow.int64()),
        ("stop_relationship", arrow.string()),
        ("arrival", arrow.int64()),  # epoch seconds
        ("arrival_delay", arrow.int64()),  # seconds
        ("departure", arrow.int64()),
        ("departure_delay", arrow.int64()),
        ("uncertainty", arrow.int64()),  # seconds
    ]
)
"""A trip whose update has no stops has one row without a stop, so that a canceled trip is known."""

_STOP_COLUMNS = arrow.schema(list(STOP_TIME_UPDATES)[1 + len(TRIP) :])
MAX_ARROW_SECONDS = (2**63 - 1) // 10**6
"""Distance from 1970 up to which a time is an Arrow timestamp in microseconds. Feeds may have any 64 bits."""
RECENT_REPORTS = 8
"""Latest reports of a vehicle that a further one is compared with."""

_STATUSES = dict(map(reversed, VehiclePosition.VehicleStopStatus.items()))
_OCCUPANCIES = dict(map(reversed, VehiclePosition.OccupancyStatus.items()))
_TRIP_RELATIONSHIPS = dict(map(reversed, TripDescriptor.ScheduleRelationship.items()))
_STOP_RELATIONSHIPS = dict(map(reversed, TripUpdate.StopTimeUpdate.ScheduleRelationship.items()))
_CLOCK = re.compile(r"\s*([0-9]{1,3}):([0-9]{2}):([0-9]{2})\s*")
_DAY = re.compile(r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})")


class CodedRows:
    """Distinct rows, each made once of a message and known by its place.

    The next snapshot repeats most predictions, and to read the fields of a message takes longer than to compare it.
    """

    def __init__(self, schema: arrow.Schema, describe: Callable[[Any], tuple[Any, ...]]) -> None:
        self._schema, self._describe = schema, describe
        self._places: dict[bytes, int] = {}
        self._rows: list[tuple[Any, ...]] = []

    def encode(self, messages: Iterable[Any]) -> list[int]:
        """Return the place of the row of each message."""
        places, encoded = self._places, []
        for message in messages:
            content = message.SerializePartialToString()
            place = places.get(content)
            if place is None:
                place = places[content] = len(places)
                self._rows.append(self._describe(message))
            encoded.append(place)
        return encoded

    def take(self, places: arrow.Array) -> arrow.Table:
        """Return the rows at some places (n,); one without values where the place is missing."""
        return _to_table(self._rows, self._schema).take(places)


class RowBuilder:
    """Collects the rows of snapshots; a report that snapshot after snapshot repeats is one row.

    Rows are taken in batches, so that a day of a large network is never in memory as a whole.
    """

    def __init__(self) -> None:
        self._clear()
        self._last_reports: dict[str, deque[bytes]] = defaultdict(lambda: deque(maxlen=RECENT_REPORTS))
        self._last_update: dict[str, bytes] = {}
        self.repeated = 0
        """Number of entities that an earlier snapshot had in the same words."""
        self.unused = 0
        """Number of entities that are neither, such as alerts and blank ones, and of unreadable ones."""

    def add(self, snapshot: Snapshot, fetched_at: float) -> None:
        """Add the rows of a snapshot that was fetched at a time in epoch seconds.

        A report without a time of its own has that of the snapshot's header, or of the fetch; see `read_report_time`.
        """
        self.unused += snapshot.unreadable
        default_time = snapshot.header_time or int(fetched_at)
        for entity in snapshot.entities:
            if entity.HasField("vehicle"):
                self._add_position(entity, default_time, read_report_time(entity.vehicle, snapshot, fetched_at))
            elif entity.HasField("trip_update"):
                self._add_update(entity, default_time)
            else:
                self.unused += 1

    def __len__(self) -> int:
        """Return the number of rows that wait to be taken."""
        return len(self._positions) + len(self._update_stops)

    def take(self) -> tuple[arrow.Table, arrow.Table]:
        """Return the rows of vehicle positions and of stop time updates that were added since the last time, in order.

        They are typed as `VEHICLE_POSITIONS` and `STOP_TIME_UPDATES`.
        """
        updates = arrow.array(self._update_of_row, arrow.int32())
        trips = self._trips.take(arrow.array(self._update_trips, arrow.int32()).take(updates))
        stops = self._stops.take(arrow.array(self._update_stops, arrow.int32()))
        times = arrow.array(self._update_times, arrow.int64()).take(updates)
        rows = arrow.Table.from_arrays([times, *trips.columns, *stops.columns], schema=STOP_TIME_UPDATES)
        taken = _to_table(self._positions, VEHICLE_POSITIONS), rows
        self._clear()
        return taken

    def _clear(self) -> None:
        self._positions: list[tuple[Any, ...]] = []
        self._trips, self._stops = CodedRows(TRIP, describe_trip), CodedRows(_STOP_COLUMNS, _describe_stop)
        # Of each trip update its trip and time, and of each row its update and stop.
        self._update_trips: list[int] = []
        self._update_times: list[int] = []
        self._update_of_row: list[int] = []
        self._update_stops: list[int | None] = []

    def _add_position(self, entity: Any, default_time: int, time: int) -> None:
        report = entity.vehicle
        digest = _digest(report, b"" if report.timestamp else str(default_time).encode())
        vehicle_id = identify_vehicle(entity)
        last_reports = self._last_reports[vehicle_id]
        if digest in last_reports:
            self.repeated += 1
            return
        last_reports.append(digest)
        position = report.position
        has_stop = report.HasField("current_stop_sequence")
        self._positions.append(
            (
                vehicle_id or None,
                limit_time(time),
                *describe_trip(report.trip),
                _STATUSES[report.current_status],
                report.stop_id or None,
                report.current_stop_sequence if has_stop else None,
                position.latitude if position.HasField("latitude") else None,
                position.longitude if position.HasField("longitude") else None,
                position.bearing if position.HasField("bearing") else None,
                position.speed if position.HasField("speed") else None,
                _OCCUPANCIES[report.occupancy_status] if report.HasField("occupancy_status") else None,
            )
        )

    def _add_update(self, entity: Any, default_time: int) -> None:
        update = entity.trip_update
        # A prediction that comes back after another one is said again, so only the last one of a trip counts here.
        digest, key = _digest(update), entity.id or update.trip.trip_id
        if self._last_update.get(key) == digest:
            self.repeated += 1
            return
        self._last_update[key] = digest
        stops: list[int] | list[None] = self._stops.encode(update.stop_time_update) or [None]
        self._update_of_row += [len(self._update_trips)] * len(stops)
        self._update_stops += stops
        self._update_trips += self._trips.encode([update.trip])
        self._update_times.append(limit_time(update.timestamp or default_time))


def number_rows(rows: arrow.Table) -> arrow.Table:
    """Return rows with their place in a column `row`; a database keeps no order."""
    return rows.append_column("row", arrow.array(np.arange(len(rows))))


def limit_time(epoch_seconds: int) -> int:
    """Return epoch seconds, those that Arrow has no time for as the last one that it has: no service day has either."""
    return max(-MAX_ARROW_SECONDS, min(epoch_seconds, MAX_ARROW_SECONDS))


def parse_clock(text: str) -> int | None:
    """Parse H:MM:SS, which may be past 24:00:00, to seconds; None if it is something else."""
    match = _CLOCK.fullmatch(text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3]) if match else None


def parse_day(text: str) -> date | None:
    """Parse YYYYMMDD to a day; None if it is something else."""
    match = _DAY.fullmatch(text.strip())
    try:
        return date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _digest(message: Any, addition: bytes = b"") -> bytes:
    return blake2b(message.SerializePartialToString() + addition, digest_size=16).digest()


def identify_vehicle(entity: Any) -> str:
    """Return the id of the vehicle of an entity, else its label, else the entity's id; empty without any.

    In some feeds the id of an entity changes from snapshot to snapshot.
    """
    vehicle_id: str = entity.vehicle.vehicle.id or entity.vehicle.vehicle.label or entity.id
    return vehicle_id


def read_report_time(report: Any, snapshot: Snapshot, fetched_at: float) -> int:
    """Return the time of a vehicle's report in a snapshot that was fetched at a time, all in epoch seconds.

    A report without a time, or with one at which its snapshot had already been made and fetched, has that of the
    snapshot's header, or of the fetch: the clock of its vehicle is ahead, or has another time zone. What is no time,
    such as one in milliseconds, stays as it is, for the report to be rejected.
    """
    default_time = snapshot.header_time or int(fetched_at)
    reported_at: int = report.timestamp
    is_ahead = reported_at > max(default_time, fetched_at) and to_time(reported_at) is not None
    return default_time if not reported_at or is_ahead else reported_at


def describe_trip(trip: Any) -> tuple[Any, ...]:
    """Return the values of the columns in `TRIP`."""
    return (
        trip.trip_id or None,
        trip.route_id or None,
        trip.direction_id if trip.HasField("direction_id") else None,
        parse_day(trip.start_date),
        parse_clock(trip.start_time),
        _TRIP_RELATIONSHIPS[trip.schedule_relationship],
    )


def relationship_of_stop(stop: Any) -> str:
    """Return the relationship of a stop time update to the timetable, such as SKIPPED."""
    name: str = _STOP_RELATIONSHIPS[stop.schedule_relationship]
    return name


def _describe_stop(stop: Any) -> tuple[Any, ...]:
    arrival, departure = stop.arrival, stop.departure
    events = [event for event in (arrival, departure) if event.HasField("uncertainty")]
    return (
        stop.stop_id or None,
        stop.stop_sequence if stop.HasField("stop_sequence") else None,
        relationship_of_stop(stop),
        limit_time(arrival.time) or None,
        arrival.delay if arrival.HasField("delay") else None,
        limit_time(departure.time) or None,
        departure.delay if departure.HasField("delay") else None,
        events[0].uncertainty if events else None,
    )


def _to_table(rows: Iterable[tuple[Any, ...]], schema: arrow.Schema) -> arrow.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [arrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return arrow.Table.from_arrays(arrays, schema=schema)
