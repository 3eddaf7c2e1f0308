"""`make bench`: what the parts cost, each measured several times in one run, with the ratio that matters."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as arrow

from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features

DAY = date(2024, 3, 6)
RUNS = 3
LOADS = 5
LOADED = {
    "import dagster": "import dagster",
    "import mbta_assets.definitions": "import mbta_assets.definitions",
    "the code location": "from mbta_assets.definitions import defs; defs.get_repository_def().load_all_definitions()",
}
MOST_SECONDS_MORE = 2.0
"""Than Dagster itself; whoever opens the UI or runs a command waits for it."""


def main() -> None:
    """Print the table."""
    print(f"{'part':34}{'median s':>10}{'rows a second':>16}")
    with tempfile.TemporaryDirectory() as root:
        _a_service_day(ParquetTables(Path(root)))
    _loading()


def _a_service_day(lake: ParquetTables) -> None:
    tables = {}
    for name in schema.UPSTREAM:
        tables[name] = SyntheticSource(0).read(name, DAY)
        wanted = schema.arrow_schema(schema.UPSTREAM[name])
        lake.write(name, DAY, arrow.Table.from_pandas(tables[name], wanted, preserve_index=False))
    raw = DuckDBWarehouse(lake, lake).join_upstream_tables(DAY)
    seeds = iter(range(1, RUNS + 1))
    _time("simulate a service day", len(tables["vehicle"]), lambda: SyntheticSource(next(seeds)).read("vehicle", DAY))
    _time("join", len(raw), lambda: DuckDBWarehouse(lake, lake).join_upstream_tables(DAY))
    _time("features", len(raw), lambda: compute_transit_features(raw, tables["vehicle"], tables["schedule"]))
    stored = arrow.Table.from_pandas(raw, schema.arrow_schema(schema.RawTransitData), preserve_index=False)
    _time("write to the lake", len(raw), lambda: lake.write("raw_transit_data", DAY, stored))
    _time("read from the lake", len(raw), lambda: lake.read("raw_transit_data", [DAY]))


def _time(part: str, rows: int, run: Callable[[], object]) -> None:
    taken = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    median = statistics.median(taken)
    print(f"{part:34}{median:10.2f}{rows / median:16,.0f}")


def _loading() -> None:
    """Each in a process of its own, in turn, so that what else the machine does meets all of them alike."""
    taken: dict[str, list[float]] = {what: [] for what in LOADED}
    for _ in range(LOADS):
        for what, script in LOADED.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
            taken[what].append(time.perf_counter() - begun)
    median = {what: statistics.median(seconds) for what, seconds in taken.items()}
    dagster = median["import dagster"]
    print(f"\n{'loading':34}{'median s':>10}{'of dagster':>12}{'s more':>8}")
    for what, seconds in median.items():
        print(f"{what:34}{seconds:10.2f}{seconds / dagster:11.2f}x{seconds - dagster:8.2f}")
    more = median["the code location"] - dagster
    kept = "kept" if more <= MOST_SECONDS_MORE else "NOT kept"
    print(f"at most {MOST_SECONDS_MORE:.0f} s more than Dagster itself: {kept}")


if __name__ == "__main__":
    main()
