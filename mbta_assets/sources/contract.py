"""What every source promises, and the one check that holds it to the upstream contract."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any, Protocol

import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pandera.errors import SchemaError

from mbta_assets.transit import schema


class Source(Protocol):
    """Hands over the upstream tables, one table of one service day at a time."""

    name: str

    def read(self, table: str, service_date: date) -> pd.DataFrame:
        """All rows of a table on a service day, as `schema.UPSTREAM[table]` says. Raises SourceError."""

    def poll(self, table: str, known: Mapping[date, str]) -> dict[date, str]:
        """The service days that a table can be read of, and of each a version. Raises SourceError.

        A version is another text once what `read` gives may have changed; nothing else may be asked of it, least of
        all an order. With the versions that were `known` before, a source may spare itself what it would look at again.
        """


class SourceError(Exception):
    """A source cannot hand over a table; the message says which, of what day, what is wrong and what to do."""


class Fault(Exception):
    """What is wrong and what to do about it, told by code that does not know whose table it looks at."""

    def __init__(self, problem: str, remedy: str, column: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.column = problem, remedy, column


@contextmanager
def reading(source: str, table: str, service_date: date | None) -> Iterator[None]:
    """Turn a Fault found inside into a SourceError that names the source, the table and the service day, if one is."""
    try:
        yield
    except Fault as fault:
        column = f", column {fault.column}" if fault.column else ""
        day = f", service day {service_date}" if service_date else ""
        raise SourceError(
            f"source {source}, table {table}{column}{day}: {fault.problem}. {fault.remedy}."
        ) from fault.__cause__


def conform(table: str, rows: arrow.Table, service_date: date, source: str) -> pd.DataFrame:
    """Turn what a source holds of one table and service day into the typed table of the contract.

    Columns the contract does not name are left out; optional ones that are not there become missing
    values; `service_date` may be absent and is then filled in. Types are taken strictly, by family: a
    number is never parsed from text, and a time without a zone is not guessed at.

    Raises SourceError naming the column; rows are counted from 0 within `rows`.
    """
    model = schema.UPSTREAM[table]
    with reading(source, table, service_date):
        typed = _typed(rows, model, service_date)
        _check_days(typed["service_date"], service_date)
        _check_nulls(typed, model)
        frame = schema.to_frame(typed)
        try:
            return model.validate(frame)
        except SchemaError as error:
            raise _broken_rule(error) from None


def cast_column(column: arrow.ChunkedArray, wanted: arrow.DataType) -> arrow.ChunkedArray:
    """Give a column the type of the contract where it is of the same family.

    Raises ArrowInvalid, whose text says what the column holds that it must not.
    """
    found = column.type
    if arrow.types.is_dictionary(found):
        return cast_column(column.cast(found.value_type), wanted)
    if found == wanted or arrow.types.is_null(found):
        return column.cast(wanted)
    if arrow.types.is_string(wanted) and is_text(found):
        return column.cast(wanted)
    if arrow.types.is_floating(wanted) and (_is_number(found) or arrow.types.is_decimal(found)):
        return column.cast(wanted)
    if arrow.types.is_integer(wanted) and arrow.types.is_floating(found):
        # pandas stores integers as floats where some are missing: NaN is a missing value.
        return pc.if_else(pc.is_nan(column), None, column).cast(wanted)
    if arrow.types.is_integer(wanted) and (_is_number(found) or arrow.types.is_boolean(found)):
        return column.cast(wanted)
    if arrow.types.is_timestamp(wanted) and arrow.types.is_timestamp(found):
        if found.tz is None:
            raise arrow.ArrowInvalid("its times have no time zone")
        return column.cast(wanted, safe=False)  # what is finer than a microsecond is cut off
    if arrow.types.is_date(wanted):
        return _cast_days(column)
    raise arrow.ArrowInvalid(f"its type is {found}, and must be {wanted}")


def is_text(found: arrow.DataType) -> bool:
    """Whether a type is one of those that Arrow has for text."""
    return arrow.types.is_string(found) or arrow.types.is_large_string(found) or arrow.types.is_string_view(found)


def _is_number(found: arrow.DataType) -> bool:
    return arrow.types.is_integer(found) or arrow.types.is_floating(found)


def _cast_days(column: arrow.ChunkedArray) -> arrow.ChunkedArray:
    """Days given as days, as ISO text, or as the midnight they begin with."""
    found = column.type
    if arrow.types.is_date(found) or is_text(found):
        return column.cast(arrow.date32())
    if arrow.types.is_timestamp(found):
        wall_clock = column if found.tz is None else pc.local_timestamp(column)
        days = wall_clock.cast(arrow.date32())
        if pc.all(pc.equal(days.cast(wall_clock.type), wall_clock)).as_py() is False:
            raise arrow.ArrowInvalid("it holds times other than midnight, and must hold days")
        return days
    raise arrow.ArrowInvalid(f"its type is {found}, and must be a date, or text written YYYY-MM-DD")


def _typed(rows: arrow.Table, model: type[schema.Table], service_date: date) -> arrow.Table:
    """The columns of the contract, in its order and with its types."""
    columns: list[Any] = []
    for field in schema.arrow_schema(model):
        if field.name in rows.column_names:
            try:
                columns.append(cast_column(rows[field.name], field.type))
            except arrow.ArrowInvalid as error:
                raise Fault(str(error), "Correct the column", field.name) from error
        elif field.name == "service_date":
            columns.append(arrow.repeat(arrow.scalar(service_date), len(rows)))
        elif model.to_schema().columns[field.name].metadata["required"]:
            found = ", ".join(rows.column_names)
            raise Fault("the required column is missing", f"Add it to the table, which has {found}", field.name)
        else:
            columns.append(arrow.nulls(len(rows), field.type))
    return arrow.table(columns, schema=schema.arrow_schema(model))


def _check_days(days: arrow.ChunkedArray, service_date: date) -> None:
    others = sorted(set(pc.unique(days.drop_null()).to_pylist()) - {service_date})
    if others:
        remedy = "Keep the rows of each service day in its own partition"
        raise Fault(f"it holds rows of {', '.join(map(str, others))}", remedy, "service_date")


def _check_nulls(rows: arrow.Table, model: type[schema.Table]) -> None:
    for name, column in model.to_schema().columns.items():
        missing = rows[name].null_count
        if missing and not column.nullable:
            first = pc.index(rows[name].is_null(), True).as_py()
            raise Fault(f"{missing} of {len(rows)} values are missing, first at row {first}", "Fill them in", name)


def _broken_rule(error: SchemaError) -> Fault:
    """The first rule of a model that values break: how many, where, and what the rule allows."""
    rule: Any = error.check
    values, rows = error.failure_cases["failure_case"], error.failure_cases["index"]
    shown = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in values.unique()[:3])
    problem = f"{shown} in {len(rows)} row{'s'[: len(rows) > 1]}, first at row {rows.iloc[0]}"
    if rule.name == "isin":
        allowed = ", ".join(map(str, rule.statistics["allowed_values"]))
        return Fault(f"unknown value {problem}", f"It may be {allowed}", error.schema.name)
    bound = next(iter(rule.statistics.values()))
    return Fault(f"value {problem}", f"It must be {rule.name.replace('_', ' ')} {bound}", error.schema.name)
