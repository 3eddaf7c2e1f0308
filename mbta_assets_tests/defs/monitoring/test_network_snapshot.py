"""The order of stops in the network snapshot, and which reports it has."""

from datetime import timedelta

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.defs.monitoring.network_snapshot import build_snapshot
from mbta_assets.serving.formats import NetworkSnapshot
from mbta_assets.serving.lines import merge_stop_patterns
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, DAY, STOPS, Rows

TEN_MINUTES = timedelta(minutes=10)


def make_snapshot(rows: Rows) -> NetworkSnapshot:
    """Return the snapshot of a day."""
    names = pd.DataFrame(rows["stop"]).rename(columns={"id": "stop_id", "name": "destination"})
    return build_snapshot(DAY, plain_day.compute(rows), names)


def test_the_stops_of_a_branch_are_adjacent_in_either_direction() -> None:
    trunk, ashmont, braintree = ["Alewife", "JFK"], ["Savin Hill", "Ashmont"], ["North Quincy", "Braintree"]
    outbound = merge_stop_patterns([trunk + ashmont, trunk + braintree])
    assert outbound == [*trunk, *braintree, *ashmont]
    inbound = merge_stop_patterns([(trunk + ashmont)[::-1], (trunk + braintree)[::-1]])
    assert inbound == [*ashmont[::-1], *braintree[::-1], *trunk[::-1]]
    assert merge_stop_patterns([["a", "c"], ["a", "b", "c"], ["z"]]) == ["a", "b", "c", "z"]


@given(patterns=st.lists(st.lists(st.sampled_from("ABCDEF"), max_size=6, unique=True), max_size=5))
def test_merged_patterns_have_each_stop_once_and_the_first_in_order(patterns: list[list[str]]) -> None:
    merged = merge_stop_patterns(patterns)
    assert sorted(merged) == sorted({stop for pattern in patterns for stop in pattern})
    first = next((pattern for pattern in patterns if pattern), [])
    assert [stop for stop in merged if stop in first] == first


def test_each_time_has_every_stop_ahead_of_the_first_report_from_then_on() -> None:
    snapshot = make_snapshot(plain_day.make_rows())
    times = (BEGIN, BEGIN + TEN_MINUTES, BEGIN + 2 * TEN_MINUTES)
    assert snapshot.times.tolist() == [int(time.timestamp()) for time in times]
    expected = [(60, [0, 1, 2, 3, 4, 5]), (630, [1, 2, 3, 4]), (1230, [1, 2])]
    for index, (seconds, stops_ahead) in enumerate(expected):
        rows = snapshot.rows_at(index)
        reported_at = BEGIN + timedelta(seconds=seconds)
        assert set(snapshot.reported_at[rows].tolist()) == {int(reported_at.timestamp()) * 10**6}
        assert snapshot.columns["stops_ahead"][rows].tolist() == stops_ahead
        assert snapshot.columns["stop_id"][rows].tolist() == list(STOPS[-len(stops_ahead) :])
    [line] = snapshot.lines
    assert (line.route_id, line.direction_id, line.towards) == ("Red", 0, STOPS[-1])
    assert [station.stop_id for station in line.stations] == list(STOPS)


def test_a_vehicle_has_one_trip_at_a_time() -> None:
    rows = plain_day.make_rows()
    rows["trip"].append(plain_day.make_trip("2"))
    begin = BEGIN + timedelta(minutes=26)
    rows["schedule"] += plain_day.make_stop_times("2", stops=STOPS[::-1], begin=begin)
    rows["vehicle"] += plain_day.make_reports("2", stops=STOPS[::-1], begin=begin)
    snapshot = make_snapshot(rows)
    for index in range(len(snapshot.times)):
        of_time = snapshot.rows_at(index)
        assert len(set(snapshot.trip_id[of_time].tolist())) == len(set(snapshot.vehicle_id[of_time].tolist())) == 1


def test_a_loop_has_the_stop_at_which_it_ends_twice() -> None:
    loop = ("A", "B", "C", "D", "E", "A")
    rows = plain_day.make_rows()
    rows["stop"] = plain_day.make_stops(loop[:-1])
    rows["schedule"] = plain_day.make_stop_times(stops=loop)
    rows["vehicle"] = plain_day.make_reports(stops=loop)
    # A second trip is first observed on its way, so that its first stop has no rows.
    rows["trip"].append(plain_day.make_trip("2"))
    rows["schedule"] += plain_day.make_stop_times("2", stops=loop)
    rows["vehicle"] += plain_day.make_reports("2", "R-2", stops=loop)[4:]
    snapshot = make_snapshot(rows)
    [line] = snapshot.lines
    assert [(station.stop_id, station.later_visits) for station in line.stations] == [
        ("A", 1), ("B", 0), ("C", 0), ("D", 0), ("E", 0), ("A", 0),
    ]  # fmt: skip
    of_first_stop = snapshot.columns["stop_id"] == "A"
    is_departure = snapshot.columns["stops_ahead"] == 0
    assert np.array_equal(snapshot.later_visits == 1, of_first_stop & is_departure)
    assert (of_first_stop & ~is_departure).any()
