"""The account of a day's rows: every row has one outcome, and the join agrees with it."""

import json
from datetime import UTC, date, datetime, timedelta

import duckdb
import pyarrow as arrow
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from mbta_assets.transit import accounting, checks, schema
from mbta_assets.transit.accounting import Accounting, account_for_rows
from mbta_assets.transit.point_in_time_join import build_raw_transit_data_query
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, STOPS, Row, Rows, Tables

# Starts no process, but tries many days.
pytestmark = pytest.mark.integration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def account(rows: Rows) -> Accounting:
    """Return the account of the rows of a service day."""
    return account_for_tables(plain_day.to_tables(rows))


def account_for_tables(tables: Tables, day: date = plain_day.DAY) -> Accounting:
    """Return the account of a service day, whose numbers of rows add up."""
    accounted = account_for_rows(tables["vehicle"], tables["trip"], tables["stop"], tables["schedule"], day)
    schema.UpstreamUsage.validate(accounted.usage)
    schema.RejectedRows.validate(accounted.rejected)
    totals = accounted.usage.groupby("source_table")["row_count"].sum()
    assert totals.to_dict() == {name: len(table) for name, table in tables.items()}
    return accounted


def list_dropped(accounted: Accounting, table: str) -> dict[str, int]:
    """Return the number of dropped rows of a table by reason."""
    usage = accounted.usage
    dropped = usage[(usage["source_table"] == table) & (usage["outcome"] == "dropped")]
    return dict(zip(dropped["reason"], dropped["row_count"], strict=True))


def report(seconds: float = 60, stop: str | None = STOPS[0], trip: str | None = "1", **values: object) -> Row:
    """Return a report of a standing vehicle, some seconds after noon."""
    at = BEGIN + timedelta(seconds=seconds)
    return {
        "id": "R-2", "updated_at": at, "current_status": "STOPPED_AT", "stop_id": stop, "trip_id": trip, **values
    }  # fmt: skip


def test_all_rows_of_the_plain_day_are_used() -> None:
    accounted = account(plain_day.make_rows())
    assert accounted.usage["outcome"].eq("matched").all()
    assert accounted.usage["row_count"].tolist() == [16, 1, 6, 6]
    assert accounted.rejected.empty
    assert accounted.describe_unmatched() == "" and accounted.values_made_missing == {}
    assert accounted.interpolated_stop_times == 0


def test_each_row_that_is_not_used_has_its_reason() -> None:
    rows = plain_day.make_rows()
    rows["vehicle"] += [
        report(trip=None), report(trip=" "), report(stop=""), report(trip="ADDED-1"), report(trip="NONREV-1"),
        report(trip="1.0"), report(stop="70061.0"), report(updated_at=EPOCH), report(updated_at=EPOCH, trip=None),
        report(-3600, STOPS[5]), report(43_800, STOPS[1]), report(70), report(70),
        report(70, latitude=0.0, longitude=0.0),
    ]  # fmt: skip
    rows["schedule"] += [
        {"trip_id": "ADDED-1", "stop_id": "70061", "arrival_time": BEGIN},
        {"trip_id": "1", "stop_id": "no time"},
        {"trip_id": "1", "stop_id": "1970", "arrival_time": EPOCH},
        {"trip_id": "1", "stop_id": STOPS[5], "arrival_time": BEGIN + HOUR},
        {"trip_id": "2", "stop_id": STOPS[5], "arrival_time": BEGIN + HOUR, "departure_time": EPOCH},
        {"trip_id": "", "stop_id": STOPS[5], "arrival_time": BEGIN + HOUR},
        {"trip_id": "2", "stop_id": " ", "arrival_time": BEGIN + HOUR},
    ]
    rows["trip"] += [plain_day.make_trip("2"), plain_day.make_trip("3"), plain_day.make_trip("1")]
    rows["stop"] += [{"id": "nowhere"}, {"id": STOPS[0]}]
    accounted = account(rows)
    assert list_dropped(accounted, "vehicle") == {
        "no_trip": 2, "no_stop": 1, "unscheduled_trip": 2, "trip_not_in_schedule": 1, "stop_not_on_trip": 1,
        "time_out_of_range": 2, "too_early": 1, "too_late": 1, "repeated": 2,
    }  # fmt: skip
    assert list_dropped(accounted, "schedule") == {
        "unscheduled_trip": 1, "no_time": 1, "time_out_of_range": 1, "repeated": 1, "trip_not_reported": 1,
        "no_trip": 1, "no_stop": 1,
    }  # fmt: skip
    assert list_dropped(accounted, "trip") == {"not_scheduled": 1, "not_reported": 1, "repeated": 1}
    assert list_dropped(accounted, "stop") == {"not_scheduled": 1, "repeated": 1}


def test_stop_times_whose_order_is_unknown_are_counted_and_so_are_their_reports() -> None:
    rows = plain_day.make_rows()
    for row in rows["schedule"]:
        row["stop_sequence"] = None
    rows["schedule"][2] |= {name: rows["schedule"][3][name] for name in ("arrival_time", "departure_time")}
    accounted = account(rows)
    assert list_dropped(accounted, "schedule") == {"order_unknown": 2}
    assert list_dropped(accounted, "vehicle") == {"order_unknown": 6}


def test_interpolated_stop_times_are_used_and_counted_and_other_blank_ones_dropped() -> None:
    rows = plain_day.make_rows()
    for number in (1, 2, 5):
        rows["schedule"][number] |= {"arrival_time": None, "departure_time": None}
    rows["schedule"].append({**rows["schedule"][1]})
    accounted = account(rows)
    assert accounted.interpolated_stop_times == 2
    assert list_dropped(accounted, "schedule") == {"no_time": 1, "repeated": 1}
    assert list_dropped(accounted, "vehicle") == {"stop_not_on_trip": 3}
    rows["schedule"][1] |= {"arrival_time": EPOCH}
    accounted = account(rows)
    assert accounted.interpolated_stop_times == 2 and accounted.rejected.empty
    assert accounted.values_made_missing == {"schedule.arrival_time": 1}


def test_a_report_that_names_a_stop_sequence_only_is_used() -> None:
    rows = plain_day.make_rows()
    rows["vehicle"][4] |= {"stop_id": None, "current_stop_sequence": 3}
    rows["vehicle"][5] |= {"stop_id": None, "current_stop_sequence": 7}
    accounted = account(rows)
    assert list_dropped(accounted, "vehicle") == {"no_stop": 1}
    assert list_dropped(accounted, "stop") == {}


def test_rejected_rows_are_kept_as_they_were() -> None:
    rows = plain_day.make_rows()
    rows["vehicle"].append(report(updated_at=EPOCH, speed=float("nan"), direction_id=1))
    rows["schedule"].append({"trip_id": "1", "stop_id": "x", "departure_time": EPOCH})
    rejected = account(rows).rejected
    assert rejected["reason"].unique().tolist() == ["time_out_of_range"]
    assert rejected["rejected_by"].unique().tolist() == ["raw_transit_data"]
    assert rejected["column_name"].tolist() == ["updated_at", "departure_time"]
    stored = json.loads(rejected["row"].iloc[0])
    assert stored["updated_at"] == "1970-01-01T00:00:00+00:00" and stored["service_date"] == "2024-03-06"
    assert (stored["id"], stored["direction_id"], stored["speed"]) == ("R-2", 1, None)


def test_at_most_ten_thousand_rejected_rows_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accounting.MAX_REJECTED_ROWS == 10_000
    monkeypatch.setattr(accounting, "MAX_REJECTED_ROWS", 5)
    rows = plain_day.make_rows()
    rows["vehicle"] += [report(updated_at=EPOCH + n * HOUR) for n in range(7)]
    rows["schedule"].append({"trip_id": "1", "stop_id": "x", "departure_time": EPOCH})
    accounted = account(rows)
    assert len(accounted.rejected) == 5
    assert list_dropped(accounted, "vehicle") == {"time_out_of_range": 7}
    assert list_dropped(accounted, "schedule") == {"time_out_of_range": 1}


def test_implausible_values_of_used_rows_are_counted() -> None:
    rows = plain_day.make_rows()
    rows["vehicle"][3] |= {"latitude": 0.0, "longitude": 0.0}
    rows["vehicle"][4] |= {"latitude": 55.0}
    rows["stop"][2] |= {"latitude": 0.1, "longitude": 0.1}
    rows["schedule"][1]["departure_time"] = EPOCH
    accounted = account(rows)
    assert accounted.values_made_missing == {
        "vehicle.latitude": 2, "stop.latitude": 1, "schedule.departure_time": 1
    }  # fmt: skip
    assert accounted.usage["outcome"].eq("matched").all()


def test_the_platform_that_stands_for_another_is_used() -> None:
    rows = plain_day.make_rows()
    rows["stop"][0]["parent_station"] = "station"
    rows["stop"] += [{"id": "track 2", "parent_station": "station"}, {"id": "track 3", "parent_station": "station"}]
    rows["vehicle"][0]["stop_id"] = "track 2"
    assert list_dropped(account(rows), "stop") == {"not_scheduled": 1}


def test_ids_that_do_not_match_are_described_with_examples() -> None:
    rows = plain_day.make_rows()
    for row in rows["vehicle"]:
        row["trip_id"] = "1.0"
    accounted = account(rows)
    sentence = accounted.describe_unmatched()
    assert (
        "16 reports have a trip_id that is not in `schedule`, such as '1.0'; `schedule` has ids such as '1'" in sentence
    )
    problem = checks.inputs_used(accounted.usage, 0.05, unmatched=sentence).problem
    assert problem is not None and "none of the 16 rows of `vehicle`" in problem and "'1.0'" in problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stop_id": "70061.0"}, ["stop_id that their trip does not serve", "'70061.0'", "'70061'"]),
        ({"trip_id": None}, ["16 reports name no trip"]),
        ({"updated_at": EPOCH}, ["1970-01-01 00:00", "2024-03-06 17:00 to 2024-03-06 17:25 UTC"]),
    ],
)
def test_every_kind_of_mismatch_is_described(changes: Row, words: list[str]) -> None:
    rows = plain_day.make_rows()
    for row in rows["vehicle"]:
        row |= changes
    sentence = account(rows).describe_unmatched()
    assert all(word in sentence for word in words), sentence


def test_a_day_without_rows_has_an_account_and_passes() -> None:
    accounted = account({name: [] for name in schema.UPSTREAM})
    assert accounted.usage["row_count"].tolist() == [0, 0, 0, 0]
    assert checks.inputs_used(accounted.usage, 0.05, [0.9, 0.9, 0.9]).problem is None
    only_schedule = account(plain_day.make_rows() | {"vehicle": []})
    assert list_dropped(only_schedule, "schedule") == {"trip_not_reported": 6}
    assert checks.inputs_used(only_schedule.usage, 0.05).problem is None
    no_schedule = account(plain_day.make_rows() | {"schedule": []})
    assert checks.inputs_used(no_schedule.usage, 0.05).problem is not None


@pytest.mark.parametrize(
    ("matched", "recent", "passes"),
    [
        (1, [], False),
        (2, [], True),
        (8, [0.95, 0.95, 0.9], False),
        (8, [0.95, 0.95], True),
        (19, [0.95, 0.95, 0.9], True),
        (12, [0.3, 0.2, 0.3], True),
    ],
)
def test_inputs_are_used_if_enough_reports_match(matched: int, recent: list[float], passes: bool) -> None:
    rows = plain_day.make_rows()
    rows["vehicle"] = [report(60 + n) for n in range(matched)] + [report(n, trip="other") for n in range(20 - matched)]
    rows["vehicle"] += [report(60)] * 40 + [report(n, trip=None) for n in range(40)]
    usage = account(rows).usage
    assert checks.matched_share(usage) == pytest.approx(matched / 20)
    outcome = checks.inputs_used(usage, 0.06, recent)
    assert (outcome.problem is None) == passes, outcome
    assert outcome.numbers["matched_share"] == pytest.approx(matched / 20)
    assert outcome.numbers.get("median_of_recent_days") == (sorted(recent)[1] if len(recent) == 3 else None)


@pytest.mark.parametrize(
    ("share", "recent", "passes"),
    [
        (0.04, [], False),
        (0.33, [], True),
        (0.33, [0.34, 0.3, 0.33], True),
        (0.33, [0.9] * 3, False),
        (0.33, [0.9], True),
    ],
)
def test_labels_cover_enough_rows(share: float, recent: list[float], passes: bool) -> None:
    rows = arrow.table({"delay_seconds": [60.0 if number < 100 * share else None for number in range(100)]})
    assert (checks.labels_cover(rows, 0.05, recent).problem is None) == passes
    assert checks.labels_cover(rows.slice(0, 0), 0.05, recent).problem is None
    assert checks.labels_cover(rows, 0.5).problem is not None


def count_located(tables: Tables) -> int:
    """Return the number of reports that the SQL of the join gives a position along their trip."""
    statement = sqlglot.parse_one(build_raw_transit_data_query("duckdb"), read="duckdb", into=exp.Select)
    counting = exp.select("COUNT(*)").from_("located")
    counting.set("with_", statement.args["with_"])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in schema.UPSTREAM.items():
            rows = arrow.Table.from_pandas(tables[name], schema.arrow_schema(table), preserve_index=False)
            connection.register(name, rows)
        found = connection.execute(counting.sql("duckdb"), {"service_date": plain_day.DAY}).fetchone()
    return int(found[0]) if found else 0


hours = st.sampled_from(
    [-500_000.0, -36.0, -24.0, -12.0, -11.9, -1.0, -0.5, 0.0, 0.4, 11.9, 12.1, 12.4, 13.0, 25.0, 400.0]
)
ids = st.sampled_from(["1", "2", " 1", "ADDED-1", "other", "", None])
stops = st.sampled_from([*STOPS, "track 2", f"{STOPS[1]}\t", "elsewhere", " ", None])
reports = st.builds(
    lambda hour, seconds, trip, stop, status: report(hour * 3600 + seconds, stop, trip, current_status=status),
    hours, st.sampled_from([0, 0.5, 60]), ids, stops, st.sampled_from(schema.STATUSES),
)  # fmt: skip
stop_times = st.builds(
    lambda trip, stop, arrival, departure: {
        "trip_id": trip,
        "stop_id": stop,
        "arrival_time": None if arrival is None else BEGIN + arrival * HOUR,
        "departure_time": None if departure is None else BEGIN + departure * HOUR,
    },
    ids.map(lambda value: value or ""), stops.map(lambda value: value or ""), st.none() | hours, st.none() | hours,
)  # fmt: skip


@given(more_reports=st.lists(reports, max_size=30), more_stop_times=st.lists(stop_times, max_size=12))
@settings(max_examples=30, deadline=None)
def test_the_join_uses_the_reports_that_the_account_says_are_used(
    more_reports: list[Row], more_stop_times: list[Row]
) -> None:
    rows = plain_day.make_rows()
    rows["stop"][1]["parent_station"] = rows["stop"][3]["parent_station"] = "station"
    rows["stop"] += [{"id": "track 2", "parent_station": " station"}]
    rows["vehicle"] += more_reports
    rows["schedule"] += more_stop_times
    tables = plain_day.to_tables(rows)
    usage = account_for_tables(tables).usage
    matched = usage[(usage["source_table"] == "vehicle") & (usage["outcome"] == "matched")]
    assert matched["row_count"].sum() == count_located(tables)
    features = plain_day.compute(rows)
    reported = features.drop_duplicates(["vehicle_id", "trip_id", "time_stamp"])
    assert len(reported) <= matched["row_count"].sum()
    schema.TransitFeatures.validate(features)
