"""Predictions are held to the accuracy that the agency has published, by route and mode."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mbta_assets import mbta
from mbta_assets.ml.evaluation.accuracy import TEXT, score_predictions
from mbta_assets.ml.evaluation.accuracy_bounds import COLUMNS, AccuracyBounds
from mbta_assets.ml.evaluation.checks import MIN_PREDICTIONS, accuracy_within_bounds
from mbta_assets.settings import AgencySettings, SettingsError
from mbta_assets_tests.ml.evaluation.conftest import select_members

MBTA = AccuracyBounds.from_settings(AgencySettings())


def make_day(shares: dict[str, float], rows_per_route: int = 1000) -> tuple[pd.DataFrame, np.ndarray]:
    """Return features and predictions two minutes ahead of which a share of each route is accurate."""
    accurate = np.concatenate([np.arange(rows_per_route) < share * rows_per_route for share in shares.values()])
    features = pd.DataFrame(
        {
            "route_id": pd.array(np.repeat(list(shares), rows_per_route), TEXT),
            "time_stamp": pd.Timestamp("2024-03-06T13:00:00Z"),
            "stop_id": pd.array(["stop"] * len(accurate), TEXT),
            "stops_ahead": 1,
            "stops_behind": 3.0,
            "current_status": "IN_TRANSIT_TO",
            "scheduled_seconds_ahead": 120.0,
            "delay_seconds": np.where(accurate, 0.0, 100.0),
        }
    )
    return features, np.zeros(len(features))


def judge(shares: dict[str, float], bounds: AccuracyBounds = MBTA, rows_per_route: int = 1000) -> str:
    """Return what `accuracy_within_bounds` says of the windows of a day."""
    rows = pd.DataFrame(score_predictions(*make_day(shares, rows_per_route), bounds)).assign(model_version="model")
    return accuracy_within_bounds(rows[rows["measure"] == "within_mbta_window"], bounds).problem or ""


def describe(who: str, share: str, published: str) -> str:
    """Return the sentence about predictions up to three minutes ahead that are worse than published."""
    return f"{share} of the predictions for {who}, 0-3 min ahead, were accurate; of the agency's own {published} are"


def test_a_day_that_is_worse_than_published_on_one_line_names_that_line_only() -> None:
    assert judge({"Red": 0.889, "Blue": 0.87}) == describe("Red", "88.9%", "89.0%")
    assert judge({"Red": 0.895, "Blue": 0.87}) == ""


def test_each_line_is_judged_by_its_own_share() -> None:
    assert judge({"Orange": 0.87}) == describe("Orange", "87.0%", "91.5%")
    assert judge({"Blue": 0.87}) == ""


def test_a_line_is_judged_by_its_latest_year(tmp_path: Path) -> None:
    lines = mbta.PUBLISHED_ACCURACY.read_text().splitlines()
    older = tmp_path / "older.csv"
    older.write_text("\n".join(line for line in lines if ",2023," not in line and ",2022," not in line))
    bounds = AccuracyBounds.from_settings(AgencySettings(accuracy_bounds=older))
    assert judge({"Blue": 0.93}) == ""
    assert judge({"Blue": 0.93}, bounds) == describe("Blue", "93.0%", "94.2%")


def test_buses_are_judged_together_and_unknown_routes_not_at_all() -> None:
    assert judge({"1": 0.0, "66": 0.9, "741": 0.9}) == describe("bus", "60.0%", "82.3%")
    assert judge({"1": 0.7, "66": 0.96}) == ""
    assert judge({"CR-Fitchburg": 0.0, "Boat-F1": 0.0}) == ""


def test_few_predictions_are_not_judged() -> None:
    assert judge({"Red": 0.0}, rows_per_route=MIN_PREDICTIONS - 1) == ""
    assert judge({"Red": 0.0}, rows_per_route=MIN_PREDICTIONS) != ""


def test_shares_are_reported_by_route_and_mode() -> None:
    rows = score_predictions(*make_day({"Red": 0.5, "Blue": 1.0, "1": 0.25, "CR-Fitchburg": 0.0}, 4), MBTA)
    by_mode = select_members(rows, "within_mbta_window", "predicted_horizon, mode")
    assert (by_mode["0-3 min, subway"], by_mode["0-3 min, bus"]) == ((8, 0.75), (4, 0.25))
    assert select_members(rows, "within_mbta_window", "predicted_horizon, route_id")["0-3 min, Red"] == (4, 0.5)


@pytest.mark.parametrize(
    "agency",
    [
        {"agency_name": "Other"},
        {"time_zone": "Pacific/Auckland"},
        {"accuracy_windows": {"0-3 min": (-60, 90)}},
        {"accuracy_bounds": "none"},
    ],
)
def test_another_agency_is_not_held_to_what_the_mbta_has_published(agency: dict[str, object]) -> None:
    bounds = AccuracyBounds.from_settings(AgencySettings(**agency))  # type: ignore[arg-type]
    assert bounds == AccuracyBounds()
    assert judge({"Red": 0.0, "1": 0.0}, bounds) == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("subway,Red,0-4 min,2023,10,0.8", "line 2 has the bin '0-4 min'"),
        ("subway,Red,0-3 min,2023,10,80", "line 2 has the share '80'"),
        ("subway,Red,0-3 min,2023,10,", "line 2 has the share ''"),
        ("subway,Red,0-3 min,last,10,0.8", "line 2 has the year 'last'"),
        (",Red,0-3 min,2023,10,0.8", "line 2 has no mode"),
        ("bus,,0-3 min,2023,10,0.8\nferry,,0-3 min,2023,10,0.8", "of the modes bus, ferry no route is named"),
        ("bus,1,0-3 min,2023,10,0.8\nferry,1,3-6 min,2023,10,0.8", "route 1 is of two modes"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_says_where(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "bounds.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{line}\n")
    with pytest.raises(SettingsError) as error:
        AccuracyBounds.from_settings(AgencySettings(accuracy_bounds=path))
    assert str(error.value).startswith(f"MBTA_ACCURACY_BOUNDS is '{path}', which cannot be used: {problem}")


def test_a_file_without_a_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "bounds.csv"
    path.write_text("mode,route_id,bin,year,predictions\n")
    with pytest.raises(SettingsError, match="line 1 has no column share_accurate"):
        AccuracyBounds.from_settings(AgencySettings(accuracy_bounds=path))
