"""Inputs that are odd in one way each, through `dagster asset materialize` as people run it.

Each is the plain day of `support.plain_day` with a change. What is odd is left out and every other row and value is as
without it, or the run fails with an error that names the table, the column and the service day.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
import pytest
from pyarrow import parquet

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.dagster_dev import environment
from mbta_assets_tests.support.plain_day import BEGIN, DAY, Rows
from mbta_assets_tests.support.warm_dagster import WarmDagster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DAILY = ("--select", "group:upstream or group:transit", "--partition", str(DAY))
DAY_LATER = timedelta(days=1)
Write = Callable[[Path], None]


@pytest.fixture(scope="module")
def dagster() -> Iterator[WarmDagster]:
    running = WarmDagster()
    yield running
    running.close()


def make_tables(dagster: WarmDagster, root: Path, write: Write) -> tuple[int, str, pd.DataFrame | None]:
    """Materialize the service day that `write` writes, and return status, output and the stored features."""
    write(root / "upstream")
    run = dagster.materialize(environment(root / "store", root / "upstream", MBTA_START_DATE="2024-03-01"), *DAILY)
    tables = ParquetTables(root / "store")
    features = tables.read("transit_features", [DAY]) if DAY in tables.days("transit_features") else None
    return run.returncode, run.stdout, None if features is None else schema.to_frame(features)


@pytest.fixture(scope="module")
def plain(dagster: WarmDagster, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the features of the plain day."""
    status, output, features = make_tables(dagster, tmp_path_factory.mktemp("plain"), rows_with())
    assert status == 0, output
    assert features is not None
    return features


def rows_with(change: Callable[[Rows], None] = lambda rows: None) -> Write:
    """Return a function that writes the plain day with a change of its rows, a Parquet file for each table."""

    def write(directory: Path) -> None:
        rows = plain_day.make_rows()
        change(rows)
        plain_day.write(directory, rows)

    return write


def add_reports(*reports: dict[str, Any]) -> Write:
    """Return a function that writes the plain day with more reports, each a report of 70067 with changes."""
    report = next(
        row for row in plain_day.make_reports() if row["stop_id"] == "70067" and "STOP" in row["current_status"]
    )
    return rows_with(lambda rows: rows["vehicle"].extend(report | changes for changes in reports))


def write_csv(change: Callable[[dict[str, bytes]], None]) -> Write:
    """Return a function that writes the plain day as CSV, with a change of the files' bytes."""

    def write(directory: Path) -> None:
        directory.mkdir(parents=True)
        texts = {}
        for name, table in plain_day.to_tables(plain_day.make_rows()).items():
            specs = schema.UPSTREAM[name].to_schema().columns
            absent = [
                column for column in table if table[column].isna().all() and not specs[column].metadata["required"]
            ]
            frame = table.drop(columns=absent)
            for column in frame.select_dtypes("datetimetz"):
                frame[column] = frame[column].map(lambda time: time.isoformat(), na_action="ignore")
            texts[name] = frame.assign(service_date=str(DAY)).to_csv(index=False).encode()
        change(texts)
        for name, text in texts.items():
            (directory / f"{name}.csv").write_bytes(text)

    return write


def replace(table: str, *pairs: tuple[str, str]) -> Callable[[dict[str, bytes]], None]:
    """Return a change of a table's CSV file: texts in it are replaced by others."""

    def change(texts: dict[str, bytes]) -> None:
        text = texts[table].decode()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        texts[table] = text.encode()

    return change


def write_parts(**casts: Callable[[arrow.ChunkedArray], arrow.ChunkedArray]) -> Write:
    """Return a function that writes the reports in two part files, the second with columns of other types."""

    def write(directory: Path) -> None:
        plain_day.write(directory, plain_day.make_rows())
        (path,) = directory.glob("vehicle/*/part.parquet")
        rows = parquet.read_table(path)
        first, second = rows.slice(0, 8), rows.slice(8)
        for name, cast in casts.items():
            second = second.set_column(second.column_names.index(name), name, cast(second[name]))
        parquet.write_table(first, path.with_name("0.parquet"))
        parquet.write_table(second, path.with_name("1.parquet"))
        path.unlink()

    return write


def cast_to(target: arrow.DataType) -> Callable[[arrow.ChunkedArray], arrow.ChunkedArray]:
    return lambda column: column.cast(target)


FORMER_RUN = [
    row | {"updated_at": row["updated_at"] - DAY_LATER + timedelta(seconds=30)} for row in plain_day.make_reports()
]
FLOATS = [(f",{stop},", f",{stop}.0,") for stop in plain_day.STOPS]

LEFT_OUT: dict[str, Write] = {
    "a report of 1970 without a trip": add_reports(
        {"id": "v999", "trip_id": None, "updated_at": datetime(1970, 1, 1, tzinfo=UTC)}
    ),
    "a report of 2106": add_reports({"updated_at": datetime(2106, 2, 7, tzinfo=UTC)}),
    "an arrival of 1970": add_reports({"updated_at": datetime(1970, 1, 1, tzinfo=UTC)}),
    "an arrival of the day before": add_reports({"updated_at": BEGIN - DAY_LATER + timedelta(minutes=16)}),
    "an arrival of the next day": add_reports({"updated_at": BEGIN + DAY_LATER}),
    "yesterday's run of the same trip": rows_with(lambda rows: rows["vehicle"].extend(FORMER_RUN)),
    "a status that there is not": add_reports({"current_status": "BOARDING"}),
    "a report without a time": add_reports({"updated_at": None}),
    "a report without a vehicle": add_reports({"id": None}),
    "an id of blanks": add_reports({"trip_id": "  ", "stop_id": ""}),
    "ids in CSV written as floats": write_csv(replace("vehicle", *FLOATS, (",1,Red", ",1.0,Red"))),
    "padded ids": write_csv(replace("vehicle", (",70063,", ", 70063 ,"))),
    "a byte order mark and Windows' line ends": write_csv(
        lambda texts: texts.update(vehicle=codecs.BOM_UTF8 + texts["vehicle"].replace(b"\n", b"\r\n"))
    ),
    "semicolons": write_csv(lambda texts: texts.update(schedule=texts["schedule"].replace(b",", b";"))),
    "UTF-16": write_csv(lambda texts: texts.update(trip=texts["trip"].decode().encode("utf-16"))),
    "words for directions": write_csv(replace("vehicle", (",Red,0", ",Red,False"))),
    "times that end in UTC": write_csv(replace("schedule", ("+00:00", " UTC"))),
    "text of another width": write_parts(
        stop_id=cast_to(arrow.large_string()), updated_at=cast_to(arrow.timestamp("ns", "UTC")),
        direction_id=cast_to(arrow.float64()),
    ),
    "whole numbers beside text": write_parts(stop_id=cast_to(arrow.int64())),
    "a dictionary beside text": write_parts(stop_id=lambda column: column.dictionary_encode()),
    "another time zone": write_parts(updated_at=cast_to(arrow.timestamp("us", "America/New_York"))),
    "booleans beside numbers": write_parts(direction_id=cast_to(arrow.bool_())),
    "an arrival at the origin": rows_with(
        lambda rows: rows["schedule"][0].update(arrival_time=rows["schedule"][0]["departure_time"])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_odd_is_left_out_and_all_else_is_as_without_it(
    dagster: WarmDagster, tmp_path: Path, plain: pd.DataFrame, name: str
) -> None:
    status, output, features = make_tables(dagster, tmp_path, LEFT_OUT[name])
    assert status == 0, output[-4000:]
    pd.testing.assert_frame_equal(features, plain)
    assert len(plain) == plain_day.ROWS and plain["delay_seconds"].eq(plain_day.LATE_SECONDS).all()


def rename_trips(rows: Rows) -> None:
    for row in rows["vehicle"]:
        row["trip_id"] = f"trip {row['trip_id']}"


def cut_short(directory: Path) -> None:
    plain_day.write(directory, plain_day.make_rows())
    (path,) = directory.glob("vehicle/*/part.parquet")
    path.write_bytes(path.read_bytes()[:300])


@dataclass(frozen=True)
class Refusal:
    """An input that is refused, and what the error names."""

    write: Write
    words: tuple[str, ...]


REFUSED = {
    "no column of stops": Refusal(
        write_csv(replace("vehicle", ("stop_id", "stop"))), ("vehicle", "stop_id", "trip_id")
    ),
    "text in Latin-1": Refusal(
        write_csv(lambda texts: texts.update(stop=texts["stop"].replace(b",70061,", b",Caf\xe9,"))),
        ("stop", "encoding"),
    ),
    "ids of another kind": Refusal(rows_with(rename_trips), ("trip 1", "raw_transit_data")),
    "times without a zone": Refusal(write_csv(replace("schedule", ("+00:00", ""))), ("schedule", "departure_time")),
    "a file that is cut short": Refusal(cut_short, ("vehicle", "cut short or damaged")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_name_and_leaves_what_was_published(
    dagster: WarmDagster, tmp_path: Path, name: str
) -> None:
    case = REFUSED[name]
    make_tables(dagster, tmp_path / "good", rows_with())
    store = tmp_path / "good" / "store"
    before = {table: ParquetTables(store).versions(table, [DAY]) for table in schema.UPSTREAM}
    case.write(tmp_path / "odd")
    run = dagster.materialize(environment(store, tmp_path / "odd", MBTA_START_DATE="2024-03-01"), *DAILY)
    assert run.returncode != 0
    last_lines = "\n".join(run.stdout.splitlines()[-12:])
    assert all(word in last_lines for word in (*case.words, str(DAY))), last_lines
    features = ParquetTables(store).versions("transit_features", [DAY])
    assert features and ParquetTables(store).versions("schedule", [DAY]) == before["schedule"]


def test_a_position_at_null_island_is_missing(dagster: WarmDagster, tmp_path: Path, plain: pd.DataFrame) -> None:
    odd_times = [BEGIN + timedelta(seconds=seconds) for seconds in (360, 410, 630)]

    def move(rows: Rows) -> None:
        for row in rows["vehicle"]:
            if row["updated_at"] in odd_times:
                row.update(latitude=0.0, longitude=0.0)

    status, output, features = make_tables(dagster, tmp_path, rows_with(move))
    assert status == 0, output[-4000:]
    assert features is not None
    odd = features["time_stamp"].isin(odd_times)
    assert odd.sum() == 6
    position = ["vehicle_cell", "distance_travel_miles"]
    assert features.loc[odd, position].isna().all(axis=None) and plain[position].notna().all(axis=None)
    others = plain.assign(**{name: plain[name].mask(odd) for name in position})
    pd.testing.assert_frame_equal(features, others)


@pytest.mark.parametrize("rows", ["none", "no arrivals"])
def test_training_on_a_day_with_nothing_to_learn_from_says_so(dagster: WarmDagster, tmp_path: Path, rows: str) -> None:
    def change(upstream: Rows) -> None:
        kept = [row for row in upstream["vehicle"] if rows == "no arrivals" and row["current_status"] != "STOPPED_AT"]
        upstream["vehicle"][:] = kept

    status, output, features = make_tables(dagster, tmp_path, rows_with(change))
    assert status == 0, output[-4000:]
    assert features is not None and features["delay_seconds"].isna().all()
    variables = environment(tmp_path / "store", tmp_path / "upstream", MBTA_START_DATE="2024-03-01")
    run = dagster.materialize(variables, "--select", "training_set")
    last_lines = "\n".join(run.stdout.splitlines()[-12:])
    assert run.returncode != 0
    assert ("no rows" if rows == "none" else "label") in last_lines and "IndexError" not in run.stdout


def test_partitions_that_are_no_service_days_are_explained(dagster: WarmDagster, tmp_path: Path) -> None:
    variables = environment(tmp_path / "store", tmp_path, MBTA_START_DATE="2024-03-01")
    run = dagster.materialize(variables, "--select", "vehicle", "--partition", "2024-02-29")
    assert run.returncode != 0
    assert "MBTA_START_DATE" in "\n".join(run.stdout.splitlines()[-5:])
