"""Reports are about the visit that the rule of placement says, for each vehicle on each trip by itself."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.transit import plausibility, schema
from mbta_assets.transit.placement import Candidate, Progress
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.reports import Reports, match_reports
from mbta_assets.transit.stop_times import StopTimes
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, DAY, Row, Rows, Tables

# Starts no process, but tries many days.
pytestmark = pytest.mark.integration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INTERVAL = timedelta(minutes=5)
LOOP = "ABCDEA"


def match(rows: Rows) -> Reports:
    """Return the reports of the rows of a service day."""
    return match_tables(plain_day.to_tables(rows))


def match_tables(tables: Tables) -> Reports:
    """Return the reports of the tables of a service day."""
    return match_reports(tables["vehicle"], tables["schedule"], tables["stop"], DAY)


def make_loop(stops: str = LOOP, sequenced: bool = True) -> Rows:
    """Return a day with trip 1 over some stops, each a letter, every five minutes from noon, and no reports."""
    rows: Rows = {"vehicle": [], "trip": [plain_day.make_trip()], "stop": plain_day.make_stops(sorted(set(stops)))}
    rows["schedule"] = plain_day.make_stop_times(stops=stops)
    if not sequenced:
        rows["schedule"] = [row | {"stop_sequence": None} for row in rows["schedule"]]
    return rows


def report(minutes: float, stop: str | None, standing: bool = True, vehicle: str = "R-1", **values: Any) -> Row:
    """Return a report some minutes after noon."""
    status = "STOPPED_AT" if standing else "IN_TRANSIT_TO"
    at = BEGIN + timedelta(minutes=minutes)
    return {
        "id": vehicle, "updated_at": at, "current_status": status, "stop_id": stop, "trip_id": "1", **values
    }  # fmt: skip


def place(rows: Rows, reports: list[Row]) -> list[int]:
    """Return the position of the visit that each report is about; 0 where it does not count."""
    matched = match(rows | {"vehicle": reports})
    return [
        int(matched.stop_times.position[visit]) if visit >= 0 and counts else 0
        for visit, counts in zip(matched.stop_time, matched.counts, strict=True)
    ]


def test_a_loop_is_followed_from_its_first_stop_to_its_last() -> None:
    reports = [report(1 + 5 * n, stop) for n, stop in enumerate(LOOP)]
    assert place(make_loop(), reports) == [1, 2, 3, 4, 5, 6]
    assert place(make_loop(), reports[::-1]) == [6, 5, 4, 3, 2, 1], "the rows may be in any order"
    assert place(make_loop(sequenced=False), reports) == [1, 2, 3, 4, 5, 6]


def test_a_vehicle_that_waits_at_its_first_stop_has_not_come_to_its_last() -> None:
    assert place(make_loop(), [report(-60 + n, "A") for n in range(90)] + [report(31, "B")]) == [1] * 90 + [2]


def test_on_the_way_to_the_last_stop_it_is_not_on_the_way_to_the_first() -> None:
    reports = [report(20, "E"), report(21, "A", standing=False), report(24, "A", standing=False), report(26, "A")]
    assert place(make_loop(), reports) == [5, 6, 6, 6]


def test_the_stop_sequence_of_the_feed_decides_where_it_can_be_right() -> None:
    [late] = place(make_loop(), [report(24, "A", current_stop_sequence=1)])
    assert late == 1
    assert place(make_loop(), [report(26, "A", current_stop_sequence=3)]) == [6], "no visit of A has the number 3"
    assert place(make_loop(), [report(1, "B", current_stop_sequence=6)]) == [2], "the stop is served once"
    assert place(make_loop(sequenced=False), [report(26, "A", current_stop_sequence=1)]) == [6]


def test_a_report_without_a_stop_is_about_the_stop_sequence_that_it_names() -> None:
    assert place(make_loop(), [report(1, None, current_stop_sequence=2), report(2, " ")]) == [2, 0]
    assert place(make_loop(sequenced=False), [report(1, None, current_stop_sequence=2)]) == [0]
    assert place(make_loop(), [report(1, "elsewhere", current_stop_sequence=2)]) == [0]


def test_two_vehicles_on_one_trip_do_not_move_each_other_along() -> None:
    loop = make_loop()
    first = [report(1 + 5 * n, stop) for n, stop in enumerate(LOOP)]
    second = [report(3 + 5 * n, stop, vehicle="R-2") for n, stop in enumerate(LOOP)]
    both = [row for pair in zip(first, second, strict=True) for row in pair]
    assert place(loop, both) == [n for n in range(1, 7) for _ in range(2)], "both at once"
    taken_over = [*first[:3], *second[3:]]
    assert place(loop, taken_over) == [1, 2, 3, 4, 5, 6], "one after the other"
    assert place(loop, [*first[:5], report(23, "A", standing=False, vehicle="R-2")]) == [1, 2, 3, 4, 5, 6]


def test_repeated_reports_are_about_one_visit_and_corrections_go_back() -> None:
    loop = make_loop()
    assert place(loop, [report(1, "A")] * 3 + [report(6, "B")] * 2) == [1, 1, 1, 2, 2]
    assert place(loop, [report(16, "D"), report(16.5, "C"), report(17, "D")]) == [4, 3, 4]


def test_a_berth_of_a_station_that_is_served_twice_counts_for_the_visit_that_is_meant() -> None:
    loop = make_loop()
    for stop in loop["stop"]:
        stop["parent_station"] = f"place-{stop['id']}"
    loop["stop"].append(loop["stop"][0] | {"id": "berth"})
    reports = [report(1, "berth"), report(6, "B"), report(21, "E"), report(24, "berth", standing=False)]
    assert place(loop, reports) == [1, 2, 5, 6]
    matched = match(loop | {"vehicle": reports})
    assert matched.codes.stops[matched.stop].tolist() == ["A", "B", "E", "A"]
    assert matched.codes.stops[matched.named_stop].tolist() == ["berth", "B", "E", "berth"]


def test_a_report_of_a_visit_whose_order_is_unknown_does_not_count() -> None:
    rows = make_loop("ABCD", sequenced=False)
    rows["schedule"][2] |= {name: rows["schedule"][1][name] for name in ("arrival_time", "departure_time")}
    reports = [report(1, "A"), report(6, "B"), report(7, "C"), report(16, "D")]
    assert place(rows, reports) == [1, 0, 0, 4]
    assert match(rows | {"vehicle": reports}).order_unknown.tolist() == [False, True, True, False]


@pytest.mark.parametrize(("minutes", "is_early"), [(-31, True), (743, False)])
def test_a_report_that_fits_no_visit_does_not_count(minutes: float, is_early: bool) -> None:
    matched = match(make_loop("XABCAY") | {"vehicle": [report(minutes, "A")]})
    assert matched.is_plausible.tolist() == [True] and matched.counts.tolist() == [False]
    assert matched.is_early.tolist() == [is_early] and matched.is_late.tolist() == [not is_early]


trips = st.fixed_dictionaries(
    {
        "stops": st.lists(st.sampled_from("ABCD"), min_size=1, max_size=12),
        "minutes": st.lists(st.sampled_from([0, 1, 3, 5, 20]), min_size=12, max_size=12),
        "sequenced": st.sampled_from([True, True, False]),
    }
)
reports_of_trips = st.fixed_dictionaries(
    {
        "trip_id": st.sampled_from(["0", "1"]),
        "id": st.sampled_from(["R-1", "R-2"]),
        "minutes": st.sampled_from([-90, -31, -30, 0, 700, 800]) | st.integers(-5, 80) | st.integers(0, 30),
        "seconds": st.sampled_from([0, 30]),
        "stop_id": st.sampled_from(["A", "B", "C", "D", "A", "B", "C", "D", "berth", "elsewhere", None]),
        "current_status": st.sampled_from(schema.STATUSES),
        "current_stop_sequence": st.none() | st.integers(0, 12),
    }
)


@given(network=st.lists(trips, min_size=2, max_size=2), reported=st.lists(reports_of_trips, max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_report_is_where_its_vehicles_progress_along_the_trip_places_it(
    network: list[dict[str, Any]], reported: list[dict[str, Any]]
) -> None:
    rows: Rows = {"vehicle": [], "trip": [], "stop": plain_day.make_stops("ABCD"), "schedule": []}
    rows["stop"][0]["parent_station"] = rows["stop"][1]["parent_station"] = "station"
    rows["stop"].append({"id": "berth", "parent_station": "station"})
    for number, trip in enumerate(network):
        due = BEGIN
        for place_in_trip, (stop, minutes) in enumerate(zip(trip["stops"], trip["minutes"], strict=False)):
            due += timedelta(minutes=minutes)
            sequence = place_in_trip if trip["sequenced"] else None
            times = {"arrival_time": due, "departure_time": due, "stop_sequence": sequence}
            rows["schedule"].append({"trip_id": str(number), "stop_id": stop, **times})
    for row in reported:
        at = BEGIN + timedelta(minutes=row["minutes"], seconds=row["seconds"])
        rows["vehicle"].append({**row, "updated_at": at})
    tables = plain_day.to_tables(rows)
    matched = match_tables(tables)
    assert [int(visit) for visit in matched.stop_time] == place_plainly(tables["vehicle"], matched)


def place_plainly(vehicle: pd.DataFrame, matched: Reports) -> list[int]:
    """Return the index of the visit of each report, -1 without one, found row by row."""
    placed = [-1] * len(vehicle)
    courses: dict[Any, list[tuple[Any, int, list[int]]]] = defaultdict(list)
    for index, row in enumerate(vehicle.astype(object).where(vehicle.notna(), None).to_dict("records")):
        candidates = find_plainly(dict(row), matched.stop_times) if matched.is_plausible[index] else []
        moving = row["current_status"] != "STOPPED_AT"
        sequence = row["current_stop_sequence"]
        time = (row["updated_at"].to_pydatetime() - EPOCH) // timedelta(microseconds=1)
        key = (time, moving, row["stop_id"] or "", -1 if sequence is None else sequence)
        if candidates:
            courses[row["trip_id"], row["id"]].append((key, index, candidates))
    for course in courses.values():
        progress, places = Progress(), dict[Any, int]()
        for key, index, visits in sorted(course):
            if key not in places:
                time, moving, stop, sequence = key
                possible = [to_candidate(matched.stop_times, visit, moving) for visit in visits]
                places[key] = progress.place(time, stop, moving, None if sequence < 0 else sequence, possible)
            placed[index] = places[key]
    return placed


def find_plainly(row: dict[Any, Any], stop_times: StopTimes) -> list[int]:
    """Return the visits that a report may be about, by its names and its time."""
    codes = stop_times.codes
    of_trip = [n for n in range(len(stop_times.trip)) if codes.trips[stop_times.trip[n]] == row["trip_id"]]
    stops = {n: codes.stops[stop_times.stop[n]] for n in of_trip}
    if row["stop_id"] is None:
        visits = [
            n for n in of_trip if stop_times.has_sequences[n] and stop_times.sequence[n] == row["current_stop_sequence"]
        ]
    else:
        visits = [n for n in of_trip if stops[n] == row["stop_id"]]
        if not visits and row["stop_id"] in ("A", "B", "berth"):
            visits = [n for n in of_trip if stops[n] in ("A", "B")]
    return [
        n
        for n in visits
        if plausibility.can_be_at_stop(
            row["updated_at"].to_pydatetime(), row["current_status"] != "STOPPED_AT",
            to_datetime(int(stop_times.arrival[n])), to_datetime(int(stop_times.previous_departure[n])),
        )
    ]  # fmt: skip


def to_datetime(time: int) -> datetime | None:
    """Return a time in UTC; None for a missing one."""
    return None if time == NAT else EPOCH + timedelta(microseconds=time)


def to_candidate(stop_times: StopTimes, visit: int, moving: bool) -> Candidate:
    """Return a visit with the time at which the schedule expects a vehicle there."""
    arrival, departure, left = (
        None if times[visit] == NAT else int(times[visit])
        for times in (stop_times.arrival, stop_times.departure, stop_times.previous_departure)
    )
    arrives, departs = departure if arrival is None else arrival, arrival if departure is None else departure
    begins, ends = (left, arrives) if moving else (arrives, departs)
    sequence = int(stop_times.sequence[visit]) if stop_times.has_sequences[visit] else None
    if stop_times.position[visit] == 1:
        return Candidate(visit, None, ends or 0, sequence)
    return Candidate(visit, begins, max(begins or 0, ends or 0), sequence)
