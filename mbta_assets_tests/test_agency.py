"""Another agency's settings reach the page and the accuracy, and nothing else in the package is about the MBTA."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets import mbta
from mbta_assets.agency import describe_attribution, select_line_colors, worker_environment
from mbta_assets.ml.evaluation.metrics import make_windows
from mbta_assets.settings import AgencySettings, SettingsError
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.test_style import PACKAGE

NAMES_OF_THE_MBTA = re.compile(r"\b(Boston|New_York|Red|Blue|Orange|Mattapan|Green(-[BCDE])?|MassDOT)\b")
MAY_NAME_THEM = ("mbta/", "sources/simulation/", "sources/lamp/")

SCRIPT = """
import json
import numpy as np
import pandas as pd
from mbta_assets.ml.evaluation.accuracy import score_predictions
from mbta_assets.ml.evaluation.checks import accuracy_within_bounds
from mbta_assets.serving.lines import line_color
from mbta_assets.serving.page import NetworkView, render_page
features = pd.DataFrame({
    "route_id": pd.array(["Red"] * 300, pd.StringDtype("pyarrow")),
    "time_stamp": pd.Timestamp("2024-04-08 12:00", tz="UTC"), "stop_id": ["a", "b", "c"] * 100,
    "stops_ahead": 1, "stops_behind": 3.0, "current_status": "STOPPED_AT", "current_stop_id": ["a", "b", "c"] * 100,
    "scheduled_seconds_ahead": 240.0, "delay_seconds": 100.0,
})
rows = pd.DataFrame(score_predictions(features, np.zeros(300))).assign(model_version="model")
windows = rows[rows["measure"] == "within_mbta_window"]
values = {(row.dimension, row.member): (row.n, row.value) for row in windows.itertuples() if row.n}
page = render_page(NetworkView("0" * 64, None, None, (), 0, (), None, None, None))
print(json.dumps({
    "overall": [[member, *value] for (dimension, member), value in values.items() if dimension == "predicted_horizon"],
    "terminal": sum(n for (_, member), (n, _) in values.items() if member.endswith("terminal")),
    "problem": accuracy_within_bounds(windows).problem, "color": line_color("Red"), "page": page,
}))
"""


def run_script(**environment: str) -> dict[str, object]:
    """Return what a process with these settings says of a day and a page."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.mark.integration
def test_the_settings_of_another_agency_reach_the_page_and_the_accuracy() -> None:
    other = run_script(
        MBTA_AGENCY_NAME="Auckland <Transport>",
        MBTA_TIME_ZONE="Pacific/Auckland",
        MBTA_TERMINAL_STOPS="a, c",
        MBTA_ACCURACY_WINDOWS='{"0-5 min": [-60, 120], "5-30 min": [-60, 300]}',
    )
    assert other["overall"] == [["0-5 min", 300, 1.0]]
    assert other["terminal"] == 200
    assert other["problem"] is None
    assert other["color"] == "#4a4a4a"
    page = str(other["page"])
    assert "Data: Auckland &lt;Transport&gt;." in page and "MassDOT" not in page and "Boston" not in page


@pytest.mark.integration
def test_without_settings_the_agency_is_the_mbta() -> None:
    default = run_script()
    assert default["overall"] == [["3-6 min", 300, 1.0]]
    assert default["terminal"] == 0
    assert default["color"] == mbta.LINE_COLORS["Red"]
    assert mbta.ATTRIBUTION in str(default["page"])


@pytest.mark.parametrize("changed", [{"agency_name": "Other"}, {"time_zone": "Europe/Berlin"}])
def test_only_the_mbta_is_acknowledged_as_massdot(changed: dict[str, str]) -> None:
    other = AgencySettings(**changed)  # type: ignore[arg-type]
    assert describe_attribution(AgencySettings()) == "MBTA data is provided by MassDOT."
    assert "MassDOT" not in describe_attribution(other)
    assert select_line_colors(other) == {}


def test_nothing_else_in_the_package_names_the_mbtas_city_or_routes() -> None:
    named = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for pattern in ("*.py", "*.sql", "*.html", "*.csv")
        for path in sorted(PACKAGE.rglob(pattern))
        if not str(path.relative_to(PACKAGE)).startswith(MAY_NAME_THEM)
        for match in NAMES_OF_THE_MBTA.finditer(path.read_text())
    ]
    assert named == []


ends = st.lists(st.integers(1, 600), min_size=1, max_size=6, unique=True).map(sorted)
windows = ends.flatmap(
    lambda ends: st.lists(
        st.tuples(st.integers(-900, -1), st.integers(1, 900)), min_size=len(ends), max_size=len(ends)
    ).map(
        lambda errors: {
            f"{start}-{end} min": window for start, end, window in zip([0, *ends], ends, errors, strict=False)
        }
    )
)
any_windows = st.dictionaries(
    st.tuples(st.integers(-1, 9), st.integers(-1, 9)).map(lambda bin: f"{bin[0]}-{bin[1]} min") | st.text(max_size=5),
    st.lists(st.integers(-3, 3) | st.floats() | st.booleans() | st.text(max_size=2), max_size=3) | st.none(),
    max_size=3,
)


@given(windows)
def test_valid_windows_are_read_as_written_and_sent_to_workers(windows: dict[str, tuple[int, int]]) -> None:
    agency = AgencySettings.from_environment({"MBTA_ACCURACY_WINDOWS": json.dumps(windows)})
    assert agency.accuracy_windows == windows
    assert AgencySettings.from_environment(worker_environment(agency)) == agency
    made = [*make_windows(windows).values()]
    assert made[0].min_ahead == 0
    assert [window.max_ahead for window in made[:-1]] == [window.min_ahead for window in made[1:]]


@given(any_windows)
def test_windows_are_valid_or_an_error_that_names_the_setting(windows: dict[str, object]) -> None:
    try:
        agency = AgencySettings.from_environment({"MBTA_ACCURACY_WINDOWS": json.dumps(windows)})
    except SettingsError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.startswith("MBTA_ACCURACY_WINDOWS is ")
        return
    made = [*make_windows(agency.accuracy_windows).values()]
    assert [0, *(window.max_ahead for window in made[:-1])] == [window.min_ahead for window in made]
    assert all(window.min_error < 0 < window.max_error for window in made)


def test_workers_get_the_agency_but_not_a_path_of_this_machine() -> None:
    agency = AgencySettings(
        time_zone="Europe/Berlin", terminal_stops=("a", "b"), accuracy_bounds=mbta.PUBLISHED_ACCURACY
    )
    assert worker_environment(agency) == {"MBTA_TIME_ZONE": "Europe/Berlin", "MBTA_TERMINAL_STOPS": "a,b"}
    assert worker_environment(AgencySettings()) == {}
