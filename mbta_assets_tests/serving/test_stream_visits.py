"""The stream tells the visits of a trip apart, and what two vehicles on one trip do, as the table does."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbta_assets.serving import ArrivalQuery, StopTime, Stream, Timetable, VehicleUpdate
from mbta_assets.serving.scheduled_trip import order_trip
from mbta_assets.transit import schema
from mbta_assets_tests.serving.test_stream import assert_same_rows
from mbta_assets_tests.serving.test_stream_rules import follow, list_updates, move
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, DAY, INTERVAL, LATE_SECONDS, STOPS, Rows

LOOP = ("A", "B", "C", "D", "E", "A")
LOLLIPOP = ("A", "B", "C", "D", "B", "A")
FIGURE_OF_EIGHT = ("A", "B", "C", "A", "D", "A")
TWICE_ROUND = ("A", "B", "C", "A", "B", "C")


def make_course(stops: Sequence[str], with_sequence: bool) -> Rows:
    """Return the plain day on which trip 1 serves other stops; with a stop sequence in each report, if asked for."""
    rows = plain_day.make_rows()
    rows["stop"] = plain_day.make_stops(sorted(set(stops)))
    rows["schedule"] = plain_day.make_stop_times(stops=stops)
    rows["vehicle"] = plain_day.make_reports(stops=stops)
    if with_sequence:
        for number, report in enumerate(rows["vehicle"]):
            report["current_stop_sequence"] = 1 + (number + 2) // 3
    return rows


def list_visits(queries: Sequence[ArrivalQuery]) -> list[tuple[Any, ...]]:
    """Return what queries say of visits, without the names of stops."""
    return [
        (
            query.time_stamp, query.stops_ahead, query.stop_sequence, query.current_stop_sequence, query.stops_behind,
            query.scheduled_arrival, query.scheduled_last_departure, query.state_since, query.last_arrival,
            query.last_delay_seconds,
        )
        for query in queries
    ]  # fmt: skip


@pytest.mark.parametrize("with_sequence", [True, False])
@pytest.mark.parametrize("stops", [LOOP, LOLLIPOP, FIGURE_OF_EIGHT, TWICE_ROUND])
def test_a_trip_that_serves_stops_twice_has_the_queries_of_one_that_does_not(
    stops: Sequence[str], with_sequence: bool
) -> None:
    rows, plain = make_course(stops, with_sequence), plain_day.make_rows()
    _, queries = follow(list_updates(rows), rows)
    _, expected = follow(list_updates(plain), plain)
    assert list_visits(queries) == list_visits(expected)
    assert [query.stop_id for query in queries] == [stops[STOPS.index(query.stop_id)] for query in expected]
    assert queries[-1].last_delay_seconds == LATE_SECONDS


def test_the_last_visit_of_a_loop_is_predicted_although_the_vehicle_has_stood_at_its_stop() -> None:
    rows = make_course(LOOP, with_sequence=False)
    _, queries = follow(list_updates(rows), rows)
    last = [query for query in queries if query.stop_id == "A" and query.stops_ahead]
    assert {query.stop_sequence for query in last} == {6}
    assert {query.scheduled_arrival for query in last} == {BEGIN + 5 * INTERVAL}
    assert len(last) == len({query.time_stamp for query in queries})


def test_a_vehicle_that_stands_at_the_end_of_a_loop_has_nothing_ahead_and_does_not_depart() -> None:
    rows = make_course(LOOP, with_sequence=False)
    stream, _ = follow(list_updates(rows), rows)
    assert list(stream.iter_queries()) == []


def test_a_departure_is_predicted_until_the_vehicle_has_left() -> None:
    rows = plain_day.make_rows()
    first = rows["vehicle"][0]
    waiting = [{**first, "updated_at": BEGIN - timedelta(seconds=seconds)} for seconds in (600, 300, 10)]
    coming = {**first, "updated_at": BEGIN - timedelta(seconds=900), "current_status": "INCOMING_AT"}
    back = {**first, "updated_at": BEGIN + 1.5 * INTERVAL}
    rows["vehicle"] += [coming, *waiting, back]
    _, queries = follow(list_updates(rows), rows)
    departures = [query for query in queries if query.is_departure]
    times = [BEGIN + timedelta(seconds=seconds) for seconds in (-900, -600, -300, -10, LATE_SECONDS)]
    assert [query.time_stamp for query in departures] == times
    assert {query.scheduled_arrival for query in departures} == {BEGIN}
    assert {(query.stop_id, query.current_stop_id, query.stop_sequence) for query in departures} == {
        (STOPS[0], STOPS[0], 1)
    }
    assert [query.stops_behind for query in departures] == [0, 1, 1, 1, 1]
    assert {(query.last_run_seconds, query.recent_run_seconds) for query in departures} == {(None, None)}
    # The nearest arrival is one stop ahead of a vehicle that stands, and two ahead of one that has yet to come.
    nearest = {query.time_stamp: query for query in reversed(queries) if not query.is_departure}
    assert [nearest[time].stops_ahead for time in times] == [2, 1, 1, 1, 1]
    assert back["updated_at"] in nearest  # a vehicle that is seen at the origin again still has stops ahead


def test_each_of_two_vehicles_on_a_trip_has_its_own_arrivals() -> None:
    rows = plain_day.make_rows()
    rows["vehicle"] += plain_day.make_reports(vehicle="R-2", late_seconds=LATE_SECONDS + 95)
    _, queries = follow(list_updates(rows), rows)
    for vehicle, late in (("R-1", LATE_SECONDS), ("R-2", LATE_SECONDS + 95)):
        own = [query for query in queries if query.vehicle_id == vehicle]
        assert len(own) == 46
        assert {query.last_delay_seconds for query in own if query.stops_behind > 1} <= {None, late}
    behind = [query for query in queries if query.vehicle_id == "R-2" and query.current_status == "STOPPED_AT"]
    followed = {query.time_stamp - query.platform_arrival for query in behind if query.platform_arrival is not None}
    assert followed == {timedelta(seconds=95)}


def test_a_vehicle_that_takes_over_a_trip_does_not_silence_the_other() -> None:
    rows = plain_day.make_rows()
    taken_over = [{**report, "id": "R-2"} for report in rows["vehicle"][8:]]
    rows["vehicle"] = rows["vehicle"][:8] + taken_over
    stream, _ = follow(list_updates(rows), rows)
    queries = list(stream.iter_trip_queries("1"))
    assert {query.vehicle_id for query in queries} == {"R-1"}  # the other one has arrived at the terminal
    assert stream.late_updates == 0


def test_blank_times_have_the_queries_of_the_whole_timetable() -> None:
    rows = plain_day.make_rows()
    _, expected = follow(list_updates(rows), rows)
    for number in (1, 2, 4):
        rows["schedule"][number] |= {"arrival_time": None, "departure_time": None}
    _, queries = follow(list_updates(rows), rows)
    assert list_visits(queries) == list_visits(expected)


def test_blank_times_are_interpolated_by_distance_where_it_is_known_else_evenly() -> None:
    rows = [
        StopTime(trip_id="1", stop_id=stop, stop_sequence=number, arrival_time=time, departure_time=time)
        for number, (stop, time) in enumerate({"a": BEGIN, "b": None, "c": None, "d": BEGIN + INTERVAL}.items())
    ]
    even, *_ = order_trip(rows, lambda stop: None)
    assert [row.due for row in even] == [BEGIN + timedelta(seconds=seconds) for seconds in (0, 100, 200, 300)]
    degrees = {"a": 42.0, "b": 42.01, "c": 42.04, "d": 42.05}
    measured, *_ = order_trip(rows, lambda stop: (degrees[stop], -71.0))
    assert [row.due for row in measured] == [BEGIN + timedelta(seconds=seconds) for seconds in (0, 60, 240, 300)]
    untrusted, is_trusted, _ = order_trip([replace(row, stop_sequence=None) for row in rows], lambda stop: None)
    assert not is_trusted
    assert [row.stop_id for row in untrusted] == ["a", "d"]


def test_a_stop_whose_order_is_not_known_is_counted_but_neither_predicted_nor_reported_at() -> None:
    rows = plain_day.make_rows()
    for stop_time in rows["schedule"]:
        stop_time["stop_sequence"] = None
    rows["schedule"][3] |= {name: rows["schedule"][2][name] for name in ("arrival_time", "departure_time")}
    stream, queries = follow(list_updates(rows), rows)
    assert {query.stop_id for query in queries} == {*STOPS[:2], *STOPS[4:]}
    assert {query.current_stop_id for query in queries} == {*STOPS[:2], *STOPS[4:]}
    assert (stream.implausible_updates, stream.late_updates) == (0, 0)
    assert assert_same_rows(DAY, plain_day.to_tables(rows)).shape[0] == len(queries)


def test_a_wrong_clock_on_a_loop_leaves_the_progress_as_it_was() -> None:
    rows = make_course(TWICE_ROUND, with_sequence=False)
    updates = list_updates(rows)
    _, expected = follow(updates, rows)
    wrong = move(updates[4], 3 * INTERVAL + timedelta(seconds=7))
    stream, queries = follow([*updates[:4], wrong, *updates[4:]], rows)
    assert stream.revoked_updates == 1
    lost = {updates[4].updated_at, wrong.updated_at}
    assert [query for query in queries if query.time_stamp not in lost] == [
        query for query in expected if query.time_stamp not in lost
    ]


def test_a_report_without_a_stop_is_about_the_visit_with_its_stop_sequence() -> None:
    rows = make_course(LOOP, with_sequence=True)
    _, expected = follow(list_updates(rows), rows)
    for report in rows["vehicle"]:
        report["stop_id"] = None
    _, queries = follow(list_updates(rows), rows)
    assert queries == expected


def test_simultaneous_updates_count_in_one_order_however_they_are_given() -> None:
    schedule = [
        StopTime(trip_id="1", stop_id=stop, arrival_time=BEGIN + n * INTERVAL, stop_sequence=n + 1)
        for n, stop in enumerate(LOOP)
    ]
    updates = [
        VehicleUpdate(
            id="R-1", trip_id="1", updated_at=BEGIN + 2 * INTERVAL, current_status=status, stop_id=stop,
            current_stop_sequence=sequence,
        )
        for status in ("IN_TRANSIT_TO", "STOPPED_AT")
        for stop, sequence in (("B", None), ("C", 3), ("C", None))
    ]  # fmt: skip
    results = []
    for given_updates in (updates, updates[::-1]):
        stream = Stream(Timetable(DAY, schedule))
        stream.update(given_updates)
        results.append(list(stream.iter_queries()))
    assert results[0] == results[1]
    assert results[0][0].current_status == "STOPPED_AT"


PLACES = ["A", "B", "C", "B-berth", "D"]
seconds = st.integers(-20, 60).map(lambda number: timedelta(seconds=30 * number))
courses = st.lists(st.sampled_from(PLACES[:4]), min_size=2, max_size=9)
reports = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["R-1", "R-2"]),
        "trip_id": st.sampled_from(["1", "1", "1", "2", None]),
        "updated_at": seconds.map(lambda time: BEGIN + time),
        "current_status": st.sampled_from(schema.STATUSES),
        "stop_id": st.sampled_from([*PLACES, None]),
        "current_stop_sequence": st.none() | st.integers(1, 10),
        "route_id": st.sampled_from(["Red", None]),
    }
)
stop_times = st.fixed_dictionaries(
    {
        "gap": st.sampled_from([0, 60, 60, 120]),
        "arrives": st.booleans() | st.just(True),
        "departs": st.booleans() | st.just(True),
        "stop_sequence": st.sampled_from(["given", "given", "given", "given", None, 1]),
        "timepoint": st.sampled_from([None, 0, 1]),
    }
)
trips = st.lists(st.tuples(st.sampled_from(PLACES[:4]), stop_times), min_size=1, max_size=9)


def make_schedule(trip: str, visits: Sequence[tuple[str, dict[str, Any]]], with_sequence: bool) -> list[dict[str, Any]]:
    """Return the stop times of a trip."""
    time, rows = BEGIN, []
    for number, (stop, visit) in enumerate(visits):
        time += timedelta(seconds=visit["gap"])
        sequence = number + 1 if visit["stop_sequence"] == "given" or with_sequence else visit["stop_sequence"]
        rows.append(
            {
                "trip_id": trip,
                "stop_id": stop,
                "arrival_time": time if visit["arrives"] else None,
                "departure_time": time + timedelta(seconds=20) if visit["departs"] else None,
                "stop_sequence": sequence,
                "timepoint": visit["timepoint"],
            }
        )
    return rows


@pytest.mark.integration
@given(
    visits=trips,
    others=trips,
    with_sequence=st.booleans(),
    vehicle=st.lists(reports, max_size=25),
    rides=st.lists(st.tuples(st.sampled_from(["R-1", "R-2"]), st.booleans(), st.integers(-60, 300)), max_size=2),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_course_and_any_reports_have_the_rows_of_the_table(
    visits: list[tuple[str, dict[str, Any]]],
    others: list[tuple[str, dict[str, Any]]],
    with_sequence: bool,
    vehicle: list[dict[str, Any]],
    rides: list[tuple[str, bool, int]],
    order: Any,
) -> None:
    rows = plain_day.make_rows()
    rows["trip"] = [plain_day.make_trip(trip) for trip in ("1", "2")]
    rows["stop"] = plain_day.make_stops(PLACES)
    for number in (1, 3):
        rows["stop"][number]["parent_station"] = "place-B"
    rows["schedule"] = make_schedule("1", visits, with_sequence) + make_schedule("2", others, with_sequence)
    rows["vehicle"] = list(vehicle)
    for name, names_sequence, late in rides:
        time = BEGIN + timedelta(seconds=late)
        for number, (stop, visit) in enumerate(visits):
            time += timedelta(seconds=visit["gap"])
            report: dict[str, Any] = {"id": name, "trip_id": "1", "stop_id": stop, "route_id": "Red"}
            report["current_stop_sequence"] = number + 1 if names_sequence else None
            rows["vehicle"] += [
                report | {"current_status": "IN_TRANSIT_TO", "updated_at": time - timedelta(seconds=25)},
                report | {"current_status": "STOPPED_AT", "updated_at": time},
            ]
    order.shuffle(rows["vehicle"])
    assert_same_rows(DAY, plain_day.to_tables(rows))
