"""Metadata that the Dagster UI renders: column schemas, tables and plots.

Everything here turns values into metadata. What the values mean is decided by the assets.
"""

import base64
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import dagster as dg

from mbta_assets.plots.style import draw_png
from mbta_assets.transit import schema
from mbta_assets.transit.table import describe_column

CODE_REFERENCES = "dagster/code_references"
Cell: TypeAlias = bool | int | float | str | None
_TYPE_NAMES = {bool: "bool", int: "int", float: "float", str: "string"}


def daily_table_metadata(table: str) -> dict[str, Any]:
    """Return the definition metadata of a daily table: its partition column and its column schema."""
    return {"partition_expr": "service_date", "dagster/column_schema": column_schema(table)}


def code_reference(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the definition metadata that links an asset to the source of a function or class.

    `dagster.with_source_code_references` does so for functions that are not wrapped.
    """
    path, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    reference = dg.LocalFileCodeReference(file_path=str(path), line_number=line)
    return {CODE_REFERENCES: dg.CodeReferencesMetadataValue(code_references=[reference])}


def column_schema(table: str) -> dg.TableSchema:
    """Return Dagster's column schema of a table, made from its pandera model."""
    columns = schema.TABLES[table].to_schema().columns
    types = schema.arrow_schema(schema.TABLES[table])
    return dg.TableSchema(
        [
            dg.TableColumn(
                name,
                str(types.field(name).type),
                describe_column(spec),
                dg.TableColumnConstraints(nullable=spec.nullable),
            )
            for name, spec in columns.items()
        ]
    )


def table_metadata(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return rows, which have the same keys, as a table that the UI shows in place.

    Numbers stay numbers, with four significant digits or all before the point. A number that is not finite becomes an
    empty cell, because JSON cannot hold it.
    """
    records = [{name: _to_cell(value) for name, value in row.items()} for row in rows]
    names = list(records[0]) if records else []
    columns = [dg.TableColumn(name, _column_type(record[name] for record in records)) for name in names]
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records], dg.TableSchema(columns))


def plot_metadata(draw: Callable[..., None], panels: int = 1) -> dg.MarkdownMetadataValue:
    """Return the plot that `draw(axes, ...)` draws on so many axes as a small PNG image, which opens large."""
    picture = base64.b64encode(draw_png(draw, panels)).decode()
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{picture})")


def _to_cell(value: Any) -> Cell:
    """Convert a value to one that a table of the UI may hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _round(float(value)) if math.isfinite(value) else None
    return str(value)


def _round(value: float) -> float:
    """Round a number to four significant digits; a large one to a whole number."""
    return float(round(value)) if abs(value) >= 1000 else float(f"{value:.4g}")


def _column_type(cells: Iterable[Cell]) -> str:
    """Return the name of the type that all cells share, empty ones aside; `string` where they share none."""
    types = {type(cell) for cell in cells if cell is not None}
    if types == {int, float}:
        return "float"
    return _TYPE_NAMES[types.pop()] if len(types) == 1 else "string"
