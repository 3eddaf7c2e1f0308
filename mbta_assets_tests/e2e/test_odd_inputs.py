"""Inputs that are odd in one way each, through `dagster asset materialize` as people run it.

Each is the plain day of `support.plain_day` with a change, on a service day of its own: what is odd about one day must
not change another. What is odd is left out and every other row and value is as without it, or the day is refused with
a reason that names the table and the column.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
import pytest
from pyarrow import parquet

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets.transit.formulas import STOPS_AHEAD
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.dagster_dev import environment
from mbta_assets_tests.support.plain_day import BEGIN, Rows
from mbta_assets_tests.support.warm_dagster import WarmDagster

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("odd inputs")]

DAILY = ("--select", "group:upstream or group:transit")
FIRST_DAY = date(2024, 1, 8)
DAY_LATER = timedelta(days=1)

Change = Callable[[Rows], None]
"""Change of the rows of the plain day, whose times are still those of `plain_day.DAY`."""
PartFiles = Callable[[arrow.Table], list[arrow.Table]]
"""The part files in which the reports of a day are written."""


def add_reports(**changes: Any) -> Change:
    """Return a change that adds a report like the arrival at 70067 with other values."""
    arrival = next(row for row in plain_day.make_reports()[::-1] if row["stop_id"] == "70067")
    return lambda rows: rows["vehicle"].append(arrival | changes)


def add_former_run(rows: Rows) -> None:
    """Add the run of the same trip of the day before, half a minute later."""
    shift = timedelta(seconds=30) - DAY_LATER
    rows["vehicle"] += [row | {"updated_at": row["updated_at"] + shift} for row in plain_day.make_reports()]


def add_arrival_at_origin(rows: Rows) -> None:
    rows["schedule"][0]["arrival_time"] = rows["schedule"][0]["departure_time"]


def remove_times_between_timepoints(rows: Rows) -> None:
    for n, row in enumerate(rows["schedule"]):
        if n not in plain_day.TIMED_STOPS:
            row.update(arrival_time=None, departure_time=None)


def run_loops(with_sequence: bool) -> Change:
    """Return a change that makes a trip end where it began, beside one on the same course with other stops."""
    return lambda rows: rows.update(plain_day.make_loop(with_sequence))


def in_two_parts(**casts: Callable[[arrow.ChunkedArray], arrow.ChunkedArray]) -> PartFiles:
    """Return a function that writes two part files, of which the second has columns of other types."""

    def write(rows: arrow.Table) -> list[arrow.Table]:
        first, second = rows.slice(0, 8), rows.slice(8)
        for name, cast in casts.items():
            second = second.set_column(second.column_names.index(name), name, cast(second[name]))
        return [first, second]

    return write


def cast_to(target: arrow.DataType) -> Callable[[arrow.ChunkedArray], arrow.ChunkedArray]:
    return lambda column: column.cast(target)


LEFT_OUT: dict[str, Change] = {
    "a report of 1970 without a trip": add_reports(trip_id=None, updated_at=datetime(1970, 1, 1, tzinfo=UTC)),
    "a report of 2106": add_reports(updated_at=datetime(2106, 2, 7, tzinfo=UTC)),
    "an arrival of 1970": add_reports(updated_at=datetime(1970, 1, 1, tzinfo=UTC)),
    "an arrival of the day before": add_reports(updated_at=BEGIN - DAY_LATER + timedelta(minutes=16)),
    "an arrival of the next day": add_reports(updated_at=BEGIN + DAY_LATER),
    "yesterday's run of the same trip": add_former_run,
    "a status that there is not": add_reports(current_status="BOARDING"),
    "a report without a time": add_reports(updated_at=None),
    "a report without a vehicle": add_reports(id=None),
    "ids of blanks": add_reports(trip_id="  ", stop_id=""),
    "an arrival at the origin": add_arrival_at_origin,
    "no times between timepoints": remove_times_between_timepoints,
}
LOOPS = {"a loop with stop sequences": run_loops(True), "a loop without": run_loops(False)}
PARTS: dict[str, PartFiles] = {
    "text of another width, nanoseconds and floats": in_two_parts(
        stop_id=cast_to(arrow.large_string()),
        updated_at=cast_to(arrow.timestamp("ns", "UTC")),
        direction_id=cast_to(arrow.float64()),
    ),
    "whole numbers beside text": in_two_parts(stop_id=cast_to(arrow.int64())),
    "a dictionary beside text": in_two_parts(stop_id=lambda column: column.dictionary_encode()),
    "another time zone": in_two_parts(updated_at=cast_to(arrow.timestamp("us", "America/New_York"))),
    "booleans beside numbers": in_two_parts(direction_id=cast_to(arrow.bool_())),
}
DAYS = {name: FIRST_DAY + n * DAY_LATER for n, name in enumerate([*LEFT_OUT, *PARTS, *LOOPS])}
"""Service day on which each input is, within one season and before the clocks change."""


def write_day(directory: Path, day: date, change: Change = lambda rows: None) -> None:
    """Write the plain day with a change as a service day, a Parquet file for each table."""
    rows = plain_day.make_rows()
    change(rows)
    plain_day.write(directory, plain_day.shift_rows(rows, day), day)


def write_parts(directory: Path, day: date, part_files: PartFiles) -> None:
    """Write the plain day as a service day, with its reports in several part files."""
    write_day(directory, day)
    (path,) = directory.glob(f"vehicle/service_date={day}/*.parquet")
    for n, rows in enumerate(part_files(parquet.read_table(path))):
        parquet.write_table(rows, path.with_name(f"{n}.parquet"))
    path.unlink()


@pytest.fixture(scope="module")
def dagster() -> Iterator[WarmDagster]:
    running = WarmDagster()
    yield running
    running.close()


@pytest.fixture(scope="module")
def tables(dagster: WarmDagster, tmp_path_factory: pytest.TempPathFactory) -> ParquetTables:
    """Return the tables of all odd days, made in one run."""
    root = tmp_path_factory.mktemp("odd")
    for name, day in DAYS.items():
        if name in PARTS:
            write_parts(root / "upstream", day, PARTS[name])
        else:
            write_day(root / "upstream", day, {**LEFT_OUT, **LOOPS}[name])
    variables = environment(root / "store", root / "upstream", MBTA_START_DATE=str(FIRST_DAY))
    partitions = f"{FIRST_DAY}...{max(DAYS.values())}"
    run = dagster.materialize(variables, *DAILY, "--partition-range", partitions)
    assert run.returncode == 0, run.stdout[-4000:]
    return ParquetTables(root / "store")


@pytest.mark.parametrize("name", [*LEFT_OUT, *PARTS])
def test_what_is_odd_is_left_out_and_all_else_is_as_without_it(tables: ParquetTables, name: str) -> None:
    day = DAYS[name]
    plain = plain_day.compute(plain_day.shift_rows(plain_day.make_rows(), day), day)
    pd.testing.assert_frame_equal(schema.to_frame(tables.read("transit_features", [day])), plain)
    arrivals = plain[plain["event"] == "arrival"]
    assert len(plain) == plain_day.ROWS and arrivals["stops_ahead"].isin([1, 3, 5]).sum() == plain_day.BENCHMARK_ROWS
    assert arrivals["delay_seconds"].eq(plain_day.LATE_SECONDS).all()


@pytest.mark.parametrize("name", LOOPS)
def test_a_trip_that_ends_where_it_began_has_the_rows_of_one_that_does_not(tables: ParquetTables, name: str) -> None:
    features = schema.to_frame(tables.read("transit_features", [DAYS[name]]))
    loop, other = (features[features["trip_id"] == trip].reset_index(drop=True) for trip in "12")
    stops = dict(zip(plain_day.UNROLLED_LOOP, plain_day.LOOP, strict=True))
    assert loop["stop_id"].tolist() == other["stop_id"].map(stops).tolist()
    assert loop["current_stop_id"].tolist() == other["current_stop_id"].map(stops).tolist()
    names = ["trip_id", "vehicle_id", "route_id", "stop_id", "current_stop_id"]
    pd.testing.assert_frame_equal(loop.drop(columns=names), other.drop(columns=names))
    last = loop[(loop["stop_sequence"] == 6) & loop["stops_ahead"].isin([1, 3, 5])]
    assert len(last) == 9 and set(last["delay_seconds"]) == {plain_day.LATE_SECONDS}
    assert set(last["scheduled_arrival"]) == {
        pd.Timestamp(BEGIN + 5 * plain_day.INTERVAL + (DAYS[name] - plain_day.DAY))
    }
    on_the_way = loop[loop["time_stamp"] >= BEGIN + timedelta(minutes=21, seconds=50) + (DAYS[name] - plain_day.DAY)]
    assert len(on_the_way) == 2 and set(on_the_way["stops_behind"]) == {5}


@pytest.mark.parametrize(
    ("name", "reason", "rejected_by"),
    [
        ("a report of 1970 without a trip", "time_out_of_range", "vehicle"),
        ("an arrival of the day before", "time_out_of_range", "raw_transit_data"),
        ("a status that there is not", "unknown_value", "vehicle"),
        ("a report without a vehicle", "missing_value", "vehicle"),
    ],
)
def test_a_rejected_row_is_kept_with_its_reason(
    tables: ParquetTables, name: str, reason: str, rejected_by: str
) -> None:
    rejected = schema.to_frame(tables.read("rejected_rows", [DAYS[name]]))
    assert rejected[["source_table", "reason", "rejected_by"]].to_numpy().tolist() == [["vehicle", reason, rejected_by]]
    assert "70067" in rejected["row"].iloc[0]


def test_every_row_is_accounted_for(tables: ParquetTables) -> None:
    for day in DAYS.values():
        usage = schema.to_frame(tables.read("upstream_usage", [day]))
        for table, counts in usage.groupby("source_table")["row_count"]:
            assert counts.sum() == len(tables.read(str(table), [day])), (day, table)


def write_csv(directory: Path, changes: Mapping[str, Callable[[str], bytes]]) -> None:
    """Write the plain day as CSV; `changes` give the bytes of a table's file from its text."""
    directory.mkdir(parents=True)
    for name, table in plain_day.to_tables(plain_day.make_rows()).items():
        specs = schema.UPSTREAM[name].to_schema().columns
        absent = [column for column in table if table[column].isna().all() and not specs[column].metadata["required"]]
        frame = table.drop(columns=absent).assign(service_date=str(plain_day.DAY))
        for column in frame.select_dtypes("datetimetz"):
            frame[column] = frame[column].map(lambda time: time.isoformat(), na_action="ignore")
        text = frame.to_csv(index=False)
        (directory / f"{name}.csv").write_bytes(changes.get(name, str.encode)(text))


def replace(text: str, *pairs: tuple[str, str]) -> str:
    """Return a text in which others are replaced; each must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def make_csv_day(dagster: WarmDagster, root: Path, changes: Mapping[str, Callable[[str], bytes]]) -> tuple[int, str]:
    """Make the tables of the plain day from CSV files, and return the status and what was printed."""
    write_csv(root / "upstream", changes)
    variables = environment(root / "store", root / "upstream", MBTA_START_DATE=str(FIRST_DAY))
    run = dagster.materialize(variables, *DAILY, "--partition", str(plain_day.DAY))
    return run.returncode, run.stdout


WORDS = [(",1,Red,0", ",1.0,Red,False")]
FLOATS = [(f",{stop},", f",{stop}.0,") for stop in plain_day.STOPS]


def test_csv_files_as_people_have_them_are_read(dagster: WarmDagster, tmp_path: Path) -> None:
    status, output = make_csv_day(
        dagster,
        tmp_path,
        {
            "vehicle": lambda text: (
                codecs.BOM_UTF8
                + replace(
                    text, *FLOATS, (",1,Red,0", ",1.0,Red,False"), (",70063.0,", ", 70063.0 ,"), ("\n", "\r\n")
                ).encode()
            ),
            "schedule": lambda text: replace(text, (",", ";"), ("+00:00", " UTC")).encode(),
            "trip": lambda text: text.encode("utf-16"),
        },
    )
    assert status == 0, output[-4000:]
    features = schema.to_frame(ParquetTables(tmp_path / "store").read("transit_features", [plain_day.DAY]))
    pd.testing.assert_frame_equal(features, plain_day.compute(plain_day.make_rows()))


def test_files_that_cannot_be_read_are_refused_by_name_and_leave_what_was_published(
    dagster: WarmDagster, tmp_path: Path
) -> None:
    status, output = make_csv_day(dagster, tmp_path / "good", {})
    assert status == 0, output[-4000:]
    store = ParquetTables(tmp_path / "good/store")
    before = {table: store.versions(table, [plain_day.DAY]) for table in (*schema.UPSTREAM, "transit_features")}
    write_csv(
        tmp_path / "odd",
        {
            "vehicle": lambda text: replace(text, ("stop_id", "halt")).encode(),
            "stop": lambda text: replace(text, (",70061,", ",Caf\xe9,")).encode("latin-1"),
            "schedule": lambda text: replace(text, ("+00:00", "")).encode(),
            "trip": lambda text: text[:0].encode(),
        },
    )
    variables = environment(store.root, tmp_path / "odd", MBTA_START_DATE=str(FIRST_DAY))
    run = dagster.materialize(variables, "--select", "group:upstream", "--partition", str(plain_day.DAY))
    assert run.returncode != 0
    for words in (
        ("table vehicle, column stop_id", "halt"),
        ("table stop", "encoding"),
        ("table schedule, column arrival_time", "no time zone"),
        ("table trip", "is empty"),
    ):
        reasons = [line for line in run.stdout.splitlines() if "was not published" in line]
        assert any(all(word in line for word in (*words, str(plain_day.DAY))) for line in reasons), words
    assert {table: store.versions(table, [plain_day.DAY]) for table in before} == before


def test_ids_that_match_nothing_are_refused_with_examples_in_the_last_lines(
    dagster: WarmDagster, tmp_path: Path
) -> None:
    status, output = make_csv_day(
        dagster, tmp_path, {"vehicle": lambda text: replace(text, (",1,Red", ",trip-1,Red")).encode()}
    )
    assert status != 0
    last_lines = " ".join(output.splitlines()[-4:])
    assert all(word in last_lines for word in ("raw_transit_data", str(plain_day.DAY), "'trip-1'", "'1'")), last_lines


def test_a_position_at_null_island_is_missing() -> None:
    odd_times = [BEGIN + timedelta(seconds=seconds) for seconds in (360, 410, 630)]
    rows = plain_day.make_rows()
    for row in rows["vehicle"]:
        if row["updated_at"] in odd_times:
            row.update(latitude=0.0, longitude=0.0)
    features, plain = plain_day.compute(rows), plain_day.compute(plain_day.make_rows())
    odd = features["time_stamp"].isin(odd_times)
    assert (odd & features["stops_ahead"].isin(STOPS_AHEAD)).sum() == 6
    position = ["vehicle_cell", "distance_travel_miles"]
    assert features.loc[odd, position].isna().all(axis=None) and plain[position].notna().all(axis=None)
    pd.testing.assert_frame_equal(features, plain.assign(**{name: plain[name].mask(odd) for name in position}))


@pytest.mark.parametrize(("rows", "problem"), [("none", "no rows"), ("no arrivals", "label")])
def test_training_on_a_day_with_nothing_to_learn_from_says_so(
    dagster: WarmDagster, tmp_path: Path, rows: str, problem: str
) -> None:
    def change(upstream: Rows) -> None:
        moving = [row for row in upstream["vehicle"] if row["current_status"] != "STOPPED_AT"]
        upstream["vehicle"][:] = moving if rows == "no arrivals" else []

    write_day(tmp_path / "upstream", FIRST_DAY, change)
    variables = environment(tmp_path / "store", tmp_path / "upstream", MBTA_START_DATE=str(FIRST_DAY))
    made = dagster.materialize(variables, *DAILY, "--partition", str(FIRST_DAY))
    assert made.returncode == 0, made.stdout[-4000:]
    run = dagster.materialize(variables, "--select", "training_set")
    assert run.returncode != 0
    assert problem in " ".join(run.stdout.splitlines()[-6:]) and "IndexError" not in run.stdout


def test_a_partition_before_the_first_one_names_the_setting(dagster: WarmDagster, tmp_path: Path) -> None:
    variables = environment(tmp_path / "store", tmp_path, MBTA_START_DATE="2024-03-01")
    run = dagster.materialize(variables, "--select", "vehicle", "--partition", "2024-02-29")
    assert run.returncode != 0
    assert "2024-02-29 is before the first one, 2024-03-01. Set MBTA_START_DATE" in run.stdout
