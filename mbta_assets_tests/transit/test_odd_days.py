"""A day that is odd in one way: what is odd is not used, and every other row is as without it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mbta_assets.transit import schema
from mbta_assets.transit.accounting import account_for_rows
from mbta_assets.transit.checks import NUMERIC_FEATURES
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, INTERVAL, STOPS, Row, Rows

# Starts no process, but tries many days.
pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LINES = {line: [f"{line}{n}" for n in range(14)] for line in "abc"}


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    """Return the features of the plain day."""
    return plain_day.compute(plain_day.make_rows())


@pytest.fixture(scope="module")
def two_trips() -> pd.DataFrame:
    """Return the features of the day of two trips."""
    return plain_day.compute(plain_day.make_two_trips())


def compute_with(**added: list[Row]) -> pd.DataFrame:
    """Return the features of the plain day with more rows of some tables."""
    rows = plain_day.make_rows()
    return plain_day.compute({name: table + added.get(name, []) for name, table in rows.items()})


def test_the_plain_day_is_a_minute_late(plain: pd.DataFrame) -> None:
    assert len(plain) == plain_day.ROWS
    arrivals = plain[plain["event"] == "arrival"]
    assert arrivals["delay_seconds"].unique().tolist() == [plain_day.LATE_SECONDS]
    assert plain.groupby("stop_id").size().tolist() == [1, 3, 6, 9, 12, 15]
    benchmark = arrivals[arrivals["stops_ahead"].isin([1, 3, 5, 10])]
    assert benchmark.groupby("stop_id").size().tolist() == [3, 3, 6, 6, 9]


@pytest.mark.parametrize("when", [EPOCH, BEGIN - DAY, BEGIN + 365 * DAY, datetime(2106, 2, 7, tzinfo=UTC)])
@pytest.mark.parametrize("trip", ["1", None, "ADDED-1", "no such trip"])
def test_a_report_of_another_time_changes_nothing(plain: pd.DataFrame, trip: str | None, when: datetime) -> None:
    odd = {"id": "v999", "updated_at": when, "current_status": "STOPPED_AT", "stop_id": STOPS[3], "trip_id": trip}
    pd.testing.assert_frame_equal(compute_with(vehicle=[odd]), plain)


@pytest.mark.parametrize("minutes_early", [31, 60, 240, 690])
@pytest.mark.parametrize("vehicle", ["R-1", "v999"])
@pytest.mark.parametrize("stop", range(1, len(STOPS)))
def test_an_arrival_that_is_too_early_changes_nothing(
    plain: pd.DataFrame, stop: int, vehicle: str, minutes_early: int
) -> None:
    [on_time] = plain_day.make_reports(vehicle=vehicle, stops=STOPS[: stop + 1], late_seconds=0)[-1:]
    odd = on_time | {"updated_at": on_time["updated_at"] - timedelta(minutes=minutes_early)}
    pd.testing.assert_frame_equal(compute_with(vehicle=[odd]), plain)


@pytest.mark.parametrize("minutes_late", [720.5, 725])
def test_an_arrival_that_is_too_late_changes_nothing(minutes_late: float) -> None:
    rows = plain_day.make_rows()
    del rows["vehicle"][5:]
    clean = plain_day.compute(rows)
    odd = plain_day.make_reports(stops=STOPS[:3], late_seconds=minutes_late * 60)[-1]
    assert clean["delay_seconds"].isna().any()
    pd.testing.assert_frame_equal(plain_day.compute(rows | {"vehicle": [*rows["vehicle"], odd]}), clean)


@given(
    stop=st.integers(1, len(STOPS) - 1),
    status=st.sampled_from(schema.STATUSES),
    seconds=st.integers(-11 * 3600, -1) | st.integers(1, 300),
    vehicle=st.sampled_from(["R-1", "R-2", "R-3", "R-4", "v999"]),
    trip=st.sampled_from(["1", "2"]),
)
@settings(max_examples=20, deadline=None)
def test_a_report_too_early_or_late_for_its_stop_changes_no_row(two_trips: pd.DataFrame, **odd: Any) -> None:
    assume(odd["seconds"] < 0 or odd["status"] == "STOPPED_AT")
    rows = plain_day.make_two_trips()
    rows["vehicle"].append(plain_day.make_odd_report(**odd))
    pd.testing.assert_frame_equal(plain_day.compute(rows), two_trips)
    tables = plain_day.to_tables(rows)
    usage = account_for_rows(**tables, service_date=plain_day.DAY).usage
    reasons = usage.loc[usage["reason"].isin(["too_early", "too_late", "time_out_of_range"]), "row_count"]
    assert reasons.tolist() == [1]


def test_one_report_of_1970_changes_no_row_of_three_lines() -> None:
    rows: Rows = {"vehicle": [], "trip": [], "stop": [], "schedule": []}
    for line, stops in LINES.items():
        rows["stop"] += plain_day.make_stops(stops)
        for number in range(12):
            trip, begin = f"{line}-{number}", BEGIN + number * 2 * INTERVAL
            rows["trip"].append(plain_day.make_trip(trip, line))
            rows["schedule"] += plain_day.make_stop_times(trip, stops, begin)
            rows["vehicle"] += plain_day.make_reports(trip, f"v{trip}", stops, begin, line, late_seconds=10 * number)
    clean = plain_day.compute(rows)
    odd = {"id": "v999", "updated_at": EPOCH, "current_status": "STOPPED_AT", "stop_id": "a5", "trip_id": None}
    assert len(clean) > 3000 and clean["leader_headway_seconds"].notna().any()
    pd.testing.assert_frame_equal(plain_day.compute(rows | {"vehicle": [*rows["vehicle"], odd]}), clean)


def test_the_run_of_the_day_before_is_none_of_today(plain: pd.DataFrame) -> None:
    before = plain_day.make_reports(begin=BEGIN - DAY, late_seconds=90)
    pd.testing.assert_frame_equal(compute_with(vehicle=before), plain)


def test_a_stop_time_of_another_year_is_none(plain: pd.DataFrame) -> None:
    odd: Row = {"trip_id": "1", "stop_id": "elsewhere", "arrival_time": EPOCH, "departure_time": EPOCH}
    pd.testing.assert_frame_equal(compute_with(schedule=[odd]), plain)
    rows = plain_day.make_rows()
    rows["schedule"][2]["departure_time"] = datetime(2106, 2, 7, tzinfo=UTC)
    pd.testing.assert_frame_equal(plain_day.compute(rows), plain)


@pytest.mark.parametrize("position", [(0.0, 0.0), (0.5, -0.9), (-42.39, 71.12), (42.39, 0.0), (95.0, -71.12)])
def test_a_position_off_the_network_is_missing(plain: pd.DataFrame, position: tuple[float, float]) -> None:
    rows = plain_day.make_rows()
    for report in rows["vehicle"][3:6]:
        report["latitude"], report["longitude"] = position
    odd = plain_day.compute(rows)
    missing = odd["distance_travel_miles"].isna()
    assert missing.sum() == odd["vehicle_cell"].isna().sum() > 6
    assert odd.loc[missing, "time_stamp"].nunique() == 3
    pd.testing.assert_frame_equal(odd[~missing], plain[~missing])
    positionless = plain.columns.drop(["distance_travel_miles", "vehicle_cell"])
    pd.testing.assert_frame_equal(odd[positionless], plain[positionless])


def test_a_stop_at_null_island_has_no_position(plain: pd.DataFrame) -> None:
    rows = plain_day.make_rows()
    rows["stop"][5] |= {"latitude": 0.0, "longitude": 0.0}
    odd = plain_day.compute(rows)
    to_it = odd["stop_id"] == STOPS[5]
    assert odd.loc[to_it, ["distance_travel_miles", "destination_cell"]].isna().all().all()
    pd.testing.assert_frame_equal(odd[~to_it], plain[~to_it])


@pytest.mark.parametrize("nothing", ["", " ", " \t", "\n"])
def test_blank_text_is_no_trip(nothing: str) -> None:
    rows: Rows = {"vehicle": [], "trip": [], "stop": [], "schedule": []}
    for line, missing in (("a", None), ("b", nothing)):
        stops, begin = [f"{line}{n}" for n in range(6)], BEGIN + timedelta(minutes=29)
        rows["trip"].append(plain_day.make_trip(f"trip {line}", line))
        rows["stop"] += plain_day.make_stops(stops)
        rows["schedule"] += plain_day.make_stop_times(f"trip {line}", stops, begin)
        rows["vehicle"] += plain_day.make_reports(f"trip {line}", f"R-{line}", stops, begin, line)
        for number in range(3):
            ahead = BEGIN + number * INTERVAL
            rows["vehicle"] += plain_day.make_reports(missing, f"R-{line}{7 + number}", stops, ahead, line, 0)
    features = plain_day.compute(rows)
    a, b = (features[features["route_id"] == line] for line in "ab")
    assert len(a) == len(b) == plain_day.ROWS
    pd.testing.assert_frame_equal(
        a[NUMERIC_FEATURES].reset_index(drop=True), b[NUMERIC_FEATURES].reset_index(drop=True)
    )
    begin_rows = b[b["time_stamp"] == BEGIN + timedelta(minutes=30)].set_index("stops_ahead")
    leader_headways = {0: 1200, 1: 900, 2: 600, 3: 300, 4: 300, 5: 300}
    assert begin_rows["leader_headway_seconds"].to_dict() == leader_headways
    assert begin_rows["platform_headway_seconds"].unique().tolist() == [1200]
    assert begin_rows["last_run_seconds"].isna().all()


@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_text_is_no_stop(plain: pd.DataFrame, blank: str) -> None:
    odd = plain_day.make_reports(vehicle="R-2", late_seconds=0)[:1]
    odd[0]["stop_id"] = blank
    pd.testing.assert_frame_equal(compute_with(vehicle=odd), plain)


def test_padded_ids_are_the_ids(plain: pd.DataFrame) -> None:
    rows = plain_day.make_rows()
    padded = {
        "vehicle": [
            row | {"trip_id": f" {row['trip_id']}", "stop_id": f"{row['stop_id']}\t"} for row in rows["vehicle"]
        ],
        "trip": [row | {"id": f"{row['id']}\r\n"} for row in rows["trip"]],
        "stop": [row | {"id": f" {row['id']} "} for row in rows["stop"]],
        "schedule": rows["schedule"],
    }
    pd.testing.assert_frame_equal(plain_day.compute(padded), plain)


def test_a_report_at_another_platform_counts_for_the_stop_of_its_trip_in_the_station(plain: pd.DataFrame) -> None:
    rows = plain_day.make_rows()
    rows["stop"][5]["parent_station"] = "terminal"
    rows["stop"].append(rows["stop"][5] | {"id": "track 2"})
    for report in rows["vehicle"][-3:]:
        report["stop_id"] = "track 2"
    pd.testing.assert_frame_equal(plain_day.compute(rows), plain)


times_given = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 900)), min_size=3, max_size=3)


@given(given_times=times_given, late=st.lists(st.integers(-300, 900), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_an_arrival_at_an_origin_and_a_departure_from_a_terminal_change_nothing(
    given_times: list[tuple[bool, bool, int]], late: list[int]
) -> None:
    rows = plain_day.make_rows() | {"vehicle": [], "trip": [], "schedule": []}
    given_too: list[Row] = []
    for number, (at_origin, at_terminal, seconds) in enumerate(given_times):
        trip, begin, dwell = str(number), BEGIN + number * 2 * INTERVAL, timedelta(seconds=seconds)
        rows["trip"].append(plain_day.make_trip(trip))
        rows["vehicle"] += plain_day.make_reports(trip, f"R-{trip}", begin=begin, late_seconds=late[number])
        stop_times = plain_day.make_stop_times(trip, begin=begin)
        rows["schedule"] += stop_times
        more: list[dict[str, Any]] = [dict(row) for row in stop_times]
        if at_origin:
            more[0]["arrival_time"] = begin - dwell
        if at_terminal:
            more[-1]["departure_time"] = more[-1]["arrival_time"] + dwell
        given_too += more
    without = plain_day.compute(rows)
    assert len(without) == 3 * plain_day.ROWS
    pd.testing.assert_frame_equal(plain_day.compute(rows | {"schedule": given_too}), without)
