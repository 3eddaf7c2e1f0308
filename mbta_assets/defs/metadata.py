"""How assets look in the Dagster UI: column schemas, tables and pictures as metadata."""

import base64
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from mbta_assets.transit import schema

OWNERS = ["team:transit-data"]


def daily(table: str) -> dict[str, Any]:
    """The definition metadata of a daily table: its partition column and its columns."""
    return {"partition_expr": "service_date", "dagster/column_schema": column_schema(table)}


def column_schema(table: str) -> dg.TableSchema:
    """Dagster's column schema of a table, from its one definition."""
    columns = schema.TABLES[table].to_schema().columns
    types = schema.arrow_schema(schema.TABLES[table])
    return dg.TableSchema(
        [
            dg.TableColumn(
                name,
                str(types.field(name).type),
                schema.meaning(spec),
                dg.TableColumnConstraints(nullable=spec.nullable),
            )
            for name, spec in columns.items()
        ]
    )


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Rows with the same keys as a table."""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(_cell(value) for value in row.values()) for row in rows]
    return dg.MetadataValue.md("\n".join(f"| {line} |" for line in lines))


def picture(draw: Callable[[Any], None]) -> dg.MarkdownMetadataValue:
    """A picture that `draw(axes)` makes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")


def draw_sizes(axes: Any, points: Mapping[str, tuple[int, float]], marked: Collection[str], error: str) -> None:
    """Error against size in bytes, by label; the marked ones are diamonds. `error` says what the error is."""
    for label, point in points.items():
        axes.plot(*point, "D" if label in marked else "o", label=label)
    axes.set(xlabel="bytes", ylabel=error, title="Error against size", xscale="log")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
