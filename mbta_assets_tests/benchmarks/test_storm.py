"""The benchmark's days unlike any other: slower, on another date, of a new timetable."""

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import storm
from benchmarks.real_days import SEED_UPSTREAM
from mbta_assets.transit.schema import UPSTREAM
from mbta_assets.transit.service_day import TIME_ZONE

DAY, OTHER_DAY = date(2023, 10, 3), date(2024, 2, 6)
"""A day of daylight saving time, and one of winter."""


def read(directory: Path, table: str) -> pd.DataFrame:
    """Return an upstream table with service days as dates."""
    [path] = directory.glob(f"{table}.*")
    rows = pd.read_parquet(path)
    return rows.assign(service_date=pd.to_datetime(rows["service_date"]).dt.date)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Red Line's day, and as it would be half as slow again in winter with another timetable."""
    out = tmp_path_factory.mktemp("storm") / "out"
    slower = ["--factor", "1.5", "--deviation", "0.1", "--late", "60"]
    storm.main([str(SEED_UPSTREAM), str(DAY), str(out), *slower, "--to", str(OTHER_DAY), "--keep", "--minutes", "7"])
    return out


@pytest.mark.parametrize("table", UPSTREAM)
def test_the_day_itself_stays_as_it_was(made: Path, table: str) -> None:
    rows, before = read(made, table), read(SEED_UPSTREAM, table)
    kept = rows[rows["service_date"] == DAY].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before, check_dtype=False)
    assert len(rows) == 2 * len(before)


def test_times_of_the_timetable_are_those_of_the_day_and_seven_minutes_later(made: Path) -> None:
    schedule, before = read(made, "schedule"), read(SEED_UPSTREAM, "schedule")
    moved = schedule[schedule["service_date"] == OTHER_DAY].reset_index(drop=True)
    clock = [
        times.dt.tz_convert(TIME_ZONE).dt.tz_localize(None) for times in (moved["arrival_time"], before["arrival_time"])
    ]
    assert (clock[0] - clock[1] == pd.Timedelta(days=126, minutes=7)).all()
    assert set(moved["trip_id"]) == {f"{trip}-new" for trip in before["trip_id"]}


def test_vehicles_take_longer(made: Path) -> None:
    vehicle, before = read(made, "vehicle"), read(SEED_UPSTREAM, "vehicle")

    def measure(rows: pd.DataFrame) -> pd.Series:
        times = rows.groupby(["trip_id", "id"])["updated_at"]
        return (times.max() - times.min()).dt.total_seconds()

    slow = measure(vehicle[vehicle["service_date"] == OTHER_DAY])
    usual = measure(before).rename(lambda name: f"{name}-new")
    ratio = (slow / usual)[usual > 600]
    assert ratio.between(storm.MIN_FACTOR, storm.MAX_FACTOR).all()
    assert ratio.mean() == pytest.approx(1.5, abs=0.1)
