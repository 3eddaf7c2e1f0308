"""Measure the peak memory in which a training set of 90 service days is put together, against the matrix it becomes.

The days are one simulated day under the dates of 90. Run with `python benchmarks/training_set_memory.py`; the number of
days may be given. The bound is twice the encoded matrix: 4 bytes for each numeric feature and category of each row.
"""

import resource
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import pyarrow as arrow
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

FIRST_DAY = date(2024, 3, 4)
DAYS = 90
ROWS_PER_DAY = 60_000
MAX_RATIO = 2.0


def main(directory: str, days: int) -> None:
    """Write the days and measure, each in a process of its own: a process begins with the peak of the one it is of."""
    for step in (["write", directory, str(days)], ["measure", directory]):
        subprocess.run([sys.executable, __file__, *step], check=True)


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
    print(f"{days} days of {len(rows):,} rows")


def measure(directory: Path) -> None:
    """Print the peak of the assembly beyond what the process took before, and exit with 1 beyond the bound."""
    from mbta_assets.ml.training.assembly import build_training_set
    from mbta_assets.ml.training.dataset import CATEGORICAL_FEATURES, COLUMNS, NUMERIC_FEATURES, SplitConfig
    from mbta_assets.storage.parquet_tables import ParquetTables
    from mbta_assets.transit.sampling import sample_table

    store = ParquetTables(directory)
    days = store.days("transit_features")
    before, started = peak_bytes(), time.perf_counter()
    samples = ((day, sample_table(store.read("transit_features", [day], COLUMNS), ROWS_PER_DAY)) for day in days)
    built = build_training_set(samples, SplitConfig())
    peak = peak_bytes() - before
    matrix = len(built) * 4 * (len(NUMERIC_FEATURES) + len(CATEGORICAL_FEATURES))
    print(f"{len(built):,} rows of {len(days)} days in {time.perf_counter() - started:.0f} s")
    print(f"encoded matrix {matrix / 1e6:,.0f} MB, stored {len(built.content) / 1e6:,.0f} MB")
    print(
        f"process before {before / 1e6:,.0f} MB, peak beyond it {peak / 1e6:,.0f} MB: {peak / matrix:.2f} × the matrix"
    )
    sys.exit(peak > MAX_RATIO * matrix)


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_days(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as root:
            main(root, int(sys.argv[1]) if len(sys.argv) > 1 else DAYS)
