"""Stop visits of random days: the tables equal rows computed one by one, and every row is about the right visit."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import BigQueryWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features
from mbta_assets.transit.placement import MAX_STRETCHES
from mbta_assets_tests.serving.test_stream import assert_same_rows
from mbta_assets_tests.support import gtfs_day, plain_day, real_day
from mbta_assets_tests.support.plain_day import BEGIN, Rows, Tables
from mbta_assets_tests.support.random_days import DayPlan, make_day, plans
from mbta_assets_tests.support.random_trips import STEP, RandomTrip, manners, trips
from mbta_assets_tests.support.row_by_row import find_differences, read_plainly
from mbta_assets_tests.transit.test_placement import longest_gap, shortest_return

# Starts no process, but tries many days.
pytestmark = pytest.mark.integration

KEY = ["vehicle_id", "trip_id", "time_stamp", "stop_sequence", "stops_ahead"]
MAX_SECONDS_OFF = {"seed": 360, "wmata": 60}
MEAN_SECONDS_OFF = {"seed": 60, "wmata": 15}
"""How far interpolated times may be from those of the timetable if half of these are deleted: the largest and the mean
difference. The seed's timetable is in whole minutes."""


def find_all_differences(rows: Rows, every: bool = False) -> list[str]:
    """Return in what the tables of a day differ from rows and features computed one by one."""
    tables = plain_day.to_tables(rows)
    raw = plain_day.join(tables, every_stop_ahead=every)
    features = compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])
    schema.TransitFeatures.validate(features)
    return find_differences(features, read_plainly(tables), every)


@given(plan=plans(), every=st.booleans())
@settings(max_examples=15)
def test_rows_and_features_of_random_days_equal_those_computed_one_by_one(plan: DayPlan, every: bool) -> None:
    assert find_all_differences(make_day(plan), every) == []


def test_the_comparison_finds_a_row_that_is_missing_and_a_value_that_is_wrong() -> None:
    tables = plain_day.to_tables(make_day(DayPlan(seed=1)))
    raw = plain_day.join(tables)
    features = compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])
    plain = read_plainly(tables)
    assert len(features) > 50 and find_differences(features, plain) == []
    assert len(find_differences(features.iloc[1:], plain)) == 1
    wrong = features.assign(stop_sequence=features["stop_sequence"] + 1)
    assert len(find_differences(wrong, plain)) == len(features)


def test_progress_that_is_forgotten_after_many_stretches_is_forgotten_alike() -> None:
    rows = plain_day.make_loop(with_sequence=False)
    report = rows["vehicle"][0]
    rows["vehicle"] += [
        report | {"updated_at": BEGIN + timedelta(seconds=n), "current_status": status}
        for n, status in zip(range(MAX_STRETCHES + 50), ["STOPPED_AT", "IN_TRANSIT_TO"] * MAX_STRETCHES, strict=False)
    ]
    assert find_all_differences(rows) == []


def find_arrivals(trip: RandomTrip) -> dict[tuple[str, int], pd.Timestamp]:
    """Return when each vehicle truly arrived at each stop visit, given by its stop sequence."""
    arrivals: dict[tuple[str, int], pd.Timestamp] = {}
    for report in sorted(trip.reports, key=lambda report: report.seconds):
        if report.status == "STOPPED_AT":
            at = pd.Timestamp(BEGIN + timedelta(seconds=report.seconds))
            arrivals.setdefault((report.vehicle, report.position * STEP), at)
    return arrivals


def check_visits(trip: RandomTrip) -> None:
    """Raise AssertionError unless every row of a trip is about the visit and the arrival that it should be about."""
    rows: Rows = {
        "vehicle": trip.make_reports(),
        "trip": [plain_day.make_trip()],
        "stop": plain_day.make_stops(sorted(set(trip.course))),
        "schedule": trip.make_stop_times(),
    }
    raw = plain_day.join(plain_day.to_tables(rows))
    positions = {
        (report.vehicle, pd.Timestamp(BEGIN + timedelta(seconds=report.seconds)), report.status): report.position
        for report in trip.reports
    }
    arrivals = find_arrivals(trip)
    for row in raw.to_dict("records"):
        position = positions[row["vehicle_id"], row["time_stamp"], row["current_status"]]
        ahead = position + row["stops_ahead"] - (row["current_status"] != "STOPPED_AT")
        assert row["current_stop_sequence"] == position * STEP
        if row["event"] == "arrival":
            arrived = arrivals.get((row["vehicle_id"], row["stop_sequence"]))
            assert row["stop_sequence"] == ahead * STEP and row["stop_id"] == trip.course[ahead - 1]
            assert row["actual_arrival_time"] == arrived or (arrived is None and pd.isna(row["actual_arrival_time"]))


@given(trip=trips(manners(st.just("true"), max_skipped=0.9)))
@settings(max_examples=15)
def test_with_stop_sequences_every_row_is_about_the_right_visit(trip: RandomTrip) -> None:
    check_visits(trip)


@given(trip=trips(manners(st.sampled_from(["none", "wrong", "some"]), max_skipped=0.3)))
@settings(max_examples=15)
def test_without_stop_sequences_every_row_is_about_the_right_visit_if_there_are_no_long_gaps(trip: RandomTrip) -> None:
    assume(3 * longest_gap(trip) <= shortest_return(trip))
    check_visits(trip)


def test_a_loop_has_the_rows_of_a_trip_whose_stops_are_all_different() -> None:
    for with_sequence in (True, False):
        features = plain_day.compute(plain_day.make_loop(with_sequence))
        loop, unrolled = (features[features["trip_id"] == trip].reset_index(drop=True) for trip in "12")
        names = dict(zip(plain_day.UNROLLED_LOOP, plain_day.LOOP, strict=True))
        for column in ("stop_id", "current_stop_id"):
            assert loop[column].tolist() == unrolled[column].map(names).tolist()
        other = ["trip_id", "vehicle_id", "route_id", "stop_id", "current_stop_id"]
        pd.testing.assert_frame_equal(loop.drop(columns=other), unrolled.drop(columns=other))
        last = loop[loop["stop_sequence"] == len(plain_day.LOOP)]
        assert len(last) == plain_day.ROWS_BY_STOP[-1] and set(last["delay_seconds"]) == {plain_day.LATE_SECONDS}


shares = st.floats(0.1, 1)


@given(seed=st.integers(0, 1_000), share=shares, known=st.booleans())
@settings(max_examples=10)
def test_deleted_times_of_an_evenly_timed_trip_are_interpolated_exactly(seed: int, share: float, known: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = plain_day.make_rows()
    for stop in rows["stop"]:
        stop["latitude"] = stop["latitude"] if known else None
    full = plain_day.compute(rows)
    for row in rows["schedule"][1:-1]:
        if rng.random() < share:
            row |= {"arrival_time": None, "departure_time": None}
    pd.testing.assert_frame_equal(plain_day.compute(rows), full)


def read_seed() -> tuple[Tables, date]:
    """Return the tables of the seed's day, whose stop times are numbered in the order of their times."""
    tables: dict[str, Any] = {}
    for name, table in schema.UPSTREAM.items():
        rows = pd.read_parquet(real_day.SEED_UPSTREAM / f"{name}.parquet")
        absent = {column: None for column in table.to_schema().columns if column not in rows}
        tables[name] = schema.cast_frame(rows.assign(**absent), table)
    schedule = tables["schedule"]
    due = schedule["arrival_time"].fillna(schedule["departure_time"])
    schedule["stop_sequence"] = due.groupby(schedule["trip_id"]).rank(method="first").astype("Int64")
    return tables, real_day.DAY


@pytest.mark.parametrize("name", ["seed", "wmata"])
def test_deleted_times_of_a_real_day_are_interpolated_within_a_tolerance(name: str) -> None:
    tables, day = read_seed() if name == "seed" else (gtfs_day.read_day(), gtfs_day.WMATA_DAY)
    schedule = tables["schedule"]
    by_trip = schedule.groupby("trip_id")["stop_sequence"]
    inner = schedule["stop_sequence"].ne(by_trip.transform("min")) & schedule["stop_sequence"].ne(
        by_trip.transform("max")
    )
    deleted = inner & (np.random.default_rng(0).random(len(schedule)) < 0.5)
    times = {column: schedule[column].mask(deleted) for column in ("arrival_time", "departure_time")}
    full = plain_day.join(tables, day).set_index(KEY).sort_index()
    blank = plain_day.join(tables | {"schedule": schedule.assign(**times)}, day).set_index(KEY).sort_index()
    pd.testing.assert_index_equal(blank.index, full.index)
    pd.testing.assert_series_equal(blank["actual_arrival_time"], full["actual_arrival_time"])
    off = (blank["scheduled_arrival"] - full["scheduled_arrival"]).dt.total_seconds().abs()
    assert (off[~blank["is_interpolated"]] == 0).all() and 0.3 < blank["is_interpolated"].mean() < 0.6
    interpolated = off[blank["is_interpolated"]]
    assert interpolated.max() <= MAX_SECONDS_OFF[name] and interpolated.mean() <= MEAN_SECONDS_OFF[name]


FIXED_PLANS = [
    DayPlan(seed=1, n_trips=3, shapes=("loop", "lollipop"), blank_share=0.1, n_odd=15, has_second_vehicle=True),
    DayPlan(seed=2, n_trips=2, shapes=("two laps", "out and back"), sequences="wrong", scheduled_sequences="none"),
    DayPlan(seed=3, shapes=("figure of eight", "branch"), sequences="some", tied_share=0.2, scheduled_sequences="some"),
    DayPlan(seed=4, n_trips=3, shapes=("out and back", "loop"), sequences="true", blank_share=0.4, n_odd=15),
]
"""Days that are joined in BigQuery too, one for each service day from `plain_day.DAY`."""


@pytest.mark.xdist_group("google")
def test_random_days_have_the_same_rows_in_bigquery(tables: BigQueryTables) -> None:
    days = [plain_day.DAY + timedelta(days=n) for n in range(len(FIXED_PLANS))]
    upstream = {
        day: plain_day.to_tables(plain_day.shift_rows(make_day(plan), day), day)
        for day, plan in zip(days, FIXED_PLANS, strict=True)
    }
    for day, of_day in upstream.items():
        for name, table in of_day.items():
            tables.write(name, day, to_arrow(name, table))
    warehouse = BigQueryWarehouse(tables, tables, tables.bigquery)
    for day, of_day in upstream.items():
        joined = schema.to_frame(warehouse.join_upstream_tables(day))
        assert len(joined) > 30
        pd.testing.assert_frame_equal(joined, plain_day.join(of_day, day))


@given(plan=plans(max_trips=2))
@settings(max_examples=10)
def test_a_stream_has_the_rows_of_the_table_on_random_days(plan: DayPlan) -> None:
    assert_same_rows(plain_day.DAY, plain_day.to_tables(make_day(plan)))
