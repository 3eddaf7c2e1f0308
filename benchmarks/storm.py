"""Make a storm of a real service day: copy a data set, with all runs of the day slower.

    python benchmarks/storm.py DATA_SET DAY OUT

DATA_SET has the upstream tables as the source `files` reads them. In OUT, which `make benchmark-real` can train on,
vehicles of the day begin their trips late and take longer from then on, each trip by a factor of its own; all else is
as it was. So the delays that models predict are those of a day such as none that they learn from.
"""

import argparse
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 1
MEAN_FACTOR, FACTOR_DEVIATION, MIN_FACTOR, MAX_FACTOR = 1.35, 0.12, 1.0, 1.9
"""Distribution of how many times longer a trip takes: normal, within limits."""
MEAN_LATE_SECONDS = 240
"""Mean of how much later a trip begins, exponentially distributed."""


def main() -> None:
    """Write the data set with the storm."""
    arguments = parse_arguments()
    shutil.copytree(arguments.data_set, arguments.out)
    table = arguments.out / "vehicle.parquet"
    slow_down(pd.read_parquet(table), arguments.day).to_parquet(table)


def slow_down(vehicle: pd.DataFrame, day: date) -> pd.DataFrame:
    """Return vehicle updates with later times on a service day."""
    on_day = pd.to_datetime(vehicle["service_date"]).dt.date == day
    rows, random = vehicle[on_day], np.random.default_rng(SEED)
    trip = rows.groupby("trip_id").ngroup().to_numpy()
    trips = trip.max(initial=-1) + 1
    factor = random.normal(MEAN_FACTOR, FACTOR_DEVIATION, trips).clip(MIN_FACTOR, MAX_FACTOR)[trip]
    late = random.exponential(MEAN_LATE_SECONDS, trips)[trip]
    began = rows.groupby(["trip_id", "id"])["updated_at"].transform("min")
    elapsed = (rows["updated_at"] - began).dt.total_seconds() * factor + late
    later = began + pd.to_timedelta(elapsed.round(), unit="s")
    return vehicle.assign(updated_at=vehicle["updated_at"].where(~on_day, later).astype(vehicle["updated_at"].dtype))


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", type=Path)
    parser.add_argument("day", type=date.fromisoformat)
    parser.add_argument("out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
