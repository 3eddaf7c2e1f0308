"""What came true and what drifted, on rows small enough to judge by hand."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import accuracy, metrics
from mbta_assets.ml.evaluation.accuracy import Measured, Reference, came_true, drifted
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.transit import schema

SEEN_LATE = [100.0, 0.0, -30.0, np.nan]
PREDICTED = np.array([90.0, 40.0, -30.0, 0.0])


def four_rows() -> pd.DataFrame:
    """Two rows of the Red Line, then two of the Blue Line; the last one's arrival was never seen."""
    return pd.DataFrame(
        {
            "service_date": date(2024, 3, 5),
            "trip_id": ["1", "2", "3", "4"],
            "vehicle_id": "v",
            "time_stamp": pd.Timestamp("2024-03-05 12:00", tz="UTC"),
            "stop_id": "s",
            "route_id": pd.array(["Red", "Red", "Blue", "Blue"], accuracy.TEXT),
            "stops_ahead": pd.array([1, 3, 1, 1], "Int64"),
            "current_status": pd.array(["STOPPED_AT", "IN_TRANSIT_TO", "STOPPED_AT", "STOPPED_AT"], accuracy.TEXT),
            "stops_behind": [1.0, 1.0, 2.0, 2.0],
            "scheduled_seconds_ahead": [100.0, 300.0, 200.0, 60.0],
            "delay_seconds": SEEN_LATE,
        }
    )


def found(measured: list[Measured], measure: str, dimension: str) -> dict[str, tuple[int, float | None]]:
    """By member, how many were judged and what came of it."""
    return {one.member: (one.n, one.value) for one in measured if (one.measure, one.dimension) == (measure, dimension)}


def judged(rule: str, error: float, seconds_ahead: float) -> dict[str, tuple[int, float | None]]:
    """What a rule says of one prediction whose vehicle comes on schedule plus the error, in the bins it falls into."""
    shares = getattr(metrics, rule)(np.array([error]), np.zeros(1), np.array([seconds_ahead]))
    return {name: (n, share) for name, (n, share) in shares.items() if n}


@pytest.mark.parametrize(
    ("begin", "end", "least", "most"),
    [(0, 180, -60, 60), (180, 360, -90, 120), (360, 720, -150, 210), (720, 1800, -240, 360)],
)
def test_the_mbta_bins_by_predicted_time_and_an_error_on_a_bound_is_wrong(begin, end, least, most):
    (name,) = judged("mbta_window", 0, begin)
    assert judged("mbta_window", 0, end - 1).keys() == {name}
    assert judged("mbta_window", 0, end).keys() != {name}
    assert [judged("mbta_window", error, begin)[name] for error in (least, least + 1, most - 1, most)] == [
        (1, 0.0), (1, 1.0), (1, 1.0), (1, 0.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "end", "least", "most"),
    [(0, 180, -30, 90), (180, 360, -60, 150), (360, 600, -60, 210), (600, 900, -90, 270)],
)
def test_the_eta_benchmark_bins_by_actual_time_and_an_error_on_a_bound_is_right(begin, end, least, most):
    (name,) = judged("eta_benchmark", 0, begin)
    assert judged("eta_benchmark", 0, end).keys() != {name}
    errors = (least - 1, least, most, most + 1)
    assert [judged("eta_benchmark", error, begin - error)[name] for error in errors] == [
        (1, 0.0), (1, 1.0), (1, 1.0), (1, 0.0)
    ]  # fmt: skip


def test_errors_are_those_of_the_arrivals_that_were_seen():
    measured = came_true(four_rows(), PREDICTED)
    assert found(measured, "mae_seconds", "all") == {"all": (3, pytest.approx((10 + 40 + 0) / 3))}
    assert found(measured, "rmse_seconds", "all") == {"all": (3, pytest.approx(np.sqrt((100 + 1600 + 0) / 3)))}
    assert found(measured, "mean_error_seconds", "all") == {"all": (3, pytest.approx((10 - 40 + 0) / 3))}
    assert found(measured, "matched_share", "all") == {"all": (4, 0.75)}


def test_errors_are_told_apart_by_distance_route_and_position():
    measured = came_true(four_rows(), PREDICTED)
    assert found(measured, "mae_seconds", "stops_ahead") == {"1": (2, 5), "3": (1, 40), "5": (0, None), "10": (0, None)}
    assert found(measured, "mae_seconds", "route_id") == {"Blue": (1, 0), "Red": (2, 25)}
    assert found(measured, "mae_seconds", "position") == {"mid_trip": (2, 20), "terminal": (1, 10)}
    assert found(measured, "mae_seconds", "route_id, stops_ahead")["Red, 3"] == (1, 40)


def test_a_prediction_that_never_meets_an_arrival_is_wrong_in_the_mbtas_bins():
    shares = found(came_true(four_rows(), PREDICTED), "within_mbta_window", "predicted_horizon")
    # Predicted 190 s, 340 s, 170 s and 60 s ahead; the last never came.
    assert shares == {"0-3 min": (2, 0.5), "3-6 min": (2, 1.0), "6-12 min": (0, None), "12-30 min": (0, None)}


def test_the_mbtas_bins_tell_terminals_apart():
    shares = found(came_true(four_rows(), PREDICTED), "within_mbta_window", "predicted_horizon, position")
    assert (shares["3-6 min, terminal"], shares["3-6 min, mid_trip"]) == ((1, 1.0), (1, 1.0))
    assert (shares["0-3 min, terminal"], shares["0-3 min, mid_trip"]) == ((0, None), (2, 0.5))


def test_the_benchmarks_score_is_the_plain_mean_of_its_bins():
    rows = pd.concat([four_rows()] * 2, ignore_index=True).head(5)
    rows["scheduled_seconds_ahead"] = [60.0, 120.0, 200.0, 400.0, 700.0]
    rows["delay_seconds"] = 0.0
    measured = came_true(rows, np.array([0.0, 500.0, 0.0, 0.0, -1000.0]))
    assert found(measured, "eta_benchmark", "actual_horizon") == {
        "0-3 min": (2, 0.5), "3-6 min": (1, 1.0), "6-10 min": (1, 1.0), "10-15 min": (1, 0.0)
    }  # fmt: skip
    assert found(measured, "eta_benchmark", "all") == {"all": (5, 0.625)}


def test_a_benchmark_with_an_empty_bin_has_no_score():
    assert found(came_true(four_rows(), PREDICTED), "eta_benchmark", "all") == {"all": (3, None)}


def test_where_nothing_has_arrived_yet_nothing_is_judged():
    measured = came_true(four_rows().assign(delay_seconds=np.nan), PREDICTED)
    assert {one.measure: (one.n, one.value) for one in measured if one.value is not None} == {"matched_share": (4, 0.0)}
    assert {one.n for one in measured if one.measure != "matched_share"} == {0}


def test_a_day_without_rows_has_the_measures_and_no_values():
    measured = came_true(schema.empty(schema.TransitFeatures), np.zeros(0))
    assert {(one.n, one.value) for one in measured} == {(0, None)}
    assert {"mae_seconds", "within_mbta_window", "eta_benchmark", "matched_share"} <= {one.measure for one in measured}


def reference(numbers: list[float]) -> Reference:
    """A model that learned from a feature with these values, from the Red Line, and was 5 s off one stop ahead."""
    encoder = Encoder(["stops_behind", "month"], {"route_id": ["Red"]})
    return Reference(encoder, pd.DataFrame({"stops_behind": numbers, "month": 3.0}), {"1": 5.0})


@pytest.mark.parametrize(
    ("trained_on", "distance"),
    [
        ([1.0, 1.0, 2.0, 2.0], 0.0),
        ([1.0, 2.0, 2.0, 2.0], 0.25),
        ([3.0, 3.0, 3.0, 3.0], 1.0),
        ([np.nan, np.nan, 2.0, 2.0], 0.5),
    ],
)
def test_feature_drift_is_the_largest_gap_between_the_distributions(trained_on, distance):
    measured = drifted(four_rows(), PREDICTED, reference(trained_on))
    assert found(measured, "feature_drift", "feature") == {"stops_behind": (4, pytest.approx(distance))}


def test_what_is_missing_on_both_sides_has_not_drifted():
    rows = four_rows().assign(stops_behind=np.nan, route_id=pd.array([None] * 4, accuracy.TEXT))
    measured = drifted(rows, PREDICTED, reference([np.nan]))
    assert found(measured, "feature_drift", "feature") == {"stops_behind": (4, 0.0)}
    assert found(measured, "unknown_share", "category") == {"route_id": (4, 0.0)}


def test_a_route_the_model_never_saw_is_unknown():
    measured = drifted(four_rows(), PREDICTED, reference([1.0]))
    assert found(measured, "unknown_share", "category") == {"route_id": (4, 0.5)}


def test_error_drift_is_the_error_over_that_on_the_test_part():
    measured = drifted(four_rows(), 2 * PREDICTED, reference([1.0]))
    # One stop ahead the errors are -80 s and 30 s, where 5 s was usual; for other distances nothing was usual.
    assert found(measured, "error_drift", "stops_ahead") == {
        "1": (2, pytest.approx(55 / 5)), "3": (1, None), "5": (0, None), "10": (0, None)
    }  # fmt: skip


def test_a_predicted_arrival_is_the_scheduled_one_plus_the_predicted_delay():
    rows = four_rows().assign(scheduled_arrival=pd.Timestamp("2024-03-05 12:10", tz="UTC"))
    predicted = accuracy.predictions(rows, np.array([90.5, 0.0, -61.25, 3600.0]), "version")
    assert predicted["predicted_arrival"].dt.strftime("%H:%M:%S.%f").tolist() == [
        "12:11:30.500000", "12:10:00.000000", "12:08:58.750000", "13:10:00.000000"
    ]  # fmt: skip
    assert predicted["predicted_delay_seconds"].tolist() == [90.5, 0.0, -61.25, 3600.0]
