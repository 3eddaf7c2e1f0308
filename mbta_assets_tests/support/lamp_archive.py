"""A local HTTP server that plays the MBTA's performance archive, with faults, and days in the archive's format."""

import hashlib
import io
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as arrow
from pyarrow import parquet
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from mbta_assets.sources.lamp import LampSource
from mbta_assets.sources.lamp.archive import DAYS, LampArchive
from mbta_assets.sources.lamp.client import ArchiveClient
from mbta_assets.transit.service_day import start_time

SAMPLE = Path(__file__).parents[1] / "data/lamp/2024-02-07-subway-on-time-performance-v1.parquet"
SAMPLE_DAY = date(2024, 2, 7)
SLOW_SECONDS = 1.0


class Fault(Enum):
    """Fault of an answer."""

    NOT_FOUND = 404
    TOO_MANY = 429
    ERROR = 500
    UNAVAILABLE = 503
    TRUNCATED = "the connection is closed within the body"
    CUT = "a part is sent as if it was all of the file"
    SLOW = "the answer is late"
    DAMAGED = "something else is sent, of the same size"


class Answer(NamedTuple):
    """Answer that was given."""

    path: str
    status: int
    sent_bytes: int
    range: str
    user_agent: str
    time: float


@dataclass
class ServedArchive:
    """Files that are served, the faults of the next requests of each, and the answers that were given."""

    url: str
    store: Path
    """Directory in which the source that reads the archive keeps its copies."""
    files: dict[str, bytes] = field(default_factory=dict)
    index: dict[date, tuple[str, int, str]] = field(default_factory=dict)
    """Name, size and time of the last change of the file of each service day, as the index has them."""
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, Fault] = field(default_factory=dict)
    """Fault of every request of a file."""
    answers: list[Answer] = field(default_factory=list)

    def add_day(self, day: date, content: bytes, changed: str = "2026-01-01 12:00:00") -> str:
        """Add or replace the file of a service day, and return its path."""
        name = f"{day}-subway-on-time-performance-v1.parquet"
        self.files[f"{DAYS}/{name}"] = content
        self.index[day] = (name, len(content), changed)
        self.write_index()
        return self.path(day)

    def add_stops(self, year: int, stops: pd.DataFrame) -> None:
        """Add or replace the stops of a year."""
        self.files[f"gtfs_archive/{year}/stops.parquet"] = to_parquet(stops)

    def open_source(self) -> LampSource:
        """Open the source that reads the archive, as another process would."""
        client = ArchiveClient(attempts=3, min_interval=0.0, wait_initial=0.01, timeout=SLOW_SECONDS / 2)
        return LampSource(LampArchive(self.url, self.store, client))

    def write_index(self) -> None:
        """Write the index as the archive does."""
        lines = [
            f"https://archive.example/lamp/{DAYS}/{name},{size},{changed},{day}"
            for day, (name, size, changed) in self.index.items()
        ]
        self.files[f"{DAYS}/index.csv"] = "\n".join(["file_url,size_bytes,last_modified,service_date", *lines]).encode()

    def path(self, day: date) -> str:
        """Return the path of the file of a service day in the index."""
        return f"{DAYS}/{self.index[day][0]}"

    def answer(self, request: Request) -> Response:
        """Answer a request, with the next fault of the file if there is one."""
        path = request.path.lstrip("/")
        fault = self.always.get(path) or (self.faults[path].pop(0) if self.faults[path] else None)
        if fault == Fault.SLOW:
            time.sleep(SLOW_SECONDS)
        response = self._make_response(request, path, fault)
        sent = sum(map(len, response.response)) if isinstance(response.response, list) else 0
        agent = request.headers.get("User-Agent", "")
        self.answers.append(
            Answer(path, response.status_code, sent, request.headers.get("Range", ""), agent, time.monotonic())
        )
        return response

    def _make_response(self, request: Request, path: str, fault: Fault | None) -> Response:
        if path not in self.files:
            fault = Fault.NOT_FOUND
        if fault and isinstance(fault.value, int):
            return Response(status=fault.value, headers={"Retry-After": "1"} if fault == Fault.TOO_MANY else None)
        content = self.files[path]
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if request.headers.get("If-None-Match") == etag:
            return Response(status=304, headers={"ETag": etag})
        begin = 0
        if request.headers.get("If-Range") == etag:
            begin = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        body = content[begin:]
        headers = {"ETag": etag, "Content-Length": str(len(body))}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if fault == Fault.CUT:
            body = body[: len(body) // 2]
            headers["Content-Length"] = str(len(body))
        if fault == Fault.TRUNCATED:
            body = body[: len(body) // 2]
        if fault == Fault.DAMAGED:
            body = b"x" * len(body)
        return Response([body], status=206 if begin else 200, headers=headers)


@contextmanager
def serve_archive(store: Path) -> Iterator[ServedArchive]:
    """Start the server, without files, and yield what it serves."""
    with HTTPServer(threaded=True) as server:
        archive = ServedArchive(server.url_for("").rstrip("/"), store)
        server.expect_request(re.compile("/.*")).respond_with_handler(archive.answer)
        yield archive


def to_parquet(rows: pd.DataFrame | arrow.Table) -> bytes:
    """Return rows as a Parquet file."""
    buffer = io.BytesIO()
    table = rows if isinstance(rows, arrow.Table) else arrow.Table.from_pandas(rows, preserve_index=False)
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def read_sample(n: int | None = None) -> arrow.Table:
    """Return the rows of the sample, or the first n of them."""
    return parquet.read_table(SAMPLE).slice(0, n)


def move_rows(rows: arrow.Table, day: date, from_day: date = SAMPLE_DAY) -> arrow.Table:
    """Return the rows of a service day as those of another one."""
    shift = int((start_time(day) - start_time(from_day)).total_seconds())
    frame = rows.to_pandas(types_mapper=pd.ArrowDtype)
    frame["service_date"] = int(f"{day:%Y%m%d}")
    for name in ("move_timestamp", "stop_timestamp"):
        frame[name] = frame[name] + shift
    return arrow.Table.from_pandas(frame, schema=rows.schema, preserve_index=False)


def make_stops(rows: arrow.Table, first: int = 20190101, last: int = 20301231) -> pd.DataFrame:
    """Return stops of a timetable as the archive has them, with a position of its own for each stop of some rows."""
    stops = rows.select(["stop_id", "parent_station"]).to_pandas().drop_duplicates("stop_id").reset_index(drop=True)
    return stops.assign(
        stop_name="Station " + stops["parent_station"],
        platform_name="Platform " + stops["stop_id"],
        stop_lat=42.0 + stops.index / 1000,
        stop_lon=-71.0 - stops.index / 1000,
        gtfs_active_date=first,
        gtfs_end_date=last,
    )


def convert_upstream(directory: Path, service_date: date) -> tuple[arrow.Table, pd.DataFrame]:
    """Return a service day of the `files` source in the archive's format, and its stops.

    Scheduled times are on the archive's rows, of which there is one for each trip and stop that a vehicle reported.
    """
    vehicle, schedule, trip, stop = (
        pd.read_parquet(directory / f"{table}.parquet") for table in ("vehicle", "schedule", "trip", "stop")
    )
    start = pd.Timestamp(start_time(service_date))
    reports = vehicle.dropna(subset=["trip_id", "stop_id"])
    standing = reports["current_status"] == "STOPPED_AT"
    key = ["id", "trip_id", "stop_id"]
    seen = pd.DataFrame(
        {
            "move_timestamp": _to_epoch(reports[~standing].groupby(key)["updated_at"].min()),
            "stop_timestamp": _to_epoch(reports[standing].groupby(key)["updated_at"].min()),
        }
    ).reset_index()
    times = schedule[["trip_id", "stop_id"]].assign(
        scheduled_arrival_time=_to_seconds(schedule["arrival_time"], start),
        scheduled_departure_time=_to_seconds(schedule["departure_time"], start),
    )
    order = schedule.assign(time=schedule["arrival_time"].fillna(schedule["departure_time"])).sort_values("time")
    times["stop_sequence"] = 10 * order.groupby("trip_id").cumcount().reindex(schedule.index) + 10
    rows = seen.merge(times, how="left", on=["trip_id", "stop_id"]).rename(columns={"id": "vehicle_id"})
    rows = rows.merge(trip[["id", "route_id"]].rename(columns={"id": "trip_id"}), how="left", on="trip_id")
    rows["service_date"] = int(f"{service_date:%Y%m%d}")
    names = {"id": "stop_id", "name": "stop_name", "latitude": "stop_lat", "longitude": "stop_lon"}
    stops = stop.rename(columns=names).assign(gtfs_active_date=20230101, gtfs_end_date=20231231)
    return arrow.Table.from_pandas(rows, preserve_index=False), stops.drop(columns="service_date")


def _to_epoch(times: pd.Series) -> pd.Series:
    return _to_seconds(times, pd.Timestamp(0, tz="UTC"))


def _to_seconds(times: pd.Series, start: pd.Timestamp) -> pd.Series:
    return ((times - start) / timedelta(seconds=1)).round().astype("Int64")
