"""Interpolated times: where the vehicle is expected between the stops that have times, and never made up elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.transit.interpolation import interpolate_times, measure_metres
from mbta_assets.transit.plausibility import NAT

SECOND = 1_000_000
BEGIN = 1_700_000_000 * SECOND
NOWHERE = float("nan")
METRES_PER_DEGREE = 111_194.9


def interpolate(
    seconds: list[float | None],
    degrees: list[float] | None = None,
    trips: list[int] | None = None,
    dwell: int = 0,
    sequences: list[int] | None = None,
) -> list[float | None]:
    """Return the interpolated times of stops in seconds, given those that have a time.

    `degrees` are the stops' latitudes on one meridian. A vehicle stands at each for `dwell` seconds.
    """
    n = len(seconds)
    arrival = np.array([NAT if time is None else BEGIN + round(time * SECOND) for time in seconds], dtype=np.int64)
    departure = np.where(arrival == NAT, NAT, arrival + dwell * SECOND)
    times = interpolate_times(
        np.array(trips or [0] * n), np.array(sequences or range(n)), arrival, departure,
        np.array(degrees or [NOWHERE] * n), np.full(n, -71.0),
    )  # fmt: skip
    return [None if time == NAT else (time - BEGIN) / SECOND for time in times.tolist()]


def test_times_are_spread_evenly_where_positions_are_missing() -> None:
    assert interpolate([0, None, None, 900, None, 1500]) == [None, 300, 600, None, 1200, None]


def test_times_are_spread_by_distance_where_all_positions_are_known() -> None:
    assert interpolate([0, None, None, 900], [42.0, 42.1, 42.2, 42.9]) == [None, 100, 200, None]
    assert interpolate([0, None, None, 900], [42.0, NOWHERE, 42.2, 42.9]) == [None, 300, 600, None]
    assert interpolate([0, None, None, 900], [42.0] * 4) == [None, 300, 600, None], "nowhere to go"


def test_a_way_there_and_back_is_as_long_as_it_is() -> None:
    assert interpolate([0, None, None, 900], [42.0, 42.1, 42.0, 42.1]) == [None, 300, 600, None]


def test_stops_before_the_first_time_and_after_the_last_have_none() -> None:
    assert interpolate([None, 0, None, 600, None, None]) == [None, None, 300, None, None, None]
    assert interpolate([None, None]) == [None, None]
    assert interpolate([]) == []


def test_times_are_between_a_departure_and_an_arrival_in_whole_seconds() -> None:
    assert interpolate([0, None, None, 101], dwell=1) == [None, 34, 68, None]
    assert interpolate([0.25, None, 3], dwell=0) == [None, 1.25, None], "half a second is rounded up"
    assert interpolate([0, None, 0], dwell=60) == [None, 60, None], "the next is due before that departure"


def test_trips_are_interpolated_each_by_itself() -> None:
    seconds: list[float | None] = [0, 100, None, None, 200, 500]
    assert interpolate(seconds, trips=[0, 1, 0, 1, 0, 1], sequences=[1, 1, 2, 2, 3, 3]) == [
        None, None, 100, 300, None, None,
    ]  # fmt: skip
    assert interpolate([0, None, None, 200], trips=[0, 0, 1, 1]) == [None, None, None, None]


def test_a_last_stop_with_sequence_1_ends_the_trip_although_its_number_is_small() -> None:
    assert interpolate([0, None, 600, 900], sequences=[0, 10, 20, 1]) == [None] * 4, "nothing follows the number 1"
    assert interpolate([0, 300, None, 600, 900], sequences=[0, 10, 20, 30, 1]) == [None, None, 450, None, None]


@given(
    trips=st.lists(st.tuples(st.integers(2, 30), st.integers(1, 3600)), min_size=1, max_size=4),
    with_positions=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_times_deleted_from_an_evenly_timed_timetable_come_back_exactly(
    trips: list[tuple[int, int]], with_positions: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    trip = np.repeat(np.arange(len(trips)), [n for n, _ in trips])
    number = np.concatenate([np.arange(n) for n, _ in trips])
    time = BEGIN + number * np.array([interval for _, interval in trips])[trip] * SECOND
    deleted = (rng.random(len(trip)) < rng.random()) & (number > 0)
    deleted[np.append(trip[1:] != trip[:-1], True)] = False
    given_times = np.where(deleted, NAT, time)
    latitude = 42 + 0.01 * number if with_positions else np.full(len(trip), NOWHERE)
    order = rng.permutation(len(trip))
    columns = (trip, number * 10 + 7, given_times, given_times, latitude, np.full(len(trip), -71.0))
    interpolated = interpolate_times(*(column[order] for column in columns))
    expected = np.where(deleted, time, NAT)[order]
    # Distances in whole metres are equal up to one metre in a thousand.
    tolerance = 0 if not with_positions else np.where(expected == NAT, 0, 1 + 0.001 * 30 * 3600) * SECOND
    assert (np.abs(interpolated - expected) <= tolerance).all()


@given(
    runs=st.lists(st.integers(0, 1800), min_size=2, max_size=30),
    dwells=st.lists(st.integers(0, 120), min_size=31, max_size=31),
    with_positions=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_times_deleted_from_any_timetable_come_back_between_the_ones_around_them(
    runs: list[int], dwells: list[int], with_positions: bool, seed: int
) -> None:
    """Require an error of less than the time between the stops before and after, which is the tolerance stated."""
    rng = np.random.default_rng(seed)
    n = len(runs) + 1
    arrival = BEGIN + (np.cumsum([0, *runs]) + np.cumsum([0, *dwells[: n - 1]])) * SECOND
    departure = arrival + np.array(dwells[:n]) * SECOND
    deleted = rng.random(n) < 0.5
    deleted[[0, -1]] = False
    arrives, departs = (np.where(deleted, NAT, column) for column in (arrival, departure))
    latitude = rng.uniform(42, 43, n) if with_positions else np.full(n, NOWHERE)
    interpolated = interpolate_times(
        np.zeros(n, dtype=np.int64), np.arange(n), arrives, departs, latitude, np.full(n, -71.0)
    )
    np.testing.assert_array_equal(interpolated != NAT, deleted)
    complete = np.where(deleted, interpolated, arrival)
    assert (np.diff(complete) >= 0).all()
    for stop in np.flatnonzero(deleted):
        before, after = np.flatnonzero(~deleted[:stop])[-1], stop + np.flatnonzero(~deleted[stop:])[0]
        assert departure[before] <= interpolated[stop] <= arrival[after]
        assert abs(interpolated[stop] - arrival[stop]) <= arrival[after] - departure[before]


def test_metres_are_whole_and_missing_without_a_position() -> None:
    metres = measure_metres(
        np.array([42.0, 42.0]), np.array([-71.0, -71.0]), np.array([43.0, NOWHERE]), np.array([-71.0, -71.0])
    )
    assert metres[0] == pytest.approx(METRES_PER_DEGREE, abs=1) and metres[0] == np.floor(metres[0])
    assert np.isnan(metres[1])
