"""The service day of agencies in several time zones, each in a process of its own, as settings are read once."""

import json
import subprocess
import sys

import pytest

from mbta_assets_tests.support.dagster_dev import ROOT

SCRIPT = """
import json
from datetime import UTC, date, datetime
from mbta_assets.transit import service_day
days = [date(2026, 4, 4), date(2026, 4, 5), date(2026, 4, 6), date(2026, 9, 27), date(2026, 3, 29)]
times = [datetime(2026, 4, 5, hour, 45, tzinfo=UTC) for hour in range(0, 24, 3)]
print(json.dumps([
    [service_day.start_time(day).strftime("%d %H:%M") for day in days],
    [service_day.service_date_at(time).day for time in times],
]))
"""
EXPECTED: dict[tuple[str, str], list[list[object]]] = {
    # Clocks go back on 5 April at 3 am, and forward on 27 September.
    ("Pacific/Auckland", "3"): [["03 11:00", "04 12:00", "05 12:00", "26 11:00", "28 11:00"], [5, 5, 5, 5, 5, 6, 6, 6]],
    ("Asia/Kolkata", "3"): [["03 18:30", "04 18:30", "05 18:30", "26 18:30", "28 18:30"], [5, 5, 5, 5, 5, 5, 5, 6]],
    # Clocks go forward on 29 March.
    ("Europe/Berlin", "4"): [["03 22:00", "04 22:00", "05 22:00", "26 22:00", "28 22:00"], [4, 5, 5, 5, 5, 5, 5, 5]],
    ("Europe/Berlin", "0"): [["03 22:00", "04 22:00", "05 22:00", "26 22:00", "28 22:00"], [5, 5, 5, 5, 5, 5, 5, 5]],
}


@pytest.mark.integration
@pytest.mark.parametrize(("zone", "hour"), EXPECTED, ids="-".join)
def test_the_service_day_is_that_of_the_agency(zone: str, hour: str) -> None:
    environment = {"MBTA_TIME_ZONE": zone, "MBTA_SERVICE_DAY_START_HOUR": hour}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == EXPECTED[zone, hour]


@pytest.mark.integration
def test_a_wrong_time_zone_is_an_error_that_names_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mbta_assets", "collect", "--port", "0"],
        cwd=ROOT, env={"MBTA_TIME_ZONE": "Mars/Base"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: MBTA_TIME_ZONE is 'Mars/Base'; it may be the name of a time zone")
