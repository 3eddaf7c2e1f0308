"""The accuracy of predictions, on rows that can be checked by hand."""

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation.accuracy import (
    MIN_ROWS_OF_STOP,
    correct_predictions,
    make_predictions_table,
    score_predictions,
)
from mbta_assets.ml.evaluation.grouping import DISTANCE_BINS, bin_distances
from mbta_assets.transit import schema
from mbta_assets_tests.ml.evaluation.conftest import select_members


def test_errors_are_those_of_the_arrivals_that_were_seen(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    rows = score_predictions(four_rows, predicted)
    assert select_members(rows, "mae_seconds", "all") == {"all": (3, pytest.approx((10 + 40 + 0) / 3))}
    assert select_members(rows, "rmse_seconds", "all") == {"all": (3, pytest.approx(np.sqrt((100 + 1600 + 0) / 3)))}
    assert select_members(rows, "mean_error_seconds", "all") == {"all": (3, pytest.approx((10 - 40 + 0) / 3))}
    assert select_members(rows, "matched_share", "all") == {"all": (4, 0.75)}


def test_errors_are_grouped_by_stops_ahead_route_and_position(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    rows = score_predictions(four_rows, predicted)
    without_rows = dict.fromkeys(DISTANCE_BINS, (0, None))
    assert select_members(rows, "mae_seconds", "stops_ahead") == {**without_rows, "1": (2, 5), "3": (1, 40)}
    assert select_members(rows, "mae_seconds", "route_id") == {"Blue": (1, 0), "Red": (2, 25)}
    assert select_members(rows, "mae_seconds", "position") == {
        "mid_trip": (2, 20), "terminal": (1, 10), "departure": (0, None)
    }  # fmt: skip
    assert select_members(rows, "mae_seconds", "route_id, stops_ahead")["Red, 3"] == (1, 40)


def test_errors_are_grouped_by_local_hour_and_by_stops_with_enough_rows(
    four_rows: pd.DataFrame, predicted: np.ndarray
) -> None:
    four_rows["time_stamp"] += pd.to_timedelta([0, 59, 60, 60], "min")
    rows = score_predictions(four_rows, predicted)
    assert select_members(rows, "mae_seconds", "hour") == {"07": (2, 25), "08": (1, 0)}
    assert select_members(rows, "mae_seconds", "stop_id") == {}
    times = MIN_ROWS_OF_STOP // 2
    many = pd.concat([four_rows.assign(stop_id=["s", "s", "t", "u"])] * times, ignore_index=True)
    rows = score_predictions(many, np.tile(predicted, times))
    assert select_members(rows, "mae_seconds", "stop_id") == {"s": (MIN_ROWS_OF_STOP, 25)}
    assert select_members(rows, "rmse_seconds", "stop_id") == {}


def test_a_prediction_whose_arrival_was_never_seen_is_inaccurate_in_the_mbtas_bins(
    four_rows: pd.DataFrame, predicted: np.ndarray
) -> None:
    shares = select_members(score_predictions(four_rows, predicted), "within_mbta_window", "predicted_horizon")
    # Predicted 190 s, 340 s, 170 s and 60 s ahead; the last was never seen.
    assert shares == {"0-3 min": (2, 0.5), "3-6 min": (2, 1.0), "6-12 min": (0, None), "12-30 min": (0, None)}


def test_terminals_have_their_own_shares_in_the_mbtas_bins(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    rows = score_predictions(four_rows, predicted)
    shares = select_members(rows, "within_mbta_window", "predicted_horizon, position")
    assert (shares["3-6 min, terminal"], shares["3-6 min, mid_trip"]) == ((1, 1.0), (1, 1.0))
    assert (shares["0-3 min, terminal"], shares["0-3 min, mid_trip"]) == ((0, None), (2, 0.5))


def test_the_benchmarks_score_is_the_plain_mean_of_its_bins(four_rows: pd.DataFrame) -> None:
    features = pd.concat([four_rows] * 2, ignore_index=True).head(5)
    features["scheduled_seconds_ahead"] = [60.0, 120.0, 200.0, 400.0, 700.0]
    features["delay_seconds"] = 0.0
    rows = score_predictions(features, np.array([0.0, 500.0, 0.0, 0.0, -1000.0]))
    assert select_members(rows, "eta_benchmark", "actual_horizon") == {
        "0-3 min": (2, 0.5), "3-6 min": (1, 1.0), "6-10 min": (1, 1.0), "10-15 min": (1, 0.0)
    }  # fmt: skip
    assert select_members(rows, "eta_benchmark", "all") == {"all": (5, 0.625)}


def test_a_benchmark_with_an_empty_bin_has_no_score(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    assert select_members(score_predictions(four_rows, predicted), "eta_benchmark", "all") == {"all": (3, None)}


def test_where_nothing_has_arrived_yet_nothing_is_scored(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    rows = score_predictions(four_rows.assign(delay_seconds=np.nan), predicted)
    assert {row.measure: (row.n, row.value) for row in rows if row.value is not None} == {"matched_share": (4, 0.0)}
    assert {row.n for row in rows if row.measure != "matched_share"} == {0}


def test_a_day_without_rows_has_the_measures_and_no_values() -> None:
    rows = score_predictions(schema.empty_frame(schema.TransitFeatures), np.zeros(0))
    assert {(row.n, row.value) for row in rows} == {(0, None)}
    assert {"mae_seconds", "within_mbta_window", "eta_benchmark", "matched_share"} <= {row.measure for row in rows}


def test_a_predicted_arrival_is_the_scheduled_one_plus_the_predicted_delay(four_rows: pd.DataFrame) -> None:
    features = four_rows.assign(scheduled_arrival=pd.Timestamp("2024-03-05 12:10", tz="UTC"))
    table = make_predictions_table(features, np.array([90.5, 0.0, -61.25, 3600.0]), "version", out_of_sample=True)
    assert table["predicted_arrival"].dt.strftime("%H:%M:%S.%f").tolist() == [
        "12:11:30.500000", "12:10:00.000000", "12:08:58.750000", "13:10:00.000000"
    ]  # fmt: skip
    assert table["predicted_delay_seconds"].tolist() == [90.5, 0.0, -61.25, 3600.0]


def test_distances_are_binned_where_single_ones_have_few_rows() -> None:
    assert bin_distances(np.array([0, 1, 10, 11, 15, 16, 20, 21, 99])).tolist() == [
        "departure", "1", "10", "11-15", "11-15", "16-20", "16-20", ">20", ">20"
    ]  # fmt: skip


def test_predicted_arrivals_of_a_report_never_run_backwards_by_a_microsecond(four_rows: pd.DataFrame) -> None:
    due = pd.Timestamp("2024-03-05 12:10:00.123457", tz="UTC") + pd.to_timedelta([0.0, 1.1, 2.3, 3.7], unit="s")
    features = four_rows.assign(trip_id="1", stops_ahead=[1, 2, 3, 4], scheduled_arrival=due)
    corrected = correct_predictions(features, np.array([40.0, 20.0, 30.0, -2000.0]))
    arrivals = make_predictions_table(features, corrected, "version", out_of_sample=True)["predicted_arrival"]
    assert arrivals.is_monotonic_increasing
    assert (arrivals >= features["time_stamp"]).all()
