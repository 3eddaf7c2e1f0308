"""The correction of widths by past days: coverage returns after a drift, and nothing happens without one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.ml.inference.width_correction import MAX_CHANGE, STEP, WidthCorrection

ROUTES = ("Red", "Blue", None)
N = 2_000
EXACT = -np.log(0.1)
"""Width that 90% of exponential errors of mean 1 are within."""


def make_rows(random: np.random.Generator, n: int = N) -> dict[str, np.ndarray]:
    """Return n rows of a day, each of its own trip."""
    return {
        "trip_id": np.arange(n).astype(str).astype(object),
        "route_id": random.choice(np.array(ROUTES, dtype=object), n),
        "stops_ahead": random.integers(0, 15, n),
        "current_status": random.choice(np.array(["STOPPED_AT", "IN_TRANSIT_TO"], dtype=object), n),
        "stops_behind": random.integers(1, 3, n),
    }


def follow(days: int, seed: int, scale) -> tuple[WidthCorrection, list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Return what was learned of days whose errors have some scale, and which rows of each day were covered."""
    random, correction = np.random.default_rng(seed), WidthCorrection()
    covered, rows = [], []
    for day in range(days):
        columns = make_rows(random)
        ratio = random.exponential(scale(columns, day)) / (EXACT * correction.evaluate(columns))
        covered.append(ratio <= 1)
        rows.append(columns)
        correction = correction.learn(columns, ratio, 0.9)
    return correction, covered, rows


@settings(max_examples=8)
@given(st.floats(0.4, 2.5), st.floats(0.6, 1.6), st.integers(0, 10_000))
def test_coverage_returns_to_the_level_after_a_lasting_change(overall: float, of_red: float, seed: int) -> None:
    def scale(columns, day):
        return np.where(columns["route_id"] == "Red", of_red, 1) * np.where(day < 5, 1, overall)

    _, covered, rows = follow(45, seed, scale)
    assert np.mean(covered[-10:]) == pytest.approx(0.9, abs=0.015)
    red = np.concatenate([of_day["route_id"] == "Red" for of_day in rows[-10:]])
    assert np.concatenate(covered[-10:])[red].mean() == pytest.approx(0.9, abs=0.025)
    far = np.concatenate([of_day["stops_ahead"] > 10 for of_day in rows[-10:]])
    assert np.concatenate(covered[-10:])[far].mean() == pytest.approx(0.9, abs=0.025)


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_where_nothing_drifts_coverage_stays_and_factors_are_near_one(seed: int) -> None:
    correction, covered, rows = follow(20, seed, lambda columns, _: np.ones(len(columns["trip_id"])))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)
    assert np.abs(np.log(correction.evaluate(rows[0]))).max() < 0.2


@given(st.floats(3, 50), st.integers(0, 10_000))
def test_one_odd_day_moves_widths_by_no_more_than_a_step_each_for_distance_and_route(size: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = make_rows(random)
    learned = WidthCorrection().learn(columns, random.exponential(size, N) / EXACT, 0.9)
    log_factor = np.log(learned.evaluate(columns))
    assert (log_factor > 0.5 * STEP * MAX_CHANGE).all()
    assert (log_factor <= 2 * STEP * MAX_CHANGE + 1e-3).all()


def test_a_group_of_few_trips_follows_all_rows() -> None:
    random = np.random.default_rng(0)
    columns = make_rows(random)
    few = np.arange(N) < 5
    columns |= {"route_id": np.where(few, "Few", columns["route_id"]).astype(object)}
    learned = WidthCorrection().learn(columns, np.where(few, 30, random.exponential(1, N) / EXACT), 0.9)
    assert 0 < learned.by_route["Few"] < 0.05


def test_without_rows_nothing_is_learned_and_a_correction_survives_a_round_trip() -> None:
    random = np.random.default_rng(1)
    columns = make_rows(random)
    learned = WidthCorrection().learn(columns, random.exponential(2, N) / EXACT, 0.9)
    assert WidthCorrection.from_json(learned.to_json("abc"), "abc") == learned
    assert WidthCorrection.from_json(learned.to_json("abc"), "def") == WidthCorrection()
    assert learned.learn({name: values[:0] for name, values in columns.items()}, np.empty(0), 0.9) == learned
    new = columns | {"route_id": np.full(N, "Green-X", dtype=object)}
    assert (WidthCorrection().evaluate(new) == 1).all()
    assert np.isfinite(learned.evaluate(new)).all()


@pytest.mark.parametrize(
    "text", [b"", b"half", b"{}", b"[]", b'{"model_version": "abc"}', b'{"model_version": "abc", "by_distance": 1}',
             b'{"model_version": "abc", "by_distance": {"a": NaN}, "by_route": {}}']
)  # fmt: skip
def test_a_damaged_correction_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is that of the parser
        WidthCorrection.from_json(text, "abc")
