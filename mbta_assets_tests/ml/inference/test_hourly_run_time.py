"""Run times along the path, by hour of the day, on lines of stops that can be summed by hand."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mbta_assets.ml.inference.hourly_run_time import (
    DEVIATION_SECONDS,
    HOURS_PER_BIN,
    SECONDS_PER_DAY,
    find_bin_half_way,
    find_bins_half_way,
)
from mbta_assets.ml.inference.run_time import LOOKUP_FEATURES, MedianRunTime
from mbta_assets.ml.inference.segments import SegmentGraph
from mbta_assets.ml.training.cross_fitting import compute_out_of_fold

STOPS = "abcdefgh"
SCHEDULED_RUN = 777.0
DAYS = pd.date_range("2024-03-01", periods=6)
segment_seconds = st.lists(st.integers(1, 600), min_size=2, max_size=len(STOPS) - 1)
hours = st.integers(0, 23)


def make_trips(seconds: list[int], hour: float, day: pd.Timestamp = DAYS[0], n: int = 4) -> pd.DataFrame:
    """Return a report of each of n trips that stand at the first stop of a line, with all stops ahead of it."""
    angle = 2 * np.pi * hour / 24
    trips = [
        pd.DataFrame(
            {
                "service_date": day,
                "trip_id": f"{hour} {number}",
                "vehicle_id": "v",
                "time_stamp": day + pd.Timedelta(hours=hour),
                "current_status": "STOPPED_AT",
                "current_stop_id": STOPS[0],
                "stop_id": list(STOPS[1 : len(seconds) + 1]),
                "stops_ahead": np.arange(len(seconds)) + 1,
                "stops_behind": 2.0,
                "route_id": "1",
                "direction_id": 0,
                "trip_start_seconds": hour * 3600.0,
                "timepoint": 0.0,
                "seconds_in_state": 0.0,
                "scheduled_seconds_ahead": 0.0,
                "scheduled_run_seconds": SCHEDULED_RUN,
                "departure_delay_seconds": 5.0,
                "last_delay_seconds": 0.0,
                "sin_time": np.float32(np.sin(angle)),
                "cos_time": np.float32(np.cos(angle)),
                # The first stop is that of the rows' report, so its arrival is not among the visits.
                "delay_seconds": np.cumsum(seconds).astype(float),
            }
        )
        for number in range(n)
    ]
    return pd.concat(trips, ignore_index=True)


def compute(lookup: MedianRunTime, rows: pd.DataFrame, **values: Any) -> np.ndarray:
    """Return the run time along the path and its deviation (n, 2) for rows with other values."""
    return lookup.compute_features(rows.assign(**values))[:, 1:3]


def at_second_stop(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first trip about stops beyond the second, with the vehicle at the second."""
    trip = rows[(rows.trip_id == rows.trip_id[0]) & (rows.stops_ahead > 1)]
    return trip.assign(current_stop_id=STOPS[1], stops_ahead=trip.stops_ahead - 1, stops_behind=3.0)


@given(segment_seconds, segment_seconds, hours, hours)
@example([600, 600], [1, 1, 1], 8, 8)  # two vehicles on the same trip
def test_a_path_takes_the_sum_of_its_segments(quick: list[int], slow: list[int], hour: int, other_hour: int) -> None:
    rows = pd.concat([make_trips(quick, hour), make_trips(slow, other_hour).assign(vehicle_id="w")], ignore_index=True)
    lookup = MedianRunTime.fit(rows)
    hourly, code = lookup.hourly, {stop: number for number, stop in enumerate(lookup.stops)}
    index = {tuple(pair): number for number, pair in enumerate(hourly.pairs.tolist())}
    asked = at_second_stop(rows)
    for stops_ahead, (path_seconds, deviation) in zip(asked.stops_ahead, compute(lookup, asked), strict=True):
        hops = [index[code[a], code[b]] for a, b in pairwise(STOPS[1 : stops_ahead + 2])]
        plain = sum(hourly.seconds[hop] for hop in hops)
        more = sum(hourly.deviations[hop][hour // HOURS_PER_BIN] for hop in hops)
        assert (path_seconds, deviation) == pytest.approx((plain + more, more))


def test_a_moving_vehicle_has_the_segment_that_it_is_on_too() -> None:
    rows = make_trips([10, 20, 30, 40], hour=8)
    lookup = MedianRunTime.fit(rows)
    going_to_d = rows[(rows.trip_id == rows.trip_id[0]) & (rows.stops_ahead > 2)].assign(
        current_stop_id="d", current_status="IN_TRANSIT_TO", stops_ahead=[1, 2]
    )
    assert compute(lookup, going_to_d)[:, 0].tolist() == [30, 70]


def test_an_hour_is_slower_than_others_by_what_was_seen_then() -> None:
    rows = pd.concat([make_trips([60, 100], 8, n=40), make_trips([60, 200], 17, n=40)], ignore_index=True)
    lookup = MedianRunTime.fit(rows)
    asked = at_second_stop(rows)
    morning, evening, night = (
        compute(lookup, asked, sin_time=np.sin(2 * np.pi * hour / 24), cos_time=np.cos(2 * np.pi * hour / 24))[0]
        for hour in (8, 17, 3)
    )
    assert night[1] == 0  # nothing was seen then
    assert morning[1] < -DEVIATION_SECONDS < DEVIATION_SECONDS < evening[1]
    assert evening[0] - morning[0] == pytest.approx(evening[1] - morning[1])
    assert 100 <= morning[0] < night[0] < evening[0] <= 200


@given(st.sampled_from(["current_stop_id", "stop_id", "route_id"]), st.sampled_from(["elsewhere", None]), hours)
def test_an_unknown_path_takes_as_long_as_scheduled(name: str, value: str | None, hour: int) -> None:
    rows = make_trips([60, 100, 80], hour)
    features = compute(MedianRunTime.fit(rows), at_second_stop(rows), **{name: value})
    assert features.tolist() == [[SCHEDULED_RUN, 0.0]] * len(features)


@settings(max_examples=10)
@given(segment_seconds, st.integers(0, 5))
def test_rows_never_see_their_own_service_day(seconds: list[int], changed: int) -> None:
    days = [make_trips(seconds, hour=8, day=day) for day in DAYS]
    before = pd.concat(days, ignore_index=True)
    days[changed] = make_trips([value + 50 for value in seconds], hour=8, day=DAYS[changed])
    after = pd.concat(days, ignore_index=True)
    is_changed = (after.service_date == DAYS[changed]).to_numpy()
    features = [compute_out_of_fold(rows) for rows in (before, after)]
    np.testing.assert_array_equal(features[0][is_changed, 1:], features[1][is_changed, 1:])
    beyond_first = ~is_changed & (after.stops_ahead > 1).to_numpy()
    assert (features[1][beyond_first, 1] >= features[0][beyond_first, 1]).all()


@given(segment_seconds, hours)
def test_a_stored_lookup_has_the_same_features_and_the_same_bytes(seconds: list[int], hour: int) -> None:
    rows = make_trips(seconds, hour)
    lookup = MedianRunTime.fit(rows)
    stored = MedianRunTime.from_bytes(lookup.to_bytes())
    assert stored.to_bytes() == lookup.to_bytes() == MedianRunTime.fit(rows[::-1]).to_bytes()
    np.testing.assert_array_equal(stored.compute_features(rows), lookup.compute_features(rows))
    assert lookup.compute_features(rows).shape == (len(rows), len(LOOKUP_FEATURES))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), unique=True), st.integers(0, 5), st.integers(0, 6))
def test_the_path_is_that_of_the_quickest_run_time(hops: list[tuple[int, int]], end: int, n_segments: int) -> None:
    seconds = {hop: float(1 + number * 7 % 5) for number, hop in enumerate(hops)}
    segments = np.array([(0, *hop) for hop in hops], dtype=np.int64).reshape(-1, 3)
    graph = SegmentGraph(segments, np.array(list(seconds.values())))
    run_time, path = graph.sum_run_time(0, 0, end, n_segments), graph.find_path(0, 0, end, n_segments)
    assert (run_time is None) == (path is None)
    if path is not None:
        assert (path[0], path[-1], len(path)) == (0, end, n_segments + 1)
        assert sum(seconds[hop] for hop in pairwise(path)) == run_time


def test_the_time_of_day_begins_again_at_midnight() -> None:
    rows = make_trips([60, 100], hour=23.99)
    lookup = MedianRunTime.fit(rows)
    assert (lookup.hourly.seconds < SECONDS_PER_DAY / 2).all()
    assert compute(lookup, at_second_stop(rows))[0, 0] == 100


@given(segment_seconds, st.integers(0, SECONDS_PER_DAY - 1))
def test_a_row_by_itself_has_the_features_that_it_has_among_others(seconds: list[int], time: int) -> None:
    rows = pd.concat([make_trips(seconds, time / 3600), make_trips(seconds, time // 3600)], ignore_index=True)
    lookup = MedianRunTime.fit(rows)
    together = lookup.compute_features(rows)
    by_themselves = np.concatenate([lookup.compute_features(rows.iloc[[0]]), lookup.compute_features(rows.iloc[[-1]])])
    np.testing.assert_array_equal(by_themselves, together[[0, -1]])


def test_the_hours_of_one_row_are_those_among_others_at_every_half_second_of_a_day() -> None:
    angle = np.arange(0, SECONDS_PER_DAY, 0.5) * (2 * np.pi / SECONDS_PER_DAY)
    sine, cosine = np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)
    together = find_bins_half_way({"sin_time": sine, "cos_time": cosine}, np.zeros(len(angle)))
    alone = [find_bin_half_way(*time, 0.0) for time in zip(sine.tolist(), cosine.tolist(), strict=True)]
    assert together.tolist() == alone
