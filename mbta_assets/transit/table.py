"""Declare table models: the types of their columns, columns with meaning and unit, and the order of stored rows.

The tables themselves are in `schema`.
"""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from pandera.typing import Series

Text = Annotated[pd.StringDtype, "pyarrow", pd.NA]
Timestamp = Annotated[pd.DatetimeTZDtype, "us", "UTC"]
Date = Annotated[pd.ArrowDtype, arrow.date32()]
Integer = pd.Int64Dtype
Float32 = np.float32

Role = Literal["", "category", "numeric", "lookup", "label"]
FeatureGroup = Literal["", "calendar", "time_of_day", "network"]


def column(
    description: str,
    unit: str | None = None,
    *,
    role: Role = "",
    group: FeatureGroup = "",
    required: bool = True,
    **rules: Any,
) -> Any:
    """Declare a column with its meaning, its unit and the pandera rules for its values.

    `rules` are arguments of `pandera.Field`: bounds (`ge`, `le`), values (`isin`), and `nullable` where a value may be
    missing. `role` is "numeric" or "category" for a model input, "lookup" for what the run-time lookup reads besides,
    "label" for the target, and empty for other columns.
    `group` is the feature group of a model input, if it has one; see `feature_group`. A source must deliver a column
    that is `required`.
    """
    metadata = {"unit": unit, "role": role, "group": group, "required": required}
    return pa.Field(description=description, metadata=metadata, **rules)


def optional(description: str, unit: str | None = None, **rules: Any) -> Any:
    """Declare a column that a source may leave out and whose values may be missing; arguments as of `column`."""
    return column(description, unit, required=False, nullable=True, **rules)


def seconds_feature(description: str, **rules: Any) -> Any:
    """Declare a numeric model input in seconds whose values may be missing; `rules` as of `column`."""
    return column(description, "seconds", role="numeric", nullable=True, **rules)


class Table(pa.DataFrameModel):
    """Base of all table models: a pandera model whose attributes are the columns, in their order.

    Each is declared by `column`, `optional` or `seconds_feature`. A column that is not declared is an error. The model
    of a stored table has `Config = ordered_by(…)`.
    """

    service_date: Series[Date] = column("Service date; a service day begins at MBTA_SERVICE_DAY_START_HOUR.")

    class Config:
        strict = True


def ordered_by(*names: str) -> Any:
    """Make the `Config` of a model whose stored rows are sorted by these columns first; see `row_order`."""

    class Config(Table.Config):
        metadata = {"order": names}

    return Config


FRAME_TYPES = {
    arrow.string(): pd.StringDtype("pyarrow"),
    arrow.date32(): pd.ArrowDtype(arrow.date32()),
    arrow.int64(): pd.Int64Dtype(),
}
"""Types of a frame's columns by Arrow type, where pandas would choose another."""


def to_arrow_type(dtype: Any) -> arrow.DataType:
    """Return the Arrow type of a column's type."""
    if isinstance(dtype, pd.StringDtype):
        return arrow.string()
    if isinstance(dtype, pd.DatetimeTZDtype):
        return arrow.timestamp("us", tz="UTC")
    if isinstance(dtype, pd.ArrowDtype):
        return dtype.pyarrow_dtype
    if isinstance(dtype, pd.Int64Dtype):
        return arrow.int64()
    return arrow.from_numpy_dtype(dtype)


def describe_column(column: Any) -> str:
    """Return the meaning of a model's column with its unit."""
    unit = column.metadata["unit"]
    return f"{column.description} [{unit}]" if unit else column.description


def row_order(table: type[Table]) -> list[str]:
    """Return the columns that stored rows are sorted by, ascending with missing values first.

    The columns of the model's `ordered_by` come first, then all others. A warehouse keeps no order; since values alone
    decide this one, rows read back from it are in the order in which they were written.
    """
    config: Any = table.Config
    first = config.metadata["order"]
    return [*first, *(name for name in table.to_schema().columns if name not in (*first, "service_date"))]
