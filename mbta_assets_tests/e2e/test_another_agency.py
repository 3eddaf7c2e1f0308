"""An agency on the other side of the world gets from files to a leaderboard, over a day on which its clocks change."""

import json
import re
import subprocess
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from scipy.stats import ttest_1samp

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.clocks import AUCKLAND, move_clock
from mbta_assets_tests.support.dagster_dev import ROOT, environment

pytestmark = pytest.mark.e2e

DAYS = small_network.days_from(small_network.MONDAY, 14)
"""Enough for parts of whole days. New Zealand's clocks go back on 7 April 2024, the seventh of them."""
N_TEST_DAYS = 2
EVERY = 4
"""A fourth of the trips is enough to learn from, as quality is not what is tested."""


def test_days_of_another_time_zone_lead_to_a_leaderboard_with_intervals_by_day(tmp_path: Path) -> None:
    for day in DAYS:
        for table, rows in small_network.make_day(day, every=EVERY).items():
            path = tmp_path / "upstream" / table / f"service_date={day}" / "part.parquet"
            path.parent.mkdir(parents=True)
            move_clock(rows, AUCKLAND).drop(columns="service_date").to_parquet(path, index=False)
    store = tmp_path / "store"
    variables = environment(store, tmp_path / "upstream", MBTA_TIME_ZONE=AUCKLAND)
    command = [sys.executable, "-m", "mbta_assets", "backfill", "--source", "files", "--last", str(len(DAYS))]
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]

    tables = ParquetTables(store)
    assert tables.days("transit_features") == DAYS
    rows = schema.to_frame(tables.read("transit_features", [DAYS[6]]))
    assert rows["time_stamp"].min().astimezone(ZoneInfo(AUCKLAND)).date() == DAYS[6]
    assert rows["delay_seconds"].notna().mean() > 0.9

    leaderboard = json.loads((store / "reports/model_leaderboard.json").read_text())
    by_day = {row["model"]: {day: errors["mae"] for day, errors in row["by_day"].items()} for row in leaderboard}
    lookup = by_day.pop("runtime_lookup")
    assert list(lookup) == [str(day) for day in DAYS[-N_TEST_DAYS:]]
    printed = read_differences(run.stdout)
    assert printed.keys() == by_day.keys()
    for model, errors in by_day.items():
        differences = [errors[day] - lookup[day] for day in lookup]
        interval = ttest_1samp(differences, 0).confidence_interval(0.95)
        mean, half_width = printed[model]
        assert mean - half_width == pytest.approx(interval.low, abs=0.011)
        assert mean + half_width == pytest.approx(interval.high, abs=0.011)


def read_differences(output: str) -> dict[str, tuple[float, float]]:
    """Return the printed differences to the lookup and half widths of their intervals, in seconds, by model."""
    _, _, comparison = output.partition("MAE minus that of runtime_lookup")
    lines = re.findall(r"^(\w+) +([+-][\d.]+) s ± ([\d.]+); better on \d of 2 days$", comparison, re.MULTILINE)
    return {model: (float(mean), float(half_width)) for model, mean, half_width in lines}
