"""The coverage of the interval around a prediction, and its width where there is little data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.evaluation.metrics import score_interval
from mbta_assets.ml.inference.intervals import MIN_TRIPS, IntervalCalibration

SPREAD = {"Red": 30.0, "Blue": 5.0}
STOPS_AHEAD = (1, 3, 5, 10)


def make_rows(n: int, seed: int, rows_per_trip: int = 5) -> dict[str, np.ndarray]:
    """Return n rows whose delays are spread by route, stops ahead and position."""
    random = np.random.default_rng(seed)
    route = random.choice(list(SPREAD), n).astype(object)
    stops_ahead = random.choice(STOPS_AHEAD, n)
    waits = random.random(n) < 0.3
    spread = np.array([SPREAD[name] for name in route]) * stops_ahead * np.where(waits, 4, 1)
    return {
        "service_date": np.full(n, "2024-03-06", dtype=object),
        "trip_id": (np.arange(n) // rows_per_trip).astype(str).astype(object),
        "route_id": route,
        "stops_ahead": stops_ahead,
        "current_status": np.where(waits, "STOPPED_AT", "IN_TRANSIT_TO").astype(object),
        "stops_behind": np.where(waits, 1, 4),
        "scheduled_seconds_ahead": np.full(n, 1e6),
        "delay_seconds": random.exponential(spread) * random.choice([-1, 1], n),
    }


def calibrate(columns: dict[str, np.ndarray], confidence_level: float = 0.9) -> IntervalCalibration:
    """Calibrate an interval around the prediction that every delay is 0."""
    return IntervalCalibration.fit(columns, columns["delay_seconds"], confidence_level)


@pytest.mark.parametrize("confidence_level", [0.5, 0.8, 0.9, 0.95])
def test_new_rows_lie_within_the_interval_at_the_confidence_level_in_each_group(confidence_level: float) -> None:
    interval, new = calibrate(make_rows(40_000, 1), confidence_level), make_rows(40_000, 2)
    score = score_interval(interval, new, np.zeros(40_000))
    assert score["coverage"] == pytest.approx(confidence_level, abs=0.01)
    assert len(score["by_stops_ahead"]) == len(STOPS_AHEAD)
    for part in score["by_stops_ahead"].values():
        assert part["coverage"] == pytest.approx(confidence_level, abs=0.02)
    for route in SPREAD:
        for status in ("STOPPED_AT", "IN_TRANSIT_TO"):
            mask = (new["route_id"] == route) & (new["current_status"] == status)
            group = {name: values[mask] for name, values in new.items()}
            coverage = score_interval(interval, group, np.zeros(mask.sum()))["coverage"]
            assert coverage == pytest.approx(confidence_level, abs=0.025)


def test_rows_that_are_harder_to_predict_have_a_wider_interval() -> None:
    curves = calibrate(make_rows(20_000, 3)).curves
    red, blue, red_terminal = (curves[group] for group in (("Red", False), ("Blue", False), ("Red", True)))
    assert red.levels[0] > 3 * blue.levels[0]
    assert red.levels[-1] > 5 * red.levels[0]
    assert red_terminal.levels[0] > 2 * red.levels[0]


def test_an_unknown_route_takes_the_curve_of_all_and_an_unknown_distance_lies_between_its_neighbours() -> None:
    interval = calibrate(make_rows(20_000, 4))
    rows = make_rows(5, 5) | {
        "route_id": np.array(["Green-X", None, np.nan, "Red", "Red"], dtype=object),
        "stops_ahead": np.array([3, 3, 3, 4, 30]),
        "current_status": np.full(5, "IN_TRANSIT_TO", dtype=object),
        "stops_behind": np.full(5, 4),
    }
    of_all, of_red = interval.curves[None, False], interval.curves["Red", False]
    between = (of_red.levels[1] + of_red.levels[2]) / 2
    expected = [of_all.levels[1]] * 3 + [pytest.approx(between), of_red.levels[-1]]
    assert interval.compute_half_widths(rows).tolist() == expected


def test_a_group_of_few_trips_has_no_curve_of_its_own() -> None:
    few_trips = make_rows(60, 6, rows_per_trip=60 // (MIN_TRIPS - 1) + 1)
    assert set(calibrate(few_trips).curves) == {(None, None)}


@given(st.integers(0, 1_000), st.integers(20, 3_000), st.sampled_from([0.5, 0.9]))
def test_intervals_of_a_report_widen_with_the_distance(seed: int, n: int, confidence_level: float) -> None:
    rows = make_rows(n, seed)
    rows["stops_ahead"] = np.random.default_rng(seed).integers(0, 25, n)
    interval = calibrate(rows, confidence_level)
    for route in ("Red", "Blue", "Green-X", None):
        for status, stops_behind in (("STOPPED_AT", 1), ("IN_TRANSIT_TO", 0), ("IN_TRANSIT_TO", 4)):
            report = {
                "route_id": np.full(40, route, dtype=object),
                "stops_ahead": np.arange(40),
                "current_status": np.full(40, status, dtype=object),
                "stops_behind": np.full(40, stops_behind),
            }
            assert (np.diff(interval.compute_half_widths(report)) >= 0).all()


def test_the_lower_bound_is_never_an_arrival_before_now() -> None:
    interval, rows = calibrate(make_rows(1_000, 7)), make_rows(3, 8)
    rows["scheduled_seconds_ahead"] = np.array([-5.0, 0.0, 10.0])
    lower, upper = interval.compute_bounds(rows, np.array([6.0, 1.0, -9.0]))
    assert (lower >= -rows["scheduled_seconds_ahead"]).all()
    assert (upper > lower).all()


def test_an_interval_survives_a_round_trip_and_the_same_rows_give_the_same_bytes() -> None:
    interval = calibrate(make_rows(5_000, 9))
    assert IntervalCalibration.from_json(interval.to_json()) == interval
    assert calibrate(make_rows(5_000, 9)).to_json() == interval.to_json()


def test_without_rows_an_interval_cannot_be_calibrated() -> None:
    no_rows = {name: values[:0] for name, values in make_rows(1, 0).items()}
    with pytest.raises(ValueError, match="no labelled validation rows"):
        calibrate(no_rows)
