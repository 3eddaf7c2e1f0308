"""Measure the peak memory in which a training set of 90 service days is put together, against the matrix it becomes.

The days are one simulated day under the dates of 90. Run with `python benchmarks/training_set_memory.py`; the number of
days may be given. The bound is twice the encoded matrix: 4 bytes for each numeric feature and category of each row.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as arrow
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

FIRST_DAY = date(2024, 3, 4)
DAYS = 90
ROWS_PER_DAY = 60_000
MAX_RATIO = 2.0


@dataclass(frozen=True)
class Assembly:
    """What a training set took."""

    days: int
    rows: int
    seconds: float
    before_bytes: int
    """Peak of the process before it began."""
    peak_bytes: int
    """Peak beyond that."""
    matrix_bytes: int
    stored_bytes: int


def main(directory: str, days: int) -> bool:
    """Measure so many days, print what they took, and return whether that is within the bound."""
    [taken] = measure_days(directory, [days])
    ratio = taken.peak_bytes / taken.matrix_bytes
    print(f"{taken.rows:,} rows of {taken.days} days in {taken.seconds:.0f} s")
    print(f"encoded matrix {taken.matrix_bytes / 1e6:,.0f} MB, stored {taken.stored_bytes / 1e6:,.0f} MB")
    print(
        f"process before {taken.before_bytes / 1e6:,.0f} MB, peak beyond it {taken.peak_bytes / 1e6:,.0f} MB: "
        f"{ratio:.2f} × the matrix"
    )
    return ratio <= MAX_RATIO


def measure_days(directory: str, numbers: Sequence[int]) -> list[Assembly]:
    """Write days, and measure training sets of so many of them, each in a process of its own."""
    subprocess.run([sys.executable, __file__, "write", directory, str(max(numbers))], check=True)
    made = []
    for days in numbers:
        command = [sys.executable, __file__, "measure", directory, str(days)]
        made.append(Assembly(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout)))
    return made


def write_days(directory: Path, days: int) -> None:
    """Write `transit_features` of a simulated day under the dates of several."""
    from mbta_assets.sources.synthetic import SyntheticSource
    from mbta_assets.storage.parquet_tables import ParquetTables
    from mbta_assets.transit import schema
    from mbta_assets_tests.support.days import build

    source, store = SyntheticSource(0), ParquetTables(directory)
    features = build(store, FIRST_DAY, {name: source.read(name, FIRST_DAY).rows for name in schema.UPSTREAM})
    rows = arrow.Table.from_pandas(features, schema.arrow_schema(schema.TransitFeatures), preserve_index=False)
    del features
    for n in range(days):
        shift = arrow.scalar(timedelta(days=n), arrow.duration("us"))
        moved = rows
        for index, field in enumerate(rows.schema):
            if arrow.types.is_timestamp(field.type):
                moved = moved.set_column(index, field, pc.add(rows[field.name], shift))
            elif arrow.types.is_date(field.type):
                day = arrow.scalar(FIRST_DAY + timedelta(days=n), arrow.date32())
                moved = moved.set_column(index, field, arrow.repeat(day, len(rows)))
        store.write("transit_features", FIRST_DAY + timedelta(days=n), moved)


def measure(directory: Path, number: int) -> Assembly:
    """Return what a training set of the first days takes in this process."""
    from mbta_assets.ml.training.assembly import build_training_set
    from mbta_assets.ml.training.dataset import CATEGORICAL_FEATURES, COLUMNS, NUMERIC_FEATURES, SplitConfig
    from mbta_assets.storage.parquet_tables import ParquetTables
    from mbta_assets.transit.sampling import sample_table

    store = ParquetTables(directory)
    days = store.days("transit_features")[:number]
    before, started = peak_bytes(), time.perf_counter()
    samples = ((day, sample_table(store.read("transit_features", [day], COLUMNS), ROWS_PER_DAY)) for day in days)
    built = build_training_set(samples, SplitConfig())
    peak = peak_bytes() - before
    matrix = len(built) * 4 * (len(NUMERIC_FEATURES) + len(CATEGORICAL_FEATURES))
    seconds = time.perf_counter() - started
    return Assembly(len(days), len(built), seconds, before, peak, matrix, len(built.content))


def peak_bytes() -> int:
    """Return the largest resident size of this process so far; `getrusage` begins with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_days(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        print(json.dumps(asdict(measure(Path(sys.argv[2]), int(sys.argv[3])))))
    else:
        with tempfile.TemporaryDirectory() as root:
            sys.exit(not main(root, int(sys.argv[1]) if len(sys.argv) > 1 else DAYS))
