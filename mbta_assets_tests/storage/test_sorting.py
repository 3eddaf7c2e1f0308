"""Rows are sorted as Arrow sorts them by all columns."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as arrow
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.storage.sorting import sort_rows

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
LIMITS = -(2**63), 2**63 - 1
TYPES = {
    "time": arrow.timestamp("us", "UTC"),
    "text": arrow.string(),
    "count": arrow.int64(),
    "day": arrow.date32(),
    "flag": arrow.bool_(),
    "measure": arrow.float32(),
}
VALUES = {
    "time": st.builds(
        lambda count, unit: BEGIN + count * unit,
        st.integers(0, 3),
        st.sampled_from([timedelta(seconds=1), timedelta(microseconds=1), timedelta(days=20_000)]),
    ),
    "text": st.sampled_from(["", "1", "10", "2", "Z", "a", "é", "\U0001f68b"]),
    "count": st.one_of(st.integers(0, 3), st.sampled_from(LIMITS), st.integers(*LIMITS)),
    "day": st.dates(date(2023, 12, 31), date(2024, 1, 2)),
    "flag": st.booleans(),
    "measure": st.sampled_from([-1.5, 0.0, 2.0, float("inf")]),
}


@st.composite
def tables(draw: st.DrawFn) -> arrow.Table:
    """Draw rows that often are equal in some columns, stored in two chunks."""
    rows = draw(st.lists(st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})))
    table = arrow.Table.from_pylist(rows, arrow.schema(TYPES))
    half = draw(st.integers(0, len(table)))
    return arrow.concat_tables([table.slice(0, half), table.slice(half)])


@given(tables(), st.permutations(list(TYPES)))
def test_rows_are_sorted_by_columns_with_missing_values_first(rows: arrow.Table, names: list[str]) -> None:
    keys = [(name, "ascending", "at_start") for name in names]
    expected = rows.take(pc.sort_indices(rows, sort_keys=keys))
    found = sort_rows(rows, names)
    assert found.equals(expected) and found.schema == expected.schema
    assert sort_rows(found, names).equals(expected)


def test_columns_of_other_types_are_sorted_too() -> None:
    rows = arrow.table({"part": arrow.array([2, 1, 2], arrow.uint64()), "name": arrow.array(["b", "a", "a"])})
    assert sort_rows(rows, ["part", "name"]).to_pylist() == [
        {"part": 1, "name": "a"}, {"part": 2, "name": "a"}, {"part": 2, "name": "b"},
    ]  # fmt: skip
