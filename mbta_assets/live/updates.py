"""Vehicle updates from the entities of a snapshot, with the service day and trip that the source gives them.

They are those of the rows of `vehicle` that `sources.gtfs` makes of the same snapshots.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from google.transit.gtfs_realtime_pb2 import VehiclePosition

from mbta_assets.live.timetables import Timetables
from mbta_assets.realtime.feed import Snapshot
from mbta_assets.serving import Timetable, VehicleUpdate
from mbta_assets.sources.conform import TIME_RANGES
from mbta_assets.sources.gtfs.feed_rows import (
    RECENT_REPORTS,
    describe_trip,
    identify_vehicle,
    read_report_time,
)
from mbta_assets.sources.gtfs.trip_index import DescribedTrip
from mbta_assets.transit.plausibility import is_plausible_position
from mbta_assets.transit.service_day import start_time, to_time

MAX_QUIET_SNAPSHOTS = 100
"""Number of snapshots after which a vehicle that none had is forgotten: in some feeds, each report has another id."""
_STATUSES = dict(map(reversed, VehiclePosition.VehicleStopStatus.items()))


class UpdateReader:
    """Reads the vehicle updates of snapshot after snapshot, each report once."""

    def __init__(self, timetables: Timetables) -> None:
        self._timetables = timetables
        self._recent: dict[str, deque[bytes]] = defaultdict(lambda: deque(maxlen=RECENT_REPORTS))
        self._last_read: dict[str, int] = {}
        self._number = 0

    def read(self, snapshot: Snapshot, fetched_at: float, days: Iterable[date]) -> dict[date, list[VehicleUpdate]]:
        """Return the new updates of a snapshot, which was fetched at a time in epoch seconds, by the day they are of.

        Those of other days than `days` are left out.
        """
        self._number += 1
        default_time = snapshot.header_time or int(fetched_at)
        entities = [entity for entity in snapshot.entities if entity.HasField("vehicle")]
        reports = [
            (entity, read_report_time(entity.vehicle, snapshot, fetched_at))
            for entity in entities
            if self._is_new(identify_vehicle(entity), entity.vehicle, default_time)
        ]
        self._forget()
        return {day: self._make_updates(day, reports) for day in days}

    def _is_new(self, vehicle_id: str, report: Any, default_time: int) -> bool:
        """Return whether a report is not among the latest ones of its vehicle."""
        content = report.SerializePartialToString()
        if not report.timestamp:
            content += str(default_time).encode()
        self._last_read[vehicle_id] = self._number
        recent = self._recent[vehicle_id]
        if content in recent:
            return False
        recent.append(content)
        return True

    def _forget(self) -> None:
        """Forget vehicles that have long been in no snapshot."""
        if self._number % MAX_QUIET_SNAPSHOTS == 0:
            for vehicle_id, number in list(self._last_read.items()):
                if number <= self._number - MAX_QUIET_SNAPSHOTS:
                    del self._last_read[vehicle_id], self._recent[vehicle_id]

    def _make_updates(self, day: date, reports: Iterable[tuple[Any, int]]) -> list[VehicleUpdate]:
        """Return the updates of a service day among entities with the times of their reports in epoch seconds."""
        timetable, index = self._timetables.read(day), self._timetables.index(day)
        first, end = (start_time(day) + timedelta(hours=hours) for hours in TIME_RANGES["updated_at"])
        updates = []
        for entity, reported_at in reports:
            report = entity.vehicle
            updated_at = to_time(reported_at)
            vehicle_id = identify_vehicle(entity)
            if not vehicle_id or updated_at is None or not first <= updated_at < end:
                continue
            trip = DescribedTrip(*describe_trip(report.trip))
            resolved = index.resolve(trip, reported_at)
            if resolved.service_date != day:
                continue
            sequence = report.current_stop_sequence if report.HasField("current_stop_sequence") else None
            position = report.position
            latitude = position.latitude if position.HasField("latitude") else None
            longitude = position.longitude if position.HasField("longitude") else None
            if not is_plausible_position(latitude, longitude):
                latitude = longitude = None
            direction_id = resolved.direction_id if trip.direction_id is None else trip.direction_id
            update = VehicleUpdate(
                id=vehicle_id,
                updated_at=updated_at,
                current_status=_STATUSES[report.current_status],
                stop_id=report.stop_id or _find_stop(timetable, resolved.trip_id, sequence),
                trip_id=resolved.trip_id,
                latitude=latitude,
                longitude=longitude,
                route_id=trip.route_id or resolved.route_id,
                direction_id=direction_id if direction_id in (0, 1) else None,
                current_stop_sequence=sequence,
            )
            updates.append(update)
        return updates


def _find_stop(timetable: Timetable | None, trip_id: str | None, stop_sequence: int | None) -> str | None:
    """Return the stop with a stop sequence in a trip, or None."""
    if timetable is None or trip_id is None or stop_sequence is None:
        return None
    trip = timetable.scheduled_trips.get(trip_id)
    stops = (row.stop_id for row in trip.stop_times if row.stop_sequence == stop_sequence) if trip else iter(())
    return next(stops, None)
