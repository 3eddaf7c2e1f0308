"""The rules of a service day, which look at few of its values, find what a look at each of them finds."""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from mbta_assets.transit import schema
from mbta_assets.transit.checks import features_present, keys_unique, labels_cover, schema_holds

MOMENT, DAY = datetime(2024, 1, 1, 12, tzinfo=UTC), date(2024, 1, 1)
TABLES = ["vehicle", "schedule", "transit_features"]
ODD = (-10.0, -1.0, 0.0, 0.5, 1.0, 7.0, 400.0, 1e9, float("inf"))


def make_value(kind: arrow.DataType, number: float) -> Any:
    """Return a value of an Arrow type, often one that some rule forbids."""
    if arrow.types.is_floating(kind):
        return number
    if arrow.types.is_string(kind):
        return ["STOPPED_AT", "arrival", "winter", "x"][int(number) % 4 if number < 100 else 0]
    if arrow.types.is_boolean(kind):
        return number > 0
    if arrow.types.is_temporal(kind):
        return DAY if arrow.types.is_date(kind) else MOMENT
    return int(min(number, 1e9))


@st.composite
def day(draw: st.DrawFn, table: str) -> arrow.Table:
    """Draw few rows, each column of which has one, two or three different values."""
    size = draw(st.integers(1, 4))
    columns = []
    for field in schema.arrow_schema(schema.TABLES[table]):
        good = st.just({"season": "winter", "event": "arrival"}.get(field.name, make_value(field.type, 1.0)))
        any_value = st.none() | st.sampled_from([make_value(field.type, number) for number in ODD])
        values = draw(
            st.lists(good | any_value if draw(st.integers(0, 9)) == 0 else good, min_size=size, max_size=size)
        )
        columns.append(arrow.array(values, field.type))
    return arrow.table(columns, schema=schema.arrow_schema(schema.TABLES[table]))


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=30)
@given(data=st.data())
def test_a_schema_holds_where_it_holds_for_every_row(table: str, data: st.DataObject) -> None:
    rows = data.draw(day(table))
    try:
        schema.TABLES[table].validate(schema.to_frame(rows), lazy=True)
    except SchemaErrors as error:
        broken = set(error.failure_cases["column"])
        problem = schema_holds(rows, table).problem or ""
        assert broken and all(f"column {column}: " in problem for column in broken)
    else:
        assert schema_holds(rows, table).problem is None


def test_a_day_without_rows_keeps_every_rule() -> None:
    rows = schema.arrow_schema(schema.TransitFeatures).empty_table()
    outcomes = (
        schema_holds(rows, "transit_features"),
        keys_unique(rows),
        features_present(rows),
        labels_cover(rows, 0.05),
    )
    assert [outcome.problem for outcome in outcomes] == [None] * 4


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "service_date": st.just(DAY),
                "trip_id": st.sampled_from(["1", "2", "11"]),
                "vehicle_id": st.sampled_from(["1", "2"]),
                "time_stamp": st.sampled_from([MOMENT, MOMENT.replace(hour=13)]),
                "stop_sequence": st.none() | st.integers(1, 3),
            }
        )
    )
)
def test_rows_repeat_a_key_that_was_there_before(rows: list[dict[str, Any]]) -> None:
    features = schema.arrow_schema(schema.TransitFeatures)
    table = arrow.Table.from_pylist(rows, arrow.schema([features.field(name) for name in schema.ROW_KEY]))
    repeated = len(rows) - len({tuple(row[name] for name in schema.ROW_KEY) for row in rows})
    problem = keys_unique(table).problem
    assert problem is None if not repeated else (problem or "").startswith(f"{repeated} rows repeat the key")
