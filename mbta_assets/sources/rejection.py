"""Rows that are rejected: the first reason of each, and the row as the source has it.

Which rows those are is decided by `conform`.
"""

import json
from collections.abc import Sequence
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.sources.contract import REJECTED_ROWS, Fault
from mbta_assets.transit import schema

Reason = Literal[
    "other_service_day",
    "unreadable_row",
    "unreadable_value",
    "missing_value",
    "unknown_value",
    "value_out_of_range",
    "time_out_of_range",
]

REMEDIES: dict[str, str] = {
    "other_service_day": "Keep the rows of each service day in its own partition",
    "unreadable_row": "Quote values that have the separator in them",
    "unreadable_value": "Write numbers plainly, days as YYYY-MM-DD, times as 2023-10-03T08:10:36-04:00",
    "missing_value": "Fill them in",
    "unknown_value": "It may be {rule}",
    "value_out_of_range": "It must be {rule}",
    "time_out_of_range": "Write times in UTC or with their offset, those of feeds in seconds since 1970, and rows of "
    "each day with its own `service_date`",
}


class Cause(NamedTuple):
    """Reason for which rows are rejected, the column that is the reason, and what its rule allows if it has one."""

    reason: Reason
    column: str
    rule: str = ""


class Rejections:
    """Rejected rows of a table with n rows; the first cause of each counts."""

    def __init__(self, n: int) -> None:
        self._causes: list[Cause] = []
        self._cause_of_row = np.full(n, -1)

    @property
    def usable(self) -> np.ndarray:
        """Mask of the rows (n,) that are not rejected."""
        return self._cause_of_row < 0

    def add(self, rows: np.ndarray, cause: Cause) -> None:
        """Reject the rows of a mask (n,) that have not been rejected yet."""
        self._cause_of_row[rows & self.usable] = len(self._causes)
        self._causes.append(cause)

    def require_usable_rows(self, parts: Sequence[arrow.Table]) -> None:
        """Raise a Fault with the most common cause if there are rows and all of them are rejected."""
        n = len(self._cause_of_row)
        if not n or self.usable.any():
            return
        counts = np.bincount(self._cause_of_row)
        reason, column, rule = self._causes[counts.argmax()]
        first = int(np.argmax(self._cause_of_row == counts.argmax()))
        row = take_rows(parts, np.array([first]))[0]
        value = f"{row[column]!r} in row {first}" if column in row else f"row {first}"
        problem = f"none of the {n} rows can be used; {counts.max()} have the reason {reason}, first {value}"
        raise Fault(problem, REMEDIES[reason].format(rule=rule), column)

    def describe(self, table: str, service_date: date, parts: Sequence[arrow.Table]) -> pd.DataFrame:
        """Return the rejected rows, in order, typed as `contract.REJECTED_ROWS`."""
        return describe_rows(table, service_date, self.list_records(parts))

    def list_records(self, parts: Sequence[arrow.Table]) -> list[tuple[str, str | None, str]]:
        """Return the reason, column and JSON of each rejected row, in order."""
        rows = np.flatnonzero(~self.usable)
        causes = [self._causes[cause] for cause in self._cause_of_row[rows]]
        return [
            (cause.reason, cause.column, _format_row(row))
            for cause, row in zip(causes, take_rows(parts, rows), strict=True)
        ]


def describe_rows(table: str, service_date: date, records: Sequence[tuple[str, str | None, str]]) -> pd.DataFrame:
    """Return rejected rows, typed as `contract.REJECTED_ROWS`, from the reason, column and JSON of each."""
    n = len(records)
    reasons, columns, rows = zip(*records, strict=True) if records else ((), (), ())
    values = [[service_date] * n, [table] * n, list(reasons), list(columns), list(rows)]
    return schema.to_frame(arrow.table(values, schema=REJECTED_ROWS))


def take_rows(parts: Sequence[arrow.Table], rows: np.ndarray) -> list[dict[str, Any]]:
    """Return rows, counted through all parts, each as the part that it is in has it."""
    taken: list[dict[str, Any]] = []
    begin = 0
    for part in parts:
        end = begin + len(part)
        of_part = rows[(begin <= rows) & (rows < end)] - begin
        if len(of_part):
            columns = {name: _to_values(part[name].take(arrow.array(of_part))) for name in part.column_names}
            taken += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        begin = end
    return taken


def _to_values(column: arrow.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # times and days after the year 9999, which Python does not have
        values = column.cast(arrow.int64() if column.type.bit_width == 64 else arrow.int32()).to_pylist()
    return values


def _format_row(row: dict[str, Any]) -> str:
    """Format a row as JSON, which has neither NaN nor infinite numbers."""
    values = {name: None if value != value else value for name, value in row.items()}
    try:
        return json.dumps(values, default=_format_value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        values = {name: str(value) if isinstance(value, float) else value for name, value in values.items()}
        return json.dumps(values, default=_format_value, ensure_ascii=False)


def _format_value(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
