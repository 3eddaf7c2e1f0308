"""The protocol that every source implements, and the validation of what a source reads against the upstream schema.

Reading files, feeds or databases belongs to the sources themselves, storing what was read to `storage`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pandera.errors import SchemaError

from mbta_assets.settings import Settings
from mbta_assets.transit import schema


class SourceRows(NamedTuple):
    """What a source has of a table and service day: rows that can be used, and rows that cannot, with the reason."""

    rows: pd.DataFrame
    """Typed as `schema.UPSTREAM[table]`."""
    rejected: pd.DataFrame
    """Typed as `schema.RejectedRows`, without `rejected_by`, which whoever stores it adds."""


class TablesInPlace(Protocol):
    """Upstream tables that are queried where others store them."""

    def days(self, table: str) -> list[date]:
        """Return the service days of which a table has rows, in order. Raises SourceError."""

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return a version of each of some service days, which changes with its rows. Raises SourceError."""

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Read the rows of some service days, one day after the other; all columns or some. Raises SourceError."""

    def relation(self, table: str, day: date) -> str:
        """Return a SQL subquery with the contract's columns for a service day. Raises SourceError."""


class Source(Protocol):
    """Provider of the upstream tables, one table of one service day at a time."""

    name: ClassVar[str]
    """Value of MBTA_SOURCE that selects the source."""
    reads_in_place: ClassVar[bool] = False
    """True if consumers read the tables where others store them; else the upstream assets copy them with `read`."""
    tables_in_place: TablesInPlace | None = None
    """The tables of a source that `reads_in_place`; None for all others."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source that the settings describe. Raises SettingsError."""
        ...

    @abstractmethod
    def read(self, table: str, service_date: date) -> pd.DataFrame:
        """Read all rows of a table on a service day, typed as `schema.UPSTREAM[table]`. Raises SourceError."""
        ...

    @abstractmethod
    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day of which a table can be read. Raises SourceError.

        A version differs from the earlier one if `read` may return other rows; versions have no order. A source may
        use the `known_versions` of an earlier call to skip what has not changed. A source whose days never change
        returns none.
        """
        ...

    def oracle(self, rows: pd.DataFrame) -> np.ndarray | None:
        """Return the best possible predictions (n,) in seconds of delay, or None if the source does not know them.

        `rows` has `service_date`, `trip_id`, `stop_id` and `time_stamp` (UTC). The prediction is NaN for a row whose
        trip has no scheduled arrival at the stop.
        """
        return None


class SourceError(Exception):
    """Failure to read a table from a source; the message has source, table, column, service day and remedy."""


class Fault(Exception):
    """Problem with a table and its remedy, raised by code that does not know source, table or service day."""

    def __init__(self, problem: str, remedy: str, column: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.column = problem, remedy, column


@contextmanager
def translate_faults(source: str, table: str, service_date: date | None) -> Iterator[None]:
    """Turn a Fault raised inside into a SourceError with the source, the table and the service day, if there is one."""
    try:
        yield
    except Fault as fault:
        column = f", column {fault.column}" if fault.column else ""
        day = f", service day {service_date}" if service_date else ""
        raise SourceError(
            f"source {source}, table {table}{column}{day}: {fault.problem}. {fault.remedy}."
        ) from fault.__cause__


def conform(table: str, rows: arrow.Table, service_date: date, source: str) -> pd.DataFrame:
    """Convert the rows that a source has of a table and service day to the typed table of the contract.

    Columns that are not in the contract are dropped. Optional columns that are absent become missing values, and an
    absent `service_date` is filled in. Types are converted within their family only: numbers are not parsed from
    text, and a time without a time zone is an error.

    Raises SourceError with the column and the first row, counted from 0 within `rows`.
    """
    model = schema.UPSTREAM[table]
    with translate_faults(source, table, service_date):
        typed = _cast_rows(rows, model, service_date)
        _validate_service_dates(typed["service_date"], service_date)
        _validate_required_values(typed, model)
        frame = schema.to_frame(typed)
        try:
            return model.validate(frame)
        except SchemaError as error:
            raise _fault_from_schema_error(error) from None


def absent_day_fault(days: Iterable[object], problem: str, remedy: str) -> Fault:
    """Return the fault of a service day that a table does not have, with the range of the days it has."""
    stored = sorted(map(str, days))
    held = f"it holds {stored[0]} to {stored[-1]}, {len(stored)} in all" if stored else "it holds no rows at all"
    return Fault(f"{problem}; {held}", remedy)


def cast_column(column: arrow.ChunkedArray, target: arrow.DataType) -> arrow.ChunkedArray:
    """Cast a column to a type of the contract if it is of the same family.

    Raises ArrowInvalid, whose text says what the column holds that it must not.
    """
    actual = column.type
    if arrow.types.is_dictionary(actual):
        return cast_column(column.cast(actual.value_type), target)
    if actual == target or arrow.types.is_null(actual):
        return column.cast(target)
    if arrow.types.is_string(target) and is_text(actual):
        return column.cast(target)
    if arrow.types.is_floating(target) and (_is_number(actual) or arrow.types.is_decimal(actual)):
        return column.cast(target)
    if arrow.types.is_integer(target) and arrow.types.is_floating(actual):
        # pandas stores integers as floats where some are missing: NaN is a missing value.
        return pc.if_else(pc.is_nan(column), None, column).cast(target)
    if arrow.types.is_integer(target) and (_is_number(actual) or arrow.types.is_boolean(actual)):
        return column.cast(target)
    if arrow.types.is_timestamp(target) and arrow.types.is_timestamp(actual):
        if actual.tz is None:
            raise arrow.ArrowInvalid("its times have no time zone")
        return column.cast(target, safe=False)  # truncates times that are finer than a microsecond
    if arrow.types.is_date(target):
        return _cast_dates(column)
    raise arrow.ArrowInvalid(f"its type is {actual}, and must be {target}")


def is_text(dtype: arrow.DataType) -> bool:
    """Return whether a type is one of Arrow's types for text."""
    return arrow.types.is_string(dtype) or arrow.types.is_large_string(dtype) or arrow.types.is_string_view(dtype)


def _is_number(dtype: arrow.DataType) -> bool:
    return arrow.types.is_integer(dtype) or arrow.types.is_floating(dtype)


def _cast_dates(column: arrow.ChunkedArray) -> arrow.ChunkedArray:
    """Cast dates, ISO text or midnights to dates. Raises ArrowInvalid for other types and for times of day."""
    actual = column.type
    if arrow.types.is_date(actual) or is_text(actual):
        return column.cast(arrow.date32())
    if arrow.types.is_timestamp(actual):
        wall_clock = column if actual.tz is None else pc.local_timestamp(column)
        dates = wall_clock.cast(arrow.date32())
        if pc.all(pc.equal(dates.cast(wall_clock.type), wall_clock)).as_py() is False:
            raise arrow.ArrowInvalid("it holds times other than midnight, and must hold days")
        return dates
    raise arrow.ArrowInvalid(f"its type is {actual}, and must be a date, or text written YYYY-MM-DD")


def _cast_rows(rows: arrow.Table, model: type[schema.Table], service_date: date) -> arrow.Table:
    """Return the columns of the contract, in its order and with its types. Raises Fault."""
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
            present = ", ".join(rows.column_names)
            raise Fault("the required column is missing", f"Add it to the table, which has {present}", field.name)
        else:
            columns.append(arrow.nulls(len(rows), field.type))
    return arrow.table(columns, schema=schema.arrow_schema(model))


def _validate_service_dates(service_dates: arrow.ChunkedArray, service_date: date) -> None:
    others = sorted(set(pc.unique(service_dates.drop_null()).to_pylist()) - {service_date})
    if others:
        remedy = "Keep the rows of each service day in its own partition"
        raise Fault(f"it holds rows of {', '.join(map(str, others))}", remedy, "service_date")


def _validate_required_values(rows: arrow.Table, model: type[schema.Table]) -> None:
    for name, column in model.to_schema().columns.items():
        missing = rows[name].null_count
        if missing and not column.nullable:
            first = pc.index(rows[name].is_null(), True).as_py()
            raise Fault(f"{missing} of {len(rows)} values are missing, first at row {first}", "Fill them in", name)


def _fault_from_schema_error(error: SchemaError) -> Fault:
    """Return the fault of the first violated rule: how many rows, the first one, and what the rule allows."""
    rule: Any = error.check
    values, rows = error.failure_cases["failure_case"], error.failure_cases["index"]
    examples = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in values.unique()[:3])
    noun = "row" if len(rows) == 1 else "rows"
    problem = f"{examples} in {len(rows)} {noun}, first at row {rows.iloc[0]}"
    if rule.name == "isin":
        allowed = ", ".join(map(str, rule.statistics["allowed_values"]))
        return Fault(f"unknown value {problem}", f"It may be {allowed}", error.schema.name)
    bound = next(iter(rule.statistics.values()))
    return Fault(f"value {problem}", f"It must be {rule.name.replace('_', ' ')} {bound}", error.schema.name)
