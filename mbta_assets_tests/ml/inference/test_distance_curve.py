"""Curves over the stops ahead: never decreasing, pooled where there are few rows, interpolated between."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.inference.distance_curve import DistanceCurve


def fit(stops_ahead: list[int], errors: list[float], min_rows: int, **options: Any) -> DistanceCurve:
    rows = np.array(stops_ahead), np.array(errors, dtype=float), np.arange(len(errors))
    curve = DistanceCurve.fit(*rows, min_rows, lambda part: float(np.median(part)), **options)
    return DistanceCurve.from_list(curve.to_list())


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1e4)), min_size=1, max_size=80), st.integers(1, 30))
def test_a_curve_never_decreases_and_stays_within_the_errors(rows: list[tuple[int, float]], min_rows: int) -> None:
    stops_ahead, errors = map(list, zip(*rows, strict=True))
    curve = fit(stops_ahead, errors, min_rows)
    values = curve.evaluate(np.arange(60))
    assert (np.diff(values[1:]) >= 0).all()
    assert min(errors) <= values.min() <= values.max() <= max(errors)


def test_distances_of_few_rows_are_pooled_and_those_between_knots_interpolated() -> None:
    curve = fit([1, 1, 3, 3, 7, 9], [10, 10, 30, 30, 70, 90], 2)
    assert (curve.knots, curve.levels) == ([1, 3, 8], [10, 30, 80])
    assert curve.evaluate(np.array([1, 2, 3, 5, 9, 50])).tolist() == [10, 20, 30, 50, 80, 80]


def test_where_errors_shrink_with_the_distance_the_distances_are_pooled() -> None:
    assert fit([1, 1, 2, 2], [40, 40, 10, 10], 2).levels == [25]
    assert fit([1, 1, 2, 2], [40, 40, 10, 10], 2, never_decreases=False).levels == [40, 10]


def test_departures_have_their_own_level_if_there_are_enough() -> None:
    assert fit([0, 0, 1, 1], [5, 5, 40, 40], 2).evaluate(np.array([0, 1])).tolist() == [5, 40]
    assert fit([0, 0, 1, 1], [50, 50, 40, 40], 2).departure == 50
    assert fit([0, 1, 1, 1], [50, 40, 40, 40], 2, min_departures=1).departure == 50
    assert fit([0, 1, 1], [5, 40, 40], 2).departure == 40
    assert fit([0, 0], [5, 7], 3).evaluate(np.array([0, 1, 9])).tolist() == [6, 6, 6]
