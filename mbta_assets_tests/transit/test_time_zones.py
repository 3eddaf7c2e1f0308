"""A real day in the clocks of other agencies: the same rows and features, as in Boston's, in batch and in the stream.

Each clock is a process of its own, as settings are read once.
"""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from mbta_assets_tests.support import real_day
from mbta_assets_tests.support.clocks import AUCKLAND, BOSTON, write_in_clock
from mbta_assets_tests.support.dagster_dev import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("time_zones")]

SCRIPT = """
import sys
from datetime import date
from pathlib import Path
from mbta_assets.sources.files import FilesSource
from mbta_assets_tests.serving.test_stream import compute_features, assert_equal_features, read_tables
from mbta_assets_tests.support import plain_day
from mbta_assets.transit.features import compute_transit_features
root, day = Path(sys.argv[1]), date.fromisoformat(sys.argv[2])
tables = read_tables(FilesSource(root), day)
raw = plain_day.join(tables, day)
features = compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])
raw.to_pickle(root / "raw.pickle")
features.to_pickle(root / "features.pickle")
assert_equal_features(day, tables, compute_features(day, tables).sample(1000, random_state=1))
"""


def compute_in_clock(root: Path, zone: str, day: date = real_day.DAY, hour: int = 3) -> dict[str, pd.DataFrame]:
    """Return the joined rows and the features of the real day in a time zone, its times as they read there."""
    write_in_clock(root, real_day.SEED_UPSTREAM, zone)
    variables = {"MBTA_TIME_ZONE": zone, "MBTA_SERVICE_DAY_START_HOUR": str(hour), "MBTA_NIGHTLY_HOUR": "6"}
    command = [sys.executable, "-c", SCRIPT, str(root), str(day)]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return {name: read_wall_clock(pd.read_pickle(root / f"{name}.pickle"), zone) for name in ("raw", "features")}


def read_wall_clock(rows: pd.DataFrame, zone: str) -> pd.DataFrame:
    """Return rows with their times as they read in a time zone."""
    times = rows.select_dtypes("datetimetz").columns
    return rows.assign(**{name: rows[name].dt.tz_convert(ZoneInfo(zone)).dt.tz_localize(None) for name in times})


@pytest.fixture(scope="module")
def in_boston(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    return compute_in_clock(tmp_path_factory.mktemp("boston"), BOSTON)


@pytest.mark.parametrize(
    ("zone", "hour"), [(AUCKLAND, 3), (AUCKLAND, 4), ("Asia/Kathmandu", 3), ("America/St_Johns", 3)], ids=str
)
def test_the_same_wall_clock_has_the_same_rows_and_features(
    zone: str, hour: int, in_boston: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    moved = compute_in_clock(tmp_path, zone, hour=hour)
    for name, expected in in_boston.items():
        assert len(expected) > 10_000
        pd.testing.assert_frame_equal(moved[name], expected, check_exact=True)
