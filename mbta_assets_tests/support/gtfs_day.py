"""The upstream tables of a service day from what an agency publishes: a static GTFS feed and GTFS-realtime snapshots.

`WMATA` is a real day, an extract of one route; see data/README.md.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

from google.transit import gtfs_realtime_pb2

from mbta_assets.transit import service_day
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import Row, Rows, Tables

WMATA = Path(__file__).parents[1] / "data/wmata_c53"
WMATA_DAY = date(2026, 2, 16)
STATIC, SNAPSHOTS = "gtfs.zip", "vehicle_positions.zip"


def read_day(directory: Path = WMATA, day: date = WMATA_DAY) -> Tables:
    """Return the upstream tables of a service day of the feeds in a directory."""
    rows = read_timetable(directory / STATIC, day)
    rows["vehicle"] = list(read_reports(directory / SNAPSHOTS))
    return plain_day.to_tables(rows, day)


def read_timetable(path: Path, day: date) -> Rows:
    """Return the rows of `trip`, `stop` and `schedule` of a service day from a static GTFS feed."""
    with ZipFile(path) as feed:
        services = _find_services(feed, day)
        trips = {row["trip_id"]: row for row in _read(feed, "trips.txt") if row["service_id"] in services}
        stop_times = [row for row in _read(feed, "stop_times.txt") if row["trip_id"] in trips]
        stops = list(_read(feed, "stops.txt"))
    return {
        "trip": [
            {
                "id": name, "name": None, "route_id": row["route_id"], "direction_id": _to_integer(row["direction_id"]),
                "headsign": row["trip_headsign"],
            }
            for name, row in trips.items()
        ],
        "stop": [
            {
                "id": row["stop_id"], "name": row["stop_name"], "latitude": float(row["stop_lat"]),
                "longitude": float(row["stop_lon"]), "parent_station": row.get("parent_station") or None,
            }
            for row in stops
        ],
        "schedule": [_to_stop_time(row, day) for row in stop_times],
    }  # fmt: skip


def _read(feed: ZipFile, name: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a file of a static feed; those of one that is not there are none."""
    if name in feed.namelist():
        yield from csv.DictReader(io.StringIO(feed.read(name).decode("utf-8-sig")))


def _find_services(feed: ZipFile, day: date) -> set[str]:
    """Return the services that run on a day."""
    text = f"{day:%Y%m%d}"
    services = {
        row["service_id"]
        for row in _read(feed, "calendar.txt")
        if row[f"{day:%A}".lower()] == "1" and row["start_date"] <= text <= row["end_date"]
    }
    for row in _read(feed, "calendar_dates.txt"):
        if row["date"] == text:
            (services.add if row["exception_type"] == "1" else services.discard)(row["service_id"])
    return services


def _to_stop_time(row: dict[str, str], day: date) -> Row:
    return {
        "trip_id": row["trip_id"],
        "stop_id": row["stop_id"],
        "arrival_time": _to_time(row["arrival_time"], day),
        "departure_time": _to_time(row["departure_time"], day),
        "stop_sequence": _to_integer(row["stop_sequence"]),
        "timepoint": _to_integer(row.get("timepoint", "")),
    }


def _to_time(text: str, day: date) -> datetime | None:
    """Return the instant of a time such as 25:10:00 of a service day."""
    if not text:
        return None
    hours, minutes, seconds = map(int, text.split(":"))
    return service_day.start_time(day) + timedelta(hours=hours, minutes=minutes, seconds=seconds)


def _to_integer(text: str) -> int | None:
    return int(text) if text else None


def read_reports(path: Path) -> Iterator[Row]:
    """Yield the rows of `vehicle` from an archive of snapshots in order, each report once."""
    seen = set()
    with ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            message = gtfs_realtime_pb2.FeedMessage()
            message.ParseFromString(archive.read(name))
            for report in _to_reports(entity.vehicle for entity in message.entity if entity.HasField("vehicle")):
                if (key := tuple(report.values())) not in seen:
                    seen.add(key)
                    yield report


def _to_reports(vehicles: Iterable[gtfs_realtime_pb2.VehiclePosition]) -> Iterator[Row]:
    for vehicle in vehicles:
        trip, position = vehicle.trip, vehicle.position
        yield {
            "id": vehicle.vehicle.id,
            "updated_at": datetime.fromtimestamp(vehicle.timestamp, UTC),
            "current_status": gtfs_realtime_pb2.VehiclePosition.VehicleStopStatus.Name(vehicle.current_status),
            "latitude": round(position.latitude, 6),
            "longitude": round(position.longitude, 6),
            "stop_id": vehicle.stop_id or None,
            "trip_id": trip.trip_id or None,
            "route_id": trip.route_id or None,
            "direction_id": trip.direction_id if trip.HasField("direction_id") else None,
            "current_stop_sequence": (
                vehicle.current_stop_sequence if vehicle.HasField("current_stop_sequence") else None
            ),
            "bearing": position.bearing if position.HasField("bearing") else None,
            "speed": position.speed if position.HasField("speed") else None,
        }
