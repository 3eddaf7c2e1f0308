"""What every store of daily tables promises, and what it stores: rows of one type and order, with a version."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc

from mbta_assets.transit import schema

Frame: TypeAlias = pd.DataFrame | arrow.Table


class MissingPartition(Exception):
    """A service day of a table that was never stored; the message says how to make it."""


@dataclass(frozen=True)
class Written:
    """A stored service day: its content version, and what there is to say of it."""

    version: str
    metadata: dict[str, Any] = field(default_factory=dict)


class DailyTables(Protocol):
    """Tables of which each row belongs to a service day."""

    def days(self, table: str) -> list[date]:
        """The stored service days of a table, in order; a stored day may have no rows."""

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Rows of some service days, one day after the other; all columns or some. Raises MissingPartition."""

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """What changes when the rows of a stored service day do, for some days. Raises MissingPartition."""


class TableStore(DailyTables, Protocol):
    """Tables that are written here, each service day of which is replaced whole or not at all."""

    def begin(self) -> None:
        """Make sure, before anything is made, that tables can be stored here. Raises an error that says what to do."""

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> Written:
        """Replace a service day of a table, for a run.

        Raises ValueError where a row is of another service day; what was stored then stays.
        """

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """How many rows each of the latest stored service days before a day has."""


def to_arrow(table: str, frame: Frame) -> arrow.Table:
    """A frame with the columns, types and row order of the table's model; a table without a model keeps its own.

    What is not a number is missing. Raises ValueError naming the columns that do not fit.
    """
    if table not in schema.TABLES:
        return frame if isinstance(frame, arrow.Table) else arrow.Table.from_pandas(frame, preserve_index=False)
    model = schema.TABLES[table]
    wanted = schema.arrow_schema(model)
    found = frame.column_names if isinstance(frame, arrow.Table) else list(frame.columns)
    if set(found) != set(wanted.names):
        lacking, unknown = sorted(set(wanted.names) - set(found)), sorted(set(found) - set(wanted.names))
        raise ValueError(f"{table}: columns lacking: {lacking}; columns not in its model: {unknown}.")
    try:
        if isinstance(frame, arrow.Table):
            rows = _nan_is_missing(frame.select(wanted.names).cast(wanted))
        else:
            rows = arrow.Table.from_pandas(frame, wanted, preserve_index=False)
    except arrow.ArrowException as error:
        raise ValueError(f"{table}: a column is not of the type in its model: {' '.join(error.args)}.") from error
    return ordered(rows, schema.row_order(model))


def ordered(rows: arrow.Table, names: Sequence[str]) -> arrow.Table:
    """Rows ordered by columns, ascending, missing values first."""
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending", "at_start") for name in names])
    in_order = np.array_equal(order.to_numpy(), np.arange(len(rows)))
    return rows if in_order else rows.take(order)


def must_be_of(table: str, day: date, rows: arrow.Table) -> None:
    """Raise ValueError where rows say that they are of another service day."""
    if "service_date" in rows.column_names:
        others = set(pc.unique(rows["service_date"]).to_pylist()) - {day}
        if others:
            raise ValueError(f"{table}: rows of service day {day} hold service_date {sorted(map(str, others))}.")


def missing_partition(table: str, day: date, where: str, days: Sequence[date]) -> MissingPartition:
    """The error that a service day is not stored, naming the nearest that are."""
    before = [stored for stored in days if stored < day][-1:]
    nearest = before + [stored for stored in days if stored > day][:1]
    held = f"The nearest stored are {' and '.join(map(str, nearest))}." if days else "No day of it is stored."
    return MissingPartition(
        f"{table} of service day {day} is not in {where}. {held} Make it with: "
        f"dagster asset materialize --select {table} --partition {day}"
    )


def content_version(rows: arrow.Table) -> str:
    """SHA-256 over names, types and values in row order, whatever the chunks and encoding they are kept in."""
    digest = hashlib.sha256()
    for field_, column in zip(rows.schema, rows.columns, strict=True):
        digest.update(f"{field_.name}:{field_.type}:{len(column)};".encode())
        values = column.combine_chunks()
        digest.update(np.packbits(values.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if arrow.types.is_string(field_.type):
            text = pc.fill_null(values, "")
            digest.update(pc.binary_length(text).to_numpy().tobytes())
            joined = pc.binary_join(arrow.ListArray.from_arrays([0, len(text)], text), "")
            digest.update(joined[0].as_buffer())
        elif arrow.types.is_primitive(field_.type):
            if arrow.types.is_temporal(field_.type):
                values = values.view(f"int{field_.type.bit_width}")
            filled = pc.fill_null(values, arrow.scalar(0).cast(values.type))  # what lies below a null is undefined
            digest.update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes())
        else:
            digest.update(repr(values.to_pylist()).encode())  # in tables without a model only
    return digest.hexdigest()


def _nan_is_missing(rows: arrow.Table) -> arrow.Table:
    """The same with nulls for NaN, as pandas has it: a warehouse would tell the two apart."""
    for index, column in enumerate(rows.schema):
        if arrow.types.is_floating(column.type):
            values = rows[column.name]
            rows = rows.set_column(index, column, pc.if_else(pc.is_nan(values), None, values).cast(column.type))
    return rows
