"""Measure a backfill of many simulated service days in one run: whether its time is linear and its memory flat.

Run with `python benchmarks/year.py --days 364 --trips 0.1`: a year of a tenth of the trips takes a quarter of an hour.
`--days 12` has all trips, as the default source has. It exits with 1 where the last tenth of the days takes 10% more
CPU time by row than the first, or where the peak of resident memory is beyond 3 GiB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from zlib import crc32

import numpy as np
from pyarrow import parquet

FIRST_DAY = date(2023, 1, 2)
MAX_RATIO, MAX_PEAK_BYTES = 1.1, 3 * 2**30
SAMPLE_SECONDS = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
TABLES = ("vehicle", "trip", "stop", "schedule", "raw_transit_data", "transit_features")
PARTS = 10
"""Number of parts of the days that are compared."""


@dataclass(frozen=True)
class Samples:
    """State of the processes of a run over time."""

    at: np.ndarray
    """(n,) seconds since 1970."""
    cpu_seconds: np.ndarray
    """(n,) user and system time so far of all processes."""
    resident_bytes: np.ndarray
    """(n,) of all processes together; pages that they share count for each of them."""


def main(days: int, trips: float, root: Path) -> bool:
    """Run the backfill, print what it took, and return whether it is within the bounds."""
    return report(*backfill(days, trips, root))


def backfill(days: int, trips: float, root: Path) -> tuple[Samples, dict[str, np.ndarray], np.ndarray]:
    """Run a backfill in an empty directory and return what `report` takes."""
    service_days = [FIRST_DAY + timedelta(days=n) for n in range(days)]
    home, store, files = root / "home", root / "store", root / "files"
    home.mkdir()
    environment = {**os.environ, "DAGSTER_HOME": str(home), "MBTA_STORE": str(store), "MBTA_START_DATE": str(FIRST_DAY)}
    if trips < 1:
        for day in service_days:
            write_thin_day(files, day, trips)
        environment |= {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(files)}
    command = [
        *(sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"),
        *("--select", "group:upstream or group:transit"),
        *("--partition-range", f"{service_days[0]}...{service_days[-1]}"),
    ]
    samples = measure(command, environment, root / "log.txt")
    paths = {
        table: [store / "tables" / table / f"service_date={day}" / "data.parquet" for day in service_days]
        for table in TABLES
    }
    published = {table: np.array([path.stat().st_mtime for path in paths[table]]) for table in TABLES}
    rows = np.array([parquet.read_metadata(path).num_rows for path in paths["transit_features"]])
    return samples, published, rows


def write_thin_day(directory: Path, day: date, share: float) -> None:
    """Write the upstream tables of a simulated day for the source `files`, with a share of its trips."""
    from mbta_assets.sources.synthetic import SyntheticSource

    source = SyntheticSource(0)
    for table in ("vehicle", "trip", "stop", "schedule"):
        rows = source.read(table, day).rows
        key = {"trip": "id", "stop": None}.get(table, "trip_id")
        if key:
            kept = {trip for trip in rows[key].unique() if crc32(str(trip).encode()) < share * 2**32}
            rows = rows[rows[key].isin(kept)]
        path = directory / table / f"service_date={day}" / "data.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path, index=False)


def measure(command: list[str], environment: dict[str, str], log: Path) -> Samples:
    """Run a command and sample its processes. Exit where it fails."""
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    samples, ended = [], 0.0
    known: dict[int, float] = {}
    while process.poll() is None:
        states = read_tree(process.pid)
        ended += sum(seconds for pid, seconds in known.items() if pid not in states)
        known = {pid: seconds for pid, (seconds, _) in states.items()}
        samples.append((time.time(), ended + sum(known.values()), sum(resident for _, resident in states.values())))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit("\n".join(log.read_text().splitlines()[-40:]))
    return Samples(*np.array(samples).T)


def read_tree(root: int) -> dict[int, tuple[float, int]]:
    """Return CPU seconds and resident bytes of a process and its descendants, by process id."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        seconds = (int(fields[11]) + int(fields[12])) / TICKS
        stats[int(path.name)] = (int(fields[1]), seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    tree = {root}
    while grown := {pid for pid, (parent, *_) in stats.items() if parent in tree} - tree:
        tree |= grown
    return {pid: stats[pid][1:] for pid in tree if pid in stats}


def report(samples: Samples, published: Mapping[str, np.ndarray], rows: np.ndarray) -> bool:
    """Print time and memory by part of the days, and return whether they are within the bounds.

    `published` has the time (n,) at which each service day of a table was published, `rows` (n,) the rows of features.
    The steps of a run follow one another, and the days within a step; the first day of a step has no beginning.
    """
    days = len(rows)
    parts = split_days(days)
    spent, peaks = count_seconds(samples, published), np.zeros(len(parts))
    for times in published.values():
        for index, part in enumerate(parts):
            during = (samples.at >= times[part[0] - 1]) & (samples.at <= times[part[-1]])
            peaks[index] = max(peaks[index], samples.resident_bytes[during].max(initial=0))
    by_row = np.array([spent[part].sum() / rows[part].sum() * 1e6 for part in parts])
    print(f"{days} days of {rows.mean():,.0f} rows of transit_features on average, {rows.sum():,} in all")
    print(f"{samples.at[-1] - samples.at[0]:,.0f} s, of which {samples.cpu_seconds[-1]:,.0f} s of CPU time\n")
    print("days       CPU s a day   CPU s a million rows   peak MB")
    for part, seconds, peak in zip(parts, by_row, peaks, strict=True):
        days_of_part = f"{part[0] + 1}–{part[-1] + 1}"
        print(f"{days_of_part:9}{spent[part].mean():13.2f}{seconds:23.2f}{peak / 1e6:10,.0f}")
    ratio, peak = by_row[-1] / by_row[0], samples.resident_bytes.max()
    growth = np.polyfit([part.mean() for part in parts], peaks, 1)[0]
    print(f"\ntime by row of the last part against the first: {ratio:.3f}, at most {MAX_RATIO}")
    print(f"peak {peak / 1e6:,.0f} MB, at most {MAX_PEAK_BYTES / 1e6:,.0f} MB; it grows by {growth / 1e6:.2f} MB a day")
    return bool(ratio <= MAX_RATIO and peak <= MAX_PEAK_BYTES)


def count_seconds(samples: Samples, published: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the CPU seconds (n,) of each service day over all tables; 0 for the first, which has no beginning."""
    spent = [np.diff(np.interp(times, samples.at, samples.cpu_seconds)) for times in published.values()]
    return np.append(0.0, np.sum(spent, axis=0))


def split_days(days: int) -> list[np.ndarray]:
    """Return the numbers of the days of each part, from the second day on; many days are split into whole weeks."""
    numbers = np.arange(1, days)
    length = 7 if days >= 7 * PARTS else 1
    units = [numbers[begin : begin + length] for begin in range(0, len(numbers), length)]
    return [np.concatenate(units[part[0] : part[-1] + 1]) for part in np.array_split(np.arange(len(units)), PARTS)]


def parse_arguments() -> argparse.Namespace:
    """Return the number of days and the share of their trips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=364, help="number of service days, 20 at least")
    parser.add_argument("--trips", type=float, default=1.0, help="share of the trips of a day")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(not main(arguments.days, arguments.trips, Path(directory)))
