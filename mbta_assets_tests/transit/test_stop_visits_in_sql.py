"""The point-in-time join: which stop visit a report is about, in which order a trip has them, and what rows there are.

The rules of `placement` are written in SQL again; these tests hold them equal.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import duckdb
import pandas as pd
import pyarrow as arrow
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from mbta_assets.storage.tables import to_arrow
from mbta_assets.transit import placement, point_in_time_join, schema, service_day
from mbta_assets.transit.distances import FULL_INTERVAL_SECONDS, MODULUS, MULTIPLIER
from mbta_assets.transit.formulas import STOPS_AHEAD
from mbta_assets.transit.placement import Candidate, Progress
from mbta_assets.transit.plausibility import TimeRange, can_be_at_stop
from mbta_assets.transit.point_in_time_join import build_raw_transit_data_query
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.looping_trips import make_looping_day
from mbta_assets_tests.support.plain_day import BEGIN, STOPS, Row, Rows, make_reports, make_stop_times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOOP = ("A", "B", "C", "D", "E", "A")


@cache
def write_query(table: str, every_stop_ahead: bool) -> str:
    """Return the SQL of the join, or of a named part of its statement."""
    text = build_raw_transit_data_query("duckdb", every_stop_ahead=every_stop_ahead)
    if table == "raw_transit_data":
        return text
    statement = sqlglot.parse_one(text, read="duckdb", into=exp.Select)
    part = exp.select("*").from_(table)
    part.set("with_", statement.args["with_"])
    return part.sql("duckdb")


def select(rows: Rows, *tables: str, every_stop_ahead: bool = False) -> list[pd.DataFrame]:
    """Return the rows of the join, or those of named parts of its statement."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, frame in plain_day.to_tables(rows).items():
            model = schema.arrow_schema(schema.UPSTREAM[name])
            connection.register(name, arrow.Table.from_pandas(frame, model, preserve_index=False))
        parameters = {"service_date": plain_day.DAY}
        results = (connection.execute(write_query(table, every_stop_ahead), parameters) for table in tables)
        return [schema.to_frame(result.arrow().read_all()) for result in results]


def join(rows: Rows, *, every_stop_ahead: bool = False) -> pd.DataFrame:
    """Return `raw_transit_data` in the order in which it is stored, checked against its schema."""
    [joined] = select(rows, "raw_transit_data", every_stop_ahead=every_stop_ahead)
    joined = schema.RawTransitData.validate(schema.to_frame(to_arrow("raw_transit_data", joined)))
    assert not joined.duplicated(schema.ROW_KEY).any()
    return joined


def at(seconds: float) -> datetime:
    """Return the time some seconds after the trip of the plain day begins."""
    return BEGIN + timedelta(seconds=seconds)


def report(seconds: float, stop: str | None, status: str = "STOPPED_AT", **others: Any) -> Row:
    """Return a report of the plain day's trip."""
    known = {"id": "R-1", "updated_at": at(seconds), "current_status": status, "stop_id": stop, "trip_id": "1"}
    return known | others


def make_day(reports: list[Row], schedule: list[Row]) -> Rows:
    """Return a day of one trip without positions."""
    return {"vehicle": reports, "trip": [plain_day.make_trip()], "stop": [], "schedule": schedule}


def numbered(reports: list[Row], numbers: Sequence[int]) -> list[Row]:
    """Return the reports of a trip, each with the stop sequence of the stop that it is about: 1, then 3 to each."""
    return [row | {"current_stop_sequence": numbers[(n + 2) // 3]} for n, row in enumerate(reports)]


def test_the_plain_day_has_the_rows_at_the_benchmark_distances_and_more() -> None:
    rows = join(plain_day.make_rows())
    benchmark = rows[rows["stops_ahead"].isin([1, 3, 5, 10])]
    assert len(benchmark) == plain_day.BENCHMARK_ROWS
    assert benchmark.groupby("stop_id").size().tolist() == [3, 3, 6, 6, 9]
    late = (rows["actual_arrival_time"] - rows["scheduled_arrival"]).dt.total_seconds()
    assert (late[rows["event"] == "arrival"] == plain_day.LATE_SECONDS).all()
    assert not rows["is_interpolated"].any() and rows["timepoint"].isna().all()
    assert (rows["stop_sequence"] == rows["stop_id"].map({stop: n + 1 for n, stop in enumerate(STOPS)})).all()


def visits_of(rows: pd.DataFrame) -> list[list[Any]]:
    """Return of each row the time, the visits of the vehicle and of the destination, and the label."""
    columns = ["time_stamp", "event", "stops_ahead", "stops_behind", "current_stop_sequence", "stop_sequence"]
    columns += ["scheduled_last_departure", "scheduled_departure", "scheduled_arrival", "actual_arrival_time"]
    return rows[columns].astype(object).where(rows[columns].notna(), None).values.tolist()


@pytest.mark.parametrize("numbers", [range(1, 7), (10, 20, 30, 40, 50, 1), None])
@pytest.mark.parametrize("in_reports", [False, True])
def test_a_loop_has_the_rows_of_a_line(numbers: Sequence[int] | None, in_reports: bool) -> None:
    days = []
    for stops in (LOOP, tuple("abcdef")):
        schedule, reports = make_stop_times(stops=stops), make_reports(stops=stops)
        for row, number in zip(schedule, numbers or (None,) * 6, strict=True):
            row["stop_sequence"] = number
        days.append(join(make_day(numbered(reports, numbers) if in_reports and numbers else reports, schedule)))
    loop, line = days
    assert visits_of(loop) == visits_of(line)
    last = loop[loop["stop_sequence"] == (1 if numbers and numbers[-1] == 1 else 6)]
    assert (last["stop_id"] == "A").all() and (last["actual_arrival_time"] == at(1560)).all()
    assert (last["scheduled_arrival"] == at(1500)).all()
    on_the_way = loop[(loop["time_stamp"] >= at(1310)) & (loop["event"] == "arrival")]
    assert (on_the_way["stops_behind"] == 5).all() and len(on_the_way) == 2


def test_a_lollipop_is_followed_from_stop_to_stop() -> None:
    stops = ("X", "A", "B", "C", "A", "X")
    rows = join(make_day(make_reports(stops=stops), make_stop_times(stops=stops)))
    assert (
        rows.groupby("time_stamp")["stops_behind"].first().tolist()
        == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5][: rows["time_stamp"].nunique()]
    )
    labels = rows[rows["event"] == "arrival"].groupby("stop_sequence")["actual_arrival_time"].unique()
    assert [times.tolist() for times in labels] == [[at(300 * n + 60)] for n in range(1, 6)]


def test_the_stop_sequence_of_a_report_without_a_stop_says_the_visit() -> None:
    reports = numbered(make_reports(stops=LOOP), range(1, 7))
    named = join(make_day(reports, make_stop_times(stops=LOOP)))
    unnamed = join(make_day([row | {"stop_id": None} for row in reports], make_stop_times(stops=LOOP)))
    pd.testing.assert_frame_equal(named, unnamed)
    untrusted = [row | {"stop_sequence": None} for row in make_stop_times(stops=LOOP)]
    assert join(make_day([row | {"stop_id": None} for row in reports], untrusted)).empty


def test_a_wrong_stop_sequence_does_not_matter() -> None:
    reports = make_reports(stops=LOOP)
    plain = join(make_day(reports, make_stop_times(stops=LOOP)))
    wrong = join(make_day([row | {"current_stop_sequence": 3} for row in reports], make_stop_times(stops=LOOP)))
    pd.testing.assert_frame_equal(plain, wrong)


def test_stop_times_at_the_same_time_are_in_the_order_of_their_stop_sequence_or_unknown() -> None:
    schedule = make_stop_times()
    schedule[2]["arrival_time"] = schedule[2]["departure_time"] = schedule[3]["arrival_time"]
    assert join(make_day(make_reports(), schedule))["stop_sequence"].max() == 6
    for row in schedule:
        row["stop_sequence"] = None
    rows = join(make_day(make_reports(), schedule))
    tied = [STOPS[2], STOPS[3]]
    assert not rows["stop_id"].isin(tied).any() and not rows["current_stop_id"].isin(tied).any()
    assert (rows.loc[rows["stop_id"] == STOPS[4], "stop_sequence"] == 5).all()
    schedule[2]["stop_sequence"], schedule[3]["stop_sequence"] = 8, 9
    assert join(make_day(make_reports(), schedule))["stop_id"].isin(tied).any()


def test_a_stop_time_that_is_repeated_counts_once() -> None:
    plain = join(plain_day.make_rows())
    for changes in ({}, {"arrival_time": at(720), "departure_time": at(730)}, {"stop_sequence": None}):
        rows = plain_day.make_rows()
        rows["schedule"].append(rows["schedule"][2] | changes)
        if changes.get("stop_sequence", 0) is None:
            rows["schedule"] = [row | {"stop_sequence": None} for row in rows["schedule"]]
        pd.testing.assert_frame_equal(join(rows), plain)


def test_two_vehicles_on_a_trip_have_their_own_visits_and_labels() -> None:
    rows = plain_day.make_rows()
    rows["vehicle"] += make_reports(vehicle="R-2", late_seconds=200)
    joined = join(rows).set_index("vehicle_id")
    alone = join(plain_day.make_rows())
    pd.testing.assert_frame_equal(joined.loc["R-1"].reset_index()[alone.columns], alone)
    arrivals = joined[joined["event"] == "arrival"].loc["R-2"]
    assert ((arrivals["actual_arrival_time"] - arrivals["scheduled_arrival"]).dt.total_seconds() == 200).all()


def test_one_vehicle_takes_over_from_another() -> None:
    first, second = make_reports()[:7], make_reports(vehicle="R-2")[7:]
    rows = join(make_day(first + second, make_stop_times()))
    of_first = rows[(rows["vehicle_id"] == "R-1") & (rows["event"] == "arrival")]
    assert of_first.loc[of_first["stop_sequence"] > 3, "actual_arrival_time"].isna().all()
    assert rows.loc[rows["vehicle_id"] == "R-2", "actual_arrival_time"].notna().all()


def test_a_departure_is_observed_when_the_vehicle_is_first_on_its_way() -> None:
    waiting = [report(-600, STOPS[0]), report(-300, STOPS[0], "IN_TRANSIT_TO"), report(30, STOPS[0])]
    for status, stop, observed in [
        ("IN_TRANSIT_TO", STOPS[1], True),
        ("STOPPED_AT", STOPS[1], False),
        ("IN_TRANSIT_TO", STOPS[2], False),
    ]:
        reports = [*waiting, report(70, stop, status), report(80, STOPS[0]), report(90, STOPS[1])]
        rows = join(make_day(reports, make_stop_times()))
        departures = rows[rows["event"] == "departure"]
        assert departures["time_stamp"].tolist() == [at(-600), at(-300), at(30)]
        assert (departures["stop_id"] == STOPS[0]).all() and (departures["stops_ahead"] == 0).all()
        assert (departures["scheduled_arrival"] == BEGIN).all() and (departures["scheduled_departure"] == BEGIN).all()
        assert departures["actual_arrival_time"].tolist() == [at(70) if observed else pd.NaT] * 3


@pytest.mark.parametrize(("seconds", "observed"), [(-1800, True), (-1800.5, False), (43_200, True), (43_200.5, False)])
def test_a_departure_hours_from_the_schedule_is_not_observed(seconds: float, observed: bool) -> None:
    reports = [report(seconds - 60, STOPS[0]), report(seconds, STOPS[1], "IN_TRANSIT_TO")]
    schedule = make_stop_times()
    schedule[0]["departure_time"] = BEGIN
    rows = join(make_day(reports, [*schedule, schedule[-1] | {"arrival_time": at(20_000), "stop_sequence": 7}]))
    departures = rows[rows["event"] == "departure"]
    assert departures["actual_arrival_time"].notna().tolist() == [observed]


def leave_blank(schedule: list[Row], blank: Iterable[int]) -> list[Row]:
    """Return the stop times without the times of some of them."""
    indices = set(blank)
    return [
        row | ({"arrival_time": None, "departure_time": None} if n in indices else {}) for n, row in enumerate(schedule)
    ]


def test_blank_times_are_interpolated_by_distance_or_evenly_and_marked() -> None:
    rows = plain_day.make_rows()
    plain = join(rows)
    rows["schedule"] = leave_blank(rows["schedule"], [1, 2, 4])
    blank = join(rows)
    assert blank["is_interpolated"].tolist() == blank["stop_id"].isin([STOPS[1], STOPS[2], STOPS[4]]).tolist()
    pd.testing.assert_frame_equal(blank.drop(columns="is_interpolated"), plain.drop(columns="is_interpolated"))
    rows["stop"][1]["latitude"] = 42.385
    due = join(rows).groupby("stop_sequence")["scheduled_arrival"].first()
    assert [due[n] for n in (2, 3, 5)] == [at(150), at(600), at(1200)]
    rows["stop"][1]["latitude"] = None
    assert [join(rows).groupby("stop_sequence")["scheduled_arrival"].first()[n] for n in (2, 3, 5)] == [
        at(300), at(600), at(1200),
    ]  # fmt: skip


def test_blank_times_that_lie_between_no_times_are_not_made_up() -> None:
    rows = plain_day.make_rows()
    rows["schedule"] = leave_blank(rows["schedule"], [0, 5])
    assert set(join(rows)["stop_id"]) == {*STOPS[1:5]}
    rows["schedule"] = [row | {"stop_sequence": None} for row in leave_blank(make_stop_times(), [2])]
    assert STOPS[2] not in set(join(rows)["stop_id"])


def test_a_blank_time_before_a_last_stop_with_the_sequence_1_lies_before_that_stop() -> None:
    schedule = leave_blank(make_stop_times(), [4])
    for row, number in zip(schedule, (10, 20, 30, 40, 50, 1), strict=True):
        row["stop_sequence"] = number
    rows = join(make_day(make_reports(), schedule))
    assert (rows.loc[rows["stop_sequence"] == 50, "scheduled_arrival"] == at(1200)).all()
    assert (rows.loc[rows["stop_sequence"] == 1, "scheduled_arrival"] == at(1500)).all()


def test_the_timepoint_is_that_of_the_current_visit() -> None:
    schedule = [row | {"timepoint": n % 2} for n, row in enumerate(make_stop_times(stops=LOOP))]
    rows = join(make_day(make_reports(stops=LOOP), schedule))
    assert (rows["timepoint"] == (rows["current_stop_sequence"] - 1) % 2).all()
    assert rows["timepoint"].nunique() == 2


def make_long_trip(n_stops: int) -> list[Row]:
    """Return the stop times of a trip with a stop every minute."""
    return [
        {"trip_id": "1", "stop_id": f"s{n}", "arrival_time": at(60 * n), "departure_time": at(60 * n),
         "stop_sequence": n + 1}
        for n in range(n_stops)
    ]  # fmt: skip


def choose_stops_ahead(local_seconds: int, n_ahead: int) -> set[int]:
    """Return the numbers of stops ahead that a report has rows about, of a trip with so many stops ahead.

    `local_seconds` are those since the start of the service day, and 86,400 for each day from 1970 to it, so that the
    choice is the same in every time zone.
    """
    benchmark = {stops for stops in STOPS_AHEAD if stops <= n_ahead}
    others = [stops for stops in range(1, n_ahead + 1) if stops not in benchmark]
    if not others:
        return benchmark
    first_hash = local_seconds * MULTIPLIER % MODULUS
    first = first_hash % len(others)
    chosen = {others[first]}
    if len(others) > 1:
        second_hash = first_hash * MULTIPLIER % MODULUS
        chosen.add(others[(first + 1 + second_hash % (len(others) - 1)) % len(others)])
    return benchmark | chosen


@pytest.mark.parametrize("n_stops", [2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 40])
def test_the_distances_are_those_that_the_rule_chooses(n_stops: int) -> None:
    seconds = [7 * n * n + 13 * n - 900 + n / 8 for n in range(60)]
    reports = [report(each, "s1", "IN_TRANSIT_TO") for each in seconds]
    rows = join(make_day(reports, make_long_trip(n_stops)))
    distances = rows.groupby("time_stamp")["stops_ahead"].agg(set).to_dict()
    last_interval = None
    for each in seconds:
        since_start = int((at(each) - service_day.start_time(plain_day.DAY)).total_seconds() // 1)
        local_seconds = since_start + (plain_day.DAY - EPOCH.date()).days * 86_400
        interval = local_seconds // FULL_INTERVAL_SECONDS
        chosen = choose_stops_ahead(local_seconds, n_stops - 1)
        expected = chosen if interval == last_interval else set(range(1, n_stops))
        assert distances[pd.Timestamp(at(each))] == expected
        last_interval = interval


def test_every_stop_ahead_may_be_asked_for() -> None:
    reports = [report(60 * n + 5, f"s{n}") for n in range(12)]
    rows = join(make_day(reports, make_long_trip(12)), every_stop_ahead=True)
    for _, of_report in rows[rows["event"] == "arrival"].groupby("time_stamp"):
        n_ahead = 12 - of_report["stops_behind"].iloc[0]
        assert of_report["stops_ahead"].tolist() == list(range(1, n_ahead + 1))
    sample = join(make_day(reports, make_long_trip(12)))
    assert len(sample) < len(rows)
    assert len(sample.merge(rows, "inner", on=schema.ROW_KEY)) == len(sample)


def micros(time: Any) -> int:
    """Return a time in epoch microseconds."""
    return int((pd.Timestamp(time) - pd.Timestamp(EPOCH)) // pd.Timedelta(microseconds=1))


def expect_window(visit: Any, moving: bool) -> Candidate:
    """Return a visit of the table `stop_visit` as a candidate of a report."""
    arrival, departure, previous = (
        None if pd.isna(time) else micros(time)
        for time in (visit.arrival_time, visit.departure_time, visit.previous_departure)
    )
    begins, ends = (previous, arrival or departure) if moving else (arrival or departure, departure or arrival)
    begins = None if visit.position == 1 else begins
    assert ends is not None
    number = int(visit.stop_sequence) if visit.is_sequenced else None
    return Candidate(int(visit.position), begins, max(ends, begins) if begins is not None else ends, number)


def find_candidates(visits: Sequence[Any], row: Row, stations: dict[str, str]) -> list[Any]:
    """Return the visits of a trip that a report may be about, in order."""
    stop = row["stop_id"]
    if stop is None:
        named = [v for v in visits if v.is_sequenced and v.stop_sequence == row["current_stop_sequence"]]
    else:
        named = [v for v in visits if v.stop_id == stop]
        named = named or [v for v in visits if stop in stations and stations.get(v.stop_id) == stations[stop]]
    moving = row["current_status"] != "STOPPED_AT"
    times = [
        [None if pd.isna(time) else time.to_pydatetime() for time in (visit.arrival_time, visit.previous_departure)]
        for visit in named
    ]
    return [
        visit
        for visit, of_visit in zip(named, times, strict=True)
        if can_be_at_stop(row["updated_at"], moving, *of_visit)
    ]


def place_reports(rows: Rows, visits: pd.DataFrame) -> set[tuple[Any, ...]]:
    """Return the trip, vehicle, time, stop, status and position of each report that can be placed, by `Progress`."""
    stations = {row["id"]: row["parent_station"] for row in rows["stop"] if row["parent_station"]}
    of_trip: dict[Any, list[Any]] = {
        trip: list(group.itertuples()) for trip, group in visits.sort_values("position").groupby("trip_id")
    }
    progress: defaultdict[Any, Progress] = defaultdict(Progress)
    placed = set()
    order = {
        (
            row["updated_at"], row["current_status"] != "STOPPED_AT", row["stop_id"] or "",
            -1 if row["current_stop_sequence"] is None else row["current_stop_sequence"], row["trip_id"], row["id"],
        ): row
        for row in rows["vehicle"]
    }  # fmt: skip
    for (time, moving, stop, number, trip, vehicle), row in sorted(order.items(), key=lambda item: item[0]):
        if trip not in of_trip or not (stop or number >= 0):
            continue
        first = of_trip[trip][0]
        trip_times = first.first_time.to_pydatetime(), first.last_time.to_pydatetime()
        times = TimeRange.from_trip(time, trip_times)
        found = find_candidates(of_trip[trip], row, stations) if times.earliest <= time <= times.latest else []
        if found:
            candidates = [expect_window(visit, moving) for visit in found]
            sequence = row["current_stop_sequence"]
            position = progress[trip, vehicle].place(micros(time), stop, moving, sequence, candidates)
            if not of_trip[trip][position - 1].is_order_unknown:
                placed.add((trip, vehicle, time, moving, stop, number, position))
    return placed


def compare_placement(rows: Rows) -> int:
    """Assert that the SQL and `Progress` place the same reports at the same visits; return how many there are."""
    visits, updates = select(rows, "stop_visit", "vehicle_update")
    columns = ["trip_id", "vehicle_id", "time_stamp", "is_moving", "reported_stop", "current_stop_sequence", "position"]
    placed = set(updates[columns].fillna({"current_stop_sequence": -1}).itertuples(index=False, name=None))
    assert placed == place_reports(rows, visits)
    return len(placed)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_reports_are_placed_as_progress_places_them(seed: int) -> None:
    assert compare_placement(make_looping_day(seed)) > 0


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_progress_is_forgotten_after_some_stretches(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "MAX_STRETCHES", 5)
        patch.setitem(point_in_time_join.CONSTANTS, "max_stretches", 5)
        for function in (point_in_time_join._parse_statement, point_in_time_join._render, write_query):
            function.cache_clear()
        try:
            assert compare_placement(make_looping_day(seed)) > 0
        finally:
            for function in (point_in_time_join._parse_statement, point_in_time_join._render, write_query):
                function.cache_clear()
