"""The change of predictions from report to report, against one that is computed visit by visit."""

from collections import defaultdict
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.evaluation.steadiness import MAX_GAP_SECONDS, measure_change_per_minute

START = pd.Timestamp("2024-03-06 17:00", tz="UTC")
reports = st.tuples(
    st.sampled_from(["t1", "t2"]),
    st.sampled_from(["v1", None]),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 4 * MAX_GAP_SECONDS),
    st.one_of(st.floats(-600, 600), st.just(np.nan)),
)


def make_rows(drawn: list[tuple[str, str | None, int, int, int, float]]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows of features and the predictions for them."""
    names = ["trip_id", "vehicle_id", "stop_sequence", "stops_ahead", "after", "predicted"]
    rows = pd.DataFrame(drawn, columns=names)
    rows["service_date"] = date(2024, 3, 6)
    rows["time_stamp"] = START + pd.to_timedelta(rows["after"].astype("int64"), unit="s")
    return rows, rows["predicted"].to_numpy(dtype=np.float64)


@given(st.lists(reports, max_size=30, unique_by=lambda report: report[:3] + (report[3] == 0, report[4])))
def test_it_is_that_of_each_visit_one_by_one(drawn: list[tuple[str, str | None, int, int, int, float]]) -> None:
    by_visit = defaultdict(list)
    for trip, vehicle, sequence, ahead, after, predicted in drawn:
        by_visit[trip, vehicle, sequence, ahead == 0].append((after, predicted))
    change = minutes = 0.0
    for of_visit in by_visit.values():
        of_visit.sort()
        for (earlier, before), (later, now) in zip(of_visit, of_visit[1:], strict=False):
            if later - earlier <= MAX_GAP_SECONDS and not np.isnan(now - before):
                change += abs(now - before)
                minutes += (later - earlier) / 60
    measured = measure_change_per_minute(*make_rows(drawn))
    assert measured == (pytest.approx(change / minutes) if minutes else None)


def test_a_prediction_that_stays_right_does_not_change() -> None:
    rows, _ = make_rows([("t1", "v1", 1, 1, 20 * n, 0.0) for n in range(10)])
    assert measure_change_per_minute(rows, np.full(10, 75.0)) == 0
    assert measure_change_per_minute(rows, np.tile([0.0, 10.0], 5)) == pytest.approx(30)
