"""The protocols of stores of daily tables, and what they share: column types, row order and the content version.

The stores are `storage.parquet_tables` and `storage.bigquery_tables`; the models of the tables are in `transit.schema`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc

from mbta_assets.storage.materialize import materialize_command
from mbta_assets.storage.sorting import sort_rows
from mbta_assets.transit import schema
from mbta_assets.transit.table import row_order

Frame: TypeAlias = pd.DataFrame | arrow.Table


PART_COLUMN = "rejected_by"
"""Column of `rejected_rows` by which its service days are written in parts, one for each asset that rejects rows."""


class MissingPartition(Exception):
    """A service day of a table is not stored; the message says how to materialize it."""


@dataclass(frozen=True)
class WriteResult:
    """The result of writing a service day of a table."""

    version: str
    """Content version of its rows: the same rows have the same version."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the asset's page shows of the write, such as the path and `size_bytes`."""


class DailyTables(Protocol):
    """Tables partitioned by service date, to read.

    `table` is a name of `schema.TABLES`, whose model has the columns and types; times are UTC, a missing value is null.
    """

    def days(self, table: str) -> list[date]:
        """Return the service days of a table in order; a stored day may have no rows."""

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Return the rows of service days, in the order of `days`; None means all columns. Raises MissingPartition."""

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return, by service day, a version that changes with the day's rows. Raises MissingPartition."""


class TableStore(DailyTables, Protocol):
    """Tables partitioned by service date, to read and write; a partition is replaced whole or not at all."""

    def prepare(self) -> None:
        """Check, before anything is computed, that tables can be stored. Raises an error that says what to do."""

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> WriteResult:
        """Publish a service day of a table: readers see the earlier version or this one, and nothing in between.

        Raises ValueError where a row is of another service day; the published partition stays as it was.
        """

    def write_part(self, table: str, day: date, part: str, rows: arrow.Table) -> None:
        """Replace the rows of a part of a service day, which have it in `PART_COLUMN`; there may be none."""

    def refuse(self, table: str, day: date, rows: arrow.Table | None, reasons: Sequence[str]) -> str:
        """Keep a service day that is not published for inspection, and return its location apart from the tables.

        Its rows are None if it could not be made.
        """

    def refused_days(self, table: str) -> list[date]:
        """Return the service days that were refused and have not been published since, in order."""

    def row_counts(self, table: str, before: date, days: int, column: str | None = None) -> dict[date, int]:
        """Return the number of rows of each of the latest `days` published service days before a day.

        With `column`, only rows that have a value in it are counted.
        """


def to_arrow(table: str, frame: Frame) -> arrow.Table:
    """Convert a frame to the columns, types and row order of the table's model; without a model it keeps its own.

    NaN becomes null. Raises ValueError naming the columns that do not fit the model.
    """
    if table not in schema.TABLES:
        return frame if isinstance(frame, arrow.Table) else arrow.Table.from_pandas(frame, preserve_index=False)
    model = schema.TABLES[table]
    expected = schema.arrow_schema(model)
    names = frame.column_names if isinstance(frame, arrow.Table) else list(frame.columns)
    missing, unknown = sorted(set(expected.names) - set(names)), sorted(set(names) - set(expected.names))
    if missing or unknown:
        raise ValueError(f"{table}: missing columns: {missing}; columns not in its model: {unknown}.")
    try:
        if isinstance(frame, arrow.Table):
            rows = _nan_to_null(frame.select(expected.names).cast(expected))
        else:
            rows = arrow.Table.from_pandas(frame, expected, preserve_index=False)
    except arrow.ArrowException as error:
        raise ValueError(f"{table}: a column is not of the type in its model: {' '.join(error.args)}.") from error
    return sort_rows(rows, row_order(model))


def validate_service_date(table: str, day: date, rows: arrow.Table) -> None:
    """Raise ValueError where `service_date` of a row is another service day."""
    if "service_date" in rows.column_names:
        others = set(pc.unique(rows["service_date"]).to_pylist()) - {day}
        if others:
            raise ValueError(f"{table}: rows of service day {day} hold service_date {sorted(map(str, others))}.")


def missing_partition(table: str, day: date, location: str, days: Sequence[date]) -> MissingPartition:
    """Return the error that a service day is not stored; its message names the nearest of the stored `days`."""
    before = [stored for stored in days if stored < day][-1:]
    nearest = before + [stored for stored in days if stored > day][:1]
    hint = f"The nearest stored are {' and '.join(map(str, nearest))}." if days else "No day of it is stored."
    return MissingPartition(
        f"{table} of service day {day} is not in {location}. {hint} Make it with: "
        f"{materialize_command(table, str(day))}"
    )


def content_version(rows: arrow.Table) -> str:
    """Return the SHA-256 of column names, types and values in row order, independent of chunks and encoding."""
    digest = hashlib.sha256()
    for column_field, column in zip(rows.schema, rows.columns, strict=True):
        digest.update(f"{column_field.name}:{column_field.type}:{len(column)};".encode())
        values = column.combine_chunks()
        is_null = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else np.zeros(len(values), bool)
        digest.update(np.packbits(is_null).data)
        if arrow.types.is_string(column_field.type):
            text = pc.fill_null(values, "") if values.null_count else values
            digest.update(pc.binary_length(text).to_numpy().data)
            digest.update(_join_texts(text))
        elif arrow.types.is_primitive(column_field.type):
            if arrow.types.is_temporal(column_field.type):
                values = values.view(f"int{column_field.type.bit_width}")
            if values.null_count:  # the bytes below a null are undefined
                values = pc.fill_null(values, arrow.scalar(0).cast(values.type))
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data)
        else:
            digest.update(repr(values.to_pylist()).encode())  # only in tables without a model
    return digest.hexdigest()


def _join_texts(texts: arrow.StringArray) -> memoryview:
    """Return the bytes of all texts of an array without missing values, which lie one after the other."""
    _, offsets, content = texts.buffers()
    if not len(texts) or content is None:
        return memoryview(b"")
    first, last = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]]
    return memoryview(content)[first:last]


def _nan_to_null(rows: arrow.Table) -> arrow.Table:
    """Replace NaN by null, which pandas does not distinguish and BigQuery does."""
    for index, column in enumerate(rows.schema):
        if arrow.types.is_floating(column.type):
            values = rows[column.name]
            is_nan = pc.is_nan(values)
            if pc.any(is_nan).as_py():
                rows = rows.set_column(index, column, pc.if_else(is_nan, None, values).cast(column.type))
    return rows
