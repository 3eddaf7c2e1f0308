"""Columns, types and identifiers of BigQuery, as plain values: this module imports none of Google's libraries."""

from dataclasses import dataclass
from datetime import date

import pyarrow as arrow


@dataclass(frozen=True)
class Column:
    """A column of a BigQuery table; one that is `required` has no missing values."""

    name: str
    type: str
    required: bool = False
    description: str = ""


@dataclass(frozen=True)
class TableInfo:
    """Metadata of a BigQuery table."""

    columns: dict[str, Column]
    partition_column: str | None
    """The column that the table is partitioned by, by day; None for any other partitioning."""
    version: str
    """Changes whenever the table's content does."""


def bigquery_type(arrow_type: arrow.DataType) -> str:
    """Return BigQuery's name of an Arrow type, an empty string for the null type.

    Raises TypeError for a type that BigQuery cannot store.
    """
    if arrow.types.is_dictionary(arrow_type):
        return bigquery_type(arrow_type.value_type)
    for is_type, name in _TYPES:
        if is_type(arrow_type):
            return name
    if arrow.types.is_timestamp(arrow_type):
        return "TIMESTAMP" if arrow_type.tz else "DATETIME"
    raise TypeError(f"{arrow_type} cannot be stored in BigQuery")


def quote(name: str) -> str:
    """Quote an identifier for SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def format_literal(value: str | int | date) -> str:
    """Format a value as a SQL literal, for scripts, which take no query parameters."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"DATE '{value}'" if isinstance(value, date) else str(value)


def format_column(column: Column) -> str:
    """Format the definition of a nullable column for ALTER TABLE."""
    options = f" OPTIONS (description={format_literal(column.description)})" if column.description else ""
    return f"{quote(column.name)} {column.type}{options}"


_TYPES = [
    (arrow.types.is_string, "STRING"),
    (arrow.types.is_large_string, "STRING"),
    (arrow.types.is_null, ""),
    (arrow.types.is_boolean, "BOOL"),
    (arrow.types.is_integer, "INT64"),
    (arrow.types.is_floating, "FLOAT64"),
    (arrow.types.is_date, "DATE"),
    (arrow.types.is_binary, "BYTES"),
]
