"""The files source finds the rows of a day and their versions, and refuses invalid files with a clear message."""

import os
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
import pytest
from pyarrow import csv, parquet

from mbta_assets.sources import SourceError, files
from mbta_assets.sources.files import FilesSource
from mbta_assets.transit import schema

DAY = date(2023, 10, 3)
NEXT_DAY = date(2023, 10, 4)
BOSTON_IN_SUMMER = timezone(timedelta(hours=-4))
NOON = datetime(2023, 10, 3, 16, tzinfo=UTC)


def vehicles(day: date = DAY, n: int = 3) -> arrow.Table:
    """Return a small vehicle table with the required columns, and a column that is not in the contract."""
    return arrow.table(
        {
            "service_date": arrow.array([day] * n),
            "id": [f"R-{i}" for i in range(n)],
            "updated_at": arrow.array(
                [NOON + timedelta(seconds=i) for i in range(n)], arrow.timestamp("ns", "America/New_York")
            ),
            "current_status": ["STOPPED_AT"] * n,
            "latitude": [42.0 + i for i in range(n)],
            "longitude": [-71.0] * n,
            "stop_id": arrow.array(["70061"] * (n - 1) + [None] * min(n, 1), arrow.string()),
            "trip_id": arrow.array(["1"] * n, arrow.string()),
            "colour": ["red"] * n,
        }
    )


def with_column(rows: arrow.Table, name: str, values: arrow.Array | list[object]) -> arrow.Table:
    """Return a table with a column added or replaced."""
    if name in rows.column_names:
        return rows.set_column(rows.column_names.index(name), name, arrow.array(values))
    return rows.append_column(name, arrow.array(values))


def write(directory: Path, rows: arrow.Table, name: str = "vehicle.parquet") -> FilesSource:
    """Write rows to a file in a directory, and return the source of that directory."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(rows, path)
    return FilesSource(directory)


def refusal(source: FilesSource, table: str = "vehicle", day: date = DAY) -> str:
    """Return the message with which the source refuses a table, which names the source, table and service day."""
    with pytest.raises(SourceError) as error:
        source.read(table, day)
    message = str(error.value)
    assert message.startswith(f"source files, table {table}")
    assert f"service day {day}" in message
    return message


@pytest.mark.parametrize("table", schema.UPSTREAM)
def test_a_real_day_is_read_with_the_types_of_the_contract(seed_upstream: Path, table: str) -> None:
    rows, rejected = FilesSource(seed_upstream).read(table, DAY)
    assert len(rows) == {"vehicle": 10195, "trip": 56, "stop": 36, "schedule": 766}[table]
    assert rows.dtypes.equals(schema.empty_frame(schema.UPSTREAM[table]).dtypes)
    assert rejected.empty


def test_every_layout_gives_the_same_rows(tmp_path: Path) -> None:
    two_days = arrow.concat_tables([vehicles(NEXT_DAY), vehicles(DAY)])
    in_parquet = write(tmp_path / "a", two_days).read("vehicle", DAY).rows
    iso_times = [(NOON + timedelta(seconds=i)).astimezone(BOSTON_IN_SUMMER).isoformat() for i in range(3)]
    in_text = with_column(two_days, "updated_at", iso_times * 2)
    in_csv = write(tmp_path / "b", in_text, "vehicle.csv").read("vehicle", DAY).rows
    dateless = vehicles().drop_columns(["service_date"])
    write(tmp_path / "c", dateless.slice(0, 2), "vehicle/service_date=2023-10-03/0.parquet")
    source = write(tmp_path / "c", dateless.slice(2), "vehicle/service_date=2023-10-03/1.parquet")
    partitioned = source.read("vehicle", DAY).rows

    assert in_parquet["updated_at"].iloc[0] == pd.Timestamp(NOON)
    assert in_parquet["stop_id"].isna().tolist() == [False, False, True]
    pd.testing.assert_frame_equal(in_csv, in_parquet)
    pd.testing.assert_frame_equal(partitioned, in_parquet)


@pytest.mark.parametrize(
    "name",
    ["agency_predictions.parquet", "agency_predictions.csv", f"agency_predictions/service_date={DAY}/0.parquet"],
)
def test_an_optional_table_is_read_where_it_is_there_and_else_has_no_rows(tmp_path: Path, name: str) -> None:
    times = [(NOON + timedelta(seconds=i)).isoformat() for i in range(2)]
    columns = {"predicted_at": times, "trip_id": ["1", "2"], "stop_id": ["70061"] * 2, "arrival_time": times}
    rows = arrow.table({"service_date": arrow.array([DAY] * 2), **columns})
    if not name.endswith(".csv"):
        for column in ("predicted_at", "arrival_time"):
            instants = arrow.array([NOON, NOON + timedelta(seconds=1)], arrow.timestamp("us", "UTC"))
            rows = with_column(rows, column, instants)
    source = write(tmp_path / "some", rows, name)
    read = source.read("agency_predictions", DAY).rows
    assert read["predicted_at"].tolist() == [pd.Timestamp(NOON), pd.Timestamp(NOON) + pd.Timedelta(seconds=1)]
    assert list(source.poll("agency_predictions", {})) == [DAY]
    for other, day in ((source, NEXT_DAY), (FilesSource(tmp_path), DAY)):
        absent = other.read("agency_predictions", day)
        assert absent.rows.empty and absent.rejected.empty
    assert FilesSource(tmp_path).poll("agency_predictions", {}) == {}


def test_only_the_row_groups_of_the_day_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vehicle.parquet"
    days = [vehicles(DAY + timedelta(days=i)) for i in range(5)]
    parquet.write_table(arrow.concat_tables(days), path, row_group_size=3, compression="none")
    damaged = bytearray(path.read_bytes())
    last_group = parquet.read_metadata(path).row_group(4).column(1)
    damaged[last_group.dictionary_page_offset : last_group.dictionary_page_offset + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    source = FilesSource(tmp_path)

    assert len(source.read("vehicle", DAY).rows) == 3
    assert "cut short or damaged" in refusal(source, day=DAY + timedelta(days=4))


def test_a_missing_optional_column_is_a_missing_value(tmp_path: Path) -> None:
    rows = write(tmp_path, vehicles()).read("vehicle", DAY).rows
    assert rows[["route_id", "direction_id", "speed"]].isna().all(axis=None)
    assert "colour" not in rows


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("direction_id", [True, False, None], [1, 0, pd.NA]),
        ("direction_id", [1.0, float("nan"), 0.0], [1, pd.NA, 0]),
        ("speed", arrow.array([1, 2, 3]), [1.0, 2.0, 3.0]),
        ("route_id", arrow.array(["Red", None, "Red"]).dictionary_encode(), ["Red", pd.NA, "Red"]),
        ("route_id", arrow.array(["Red", None, "Red"], arrow.large_string()), ["Red", pd.NA, "Red"]),
        ("route_id", arrow.nulls(3), [pd.NA] * 3),
        ("id", [70061, 70062, 70063], ["70061", "70062", "70063"]),
        ("stop_id", [70061.0, None, 70063.0], ["70061", pd.NA, "70063"]),
        ("stop_id", arrow.array([b"70061", None, b"70063"]), ["70061", pd.NA, "70063"]),
        ("stop_id", arrow.array(["70061", None, "70063"], arrow.string_view()), ["70061", pd.NA, "70063"]),
        ("updated_at", arrow.array([NOON] * 3, arrow.timestamp("s", "Asia/Tokyo")), [NOON] * 3),
        ("updated_at", arrow.array([NOON] * 3, arrow.timestamp("ms", "UTC")), [NOON] * 3),
        ("service_date", ["2023-10-03"] * 3, [DAY] * 3),
        ("service_date", ["2023-10-03 00:00:00"] * 3, [DAY] * 3),
        ("service_date", arrow.array(["2023-10-03"] * 3).dictionary_encode(), [DAY] * 3),
        ("service_date", arrow.array([DAY] * 3, arrow.date64()), [DAY] * 3),
        ("service_date", arrow.array([datetime(2023, 10, 3)] * 3), [DAY] * 3),
    ],
)
def test_types_of_the_same_family_are_accepted(tmp_path: Path, column: str, values: object, expected: object) -> None:
    rows = write(tmp_path, with_column(vehicles(), column, values)).read("vehicle", DAY).rows
    pd.testing.assert_series_equal(rows[column], pd.Series(expected, dtype=rows[column].dtype, name=column))


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("latitude", ["42.1", "42.2", "42.3"], "its type is string, and must be double"),
        ("id", [True, False, True], "its type is bool, and must be string"),
        ("stop_id", [0.5, 1.5, 2.0], "2 of 3 values are not of type string, such as 0.5"),
        ("direction_id", [0.5, 1.5, 0.0], "2 of 3 values are not of type int64, such as 0.5"),
        ("route_id", arrow.array([b"Caf\xe9"] * 3), "Invalid UTF8"),
        ("updated_at", [datetime(2023, 10, 3)] * 3, "its times have no time zone"),
        ("service_date", [20231003] * 3, "its type is int64, and must be a date"),
        ("service_date", [datetime(2023, 10, 3, 1)] * 3, "times other than midnight"),
    ],
)
def test_a_wrong_type_is_refused(tmp_path: Path, column: str, values: object, problem: str) -> None:
    message = refusal(write(tmp_path, with_column(vehicles(), column, values)))
    assert f"column {column}" in message
    assert problem in message


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("latitude", ["42.1", "north", "south"], "2 of 3 values are not of type double, such as 'north'"),
        ("updated_at", ["2023-10-03 12:00:00"] * 3, "its times have no time zone: 3 of 3 values"),
        ("updated_at", ["yesterday", "today", "2023-10-03T12:00:00Z"], "not of type timestamp[us, tz=UTC]"),
        ("direction_id", ["1.5", "0.5", ""], "2 of 2 values are not of type int64, such as '1.5'"),
    ],
)
def test_a_column_of_which_most_values_are_wrong_is_refused(
    tmp_path: Path, column: str, values: object, problem: str
) -> None:
    text = with_column(vehicles(), "updated_at", ["2023-10-03T12:00:00Z"] * 3)
    message = refusal(write(tmp_path, with_column(text, column, values), "vehicle.csv"))
    assert f"column {column}" in message
    assert problem in message


@pytest.mark.parametrize("column", ["id", "updated_at", "stop_id"])
@pytest.mark.parametrize("name", ["vehicle.parquet", "vehicle.csv", "vehicle/service_date=2023-10-03/0.parquet"])
def test_a_missing_required_column_is_refused_with_the_columns_that_are_there(
    tmp_path: Path, column: str, name: str
) -> None:
    rows = vehicles().rename_columns([f"{n}_" if n == column else n for n in vehicles().column_names])
    message = refusal(write(tmp_path, rows, name))
    assert f"column {column}" in message
    assert "the required column is missing" in message
    assert f"which has {', '.join(rows.column_names)}" in message


@pytest.mark.parametrize("name", ["vehicle.parquet", "vehicle.csv"])
def test_a_file_of_many_days_without_their_column_is_refused_with_the_columns_that_are_there(
    tmp_path: Path, name: str
) -> None:
    rows = vehicles().rename_columns(["date", *vehicles().column_names[1:]])
    assert f"the file has {', '.join(rows.column_names)}" in refusal(write(tmp_path, rows, name))


@pytest.mark.parametrize("name", ["vehicle.csv", "vehicle/service_date=2023-10-03/0.parquet"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(write(tmp_path, vehicles().rename_columns([*vehicles().column_names[:-1], "stop_id"]), name))
    assert "column stop_id" in message
    assert "2 times" in message


@pytest.mark.parametrize("name", ["vehicle.parquet", "vehicle.csv", "vehicle/service_date=2023-10-03/0.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    source = write(tmp_path, vehicles(), name)
    (tmp_path / name).write_bytes(b"")
    assert f"{name} is empty (0 bytes)" in refusal(source)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, share: float) -> None:
    source = write(tmp_path, vehicles())
    path = tmp_path / "vehicle.parquet"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "vehicle.parquet is cut short or damaged" in refusal(source)


def test_a_missing_day_is_refused_with_the_days_that_exist(tmp_path: Path) -> None:
    two_days = arrow.concat_tables([vehicles(DAY), vehicles(NEXT_DAY)])
    message = "the day is not there; it holds 2023-10-03 to 2023-10-04, 2 in all"
    assert message in refusal(write(tmp_path / "a", two_days), day=date(2023, 10, 9))

    write(tmp_path / "b", vehicles(DAY), "vehicle/service_date=2023-10-03/0.parquet")
    source = write(tmp_path / "b", vehicles(NEXT_DAY), "vehicle/service_date=2023-10-04/0.parquet")
    assert message in refusal(source, day=date(2023, 10, 9))


def test_a_file_without_rows_holds_no_day_but_a_partition_without_rows_is_an_empty_day(tmp_path: Path) -> None:
    assert "it holds no rows at all" in refusal(write(tmp_path / "a", vehicles(n=0)))
    source = write(tmp_path / "b", vehicles(n=0), "vehicle/service_date=2023-10-03/0.parquet")
    pd.testing.assert_frame_equal(source.read("vehicle", DAY).rows, schema.empty_frame(schema.Vehicle))


def test_a_partition_with_rows_of_another_day_only_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, vehicles(NEXT_DAY), "vehicle/service_date=2023-10-03/0.parquet")
    assert "it holds rows of 2023-10-04" in refusal(source)


def test_a_missing_table_and_one_in_two_layouts_are_refused(tmp_path: Path) -> None:
    assert "Add one of trip.parquet, trip.csv, trip" in refusal(FilesSource(tmp_path), "trip")
    write(tmp_path, vehicles())
    source = write(tmp_path, vehicles(), "vehicle/service_date=2023-10-03/0.parquet")
    assert "vehicle.parquet and vehicle are both in" in refusal(source)


def many_days(*days: tuple[date, int]) -> arrow.Table:
    """Return vehicle tables of several days as one, given each day's number of rows."""
    return arrow.concat_tables(vehicles(day, n) for day, n in days)


@pytest.mark.parametrize("name", ["vehicle.parquet", "vehicle.csv"])
def test_in_a_file_of_many_days_only_the_day_that_changed_has_another_version(tmp_path: Path, name: str) -> None:
    source = write(tmp_path, many_days((DAY, 3), (NEXT_DAY, 3)), name)
    before = source.poll("vehicle", {})
    assert set(before) == {DAY, NEXT_DAY}
    write(tmp_path, many_days((DAY, 3), (NEXT_DAY, 4)), name)
    after = source.poll("vehicle", before)
    assert after[DAY] == before[DAY]
    assert after[NEXT_DAY] != before[NEXT_DAY]


def test_a_day_that_is_added_to_a_file_is_listed_and_changes_no_other(tmp_path: Path) -> None:
    source = write(tmp_path, vehicles(DAY))
    before = source.poll("vehicle", {})
    write(tmp_path, many_days((DAY, 3), (NEXT_DAY, 3)))
    after = source.poll("vehicle", before)
    assert set(after) == {DAY, NEXT_DAY}
    assert after[DAY] == before[DAY]


def test_a_partition_that_was_only_touched_keeps_its_version(tmp_path: Path) -> None:
    partition = "vehicle/service_date=2023-10-03/0.parquet"
    source = write(tmp_path, vehicles(), partition)
    before = source.poll("vehicle", {})
    os.utime(tmp_path / partition, (0, 0))
    assert source.poll("vehicle", before) == before
    assert FilesSource(tmp_path).poll("vehicle", {}) != before, "without the known version, the touch is seen"


def test_other_content_of_the_same_size_and_time_is_another_version(tmp_path: Path) -> None:
    partition = "vehicle/service_date=2023-10-03/0.parquet"
    source = write(tmp_path, vehicles(), partition)
    path = tmp_path / partition
    before, content, status = source.poll("vehicle", {}), path.read_bytes(), path.stat()
    path.write_bytes(content.replace(b"R-1", b"R-9"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert source.poll("vehicle", before) != before


def test_files_whose_status_is_known_are_not_read(tmp_path: Path) -> None:
    partition = "vehicle/service_date=2023-10-03/0.parquet"
    known_versions = write(tmp_path, vehicles(), partition).poll("vehicle", {})
    files._digest_file.cache_clear()
    assert FilesSource(tmp_path).poll("vehicle", known_versions) == known_versions
    assert files._digest_file.cache_info().misses == 0


def test_a_missing_value_elsewhere_in_a_file_of_many_days_changes_no_day(tmp_path: Path) -> None:
    numbers = [arrow.array([1, 1, 1], arrow.int64()), arrow.array([1, None, 1], arrow.int64())]
    versions: list[dict[date, str]] = []
    for sequence in numbers:
        second = with_column(vehicles(NEXT_DAY), "current_stop_sequence", sequence)
        first = with_column(vehicles(DAY), "current_stop_sequence", numbers[0])
        source = write(tmp_path, arrow.concat_tables([first, second]))
        versions.append(source.poll("vehicle", versions[-1] if versions else {}))
    assert versions[0][DAY] == versions[1][DAY]
    assert versions[0][NEXT_DAY] != versions[1][NEXT_DAY]


NO_DAYS = ["__HIVE_DEFAULT_PARTITION__", "2023-10-03.bak", "2023-10-04%2000%3A00%3A00", "20231004", "2023-W40-3", ""]


@pytest.mark.parametrize("name", NO_DAYS)
def test_a_directory_that_is_no_day_is_neither_listed_nor_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, vehicles(), "vehicle/service_date=2023-10-03/0.parquet")
    source = write(tmp_path, vehicles(NEXT_DAY), f"vehicle/service_date={name}/0.parquet")
    (tmp_path / "vehicle/service_date=2023-10-05").write_bytes(b"a file")
    assert list(source.poll("vehicle", {})) == [DAY]
    assert len(source.read("vehicle", DAY).rows) == 3
    assert "it holds 2023-10-03 to 2023-10-03, 1 in all" in refusal(source, day=NEXT_DAY)


@pytest.mark.parametrize("name", [".0.parquet", "_0.parquet", "0.parquet.tmp"])
def test_a_part_file_that_is_being_written_is_not_read(tmp_path: Path, name: str) -> None:
    source = write(tmp_path, vehicles(), "vehicle/service_date=2023-10-03/0.parquet")
    versions = source.poll("vehicle", {})
    (tmp_path / "vehicle/service_date=2023-10-03" / name).write_bytes(b"PAR1")
    (tmp_path / "vehicle/service_date=2023-10-03/directory.parquet").mkdir()
    assert len(source.read("vehicle", DAY).rows) == 3
    assert source.poll("vehicle", {}) == versions


@pytest.mark.parametrize("name", ["vehicle.parquet", "vehicle.csv"])
def test_a_row_without_a_day_is_rejected_with_each_day_of_its_file(tmp_path: Path, name: str) -> None:
    days = arrow.array([DAY, None, NEXT_DAY])
    source = write(tmp_path, vehicles().set_column(0, "service_date", days), name)
    if name.endswith(".csv"):
        text = with_column(vehicles(), "updated_at", ["2023-10-03T20:00:00Z"] * 3)
        source = write(tmp_path, text.set_column(0, "service_date", days), name)
    before = source.poll("vehicle", {})
    assert set(before) == {DAY, NEXT_DAY}
    for day, vehicle in ((DAY, "R-0"), (NEXT_DAY, "R-2")):
        rows, rejected = source.read("vehicle", day)
        assert rows["id"].tolist() == [vehicle]
        assert rejected[["reason", "column_name"]].to_numpy().tolist() == [["missing_value", "service_date"]]
        assert '"id": "R-1"' in rejected["row"][0]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("stop_id", arrow.array([70061, None], arrow.int64())),
        ("stop_id", arrow.array([70061.0, float("nan")], arrow.float64())),
        ("stop_id", arrow.array(["70061.0", ""], arrow.large_string())),
        ("stop_id", arrow.array(["70061 ", " "]).dictionary_encode()),
        ("stop_id", arrow.array([b"70061", None], arrow.binary())),
        ("direction_id", arrow.array([True, False])),
        ("direction_id", arrow.array([1.0, 0.0])),
        ("updated_at", arrow.array([NOON, NOON + timedelta(seconds=1)], arrow.timestamp("ns", "Asia/Tokyo"))),
        ("updated_at", arrow.array([NOON, NOON + timedelta(seconds=1)], arrow.timestamp("ms", "UTC"))),
        ("latitude", arrow.array([42, 43], arrow.int32())),
    ],
)
def test_part_files_whose_types_differ_and_mean_the_same_are_read_as_the_same(
    tmp_path: Path, column: str, values: arrow.Array
) -> None:
    rows = with_column(vehicles(n=2), "direction_id", [1, 0])
    parts = [rows, with_column(rows, column, values), rows]
    for number, part in enumerate(parts):
        source = write(tmp_path, part, f"vehicle/service_date=2023-10-03/{number}.parquet")
    result, rejected = source.read("vehicle", DAY)
    expected = write(tmp_path / "same", rows, "vehicle/service_date=2023-10-03/0.parquet").read("vehicle", DAY).rows
    assert expected["stop_id"].tolist() == ["70061", pd.NA]
    pd.testing.assert_frame_equal(result, pd.concat([expected] * 3, ignore_index=True))
    assert rejected.empty


def test_a_row_of_another_day_in_a_partition_costs_itself(tmp_path: Path) -> None:
    days = many_days((DAY, 3), (NEXT_DAY, 1))
    rows, rejected = write(tmp_path, days, "vehicle/service_date=2023-10-03/0.parquet").read("vehicle", DAY)
    assert len(rows) == 3
    assert rejected[["service_date", "reason"]].to_numpy().tolist() == [[DAY, "other_service_day"]]
    undated = days.set_column(0, "service_date", arrow.array([None] * 4, arrow.date32()))
    filled = write(tmp_path, undated, "vehicle/service_date=2023-10-03/0.parquet").read("vehicle", DAY)
    assert filled.rows["service_date"].tolist() == [DAY] * 4


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Auckland", "America/New_York", "UTC", "+09:00"])
def test_midnights_in_any_zone_are_the_days_of_that_zone(tmp_path: Path, zone: str) -> None:
    days = [DAY + timedelta(days=n) for n in (-1, 0, 1)]
    midnights = arrow.array([day for day in days for _ in range(3)]).cast(arrow.timestamp("us"))
    rows = arrow.concat_tables([vehicles(day) for day in days])
    source = write(tmp_path, with_column(rows, "service_date", pc.assume_timezone(midnights, zone)))
    assert list(source.poll("vehicle", {})) == days
    read = source.read("vehicle", DAY)
    assert read.rows["id"].tolist() == ["R-0", "R-1", "R-2"]
    assert read.rejected.empty


WAYS_TO_WRITE_A_DAY = [
    "2023-10-03",
    "2023-10-3",
    "20231003",
    " 2023-10-03 ",
    "2023-10-03 00:00:00",
    "2023-10-03T00:00Z",
]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("kind", ["text", "dictionary"])
def test_a_day_is_read_however_it_is_written(tmp_path: Path, suffix: str, kind: str) -> None:
    rows = vehicles(n=len(WAYS_TO_WRITE_A_DAY) + 3)
    texts = arrow.array([*WAYS_TO_WRITE_A_DAY, "03/10/2023", "2023-10-4", "2023-13-01"])
    rows = with_column(rows, "service_date", texts if kind == "text" or suffix == "csv" else texts.dictionary_encode())
    if suffix == "csv":
        rows = with_column(rows, "updated_at", [NOON.isoformat()] * len(rows))
    source = write(tmp_path, rows, f"vehicle.{suffix}")
    assert sorted(source.poll("vehicle", {})) == [DAY, NEXT_DAY]
    for day, n in ((DAY, len(WAYS_TO_WRITE_A_DAY)), (NEXT_DAY, 1)):
        read = source.read("vehicle", day)
        assert len(read.rows) == n
        assert read.rejected["reason"].tolist() == ["unreadable_value"] * 2
        assert "03/10/2023" in read.rejected["row"][0]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_without_a_readable_day_is_refused_when_it_is_polled_too(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path, with_column(vehicles(), "service_date", ["03/10/2023"] * 3), f"vehicle.{suffix}")
    assert "its days cannot be read, such as '03/10/2023'. Write them as YYYY-MM-DD" in refusal(source)
    with pytest.raises(SourceError, match="its days cannot be read, such as '03/10/2023'"):
        source.poll("vehicle", {})


@pytest.mark.parametrize("dtype", [arrow.int64(), arrow.uint64()])
@pytest.mark.parametrize("number", [2**53, 2**62])
def test_a_change_of_the_last_digit_of_a_large_id_is_a_change(
    tmp_path: Path, dtype: arrow.DataType, number: int
) -> None:
    versions: list[str] = []
    for last in (0, 1):
        ids = arrow.array([number + last, None, 5], dtype)
        versions += write(tmp_path, with_column(vehicles(), "stop_id", ids)).poll("vehicle", {}).values()
    assert versions[0].split("-")[1] != versions[1].split("-")[1]


@pytest.mark.parametrize("value", [["70061"], {"id": "70061"}])
def test_a_column_of_lists_or_records_is_named_when_the_file_is_polled(tmp_path: Path, value: object) -> None:
    source = write(tmp_path, with_column(vehicles(), "stop_id", [value] * 3))
    with pytest.raises(SourceError, match=r"table vehicle, column stop_id: its type is (list|struct).*Correct the col"):
        source.poll("vehicle", {})
    assert "column stop_id" in refusal(source)
