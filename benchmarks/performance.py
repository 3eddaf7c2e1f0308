"""Measure the parts of the platform side by side with their peers, and write the tables into a document and as JSON.

    python benchmarks/performance.py STORE [--write docs/performance.md]

Run by `make bench`. STORE has the models of `make demo`. What is compared takes turns, so that other work of the
machine affects all of it alike; a figure is the median of several turns. Times are those of the processor, with that of
processes that are waited for; those of HTTP are what a client waits.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import http_function
import live_latency
import numpy as np
import pyarrow as arrow
import search
from one_prediction import MANY, prepare_many, prepare_one

from mbta_assets.markdown import format_table
from mbta_assets.ml.training.compute import count_usable_cores
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_feature_table

ROOT = Path(__file__).parents[1]
DAY = date(2024, 3, 6)
LIBRARIES = ("dagster", "duckdb", "numpy", "onnxruntime", "pandas", "pyarrow")
LOAD_SCRIPTS = {
    "`import dagster`": "import dagster",
    "`import mbta_assets.definitions`": "import mbta_assets.definitions",
    "the code location": "from mbta_assets.definitions import defs; defs.get_repository_def().load_all_definitions()",
}
EXIT = "\nimport os; os._exit(0)"
"""End of a script without the deletion of what it has loaded, which takes a quarter as long again."""


@dataclass(frozen=True)
class Row:
    """One figure of a table."""

    name: str
    seconds: float
    """Median time of a turn, or of one call of it."""
    ratio: float
    """Compared with the first row of the table."""
    rate: float | None = None
    """Number of rows or requests a second."""
    p99_seconds: float | None = None
    """99th percentile of the turns."""


@dataclass(frozen=True)
class Table:
    """Figures that were measured in turns."""

    title: str
    rows: list[Row]
    rate_of: str = "rows"
    """What the rates count."""

    def to_markdown(self) -> str:
        """Return the table in Markdown, with times in a unit that suits the first of them."""
        first = self.rows[0].seconds
        unit, factor = ("µs", 1e6) if first < 1e-3 else ("ms", 1e3) if first < 0.1 else ("s", 1.0)
        digits = 1 if factor > 1 else 2
        head, rows = [self.title, unit, "ratio"], []
        for row in self.rows:
            rows.append([row.name, f"{row.seconds * factor:,.{digits}f}", f"{row.ratio:.2f}"])
            if row.p99_seconds is not None:
                rows[-1].insert(2, f"{row.p99_seconds * factor:,.{digits}f}")
            if row.rate is not None:
                rows[-1].append(f"{row.rate:,.0f}")
        if any(row.p99_seconds is not None for row in self.rows):
            head.insert(2, "p99")
        if any(row.rate is not None for row in self.rows):
            head.append(f"{self.rate_of} per second")
        return format_table(head, rows)


def main() -> None:
    """Measure everything, print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store with the models of `make demo`")
    parser.add_argument("--write", type=Path, help="document whose block is replaced; a .json file goes beside it")
    arguments = parser.parse_args()
    try:
        one, many = prepare_one(arguments.store), prepare_many(arguments.store)
    except BundleError as error:
        sys.exit(f"{error} Make the models that are measured with: make demo")
    tables = [
        measure("one prediction", one, turns=9, calls=300),
        measure(f"{MANY:,} predictions", many, turns=5, rows=MANY),
        measure_service_day(),
        measure_update(arguments.store),
        *measure_http(arguments.store),
        *measure_searches(arguments.store),
        measure("loading", {name: partial(run_python, text + EXIT) for name, text in LOAD_SCRIPTS.items()}, turns=5),
    ]
    text = "\n\n".join([describe_machine(), *(table.to_markdown() for table in tables)])
    print(text)
    if arguments.write:
        document = arguments.write.read_text()
        arguments.write.write_text(replace_block(document, "performance", text))
        stored = {"machine": describe_machine(), "tables": [asdict(table) for table in tables]}
        arguments.write.with_suffix(".json").write_text(json.dumps(stored, indent=1) + "\n")


def replace_block(document: str, name: str, text: str) -> str:
    """Return a document with the block between the markers of a name replaced."""
    block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{text}\n{found[2]}", document)


def measure_update(store: Path) -> Table:
    """Measure live updates of 1,000 vehicles by part."""
    update = live_latency.measure_updates(str(store))
    p50, p99 = (
        {part: float(np.percentile(values, share)) for part, values in update.seconds.items()} for share in (50, 99)
    )
    model = p50[live_latency.MODEL_ALONE]
    parts = [live_latency.MODEL_ALONE, *(part for part in p50 if part != live_latency.MODEL_ALONE)]
    rows = [Row(part, p50[part], p50[part] / model, p99_seconds=p99[part]) for part in parts]
    return Table(f"an update of {live_latency.VEHICLES:,} vehicles, {update.predictions:,} predictions", rows)


def measure_http(store: Path) -> Iterator[Table]:
    """Measure requests, one after the other, and how soon a new process answers."""
    clock = time.perf_counter
    with http_function.open_requests(store) as calls:
        named = {"a function that sends back its JSON": calls["echo"], "`/predict` with one query": calls["predict"]}
        yield measure("an HTTP request", named, turns=9, calls=300, rows=1, rate_of="requests", clock=clock)
    starts = {
        "a function that sends back its JSON": partial(http_function.start, store, echo=True),
        "`/healthz`": partial(http_function.start, store),
        "`/predict` with one query": partial(http_function.start, store, path="/predict"),
    }
    yield measure("start of a process until it answers", starts, turns=5, clock=clock)


def measure_searches(store: Path) -> Iterator[Table]:
    """Measure searches against the same fits one after the other; the time of these is the first row."""
    for name, timed in search.measure_searches(store):
        first = timed.seconds[search.ONE_AFTER_THE_OTHER]
        rows = [
            Row(f"{way}: {timed.steps[way]} steps, best error {timed.errors[way]:.2f} s", seconds, seconds / first)
            for way, seconds in timed.seconds.items()
        ]
        yield Table(f"{search.TRIALS} fits of {name}, each with one core", rows)


def _read_clock() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def measure(
    title: str,
    calls_by_name: Mapping[str, Callable[[], Any]],
    *,
    turns: int,
    calls: int = 1,
    rows: int | None = None,
    rate_of: str = "rows",
    clock: Callable[[], float] = _read_clock,
) -> Table:
    """Return the median time of each call; they take turns of several calls each, after one that is not measured."""
    times: dict[str, list[float]] = {name: [] for name in calls_by_name}
    for turn in range(turns + 1):
        for name, call in calls_by_name.items():
            started_at = clock()
            for _ in range(calls):
                call()
            if turn:
                times[name].append((clock() - started_at) / calls)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    measured = [Row(name, value, value / first, rows / value if rows else None) for name, value in medians.items()]
    return Table(title, measured, rate_of)


def measure_service_day() -> Table:
    """Measure the join, the features and the storage of a simulated service day."""
    with tempfile.TemporaryDirectory() as root:
        store, source = ParquetTables(Path(root)), SyntheticSource(0)
        for name in schema.UPSTREAM:
            store.write(name, DAY, to_arrow(name, source.read(name, DAY).rows))
        warehouse = DuckDBWarehouse(store, store)
        raw = warehouse.join_upstream_tables(DAY)
        store.write("raw_transit_data", DAY, raw)

        def read(table: str) -> arrow.Table:
            return store.read(table, [DAY])

        def derive() -> arrow.Table:
            frames = (schema.to_frame(read(table)) for table in ("vehicle", "schedule", "stop"))
            return compute_feature_table(read("raw_transit_data"), *frames)

        features = derive()
        calls = {
            "read `raw_transit_data`": lambda: read("raw_transit_data"),
            "point-in-time join": lambda: warehouse.join_upstream_tables(DAY),
            "features, with reading": derive,
            "write `raw_transit_data`": lambda: store.write("raw_transit_data", DAY, raw),
            "write `transit_features`": lambda: store.write("transit_features", DAY, features),
        }
        return measure(f"a service day of {len(raw):,} rows", calls, turns=3, rows=len(raw))


def run_python(script: str) -> None:
    """Run a script in a new Python process."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def describe_machine() -> str:
    """Return a sentence on when, where and with which versions the figures were measured."""
    versions: Sequence[str] = [f"{name} {version(name)}" for name in LIBRARIES]
    today = datetime.now(UTC).date()
    return (
        f"Measured on {today}: {platform.system()}, {platform.machine()}, {count_usable_cores()} cores, "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


if __name__ == "__main__":
    main()
