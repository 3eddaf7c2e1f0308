"""Measure the time that each part of the platform takes on a service day, and the time to load the code location.

Run by `make bench`. Each part is measured several times in one run.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as arrow

from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features

DAY = date(2024, 3, 6)
REPETITIONS = 3
LOAD_REPETITIONS = 5
LOAD_SCRIPTS = {
    "import dagster": "import dagster",
    "import mbta_assets.definitions": "import mbta_assets.definitions",
    "the code location": "from mbta_assets.definitions import defs; defs.get_repository_def().load_all_definitions()",
}
MAX_EXTRA_LOAD_SECONDS = 2.0
"""Maximum time to load the code location beyond that of Dagster itself: every command and the UI wait for it."""


def main() -> None:
    """Print both tables."""
    print(f"{'part':34}{'median s':>10}{'rows per s':>16}")
    with tempfile.TemporaryDirectory() as root:
        measure_service_day(ParquetTables(Path(root)))
    measure_loading()


def measure_service_day(store: ParquetTables) -> None:
    """Measure the simulation, the join and the features of a service day, and its storage."""
    source, upstream = SyntheticSource(0), {}
    for name, table in schema.UPSTREAM.items():
        upstream[name] = source.read(name, DAY).rows
        store.write(name, DAY, to_arrow(upstream[name], table))
    warehouse = DuckDBWarehouse(store, store)
    raw = warehouse.join_upstream_tables(DAY)
    stored = to_arrow(raw, schema.RawTransitData)
    seeds = iter(range(1, REPETITIONS + 1))
    measure("simulate", len(upstream["vehicle"]), lambda: SyntheticSource(next(seeds)).read("vehicle", DAY))
    measure("join", len(raw), lambda: warehouse.join_upstream_tables(DAY))
    tables = upstream["vehicle"], upstream["schedule"], upstream["stop"]
    measure("features", len(raw), lambda: compute_transit_features(raw, *tables))
    measure("write Parquet", len(raw), lambda: store.write("raw_transit_data", DAY, stored))
    measure("read Parquet", len(raw), lambda: store.read("raw_transit_data", [DAY]))


def to_arrow(frame: pd.DataFrame, table: type[schema.Table]) -> arrow.Table:
    """Convert a frame to the Arrow types of a table."""
    return arrow.Table.from_pandas(frame, schema.arrow_schema(table), preserve_index=False)


def measure(part: str, rows: int, run: Callable[[], object]) -> None:
    """Print the median time of several calls, and how many rows it is per second."""
    median = statistics.median(time_call(run) for _ in range(REPETITIONS))
    print(f"{part:34}{median:10.2f}{rows / median:16,.0f}")


def time_call(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def run_python(script: str) -> None:
    """Run a script in a new Python process."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def measure_loading() -> None:
    """Print the time of each of `LOAD_SCRIPTS` in a new process.

    They take turns, so that other work of the machine affects all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in LOAD_SCRIPTS}
    for _ in range(LOAD_REPETITIONS):
        for name, script in LOAD_SCRIPTS.items():
            seconds[name].append(time_call(partial(run_python, script)))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    dagster = medians["import dagster"]
    print(f"\n{'loading':34}{'median s':>10}{'x dagster':>12}{'s more':>8}")
    for name, median in medians.items():
        print(f"{name:34}{median:10.2f}{median / dagster:11.2f}x{median - dagster:8.2f}")
    extra = medians["the code location"] - dagster
    result = "met" if extra <= MAX_EXTRA_LOAD_SECONDS else "NOT met"
    print(f"at most {MAX_EXTRA_LOAD_SECONDS:.0f} s more than Dagster itself: {result}")


if __name__ == "__main__":
    main()
