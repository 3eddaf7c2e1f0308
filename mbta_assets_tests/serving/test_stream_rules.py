"""On odd days the stream has the rows of the table, and no clock that is wrong silences a trip."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mbta_assets.serving import ArrivalQuery, Stream, VehicleUpdate
from mbta_assets.serving.observations import MAX_DISORDER
from mbta_assets.sources.contract import SourceError
from mbta_assets.sources.files import FilesSource
from mbta_assets.transit import schema
from mbta_assets_tests.serving import test_stream
from mbta_assets_tests.serving.test_stream import make_records, make_timetable
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, DAY, STOPS, Rows, make_odd_report, make_reports, make_two_trips

# Starts no process, but tries many days.
pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
SHARED_CASES = "MBTA_SHARED_CASES"
"""Environment variable that names a directory of odd inputs, in directories of their own."""


def add_stopped(rows: Rows, time: datetime, stop: str = STOPS[3], **fields: Any) -> None:
    """Add a STOPPED_AT of trip 1."""
    rows["vehicle"].append({**rows["vehicle"][0], "updated_at": time, "stop_id": stop, **fields})


def set_fields(table: str, every: int = 1, **fields: Any) -> Callable[[Rows], None]:
    """Return a change of fields in every so many rows of a table; a function gets the row."""

    def change(rows: Rows) -> None:
        for row in rows[table][::every]:
            row.update({name: value(row) if callable(value) else value for name, value in fields.items()})

    return change


def shift_all(rows: Rows) -> None:
    """Add the reports of a run of trip 1 a day before, 90 s late."""
    rows["vehicle"] += make_reports(begin=BEGIN - 24 * HOUR, late_seconds=90)


ODD_DAYS: dict[str, Callable[[Rows], None]] = {
    "plain": set_fields("vehicle"),
    "another report is of 1970": lambda rows: add_stopped(rows, datetime.fromisoformat("1970-01-01T00:00Z"), id="v999"),
    "a report of the trip is of 1970": lambda rows: add_stopped(rows, datetime.fromisoformat("1970-01-01T00:00Z")),
    "a report of the trip is of 2106": lambda rows: add_stopped(rows, datetime.fromisoformat("2106-02-07T06:28Z")),
    "a report is of an hour before": lambda rows: add_stopped(rows, BEGIN - HOUR),
    "a report of the trip is eleven hours early": lambda rows: add_stopped(rows, BEGIN - 11 * HOUR, id="v999"),
    "an arrival is twelve hours late": lambda rows: add_stopped(rows, BEGIN + 12.3 * HOUR),
    "a report is of the day before": lambda rows: add_stopped(rows, BEGIN - 24 * HOUR),
    "a report is of the next day": lambda rows: add_stopped(rows, BEGIN + 24 * HOUR),
    "reports are of yesterday's run": shift_all,
    "times at timepoints only": set_fields("schedule", 2, arrival_time=None, departure_time=None),
    "no position": set_fields("vehicle", 3, latitude=None),
    "null island": set_fields("vehicle", 3, latitude=0.0, longitude=0.0),
    "positions outside of the network": set_fields("vehicle", 3, latitude=47.0),
    "stops at null island": set_fields("stop", latitude=0.0, longitude=0.0),
    "empty text for no trip": set_fields("vehicle", trip_id=lambda row: row["trip_id"] or ""),
    "padded ids": set_fields("vehicle", 2, stop_id=lambda row: f" {row['stop_id']}\r\n"),
    "blank stops": set_fields("vehicle", 4, stop_id="  "),
    "berths": set_fields("vehicle", 3, stop_id=f"{STOPS[2]}-berth"),
    "an arrival at the origin": set_fields("schedule", arrival_time=lambda row: row["arrival_time"] or BEGIN - HOUR),
    "a scheduled time of another year": set_fields("schedule", 4, departure_time=BEGIN + 8760 * HOUR),
    "no schedule": lambda rows: rows["schedule"].clear(),
    "no stops": lambda rows: rows["stop"].clear(),
    "the first stop again": lambda rows: rows["schedule"].append(
        {**rows["schedule"][0], "arrival_time": BEGIN + HOUR, "departure_time": None, "stop_sequence": 7}
    ),
}


def assert_same_rows(rows: Rows) -> int:
    """Raise AssertionError unless stream and table have the same rows; return their number."""
    return len(test_stream.assert_same_rows(DAY, plain_day.to_tables(rows)))


@pytest.mark.parametrize("name", ODD_DAYS)
def test_an_odd_day_has_the_rows_of_the_table(name: str) -> None:
    for make_rows in (plain_day.make_rows, make_two_trips):
        rows = make_rows()
        ODD_DAYS[name](rows)
        assert (assert_same_rows(rows) > 0) == (name != "no schedule")


def moved(times: st.SearchStrategy[timedelta]) -> st.SearchStrategy[Callable[[datetime], datetime]]:
    """Return changes of a time."""
    return times.map(lambda shift: lambda time: time + shift)


shifts = moved(st.sampled_from([-30, -13, -12, -1, 1, 12, 13, 30, 80]).map(lambda hours: hours * HOUR))
CHANGES = {
    "vehicle": st.fixed_dictionaries(
        {},
        optional={
            "stop_id": st.sampled_from([*STOPS, f" {STOPS[1]}", f"{STOPS[2]}-berth", "elsewhere", "", " ", None]),
            "trip_id": st.sampled_from(["1", "2 ", "ADDED-1", "unknown", "", None]),
            "current_status": st.sampled_from(schema.STATUSES),
            "latitude": st.sampled_from([None, 0.0, 0.9, 42.0, 60.0, 91.0]),
            "longitude": st.sampled_from([None, 0.0, -0.9, -71.0, 10.0]),
            "id": st.sampled_from(["R-1", "R-2", "R-3"]),
            "route_id": st.sampled_from([None, "Red", "Blue"]),
            "updated_at": shifts | moved(st.sampled_from([-90, -30, 0, 30, 900]).map(lambda s: timedelta(seconds=s))),
        },
    ),
    "schedule": st.fixed_dictionaries(
        {},
        optional={
            "arrival_time": st.none() | shifts,
            "departure_time": st.none() | shifts,
            "stop_id": st.sampled_from([STOPS[0], f"{STOPS[0]}-berth", f"{STOPS[3]} ", ""]),
            "trip_id": st.sampled_from(["1", " 2", "NONREV-1", ""]),
            "stop_sequence": st.none() | st.integers(1, 3),
        },
    ),
    "stop": st.fixed_dictionaries(
        {},
        optional={
            "latitude": st.sampled_from([None, 0.0, 30.0, 95.0]),
            "longitude": st.sampled_from([None, 0.0]),
            "parent_station": st.sampled_from([None, "", f"place-{STOPS[0]}", f" place-{STOPS[2]}"]),
            "id": st.sampled_from([STOPS[0], f"{STOPS[1]} "]),
        },
    ),
}
changes = st.lists(
    st.sampled_from(sorted(CHANGES)).flatmap(lambda table: st.tuples(st.just(table), st.integers(0), CHANGES[table])),
    max_size=8,
)


@given(changes=changes)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_day_has_the_rows_of_the_table(changes: list[tuple[str, int, dict[str, Any]]]) -> None:
    rows = make_two_trips()
    for table, number, fields in changes:
        row = rows[table][number % len(rows[table])]
        for name, value in fields.items():
            if not callable(value):
                row[name] = value
            elif row[name] is not None:
                row[name] = value(row[name])
    assert_same_rows(rows)


def test_stream_and_table_agree_on_odd_days_that_are_read_from_files(tmp_path: Path) -> None:
    """They are the shared cases if the environment names them, otherwise those made here."""
    place = Path(os.environ.get(SHARED_CASES, tmp_path))
    if place == tmp_path:
        for number, change in enumerate(ODD_DAYS.values()):
            rows = make_two_trips()
            change(rows)
            plain_day.write(tmp_path / str(number), rows)
    compared = []
    for directory in find_days(place):
        try:
            tables = {name: read_rows(FilesSource(directory), name) for name in schema.UPSTREAM}
        except (SourceError, arrow.ArrowException):
            continue  # which files are refused, and how, is tested with the sources
        test_stream.assert_same_rows(DAY, tables)
        compared.append(directory)
    assert len(compared) >= 10


def find_days(place: Path) -> list[Path]:
    """Return the directories below a place that have the upstream tables of a day."""
    return sorted({path.parent for name in ("vehicle", "vehicle.*") for path in place.rglob(name)})


def read_rows(source: FilesSource, table: str) -> Any:
    """Return a table of the day, from a source that returns rows alone or with rejected ones."""
    rows = source.read(table, DAY)
    return getattr(rows, "rows", rows)


def follow(updates: list[VehicleUpdate], rows: Rows | None = None) -> tuple[Stream, list[ArrivalQuery]]:
    """Give a stream of a day, by default the plain one, one update after the other.

    Return it and the queries at the time of each update.
    """
    stream = Stream(make_timetable(DAY, plain_day.to_tables(rows or plain_day.make_rows())))
    queries: list[ArrivalQuery] = []
    for update in updates:
        stream.update([update])
        queries += [query for query in stream.iter_queries() if query.time_stamp == update.updated_at]
    return stream, queries


def list_updates(rows: Rows) -> list[VehicleUpdate]:
    """Return the updates of a day, in order."""
    updates = make_records(plain_day.to_tables(rows)["vehicle"], VehicleUpdate)
    return sorted(updates, key=lambda update: update.updated_at)


PLAIN = list_updates(plain_day.make_rows())
PLAIN_QUERIES = follow(PLAIN)[1]
TWO_TRIPS = make_two_trips()
TWO_UPDATES = list_updates(TWO_TRIPS)
TWO_QUERIES = follow(TWO_UPDATES, TWO_TRIPS)[1]


def move(update: VehicleUpdate, shift: timedelta) -> VehicleUpdate:
    """Return an update at another time."""
    fields = {name: getattr(update, name) for name in VehicleUpdate.__dataclass_fields__}
    return VehicleUpdate(**{**fields, "updated_at": update.updated_at + shift})


@given(
    place=st.integers(0, len(PLAIN) - 1),
    shift=st.sampled_from([-30 * 365 * 24 * HOUR, -24 * HOUR, 24 * HOUR, 80 * 365 * 24 * HOUR]),
)
@settings(deadline=None)
def test_an_implausible_time_costs_its_own_update_only(place: int, shift: timedelta) -> None:
    stream, queries = follow([*PLAIN[:place], move(PLAIN[place], shift), *PLAIN[place:]])
    assert stream.implausible_updates == 1
    assert queries == PLAIN_QUERIES


@given(
    place=st.integers(0, len(TWO_UPDATES)),
    stop=st.integers(1, len(STOPS) - 1),
    status=st.sampled_from(schema.STATUSES),
    seconds=st.integers(-11 * 3600, -1) | st.integers(1, 11 * 3600),
    vehicle=st.sampled_from(["R-1", "R-2", "R-3", "v999"]),
    trip=st.sampled_from(["1", "2"]),
)
@settings(deadline=None)
def test_a_report_too_early_or_late_for_its_stop_costs_itself_only(place: int, **odd: Any) -> None:
    assume(odd["seconds"] < 0 or odd["status"] == "STOPPED_AT")
    [update] = list_updates({**TWO_TRIPS, "vehicle": [make_odd_report(**odd)]})
    stream, queries = follow([*TWO_UPDATES[:place], update, *TWO_UPDATES[place:]], TWO_TRIPS)
    assert stream.implausible_updates == 1
    assert queries == TWO_QUERIES


@given(
    place=st.integers(1, len(PLAIN) - 5),
    number=st.integers(1, 2),
    seconds=st.integers(1, 11 * 3600).filter(lambda seconds: seconds > 2 * MAX_DISORDER.total_seconds()),
)
@settings(deadline=None)
def test_a_clock_ahead_costs_as_many_moments_as_it_was_wrong(place: int, number: int, seconds: int) -> None:
    """The moments are those of the updates before the right clock has the majority."""
    end = timedelta(hours=12)
    wrong = [move(update, timedelta(seconds=seconds)) for update in PLAIN[place : place + number]]
    assume(not {update.updated_at for update in wrong} & {update.updated_at for update in PLAIN})
    stream, queries = follow([*PLAIN[:place], *wrong, *PLAIN[place:]])
    assert wrong[-1].updated_at < PLAIN[-1].updated_at + end
    lost = {update.updated_at for update in PLAIN[place : place + number]}
    told = [query for query in queries if query.time_stamp not in {update.updated_at for update in wrong} | lost]
    assert told == [query for query in PLAIN_QUERIES if query.time_stamp not in lost]
    assert (stream.revoked_updates, stream.late_updates) == (number, 0)


@given(place=st.integers(2, len(PLAIN) - 1), number=st.integers(1, 2), seconds=st.integers(1, 11 * 3600))
@settings(deadline=None)
def test_a_clock_in_the_past_costs_nothing(place: int, number: int, seconds: int) -> None:
    late = [move(PLAIN[place - 1], timedelta(seconds=-seconds - n)) for n in reversed(range(number))]
    newer = {update.updated_at for update in PLAIN[:place]}
    late = [update for update in late if update.updated_at not in newer]
    assume(late)
    # Two of three updates in the past cannot be told from one that was ahead.
    assume(len(late) <= len([time for time in newer if time > late[0].updated_at]))
    stream, queries = follow([*PLAIN[:place], *late, *PLAIN[place:]])
    assert [query for query in queries if query.time_stamp in {update.updated_at for update in PLAIN}] == PLAIN_QUERIES
    assert (stream.late_updates + stream.implausible_updates, stream.revoked_updates) == (len(late), 0)


def test_a_revoked_update_that_is_repeated_does_not_count() -> None:
    wrong = move(PLAIN[4], HOUR)
    stream, _ = follow([*PLAIN[:4], wrong, *PLAIN[4:6]])
    before = list(stream.iter_queries())
    stream.update([wrong, wrong])
    assert before
    assert list(stream.iter_queries()) == before
    assert stream.revoked_updates == 1


def test_a_revoked_arrival_is_unknown_to_other_trips() -> None:
    stream = Stream(make_timetable(DAY, plain_day.to_tables(make_two_trips())))
    wrong = move(PLAIN[6], HOUR)
    assert (wrong.current_status, wrong.stop_id) == ("STOPPED_AT", STOPS[2])
    later = VehicleUpdate(
        id="R-2", updated_at=wrong.updated_at + HOUR, current_status="IN_TRANSIT_TO", stop_id=STOPS[2], trip_id="2"
    )

    def find_leader_arrival() -> datetime | None:
        [query] = [query for query in stream.iter_trip_queries("2") if query.stops_ahead == 1]
        return query.leader_arrival

    stream.update([*PLAIN[:4], wrong, later])
    assert find_leader_arrival() == wrong.updated_at
    stream.update([PLAIN[4]])
    stream.update([PLAIN[5]])
    assert find_leader_arrival() is None
    assert stream.revoked_updates == 1
