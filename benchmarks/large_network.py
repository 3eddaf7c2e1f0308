"""Join a service day of a large network, compute its features, and compare a sample with a plain computation.

The day has 25,000 trips over 8,000 stops and a million reports; it takes several minutes. Run by
`python benchmarks/large_network.py [SEED]`. Exit with status 1 if a row of the sample differs, or if the join and the
features take more memory than `MAX_GIGABYTES`.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

import pandas as pd

from mbta_assets.transit.features import compute_transit_features
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.large_network import Size, Tables, count_differences, make_day, read_plainly

SIZE = Size(trips=25_000, stops=8_000, patterns=800)
SAMPLE = 10_000
MAX_GIGABYTES = 8.0

Result = TypeVar("Result")


def main() -> None:
    """Print the time and the peak memory of each step, and the number of rows that differ."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    tables = measure("make the day", lambda: make_day(SIZE, seed))
    print(", ".join(f"{name} {len(rows):,}" for name, rows in tables.items()))
    sample = derive_sample(tables, seed)
    gigabytes = peak_gigabytes()
    plain = measure("read the tables plainly", lambda: read_plainly(tables))
    differences = measure("compare the sample", lambda: count_differences(sample, plain))
    print(f"seed {seed}: of {SAMPLE:,} rows differ: {differences or 'none'}")
    if differences or gigabytes > MAX_GIGABYTES:
        sys.exit(1)


def derive_sample(tables: Tables, seed: int) -> pd.DataFrame:
    """Return a sample of the features of a day, of which all have been computed."""
    raw = measure("join", lambda: plain_day.join(tables))
    upstream = tables["vehicle"], tables["schedule"], tables["stop"]
    features = measure("features", lambda: compute_transit_features(raw, *upstream))
    print(f"{len(features):,} rows, {features['delay_seconds'].notna().mean():.1%} of them with a label")
    return features.sample(SAMPLE, random_state=seed)


def measure(step: str, run: Callable[[], Result]) -> Result:
    """Run a step and print its seconds and the peak memory of the process so far."""
    begin = time.monotonic()
    result = run()
    print(f"{step:26}{time.monotonic() - begin:8.1f} s{peak_gigabytes():8.2f} GB at most so far", flush=True)
    return result


def peak_gigabytes() -> float:
    """Return the largest resident memory of the process so far in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
