"""Make a day unlike those that models have learned of a real service day: slower, on another date, or both.

    python benchmarks/storm.py DATA_SET DAY OUT [--factor 1.35] [--late 240] [--to DATE [--keep]] [--minutes 7]

DATA_SET has the upstream tables as the source `files` reads them, each in one Parquet file. In OUT, which
`make benchmark-real` can train on, vehicles of the day begin their trips late and take longer from then on, each trip
by a factor of its own. With `--to` the day is on that date instead, or with `--keep` on both, at the same times of the
day. With `--minutes` each of its trips is of a new timetable: so much later, with another id. All other days are as
they were.
"""

import argparse
import shutil
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from mbta_assets.transit.schema import UPSTREAM
from mbta_assets.transit.service_day import TIME_ZONE

MIN_FACTOR, MAX_FACTOR = 0.85, 1.9
"""Limits of how many times longer a trip takes."""
TRIP_IDS = {"vehicle": ("id", "trip_id"), "schedule": ("trip_id",), "trip": ("id",)}
"""Columns with ids of trips, or of vehicles on one trip each."""


def main(command_line: list[str] | None = None) -> None:
    """Write the data set with the day."""
    arguments = parse_arguments(command_line)
    shutil.copytree(arguments.data_set, arguments.out, copy_function=shutil.copyfile)
    for path in [arguments.out / f"{table}.parquet" for table in UPSTREAM]:
        table, rows = path.stem, pd.read_parquet(path)
        on_day = pd.to_datetime(rows["service_date"]).dt.date == arguments.day
        changed = rows[on_day]
        if table == "vehicle":
            random = np.random.default_rng(arguments.seed)
            changed = slow_down(changed, random, arguments.factor, arguments.deviation, arguments.late)
        if arguments.to:
            changed = move(changed, arguments.day, arguments.to)
        if arguments.minutes:
            changed = change_timetable(changed, TRIP_IDS.get(table, ()), arguments.minutes)
        others = rows if arguments.keep else rows[~on_day]
        pd.concat([others, changed], ignore_index=True).to_parquet(path)


def slow_down(
    vehicle: pd.DataFrame, random: np.random.Generator, mean: float, deviation: float, mean_late_seconds: float
) -> pd.DataFrame:
    """Return the vehicle updates of a day at later times.

    How many times longer trips take is normally distributed, and how late they begin exponentially.
    """
    trip, distinct = pd.factorize(vehicle["trip_id"], sort=True)
    trips = len(distinct)
    factor = random.normal(mean, deviation, trips).clip(MIN_FACTOR, MAX_FACTOR)[trip]
    late = random.exponential(mean_late_seconds, trips)[trip]
    began = vehicle.groupby(["trip_id", "id"])["updated_at"].transform("min")
    elapsed = (vehicle["updated_at"] - began).dt.total_seconds() * factor + late
    later = (began + pd.to_timedelta(elapsed.round(), unit="s")).where(trip >= 0, vehicle["updated_at"])
    return vehicle.assign(updated_at=later.astype(vehicle["updated_at"].dtype))


def move(rows: pd.DataFrame, day: date, other_day: date) -> pd.DataFrame:
    """Return the rows of a day on another one, at the same local times."""
    distance = pd.Timestamp(other_day) - pd.Timestamp(day)
    moved = {
        str(name): (column.dt.tz_convert(ZoneInfo(TIME_ZONE)).dt.tz_localize(None) + distance)
        .dt.tz_localize(ZoneInfo(TIME_ZONE), ambiguous=True, nonexistent="shift_forward")
        .dt.tz_convert("UTC")
        .astype(column.dtype)
        for name, column in rows.select_dtypes("datetimetz").items()
    }
    return rows.assign(service_date=other_day, **moved)


def change_timetable(rows: pd.DataFrame, trip_ids: tuple[str, ...], minutes: int) -> pd.DataFrame:
    """Return rows with all times so many minutes later, and other ids of trips."""
    times = rows.select_dtypes("datetimetz")
    later = {str(name): column + pd.Timedelta(minutes=minutes) for name, column in times.items()}
    renamed = {name: rows[name] + "-new" for name in trip_ids}
    return rows.assign(**later, **renamed)


def parse_arguments(command_line: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", type=Path)
    parser.add_argument("day", type=date.fromisoformat)
    parser.add_argument("out", type=Path)
    parser.add_argument("--factor", type=float, default=1.35, help="mean of how many times longer a trip takes")
    parser.add_argument("--deviation", type=float, default=0.12, help="standard deviation of that among trips")
    parser.add_argument("--late", type=float, default=240, help="mean of the seconds by which a trip begins late")
    parser.add_argument("--to", type=date.fromisoformat, help="date that the day is moved to")
    parser.add_argument("--keep", action="store_true", help="leave the day as it was, too")
    parser.add_argument("--minutes", type=int, default=0, help="minutes by which the timetable is later")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(command_line)


if __name__ == "__main__":
    main()
