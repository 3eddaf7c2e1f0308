"""A row that cannot be used is rejected by itself, and values that mean the same are read as the same."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mbta_assets.sources import SourceError, conform
from mbta_assets.sources.conform import Part
from mbta_assets.sources.contract import REJECTED_ROWS
from mbta_assets.storage.tables import to_arrow
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import start_time

DAY = date(2024, 3, 6)
NOON = datetime(2024, 3, 6, 17, tzinfo=UTC)
START = start_time(DAY)


def make_vehicles(n: int = 6, **columns: Sequence[object] | arrow.Array) -> arrow.Table:
    """Return reports of a vehicle, with some columns replaced."""
    rows: dict[str, Any] = {
        "service_date": [DAY] * n,
        "id": ["R-1"] * n,
        "updated_at": arrow.array([NOON + timedelta(minutes=i) for i in range(n)], arrow.timestamp("us", "UTC")),
        "current_status": ["STOPPED_AT", "IN_TRANSIT_TO", "INCOMING_AT"] * (n // 3),
        "latitude": [42.3 + i / 100 for i in range(n)],
        "longitude": [-71.1] * n,
        "stop_id": [str(70061 + i) for i in range(n)],
        "trip_id": ["1"] * n,
        "route_id": ["Red"] * n,
        "direction_id": [0, 1] * (n // 2),
    }
    return arrow.table(rows | columns)


def make_stop_times(**columns: Sequence[object] | arrow.Array) -> arrow.Table:
    """Return three stop times of a trip, with some columns replaced."""
    times = arrow.array([NOON + timedelta(minutes=5 * i) for i in range(3)], arrow.timestamp("us", "UTC"))
    rows = {"trip_id": ["1"] * 3, "stop_id": ["a", "b", "c"], "arrival_time": times, "departure_time": times}
    return arrow.table(rows | columns)


def replace_first(rows: arrow.Table, column: str, value: object) -> arrow.Table:
    """Return rows with the first value of a column replaced."""
    values = [value, *rows[column].to_pylist()[1:]]
    return rows.set_column(rows.column_names.index(column), column, arrow.array(values, rows[column].type))


def refusal(table: str, rows: arrow.Table | list[Part]) -> str:
    """Return the message with which rows are refused."""
    with pytest.raises(SourceError) as error:
        conform(table, rows, DAY, "test")
    message = str(error.value)
    assert f"source test, table {table}" in message
    assert f"service day {DAY}" in message
    return message


UNUSABLE: list[tuple[str, object, str]] = [
    ("id", None, "missing_value"),
    ("id", " ", "missing_value"),
    ("updated_at", None, "missing_value"),
    ("updated_at", datetime(1970, 1, 1, tzinfo=UTC), "time_out_of_range"),
    ("updated_at", START - timedelta(hours=12, microseconds=1), "time_out_of_range"),
    ("updated_at", START + timedelta(hours=96), "time_out_of_range"),
    ("updated_at", datetime(9999, 12, 31, tzinfo=UTC), "time_out_of_range"),
    ("current_status", "FLYING", "unknown_value"),
    ("current_status", None, "missing_value"),
    ("service_date", DAY + timedelta(days=1), "other_service_day"),
]


@pytest.mark.parametrize(("column", "value", "reason"), UNUSABLE)
def test_a_row_that_cannot_be_used_costs_itself(column: str, value: object, reason: str) -> None:
    odd = replace_first(make_vehicles(), column, value)
    rows, rejected = conform("vehicle", odd, DAY, "test")
    pd.testing.assert_frame_equal(rows, conform("vehicle", make_vehicles().slice(1), DAY, "test").rows)
    assert rejected[["service_date", "source_table", "reason", "column_name"]].to_numpy().tolist() == [
        [DAY, "vehicle", reason, column]
    ]
    row = json.loads(rejected["row"][0])
    assert list(row) == odd.column_names
    assert row[column] == (value.isoformat() if isinstance(value, date) else value)


@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(UNUSABLE)), max_size=11))
def test_injected_rows_never_change_the_others(injected: list[tuple[int, tuple[str, object, str]]]) -> None:
    good = make_vehicles(12)
    parts, expected = [], []
    for index in range(12):
        parts.append(good.slice(index, 1))
        for _, (column, value, reason) in (item for item in injected if item[0] == index):
            parts.append(replace_first(good.slice(index, 1), column, value))
            expected.append((reason, column))
    rows, rejected = conform("vehicle", arrow.concat_tables(parts), DAY, "test")
    pd.testing.assert_frame_equal(rows, conform("vehicle", good, DAY, "test").rows)
    assert list(zip(rejected["reason"], rejected["column_name"], strict=True)) == expected
    assert rejected.dtypes.equals(schema.to_frame(REJECTED_ROWS.empty_table()).dtypes)


anything: dict[str, st.SearchStrategy[object]] = {
    "updated_at": st.none() | st.datetimes(timezones=st.just(UTC)),
    "current_status": st.none() | st.sampled_from([*schema.STATUSES, "", "FLYING", "None"]),
    "id": st.none() | st.text(),
    "trip_id": st.none() | st.text(),
    "stop_id": st.none() | st.sampled_from(["70061.0", "1.5", " 1 ", "nan"]),
    "latitude": st.none() | st.floats(),
    "longitude": st.none() | st.floats(),
    "direction_id": st.none() | st.integers(-3, 3),
}


@given(st.data(), st.lists(st.sampled_from(sorted(anything)), min_size=1, max_size=3, unique=True))
def test_rows_that_are_used_hold_the_schema_and_all_rows_are_accounted_for(data: st.DataObject, odd: list[str]) -> None:
    table = make_vehicles()
    for column in odd:
        index, dtype = table.column_names.index(column), table[column].type
        values = data.draw(st.lists(anything[column], min_size=5, max_size=5))
        table = table.set_column(index, column, arrow.array([*values, table[column][5].as_py()], dtype))
    rows, rejected = conform("vehicle", table, DAY, "test")
    schema.Vehicle.validate(rows)
    assert len(rows) + len(rejected) == 6
    assert all(set(json.loads(row)) == set(table.column_names) for row in rejected["row"])
    assert (rows["latitude"].isna() == rows["longitude"].isna()).all()
    rejected_by = schema.to_frame(REJECTED_ROWS.empty_table()).columns
    to_arrow("rejected_rows", rejected[rejected_by].assign(rejected_by="vehicle"))


@pytest.mark.parametrize(
    ("column", "value"),
    [("direction_id", 2), ("direction_id", -1), ("trip_id", ""), ("trip_id", "  "), ("stop_id", "NaN")],
)
def test_a_value_that_may_be_missing_and_cannot_be_is_missing(column: str, value: object) -> None:
    rows, rejected = conform("vehicle", replace_first(make_vehicles(), column, value), DAY, "test")
    assert rows[column].isna().tolist() == [True] + [False] * 5
    assert rejected.empty


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(0.0, 0.0), (0.9, -0.9), (420.0, -71.0), (42.0, 181.0), (None, -71.0), (42.0, float("nan")), (float("inf"), 0.0)],
)
@pytest.mark.parametrize("table", ["vehicle", "stop"])
def test_a_position_that_cannot_be_is_missing_in_both_coordinates(
    table: str, latitude: float | None, longitude: float | None
) -> None:
    rows = make_vehicles()
    for column in ("name", "platform_name"):
        rows = rows.append_column(column, rows["id"])
    odd = replace_first(replace_first(rows, "latitude", latitude), "longitude", longitude)
    result, rejected = conform(table, odd, DAY, "test")
    for column in ("latitude", "longitude"):
        assert result[column].isna().tolist() == [True] + [False] * 5
    assert len(result) == 6
    assert rejected.empty


def test_an_implausible_scheduled_time_is_missing_and_a_stop_time_without_any_is_rejected() -> None:
    first, end = START - timedelta(hours=24), START + timedelta(hours=72)
    arrivals = arrow.array([first - timedelta(seconds=1), first, end], arrow.timestamp("us", "UTC"))
    rows, rejected = conform("schedule", make_stop_times(arrival_time=arrivals), DAY, "test")
    assert rows["arrival_time"].isna().tolist() == [True, False, True]
    assert rows["departure_time"].notna().all()
    assert rejected.empty

    without_departures = make_stop_times(arrival_time=arrivals, departure_time=arrow.nulls(3))
    rows, rejected = conform("schedule", without_departures, DAY, "test")
    assert rows["stop_id"].tolist() == ["b"]
    assert rejected["reason"].tolist() == ["time_out_of_range"] * 2
    assert rejected["column_name"].tolist() == ["arrival_time"] * 2


def test_a_stop_time_without_published_times_is_used() -> None:
    nothing = make_stop_times(arrival_time=arrow.nulls(3), departure_time=arrow.nulls(3))
    rows, rejected = conform("schedule", nothing, DAY, "test")
    assert len(rows) == 3
    assert rejected.empty


def spell(ids: list[str | None], spelling: str) -> arrow.Array:
    """Return ids of whole numbers as another program writes them."""
    numbers = [None if text is None else int(text) for text in ids]
    if spelling == "floats":
        return arrow.array([float("nan") if n is None else float(n) for n in numbers], arrow.float64())
    if spelling == "written as floats":
        return arrow.array(["" if n is None else f"{n}.0" for n in numbers], arrow.string())
    if spelling == "padded":
        return arrow.array(["  " if text is None else f" {text}\t" for text in ids], arrow.string())
    if spelling == "words":
        return arrow.array([word if text is None else text for text, word in zip(ids, WORDS, strict=False)])
    if spelling == "decimal":
        return arrow.array(numbers, arrow.int64()).cast(arrow.decimal128(38, 9))
    if spelling == "dictionary":
        return arrow.array(ids, arrow.string()).dictionary_encode()
    if spelling == "dictionary of numbers":
        return arrow.array(numbers, arrow.int64()).dictionary_encode()
    types = {"int32": arrow.int32(), "uint64": arrow.uint64()}
    if spelling in types:
        return arrow.array(numbers, types[spelling])
    return arrow.array(ids, TEXT_TYPES[spelling])


WORDS = ["nan", "NaN", "None", "null", "NULL", "<NA>"]
TEXT_TYPES = {
    "text": arrow.string(),
    "large text": arrow.large_string(),
    "view": arrow.string_view(),
    "bytes": arrow.binary(),
}
SPELLINGS = [
    *TEXT_TYPES, "floats", "written as floats", "padded", "words", "decimal", "dictionary", "dictionary of numbers",
    "int32", "uint64",
]  # fmt: skip
whole_number_ids = st.lists(st.none() | st.integers(0, 99_999).map(str), min_size=6, max_size=6)


@given(st.lists(st.tuples(whole_number_ids, st.sampled_from(SPELLINGS)), min_size=1, max_size=4))
def test_any_mix_of_spellings_of_ids_across_parts_gives_the_same_rows(
    parts: list[tuple[list[str | None], str]],
) -> None:
    spelled = [Part(make_vehicles(stop_id=spell(ids, spelling)), name=spelling) for ids, spelling in parts]
    plain = [Part(make_vehicles(stop_id=arrow.array(ids, arrow.string()))) for ids, _ in parts]
    rows, rejected = conform("vehicle", spelled, DAY, "test")
    pd.testing.assert_frame_equal(rows, conform("vehicle", plain, DAY, "test").rows)
    assert rejected.empty


@given(
    st.lists(st.none() | st.integers(0, 2**64 - 1), min_size=6, max_size=6),
    st.sampled_from([arrow.uint64(), arrow.decimal128(38, 0), arrow.decimal128(38, 9), arrow.decimal256(60, 0)]),
)
@example([2**53, 2**53 + 1, 2**63, 2**64 - 1, None, 0], arrow.uint64())
@example([2**53, 2**53 + 1, 2**63, 2**64 - 1, None, 0], arrow.decimal128(38, 9))
def test_large_ids_keep_every_digit(ids: list[int | None], dtype: arrow.DataType) -> None:
    numbers = arrow.array([None if number is None else Decimal(number) for number in ids], arrow.decimal128(38, 0))
    rows, rejected = conform("vehicle", make_vehicles(stop_id=numbers.cast(dtype)), DAY, "test")
    assert rows["stop_id"].astype(object).where(rows["stop_id"].notna(), None).tolist() == [
        None if number is None else str(number) for number in ids
    ]
    assert rejected.empty


def test_a_whole_number_that_is_too_large_is_missing_and_not_another_one() -> None:
    numbers = [2**53 + 1, 10**18 - 1, 10**18, 2**64 - 1, None, 7]
    for dtype in (arrow.uint64(), arrow.decimal128(38, 3)):
        column = arrow.array(list(map(str, numbers[:4])) + [None, "7"]).cast(arrow.decimal128(38, 0)).cast(dtype)
        rows, _ = conform("vehicle", make_vehicles(current_stop_sequence=column), DAY, "test")
        kept = rows["current_stop_sequence"].tolist()
        assert kept[:2] == numbers[:2] and kept[5] == 7 and pd.isna(kept[2:5]).all()


@pytest.mark.parametrize("ids", [["1.0", "2.5", "3"], ["A.0", "B.0", "007"], ["1.0.0", "2.0.1", "70061.00"]])
def test_ids_with_a_point_that_means_something_stay_as_they_are(ids: list[str]) -> None:
    rows, _ = conform("vehicle", make_vehicles(stop_id=ids * 2), DAY, "test")
    assert rows["stop_id"].tolist() == ids * 2


def test_a_single_float_that_is_no_id_costs_its_row() -> None:
    rows, rejected = conform("vehicle", make_vehicles(stop_id=[0.5, *np.arange(1.0, 6.0)]), DAY, "test")
    assert rows["stop_id"].tolist() == ["1", "2", "3", "4", "5"]
    assert rejected["reason"].tolist() == ["unreadable_value"]
    assert json.loads(rejected["row"][0])["stop_id"] == 0.5


@given(st.lists(st.sampled_from(["s", "ms", "us", "ns"]), min_size=1, max_size=4), st.integers(0, 3600))
def test_times_of_any_unit_and_zone_across_parts_are_the_same_times(units: list[str], seconds: int) -> None:
    zones = ["UTC", "America/New_York", "+05:30", "Asia/Tokyo"]
    times = [NOON + timedelta(seconds=seconds, minutes=i) for i in range(6)]
    parts = [
        Part(make_vehicles(updated_at=arrow.array(times, arrow.timestamp(unit, zone))))
        for unit, zone in zip(units, zones, strict=False)
    ]
    rows, _ = conform("vehicle", parts, DAY, "test")
    assert rows["updated_at"].tolist() == times * len(parts)


def test_a_time_too_far_away_to_be_stored_costs_its_row() -> None:
    seconds = [2**62, *(int(NOON.timestamp()) + i for i in range(5))]
    rows, rejected = conform(
        "vehicle", make_vehicles(updated_at=arrow.array(seconds, arrow.timestamp("s", "UTC"))), DAY, "test"
    )
    assert len(rows) == 5
    assert rejected["reason"].tolist() == ["unreadable_value"]
    assert json.loads(rejected["row"][0])["updated_at"] == 2**62


TIMES = ["{}T{}Z", "{}T{}+00:00", "{} {} UTC", "{}T{} UTC", "{} {}+00", "{} {} +0000", " {} {}Z ", "{}T{}.000000000Z"]


@given(st.lists(st.sampled_from(TIMES), min_size=6, max_size=6))
def test_any_mix_of_time_formats_in_text_gives_the_same_times(formats: list[str]) -> None:
    expected = make_vehicles()["updated_at"].to_pylist()
    texts = [form.format(*str(time)[:19].split()) for form, time in zip(formats, expected, strict=True)]
    text = make_vehicles(updated_at=texts, latitude=["42.3"] * 6, longitude=["-71"] * 6, direction_id=["0"] * 6)
    rows, rejected = conform("vehicle", text, DAY, "test", parse=True)
    assert rows["updated_at"].tolist() == expected
    assert rejected.empty


@pytest.mark.parametrize(
    ("column", "value", "reads"),
    [
        ("latitude", "north", None),
        ("latitude", "42,3", None),
        ("updated_at", "2024-03-06T12:00:00", None),
        ("updated_at", "2024-13-06T12:00:00Z", None),
        ("direction_id", "north", pd.NA),
        ("direction_id", "False", 0),
        ("direction_id", "true", 1),
        ("direction_id", "1.0", 1),
        ("direction_id", "0.5", pd.NA),
        ("latitude", " 42.5 ", 42.5),
        ("latitude", "4.25e1", 42.5),
    ],
)
def test_a_single_value_in_text_costs_its_row_if_the_column_is_required(column: str, value: str, reads: object) -> None:
    texts = {name: [str(item) for item in make_vehicles()[name].to_pylist()] for name in make_vehicles().column_names}
    texts[column][0] = value
    rows, rejected = conform("vehicle", arrow.table(texts), DAY, "test", parse=True)
    if reads is None:
        assert len(rows) == 5
        assert rejected[["reason", "column_name"]].to_numpy().tolist() == [["unreadable_value", column]]
        assert json.loads(rejected["row"][0])[column] == value
    else:
        assert len(rows) == 6
        assert (rows[column][0] is pd.NA) if reads is pd.NA else (rows[column][0] == reads)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (make_vehicles(id=[None] * 6), "column id, .*6 have the reason missing_value, first None in row 0"),
        (
            make_vehicles(current_status=["FLYING"] * 6),
            "column current_status, .* It may be IN_TRANSIT_TO, INCOMING_AT",
        ),
        (
            make_vehicles(id=["R-1", *[None] * 5], current_status=["FLYING"] * 6),
            "column id, .*none of the 6 rows can be used; 5 have the reason missing_value, first None in row 1",
        ),
    ],
)
def test_a_day_of_which_every_row_is_rejected_is_refused_with_the_most_common_reason(
    rows: arrow.Table, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        conform("vehicle", rows.replace_schema_metadata(None), DAY, "test")


def test_a_part_of_another_type_or_without_a_column_is_named() -> None:
    parts = [Part(make_vehicles(), name="0.parquet"), Part(make_vehicles(latitude=["42"] * 6), name="1.parquet")]
    assert "its type is string, and must be double in 1.parquet" in refusal("vehicle", parts)
    parts[1] = Part(make_vehicles().drop_columns(["trip_id"]), name="1.parquet")
    assert "column trip_id, service day 2024-03-06: the required column is missing in 1.parquet" in refusal(
        "vehicle", parts
    )
