"""Columns of daily tables in BigQuery: derived from a table's model or rows, and matched with an existing table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as arrow

from mbta_assets.gcp.bigquery_types import Column, bigquery_type
from mbta_assets.transit import schema
from mbta_assets.transit.table import describe_column

_ARROW_TYPES = {
    "STRING": arrow.string(),
    "BOOL": arrow.bool_(),
    "INT64": arrow.int64(),
    "FLOAT64": arrow.float64(),
    "DATE": arrow.date32(),
    "BYTES": arrow.binary(),
    "TIMESTAMP": arrow.timestamp("us", "UTC"),
    "DATETIME": arrow.timestamp("us"),
}
_MODES = {True: "must have values", False: "may be missing"}


def derive_columns(table: str, rows: arrow.Schema) -> list[Column]:
    """Return the columns of a table in BigQuery: those of its model, or of its rows if it has no model.

    Raises ValueError naming a column that BigQuery cannot store.
    """
    if table in schema.TABLES:
        types = schema.arrow_schema(schema.TABLES[table])
        return [
            Column(name, bigquery_type(types.field(name).type), not spec.nullable, describe_column(spec))
            for name, spec in schema.TABLES[table].to_schema().columns.items()
        ]
    if "service_date" not in rows.names:
        raise ValueError(f"{table}: there is no column service_date, by which BigQuery partitions it.")
    _validate_distinct(table, rows.names)
    columns = []
    for field in rows:
        try:
            columns.append(Column(field.name, bigquery_type(field.type)))
        except TypeError as error:
            raise ValueError(f"{table}: column {field.name}: {error}") from None
    return columns


def merge_columns(table: str, existing: Mapping[str, Column], columns: Sequence[Column]) -> list[Column]:
    """Return the columns to write with the types of an existing table; nullable columns may be new to it.

    `existing` is empty for a table to be created. Raises ValueError naming each column that does not fit.
    """
    unmatched = {name.lower(): column for name, column in existing.items()}  # BigQuery ignores case
    merged, problems = [], []
    for column in columns:
        stored = unmatched.pop(column.name.lower(), None)
        if stored is not None:
            problems += _find_mismatch(column, stored)
            merged.append(replace(stored, description=column.description))
            continue
        if column.required and existing:
            problems.append(f"column {column.name} is new and must have values, which stored rows do not have")
        merged.append(replace(column, type=column.type or "STRING"))
    problems += [f"column {column.name} is there, and not in what is written" for column in unmatched.values()]
    if problems:
        raise ValueError(
            f"{table}: {'; '.join(problems)}. A table gains new columns that may be missing by itself; for anything "
            "else write to another dataset, or change the table by hand."
        )
    return merged


def to_loadable(rows: arrow.Table, columns: Sequence[Column]) -> arrow.Table:
    """Convert rows to the columns of a table and to types that BigQuery reads from Parquet."""
    return arrow.table({column.name: _to_loadable_values(rows[column.name], column) for column in columns})


def _validate_distinct(table: str, names: Sequence[str]) -> None:
    """Raise ValueError where names differ only by case."""
    by_lower: dict[str, str] = {}
    for name in names:
        other = by_lower.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{table}: columns {other} and {name} are one to BigQuery, which ignores case.")


def _find_mismatch(column: Column, stored: Column) -> list[str]:
    """Return why a column does not fit the stored one of the same name, as a list of at most one reason."""
    if stored.name != column.name:
        return [f"column {column.name} is called {stored.name} there"]
    if column.type and stored.type != column.type:
        return [f"column {column.name} is {column.type}, and {stored.type} there"]
    if stored.required != column.required and column.description:  # only columns of a model have a description
        return [f"column {column.name} {_MODES[column.required]}, and {_MODES[stored.required]} there"]
    return []


def _to_loadable_values(values: arrow.ChunkedArray, column: Column) -> arrow.ChunkedArray:
    """Convert the values of one column to a type that BigQuery reads from Parquet."""
    if arrow.types.is_null(values.type):
        return values.cast(_ARROW_TYPES[column.type])
    if arrow.types.is_dictionary(values.type):
        return values.cast(values.type.value_type)
    if arrow.types.is_timestamp(values.type) and values.type.unit == "ns":
        return values.cast(arrow.timestamp("us", values.type.tz), safe=False)
    return values
