"""Predictions along a trip: corrected ones never run backwards and are the nearest that do not."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.inference.monotone import correct_delays, group_reports, make_monotone, make_non_decreasing
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.transit.distances import REPORT_KEY
from mbta_assets_tests.support.days import Simulation

VALUES = st.lists(st.floats(-500, 5_000), min_size=1, max_size=12)


def make_report(scheduled_ahead: list[float], stops_ahead: list[int] | None = None) -> dict[str, np.ndarray]:
    n = len(scheduled_ahead)
    return {
        "service_date": np.full(n, "2024-03-06", dtype="datetime64[D]"),
        "trip_id": np.array(["1"] * n, dtype=object),
        "vehicle_id": np.array(["R-1"] * n, dtype=object),
        "time_stamp": np.full(n, "2024-03-06T17:00:00", dtype="datetime64[us]"),
        "stops_ahead": np.array(stops_ahead or range(1, n + 1)),
        "scheduled_seconds_ahead": np.array(scheduled_ahead, dtype=np.float64),
    }


@given(st.lists(VALUES, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_each_group_ascends_from_zero_whatever_the_order_of_the_rows(groups: list[list[float]], random) -> None:
    rows = [(group, place, value) for group, values in enumerate(groups) for place, value in enumerate(values, 1)]
    random.shuffle(rows)
    group, order, values = (np.array(column) for column in zip(*rows, strict=True))
    result = make_monotone(values.astype(float), order, group)
    for number, before in enumerate(groups):
        own = result[group == number][np.argsort(order[group == number])]
        assert (np.diff(own) >= 0).all() and (own >= 0).all()
        np.testing.assert_allclose(own, project_plainly(before), atol=1e-6)
        if before == sorted(before) and before[0] >= 0:
            assert own.tolist() == before


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.floats(0, 500)), max_size=30))
def test_values_are_raised_to_the_greatest_of_the_stops_before_but_for_departures(rows) -> None:
    group, stops, values = (np.array([row[place] for row in rows]) for place in range(3))
    raised = make_non_decreasing(values.astype(float), stops, group)
    for (number, order, value), result in zip(rows, raised, strict=True):
        before = [row[2] for row in rows if row[0] == number and 0 < row[1] < order]
        same = [row[2] for row in rows if row[:2] == (number, order)] if order else []
        assert result == value if order == 0 else max([value, *before]) <= result <= max([*same, *before])


def project_plainly(values: list[float]) -> np.ndarray:
    """Return the isotonic regression by its max-min formula, not below 0."""
    n = len(values)
    mean = {(i, j): float(np.mean(values[i : j + 1])) for i in range(n) for j in range(i, n)}
    fitted = [max(min(mean[i, j] for j in range(k, n)) for i in range(k + 1)) for k in range(n)]
    return np.maximum(fitted, 0)


def test_a_trip_that_runs_backwards_is_corrected_and_counted() -> None:
    columns = make_report([100.0, 200.0, 300.0])
    corrected = correct_delays(columns, np.array([50.0, -90.0, 10.0]))
    np.testing.assert_allclose(corrected.delay, [30.0, -70.0, 10.0])
    assert corrected.corrected_trips == 1
    again = correct_delays(columns, corrected.delay)
    np.testing.assert_array_equal(again.delay, corrected.delay)
    assert again.corrected_trips == 0


def test_a_departure_is_brought_forward_to_the_first_arrival_and_moves_none() -> None:
    order, groups = np.array([1, 0, 2, 0, 0, 1]), np.array([7, 7, 7, 8, 9, 9])
    seconds = make_monotone(np.array([60.0, 200.0, 40.0, 30.0, 10.0, 90.0]), order, groups)
    assert seconds.tolist() == [50, 50, 50, 30, 10, 90]
    assert make_monotone(np.array([-5.0, 8.0]), np.array([0, 0]), np.array([1, 2])).tolist() == [0, 8]


def test_reports_of_a_single_row_do_not_count_and_nothing_is_before_now() -> None:
    corrected = correct_delays(make_report([100.0]), np.array([-150.0]))
    assert corrected.delay.tolist() == [-100.0]
    assert corrected.corrected_trips is None


def test_rows_without_a_prediction_stay_without() -> None:
    corrected = correct_delays(make_report([100.0, 200.0, 300.0]), np.array([250.0, np.nan, -50.0]))
    np.testing.assert_allclose(corrected.delay, [200.0, np.nan, 0.0])


def test_two_vehicles_on_a_trip_are_two_stories_in_arrays_and_frames() -> None:
    columns = make_report([100.0, 200.0, 100.0, 200.0], [1, 2, 1, 2])
    columns["vehicle_id"] = np.array(["R-1", "R-1", "R-2", "R-2"], dtype=object)
    delay = np.array([150.0, 0.0, 0.0, 0.0])
    for form in (columns, pd.DataFrame(columns)):
        assert len(set(group_reports(form).tolist())) == 2
        corrected = correct_delays(form, delay)
        np.testing.assert_allclose(corrected.delay, [125.0, 25.0, 0.0, 0.0])
        assert corrected.corrected_trips == 0.5


def test_no_trip_of_a_simulated_day_runs_backwards_whatever_a_model_predicts(simulation: Simulation) -> None:
    rows = simulation.last_day
    lookup = MedianRunTime.fit(simulation.rows).predict_delay(rows)
    noise = np.random.default_rng(0).normal(0, 60, len(rows))
    for predicted in (lookup, lookup + noise, np.zeros(len(rows)), rows["last_delay_seconds"].fillna(0).to_numpy()):
        seconds_ahead = rows["scheduled_seconds_ahead"] + correct_delays(rows, predicted).delay
        by_report = rows.assign(seconds_ahead=seconds_ahead).sort_values("stops_ahead").groupby(list(REPORT_KEY))
        assert (by_report["seconds_ahead"].diff().dropna() > -1e-6).all()
        assert (seconds_ahead > -1e-6).all()
