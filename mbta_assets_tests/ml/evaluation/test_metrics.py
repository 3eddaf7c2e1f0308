"""Errors, and the bounds of the windows that count a prediction as accurate."""

from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.evaluation.metrics import Share, score_eta_windows, score_mbta_windows

ScoreWindows = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, Share]]


def score_one(score: ScoreWindows, error: float, predicted_seconds_ahead: float) -> dict[str, Share]:
    """Score a prediction with this error, in seconds, by the bins that it falls into.

    The vehicle is predicted to be on schedule.
    """
    shares = score(np.array([error]), np.zeros(1), np.array([predicted_seconds_ahead]))
    return {name: share for name, share in shares.items() if share.n}


@pytest.mark.parametrize(
    ("begin", "end", "min_error", "max_error"),
    [(0, 180, -60, 60), (180, 360, -90, 120), (360, 720, -150, 210), (720, 1800, -240, 360)],
)
def test_the_mbta_bins_by_predicted_time_and_an_error_on_a_bound_is_inaccurate(
    begin: int, end: int, min_error: int, max_error: int
) -> None:
    (name,) = score_one(score_mbta_windows, 0, begin)
    assert score_one(score_mbta_windows, 0, end - 1).keys() == {name}
    assert score_one(score_mbta_windows, 0, end).keys() != {name}
    errors = (min_error, min_error + 1, max_error - 1, max_error)
    assert [score_one(score_mbta_windows, error, begin)[name] for error in errors] == [
        (1, 0.0), (1, 1.0), (1, 1.0), (1, 0.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "end", "min_error", "max_error"),
    [(0, 180, -30, 90), (180, 360, -60, 150), (360, 600, -60, 210), (600, 900, -90, 270)],
)
def test_the_eta_benchmark_bins_by_actual_time_and_an_error_on_a_bound_is_accurate(
    begin: int, end: int, min_error: int, max_error: int
) -> None:
    (name,) = score_one(score_eta_windows, 0, begin)
    assert score_one(score_eta_windows, 0, end).keys() != {name}
    errors = (min_error - 1, min_error, max_error, max_error + 1)
    assert [score_one(score_eta_windows, error, begin - error)[name] for error in errors] == [
        (1, 0.0), (1, 1.0), (1, 1.0), (1, 0.0)
    ]  # fmt: skip


def test_error_metrics_follow_their_textbook_definitions() -> None:
    errors = metrics.compute_errors(np.array([0.0, 10.0, 20.0]), np.array([0.0, 0.0, 26.0]))
    assert errors["mae"] == pytest.approx(16 / 3)
    assert errors["rmse"] == pytest.approx(np.sqrt(136 / 3))
    assert errors["medae"] == 6
    assert errors["me"] == pytest.approx(4 / 3)
    assert errors["smape"] == pytest.approx(100 * (0 + 2 + 12 / 46) / 3)
    assert errors["r2"] == pytest.approx(1 - 136 / 200)


@pytest.fixture
def six_rows() -> pd.DataFrame:
    """Return rows of one stop ahead, the last of them without a route."""
    return pd.DataFrame(
        {
            "scheduled_seconds_ahead": [100.0, 100.0, 200.0, 200.0, 400.0, 4000.0],
            "delay_seconds": [59.0, 60.0, 119.0, -90.0, 209.0, 0.0],
            "stops_ahead": 1,
            "stops_behind": 3.0,
            "last_delay_seconds": 0.0,
            "current_status": "IN_TRANSIT_TO",
            "route_id": pd.array(["Red"] * 5 + [None], pd.StringDtype("pyarrow")),
            "service_date": [date(2024, 3, 6)] * 4 + [date(2024, 3, 7)] * 2,
        }
    )


def test_the_leaderboard_has_the_shares_within_the_mbta_windows_of_bins_with_predictions(
    six_rows: pd.DataFrame,
) -> None:
    row = metrics.make_leaderboard_row("model", six_rows, np.zeros(6))
    assert row["within_mbta_window"] == {"0-3 min": 0.5, "3-6 min": 0.5, "6-12 min": 1.0}


def test_the_leaderboard_leaves_rows_without_a_route_out_of_the_errors_by_route(six_rows: pd.DataFrame) -> None:
    row = metrics.make_leaderboard_row("model", six_rows, np.zeros(6))
    assert row["n"] == 6
    assert {position: errors["n"] for position, errors in row["by_position"].items()} == {"mid_trip": 6}
    assert {route: errors["n"] for route, errors in row["by_route"].items()} == {"Red": 5}


def test_the_leaderboard_has_the_errors_of_each_service_day(six_rows: pd.DataFrame) -> None:
    row = metrics.make_leaderboard_row("model", six_rows, np.zeros(6))
    assert {day: errors["n"] for day, errors in row["by_day"].items()} == {"2024-03-06": 4, "2024-03-07": 2}
    assert sum(errors["mae"] * errors["n"] for errors in row["by_day"].values()) == pytest.approx(row["mae"] * 6)


def test_the_leaderboard_has_the_errors_by_how_much_the_delay_changed(six_rows: pd.DataFrame) -> None:
    label = np.array([0.0, 29.9, 30.0, -120.0, 1000.0, 5.0])
    rows = six_rows.assign(delay_seconds=label, last_delay_seconds=[0.0, 0.0, 0.0, 0.0, 100.0, np.nan])
    by_change = metrics.make_leaderboard_row("model", rows, label - 1)["by_change"]
    assert {name: errors["n"] for name, errors in by_change.items()} == {
        "0-30 s": 2, "30-60 s": 1, "2-5 min": 1, ">5 min": 1
    }  # fmt: skip
    assert all(errors["mae"] == 1 for errors in by_change.values())


def test_the_leaderboard_has_every_distance_and_tells_departures_and_terminals_apart(six_rows: pd.DataFrame) -> None:
    rows = six_rows.assign(
        stops_ahead=[0, 1, 2, 10, 7, 30],
        stops_behind=[1, 1, 0, 4, 5, 6],
        current_status=["STOPPED_AT", "STOPPED_AT", "IN_TRANSIT_TO", "STOPPED_AT", "IN_TRANSIT_TO", "INCOMING_AT"],
    )
    row = metrics.make_leaderboard_row("model", rows, np.zeros(6))
    assert list(row["by_stops_ahead"]) == ["0", "1", "2", "7", "10", "30"]
    assert {position: errors["mae"] for position, errors in row["by_position"].items()} == {
        "departure": 59, "mid_trip": (90 + 209 + 0) / 3, "terminal": (60 + 119) / 2
    }  # fmt: skip
    assert row["mae"] == pytest.approx((59 + 60 + 119 + 90 + 209 + 0) / 6)
