"""The coverage of the interval around a prediction, and its width where there is little data."""

import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.evaluation.metrics import score_interval
from mbta_assets.ml.inference.intervals import MIN_TRIPS, IntervalCalibration

SPREAD = {"Red": 30.0, "Blue": 5.0}
STOPS_AHEAD = (1, 3, 5, 10)
N_DAYS = 4


def make_rows(n: int, seed: int, rows_per_trip: int = 5) -> dict[str, np.ndarray]:
    """Return n rows whose delays are spread by route, stops ahead and position."""
    random = np.random.default_rng(seed)
    route = random.choice(list(SPREAD), n).astype(object)
    stops_ahead = random.choice(STOPS_AHEAD, n)
    waits = random.random(n) < 0.3
    spread = np.array([SPREAD[name] for name in route]) * stops_ahead * np.where(waits, 4, 1)
    run_seconds = np.exp(random.normal(6, 0.5, n))
    trip = np.arange(n) // rows_per_trip
    return {
        "service_date": np.array(["2024-03-04", "2024-03-05", "2024-03-06", "2024-03-07"], dtype=object)[trip % N_DAYS],
        "trip_id": trip.astype(str).astype(object),
        "vehicle_id": trip.astype(str).astype(object),
        "time_stamp": np.arange(n),
        "route_id": route,
        "stops_ahead": stops_ahead,
        "current_status": np.where(waits, "STOPPED_AT", "IN_TRANSIT_TO").astype(object),
        "stops_behind": np.where(waits, 1, 4),
        "scheduled_seconds_ahead": np.full(n, 1e6),
        "recent_run_seconds": np.where(random.random(n) < 0.3, np.nan, run_seconds),
        "scheduled_run_seconds": run_seconds,
        "departure_delay_seconds": random.normal(0, 60, n),
        "delay_seconds": random.exponential(spread) * random.choice([-1, 1], n),
    }


def calibrate(columns: dict[str, np.ndarray], confidence_level: float = 0.9) -> IntervalCalibration:
    """Calibrate an interval around the prediction that every delay is 0."""
    return IntervalCalibration.fit(columns, columns["delay_seconds"], confidence_level)


INTERVAL = calibrate(make_rows(5_000, 16))


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
    rows = make_rows(20_000, 3)
    widths = calibrate(rows).compute_widths(rows, np.zeros(20_000))
    red, waits, near = rows["route_id"] == "Red", rows["current_status"] == "STOPPED_AT", rows["stops_ahead"] == 1
    assert widths[red & ~waits & near].mean() > 3 * widths[~red & ~waits & near].mean()
    assert widths[red & ~waits & ~near].mean() > 3 * widths[red & ~waits & near].mean()
    assert widths[red & waits & near].mean() > 2 * widths[red & ~waits & near].mean()


def test_widths_follow_the_situation_within_a_group() -> None:
    rows, new = (make_rows(40_000, seed) for seed in (10, 11))
    for columns in (rows, new):
        columns["delay_seconds"] *= columns["scheduled_run_seconds"] / 400
    interval = calibrate(rows)
    easy, hard = new["scheduled_run_seconds"] < 300, new["scheduled_run_seconds"] > 600
    widths = interval.compute_widths(new, np.zeros(40_000))
    assert widths[hard].mean() > 2 * widths[easy].mean()
    for mask in (easy, hard):
        part = {name: values[mask] for name, values in new.items()}
        assert score_interval(interval, part, np.zeros(mask.sum()))["coverage"] == pytest.approx(0.9, abs=0.02)


def test_as_many_arrivals_are_too_early_as_too_late() -> None:
    rows, new = (make_rows(40_000, seed) for seed in (12, 13))
    for columns in (rows, new):
        columns["delay_seconds"] = np.where(columns["delay_seconds"] < 0, 0.8, 1) * columns["delay_seconds"]
    lower, upper = calibrate(rows).compute_bounds(new, np.zeros(40_000))
    assert calibrate(rows).early_ratio == pytest.approx(0.8, abs=0.06)
    for missed in (new["delay_seconds"] < lower, new["delay_seconds"] > upper):
        assert missed.mean() == pytest.approx(0.05, abs=0.01)


def test_an_odd_day_and_a_day_of_many_rows_count_as_one_day() -> None:
    rows, new = make_rows(40_000, 14), make_rows(40_000, 15)
    usual = calibrate(rows).compute_widths(new, np.zeros(40_000)).mean()
    last = rows["service_date"] == "2024-03-07"
    storm = rows | {"delay_seconds": rows["delay_seconds"] * np.where(last, 5, 1)}
    assert calibrate(storm).compute_widths(new, np.zeros(40_000)).mean() < 1.25 * usual
    repeated = np.r_[np.arange(40_000), np.tile(np.flatnonzero(last), 9)]
    assert calibrate({name: values[repeated] for name, values in rows.items()}).compute_widths(
        new, np.zeros(40_000)
    ).mean() == pytest.approx(usual, rel=0.02)


def test_an_unknown_route_takes_the_curve_of_all_and_an_unknown_distance_lies_between_its_neighbours() -> None:
    interval = calibrate(make_rows(20_000, 4))
    rows = make_rows(5, 5) | {
        "route_id": np.array(["Green-X", None, np.nan, "Red", "Red"], dtype=object),
        "stops_ahead": np.array([3, 3, 3, 4, 30]),
        "current_status": np.full(5, "IN_TRANSIT_TO", dtype=object),
        "stops_behind": np.full(5, 4),
    }
    of_all, of_red = interval.curves[None, False], interval.curves["Red", False]
    expected = [*of_all.evaluate(np.array([3, 3, 3])), *of_red.evaluate(np.array([4, 30]))]
    widths = interval.compute_widths(rows, np.zeros(5), np.arange(5))
    assert widths == pytest.approx(expected * interval.difficulty.evaluate(rows, np.zeros(5)))
    assert min(of_red.levels[1:3]) <= of_red.evaluate(np.array(4)) <= max(of_red.levels[1:3])


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
            report = make_rows(40, seed) | {
                "route_id": np.full(40, route, dtype=object),
                "stops_ahead": np.arange(40),
                "current_status": np.full(40, status, dtype=object),
                "stops_behind": np.full(40, stops_behind),
            }
            widths = interval.compute_widths(report, np.zeros(40), np.zeros(40, dtype=int))
            assert (np.diff(widths[1:]) >= 0).all()
            assert widths[0] == interval.compute_widths(report, np.zeros(40), np.arange(40))[0]


@given(st.integers(0, 1_000))
def test_a_width_does_not_depend_on_other_reports(seed: int) -> None:
    rows, random = make_rows(200, seed), np.random.default_rng(seed)
    reports, delay = random.integers(0, 60, 200), random.normal(0, 90, 200)
    widths = INTERVAL.compute_widths(rows, delay, reports)
    for report in np.unique(reports)[:5]:
        mask = reports == report
        alone = {name: values[mask] for name, values in rows.items()}
        assert np.array_equal(INTERVAL.compute_widths(alone, delay[mask], reports[mask]), widths[mask])


def test_adaptive_intervals_of_a_day_are_corrected_by_the_days_before_and_by_no_row_of_its_own() -> None:
    rows = make_rows(20_000, 17) | {"delay_seconds": 1.4 * make_rows(20_000, 17)["delay_seconds"]}
    score = score_interval(INTERVAL, rows, np.zeros(20_000))
    days, adaptive = sorted(score["by_day"]), score["adaptive"]["by_day"]
    assert adaptive[days[0]] == score["by_day"][days[0]]
    coverage = [adaptive[day]["coverage"] for day in days]
    assert coverage == sorted(coverage)
    assert coverage[-1] > score["by_day"][days[-1]]["coverage"] + 0.02
    changed = rows | {"delay_seconds": np.where(rows["service_date"] == days[-1], 0, rows["delay_seconds"])}
    score_of_changed = score_interval(INTERVAL, changed, np.zeros(20_000))["adaptive"]["by_day"]
    assert score_of_changed[days[-1]]["mean_width_seconds"] == adaptive[days[-1]]["mean_width_seconds"]
    assert score_of_changed[days[-1]]["coverage"] == 1


def test_the_lower_bound_is_never_an_arrival_before_now() -> None:
    interval, rows = calibrate(make_rows(1_000, 7)), make_rows(3, 8)
    rows["scheduled_seconds_ahead"] = np.array([-5.0, 0.0, 10.0])
    lower, upper = interval.compute_bounds(rows, np.array([6.0, 1.0, -9.0]))
    assert (lower >= -rows["scheduled_seconds_ahead"]).all()
    assert (upper > lower).all()


def test_an_interval_survives_a_round_trip_and_the_same_rows_give_the_same_bytes() -> None:
    interval = calibrate(make_rows(5_000, 9))
    stored = interval.to_bytes()
    assert IntervalCalibration.from_bytes(stored) == interval
    assert IntervalCalibration.from_bytes(lzma.decompress(stored)) == interval, "of an earlier release"
    assert calibrate(make_rows(5_000, 9)).to_bytes() == stored


def test_without_rows_an_interval_cannot_be_calibrated() -> None:
    no_rows = {name: values[:0] for name, values in make_rows(1, 0).items()}
    with pytest.raises(ValueError, match="no labelled validation rows"):
        calibrate(no_rows)
