"""Trips that serve a stop twice, and two vehicles on one trip: each row is about its own visit and its own vehicle."""

from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.transit.checks import NUMERIC_FEATURES
from mbta_assets.transit.schema import STATUSES
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, LATE_SECONDS, Row, Rows

# Starts no process, but tries many days.
pytestmark = pytest.mark.integration

LOOP = "ABCDEA"
OWN_LAPS = ["last_run_seconds", "recent_run_seconds"]
"""Features of a loop that its own vehicle's earlier laps decide."""


def make_trips(*stops_of_trips: str) -> Rows:
    """Return a day with a trip over each of some sequences of stops, one at each letter, without reports."""
    stops = plain_day.make_stops(sorted(set("".join(stops_of_trips))))
    rows: Rows = {"vehicle": [], "trip": [], "stop": stops, "schedule": []}
    for number, of_trip in enumerate(stops_of_trips, start=1):
        rows["trip"].append(plain_day.make_trip(str(number)))
        rows["schedule"] += plain_day.make_stop_times(str(number), stops=of_trip)
    return rows


def make_reports(stops: str, trip: str = "1", vehicle: str = "R-1", late_seconds: float = LATE_SECONDS) -> list[Row]:
    """Return the reports of a trip over some stops."""
    return plain_day.make_reports(trip, vehicle, stops, late_seconds=late_seconds)


def test_a_loop_has_the_rows_of_a_trip_over_as_many_stops() -> None:
    straight = "abcdef"
    loop = plain_day.compute(make_trips(LOOP) | {"vehicle": make_reports(LOOP)})
    same = plain_day.compute(make_trips(straight) | {"vehicle": make_reports(straight)})
    names = dict(zip(straight, LOOP, strict=True))
    assert loop["stop_id"].tolist() == [names[stop] for stop in same["stop_id"]]
    columns = ["time_stamp", "event", "stop_sequence", "current_stop_sequence", "stops_ahead", "delay_seconds"]
    pd.testing.assert_frame_equal(loop[columns], same[columns])
    arrivals = loop[loop["event"] == "arrival"]
    assert arrivals["delay_seconds"].unique().tolist() == [LATE_SECONDS]
    on_the_way = loop[loop["time_stamp"] >= BEGIN + timedelta(minutes=21, seconds=50)]
    assert on_the_way["stop_sequence"].unique().tolist() == [6]
    assert on_the_way["stops_behind"].unique().tolist() == [5]


stops_of_loops = st.lists(st.sampled_from("ABC"), min_size=2, max_size=12).map("".join)
odd_reports = st.lists(
    st.tuples(st.integers(0, 11), st.integers(-300, 600), st.sampled_from(STATUSES)), min_size=1, max_size=30
)


@given(stops=stops_of_loops, odd=odd_reports, skipped=st.sets(st.integers(0, 35)), late=st.integers(-200, 600))
@settings(max_examples=10, deadline=None)
def test_with_stop_sequences_a_trip_over_repeated_stops_is_as_one_over_distinct_stops(
    stops: str, odd: list[tuple[int, int, str]], skipped: set[int], late: int
) -> None:
    """Compare all but own laps, whatever is skipped, repeated, or reported out of order."""
    distinct = "abcdefghijkl"[: len(stops)]
    computed = []
    for of_trip in (stops, distinct):
        rows = make_trips(of_trip)
        reports = [
            row | {"current_stop_sequence": (n + 2) // 3 + 1}
            for n, row in enumerate(make_reports(of_trip, late_seconds=late))
            if n not in skipped
        ]
        for number, seconds, status in odd:
            place = number % len(of_trip)
            at = BEGIN + place * plain_day.INTERVAL + timedelta(seconds=seconds)
            values = {"current_status": status, "stop_id": of_trip[place], "current_stop_sequence": place + 1}
            reports.append(make_reports(of_trip)[0] | values | {"updated_at": at})
        computed.append(plain_day.compute(rows | {"vehicle": reports}))
    loop, straight = computed
    own = {*OWN_LAPS, "distance_travel_miles", "destination_cell", "stop_id", "current_stop_id"}
    compared = [name for name in loop.columns if name not in own]
    pd.testing.assert_frame_equal(loop[compared], straight[compared], check_exact=True)


@given(
    late=st.tuples(st.integers(-100, 900), st.integers(-100, 900)),
    skipped=st.sets(st.integers(0, 31)),
    stops=st.sampled_from(["ABCDEF", LOOP]),
)
@settings(max_examples=10, deadline=None)
def test_two_vehicles_on_one_trip_are_as_two_trips(late: tuple[int, int], skipped: set[int], stops: str) -> None:
    def report(trips: tuple[str, str]) -> list[Row]:
        reports = make_reports(stops, trips[0], "R-1", late[0]) + make_reports(stops, trips[1], "R-2", late[1])
        return [row for n, row in enumerate(reports) if n not in skipped]

    shared = plain_day.compute(make_trips(stops) | {"vehicle": report(("1", "1"))})
    apart = plain_day.compute(make_trips(stops, stops) | {"vehicle": report(("1", "2"))})
    compared = shared.columns.drop("trip_id")
    pd.testing.assert_frame_equal(shared[compared], apart[compared], check_exact=True)


def test_a_label_is_never_the_arrival_of_another_vehicle() -> None:
    first, second = make_reports("ABCDEF")[:8], make_reports("ABCDEF", vehicle="R-2", late_seconds=90)[8:]
    rows = plain_day.compute(make_trips("ABCDEF") | {"vehicle": first + second})
    of_first = rows[(rows["vehicle_id"] == "R-1") & (rows["event"] == "arrival")]
    assert of_first.loc[of_first["stop_sequence"] > 3, "delay_seconds"].isna().all()
    assert of_first.loc[of_first["stop_sequence"] <= 3, "delay_seconds"].eq(LATE_SECONDS).all()
    of_second = rows[(rows["vehicle_id"] == "R-2") & (rows["event"] == "arrival")]
    assert of_second["delay_seconds"].eq(90).all()


def test_run_times_are_those_to_the_next_visit_of_the_destination() -> None:
    stops = "XABCABY"
    rows = plain_day.compute(make_trips(stops) | {"vehicle": make_reports(stops)})
    at_x = rows[(rows["current_stop_id"] == "X") & (rows["event"] == "arrival")].set_index("stop_sequence")
    assert at_x[OWN_LAPS].isna().all().all()
    second_lap = rows[(rows["current_stop_sequence"] == 5) & (rows["current_status"] == "STOPPED_AT")]
    to_b = second_lap[second_lap["stop_sequence"] == 6]
    assert to_b["last_run_seconds"].tolist() == [300], "of the first lap"
    other = make_reports(stops, "2", "R-2", late_seconds=3600)
    ahead = plain_day.compute(make_trips(stops, stops) | {"vehicle": make_reports(stops) + other})
    at_x = ahead[(ahead["vehicle_id"] == "R-2") & (ahead["current_stop_id"] == "X") & (ahead["event"] == "arrival")]
    runs = at_x.set_index("stop_sequence")["last_run_seconds"]
    assert runs.dropna().to_dict() == {n: 300 * (n - 1) for n in runs.index if n in (2, 3, 4, 7)}


def test_own_arrivals_are_no_leader_however_many_there_are() -> None:
    stops = "ABABAB"
    rows = plain_day.compute(make_trips(stops) | {"vehicle": make_reports(stops)})
    assert rows["leader_headway_seconds"].isna().all() and rows["platform_headway_seconds"].isna().all()
    leader = make_reports(stops, "2", "R-0", late_seconds=0)[:1]
    led = plain_day.compute(make_trips(stops, stops) | {"vehicle": make_reports(stops) + leader})
    to_a = led[(led["vehicle_id"] == "R-1") & (led["stop_id"] == "A")]
    elapsed = (to_a["time_stamp"] - BEGIN).dt.total_seconds()
    assert to_a["leader_headway_seconds"].tolist() == elapsed.tolist()


def test_a_departure_has_the_features_of_the_first_stop_and_no_run_time() -> None:
    rows = plain_day.make_two_trips()
    departures = plain_day.compute(rows).query("event == 'departure'").set_index("trip_id")
    assert departures["stops_ahead"].tolist() == [0, 0] and departures["stop_sequence"].tolist() == [1, 1]
    assert departures[OWN_LAPS].isna().all().all()
    # They stand there from one minute after the schedule on, and are seen on their way four minutes later.
    assert departures["scheduled_run_seconds"].tolist() == [0, 0]
    assert departures["delay_seconds"].tolist() == [110, 110]
    assert departures.loc["2", "leader_headway_seconds"] == 240


@pytest.mark.parametrize(("timepoint", "feature"), [(1, 1), (0, 0), (None, 0)])
def test_the_current_stop_is_a_timepoint_where_the_timetable_says_so(timepoint: int | None, feature: int) -> None:
    rows = plain_day.make_rows()
    rows["schedule"][2]["timepoint"] = timepoint
    computed = plain_day.compute(rows)
    here = computed["current_stop_sequence"] == 3
    assert computed.loc[here, "timepoint"].eq(feature).all() and computed.loc[~here, "timepoint"].eq(0).all()
    others = [name for name in NUMERIC_FEATURES if name != "timepoint"]
    pd.testing.assert_frame_equal(computed[others], plain_day.compute(plain_day.make_rows())[others])


def test_features_of_interpolated_times_are_those_of_the_full_timetable() -> None:
    rows: dict[str, Any] = plain_day.make_rows()
    full = plain_day.compute(rows)
    for number in (1, 2, 4):
        rows["schedule"][number] |= {"arrival_time": None, "departure_time": None}
    pd.testing.assert_frame_equal(plain_day.compute(rows), full)
