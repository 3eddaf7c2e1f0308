"""Measure what a day of a large agency's TripUpdates costs: seconds for each snapshot, and the peak memory.

The archive is simulated: snapshots a minute apart of 1,000 trips with 15 stops, of which a tenth have new predictions
each time. Run with `python benchmarks/trip_updates.py`; the number of snapshots and the share of trips with new
predictions may be given.
"""

import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from training_set_memory import peak_bytes

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

DAY = date(2026, 5, 12)
SNAPSHOTS, SNAPSHOTS_IN_BATCH = 1440, 10
TRIPS, STOPS = 1000, 15
CHANGED_SHARE = 0.1


def main(directory: str, snapshots: int, changed_share: float) -> None:
    """Write the archive, and measure in a process of its own."""
    write_archive(Path(directory), snapshots, changed_share)
    subprocess.run([sys.executable, __file__, "measure", directory, str(snapshots)], check=True)


def write_archive(directory: Path, snapshots: int, changed_share: float) -> None:
    """Write the static feed and the snapshots of a day."""
    from google.transit.gtfs_realtime_pb2 import FeedMessage

    from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
    from mbta_assets.transit.service_day import start_time
    from mbta_assets_tests.sources.gtfs.network import make_source

    archive, rng = FeedArchive(make_source(directory).archive.place), np.random.default_rng(0)
    message, started = FeedMessage(), int(start_time(DAY).timestamp())
    message.header.gtfs_realtime_version = "2.0"
    for trip in range(TRIPS):
        update = message.entity.add(id=str(trip)).trip_update
        update.trip.trip_id, update.trip.route_id = f"trip{trip:05}", str(trip % 50)
        update.trip.start_date = f"{DAY:%Y%m%d}"
        for stop in range(STOPS):
            update.stop_time_update.add(stop_id=str(7000 + stop), stop_sequence=10 * stop)
    batch = []
    for minute in range(snapshots):
        now = message.header.timestamp = started + 60 * minute
        changed = rng.random(TRIPS) < (changed_share if minute else 1)
        for trip, entity in enumerate(message.entity):
            entity.trip_update.timestamp = now
            if changed[trip]:
                delay = int(rng.integers(600))
                for stop, predicted in enumerate(entity.trip_update.stop_time_update):
                    predicted.arrival.time = now + delay + 120 * stop
                    predicted.departure.time = predicted.arrival.time + 20
        batch.append(FetchedSnapshot(now, message.SerializeToString()))
        if len(batch) == SNAPSHOTS_IN_BATCH or minute == snapshots - 1:
            archive.append("trip_updates", batch)
            batch = []


def measure(directory: Path, snapshots: int) -> None:
    """Print the time and the peak memory of reading `agency_predictions`."""
    from mbta_assets.realtime.places import DirectoryPlace
    from mbta_assets.sources.gtfs.source import GtfsSource

    source = GtfsSource(DirectoryPlace(directory), "https://feeds.example/gtfs.zip")
    before, started = peak_bytes(), time.perf_counter()
    rows = source.read("agency_predictions", DAY).rows
    seconds = time.perf_counter() - started
    print(f"{snapshots:,} snapshots of {TRIPS * STOPS:,} stop time updates, {len(rows):,} distinct predictions")
    print(f"{seconds:.0f} s, {seconds / snapshots:.3f} s for each snapshot")
    print(f"process before {before / 1e6:,.0f} MB, peak {peak_bytes() / 1e6:,.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as root:
            n_snapshots = int(sys.argv[1]) if len(sys.argv) > 1 else SNAPSHOTS
            main(root, n_snapshots, float(sys.argv[2]) if len(sys.argv) > 2 else CHANGED_SHARE)
