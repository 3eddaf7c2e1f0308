"""The interval around a prediction: what it promises, of whom, and what it does where it knows little."""

import numpy as np
import pytest

from mbta_assets.ml.inference.intervals import FEWEST_TRIPS, Interval, scored

SPREAD = {"Red": 30.0, "Blue": 5.0}


def rows(n: int, seed: int, routes: tuple = ("Red", "Blue"), rows_a_trip: int = 5) -> dict[str, np.ndarray]:
    """Rows whose errors are spread by route, distance and position."""
    random = np.random.default_rng(seed)
    route = random.choice(routes, n).astype(object)
    stops = random.choice([1, 3, 5, 10], n)
    waits = random.random(n) < 0.3
    spread = np.array([SPREAD.get(name, 10.0) for name in route]) * stops * np.where(waits, 4, 1)
    return {
        "service_date": np.full(n, "2024-03-06", dtype=object),
        "trip_id": (np.arange(n) // rows_a_trip).astype(str).astype(object),
        "route_id": route,
        "stops_ahead": stops,
        "current_status": np.where(waits, "STOPPED_AT", "IN_TRANSIT_TO").astype(object),
        "stops_behind": np.where(waits, 1, 4),
        "scheduled_seconds_ahead": np.full(n, 1e6),
        "delay_seconds": random.exponential(spread) * random.choice([-1, 1], n),
    }


def calibrated(columns: dict[str, np.ndarray], promise: float = 0.9) -> Interval:
    return Interval.calibrate(columns, columns["delay_seconds"], promise)


@pytest.mark.parametrize("promise", [0.5, 0.8, 0.9, 0.95])
def test_new_rows_lie_within_as_often_as_promised_in_each_group(promise):
    interval, new = calibrated(rows(40_000, 1), promise), rows(40_000, 2)
    found = scored(interval, new, np.zeros(40_000))
    assert found["coverage"] == pytest.approx(promise, abs=0.01)
    for part in found["by_stops_ahead"].values():
        assert part["coverage"] == pytest.approx(promise, abs=0.02)
    for route in SPREAD:
        for status in ("STOPPED_AT", "IN_TRANSIT_TO"):
            chosen = (new["route_id"] == route) & (new["current_status"] == status)
            part = {name: values[chosen] for name, values in new.items()}
            assert scored(interval, part, np.zeros(chosen.sum()))["coverage"] == pytest.approx(promise, abs=0.025)


def test_what_is_harder_to_predict_has_a_wider_interval():
    interval = calibrated(rows(20_000, 3))
    width = interval.half_widths
    assert width["Red", 1, False] > 3 * width["Blue", 1, False]
    assert width["Red", 10, False] > 5 * width["Red", 1, False]
    assert width["Red", 1, True] > 2 * width["Red", 1, False]


def test_an_unknown_route_or_distance_takes_the_width_of_a_larger_group():
    interval = calibrated(rows(20_000, 4))
    asked = rows(4, 5) | {
        "route_id": np.array(["Green-X", None, "Red", np.nan], dtype=object),
        "stops_ahead": np.array([3, 3, 7, 7]),
        "current_status": np.full(4, "IN_TRANSIT_TO", dtype=object),
    }
    near, everything = interval.half_widths[None, 3, False], interval.half_widths[None, None, None]
    assert interval.half_width(asked).tolist() == [near, near, everything, everything]


def test_a_group_of_few_trips_has_no_width_of_its_own_but_each_distance_has():
    few = rows(60, 6, rows_a_trip=60 // (FEWEST_TRIPS - 1) + 1)
    assert set(calibrated(few).half_widths) == {(None, n, None) for n in (1, 3, 5, 10)} | {(None, None, None)}


def test_nothing_arrives_before_now():
    interval, column = calibrated(rows(1_000, 7)), rows(3, 8)
    column["scheduled_seconds_ahead"] = np.array([-5.0, 0.0, 10.0])
    lower, upper = interval.bounds(column, np.array([6.0, 1.0, -9.0]))
    assert (lower >= -column["scheduled_seconds_ahead"]).all()
    assert (upper > lower).all()


def test_it_is_stored_and_read_as_it_was_and_the_same_rows_give_the_same_bytes():
    interval = calibrated(rows(5_000, 9))
    assert Interval.from_json(interval.to_json()) == interval
    assert calibrated(rows(5_000, 9)).to_json() == interval.to_json()


def test_without_rows_there_is_no_interval():
    nothing = {name: values[:0] for name, values in rows(1, 0).items()}
    with pytest.raises(ValueError, match="no validation rows"):
        calibrated(nothing)
