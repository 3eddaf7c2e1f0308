"""Run live predictions through a simulated week at high speed: memory, missed updates and the time of an update by day.

Run it with: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/live_week.py [MODEL] --days 7
MODEL is a store or a bundle, by default `.local`. Another process makes the snapshots; this one takes them in and
publishes, as the command does. It exits with 1 if an update was missed, or if memory grows by more than 5% from the end
of the third day on, when ended days have been dropped as often as others have begun.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from google.transit.gtfs_realtime_pb2 import FeedMessage, VehiclePosition
from prometheus_client import generate_latest

from mbta_assets.live.command import COLLECTION_THRESHOLDS, make_state
from mbta_assets.live.service import LiveService
from mbta_assets.live.timetables import Timetables
from mbta_assets.live.updates import UpdateReader
from mbta_assets.realtime.feed import Snapshot
from mbta_assets.serving import VehicleUpdate
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.settings import Settings
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit.service_day import start_time

FIRST_DAY = date(2024, 3, 4)
ONE_DAY = timedelta(days=1)
DAY_BEGINS = timedelta(hours=4)
"""Time after the start of a service day at which a snapshot is its first: vehicles of the day before have ended."""
FORGOTTEN_SECONDS = 600
"""Age at which a feed no longer has a report."""
SETTLED_DAYS, MAX_GROWTH = 3, 0.05


class CountingReader(UpdateReader):
    """Counts the updates that are read."""

    count = 0

    def read(self, snapshot: Snapshot, fetched_at: float, days: Iterable[date]) -> dict[date, list[VehicleUpdate]]:
        """Return the new updates of a snapshot."""
        updates = super().read(snapshot, fetched_at, days)
        self.count += sum(map(len, updates.values()))
        return updates


def send_snapshots(days: int, every: int, seed: int, connection: Connection) -> None:
    """Send, for each interval of the days, the service day, its time, the number of new reports, and the snapshot."""
    source = SyntheticSource(seed)
    latest: dict[str, Any] = {}
    for day in (FIRST_DAY + n * ONE_DAY for n in range(days)):
        reports = list_reports(source, day)
        at, end = (int((start_time(first) + DAY_BEGINS).timestamp()) for first in (day, day + ONE_DAY))
        index = 0
        while at < end:
            changed: dict[str, Any] = {}
            while index < len(reports) and reports[index].timestamp <= at:
                changed[reports[index].vehicle.id] = reports[index]
                index += 1
            latest |= changed
            connection.send((day, at, len(changed), make_snapshot(latest, at)))
            latest = {name: report for name, report in latest.items() if report.timestamp > at - FORGOTTEN_SECONDS}
            at += every
    connection.close()


def list_reports(source: SyntheticSource, day: date) -> list[Any]:
    """Return the reports of the vehicles of a day in order of time, each once."""
    rows = source.read("vehicle", day).rows
    rows = rows.assign(updated_at=rows["updated_at"].dt.floor("s")).drop_duplicates(["id", "updated_at"])
    rows = rows.sort_values("updated_at", kind="stable").astype(object)
    reports = []
    for row in rows.where(rows.notna(), None).to_dict("records"):
        report = VehiclePosition()
        report.vehicle.id, report.timestamp = f"{day:%d}-{row['id']}", int(row["updated_at"].timestamp())
        report.trip.trip_id, report.trip.route_id = row["trip_id"] or "", row["route_id"] or ""
        report.trip.start_date, report.stop_id = f"{day:%Y%m%d}", row["stop_id"] or ""
        report.current_status = VehiclePosition.VehicleStopStatus.Value(row["current_status"])
        if row["latitude"] is not None:
            report.position.latitude, report.position.longitude = row["latitude"], row["longitude"]
        reports.append(report)
    return reports


def make_snapshot(reports: dict[str, Any], at: int) -> bytes:
    """Return a snapshot with the latest report of each vehicle."""
    message = FeedMessage()
    message.header.gtfs_realtime_version, message.header.timestamp = "2.0", at
    for name, report in reports.items():
        message.entity.add(id=name).vehicle.CopyFrom(report)
    content: bytes = message.SerializeToString()
    return content


def receive(connection: Connection) -> Iterator[tuple[date, int, int, bytes]]:
    """Yield what the other process sends."""
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def read_memory() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Print a row for each day; return 1 if an update was missed or memory grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model", nargs="?", default=".local")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--every", type=int, default=30, help="Seconds between two snapshots.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    values = (arguments.days, arguments.every, arguments.seed, theirs)
    sender = multiprocessing.get_context("spawn").Process(target=send_snapshots, args=values, daemon=True)
    sender.start()
    theirs.close()
    week = Week(arguments.model, arguments.seed)
    print("day         updates   missed  snapshots  missed  predictions   p50 ms   p99 ms   memory MB", flush=True)
    for day, at, count, content in receive(ours):
        week.take(day, at, count, content)
    week.end_day()
    sender.join()
    settled = week.memory[SETTLED_DAYS - 1 :]
    growth = settled[-1] / settled[0] - 1 if len(settled) > 1 else 0.0
    print(f"growth of memory since day {SETTLED_DAYS}: {growth:+.1%} (at most {MAX_GROWTH:.0%})")
    return int(bool(week.missed) or growth > MAX_GROWTH)


class Week:
    """Live predictions, and what is counted of the day."""

    def __init__(self, model: str, seed: int) -> None:
        timetables = Timetables(SyntheticSource(seed))
        self.state = make_state(Settings(), is_replay=True)
        predictors = make_predictor_cache(open_model_source(model), 3600)
        self.service = LiveService(timetables, predictors, self.state, timedelta(seconds=300))
        self.reader = self.service._reader = CountingReader(timetables)
        self.memory: list[float] = []
        self.missed = 0
        self.day: date | None = None
        self.begin_day(None)

    def begin_day(self, day: date | None) -> None:
        """Begin to count."""
        self.day, self.sent, self.reader.count, self.snapshots, self.taken, self.predictions = day, 0, 0, 0, 0, 0
        self.seconds: list[float] = []

    def take(self, day: date, at: int, count: int, content: bytes) -> None:
        """Take in a snapshot and publish; it has so many new reports."""
        if day != self.day:
            self.end_day()
            self.begin_day(day)
        began = time.perf_counter()
        outcome, _ = self.service.take(content, at, "simulated")
        self.service.publish(datetime.fromtimestamp(at, UTC), began, is_replay=True)
        self.seconds.append(time.perf_counter() - began)
        published = self.state.published
        if published is None:
            raise SystemExit(f"Nothing is published: {' '.join(self.state.list_problems())}")
        self.sent += count
        self.snapshots += 1
        self.taken += outcome in ("new", "empty")
        self.predictions += sum(len(trip.stops) for trip in published.publication.trips)
        if self.snapshots % 20 == 0:  # what a reader asks for is made then
            _ = (published.json, published.events_by_stop, published.places, generate_latest(self.state.registry))

    def end_day(self) -> None:
        """Print the row of a day."""
        if self.day is None:
            return
        gc.collect()
        self.memory.append(read_memory())
        missed, missed_snapshots = self.sent - self.reader.count, self.snapshots - self.taken
        self.missed += missed + missed_snapshots
        p50, p99 = np.percentile(np.array(self.seconds) * 1000, [50, 99])
        print(
            f"{self.day}  {self.sent:7,}  {missed:7}  {self.snapshots:9,}  {missed_snapshots:6}  {self.predictions:11,}"
            f"  {p50:7.1f}  {p99:7.1f}  {self.memory[-1]:10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    sys.exit(main())
