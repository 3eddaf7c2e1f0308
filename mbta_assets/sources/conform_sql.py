"""The rules of `conform` as SQL in BigQuery's dialect, for tables that are joined where others load them.

A test compares the rows of both. Types are converted by `bigquery`, which knows the columns of the upstream tables.
"""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from mbta_assets.gcp.bigquery_types import format_literal, quote
from mbta_assets.sources.columns import CODE_COLUMNS, DECIMAL, ID_COLUMNS, MISSING_WORDS, WHOLE_DECIMAL
from mbta_assets.sources.conform import TIME_RANGES
from mbta_assets.transit import schema
from mbta_assets.transit.plausibility import MAX_LATITUDE, MAX_LONGITUDE, NULL_ISLAND_DEGREES
from mbta_assets.transit.service_day import start_time

_RULES: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "isin": lambda value, limits: f"{value} IN ({', '.join(map(format_literal, limits['allowed_values']))})",
    "greater_than_or_equal_to": lambda value, limits: f"{value} >= {limits['min_value']}",
    "less_than_or_equal_to": lambda value, limits: f"{value} <= {limits['max_value']}",
}
_MISSING = ", ".join(map(format_literal, MISSING_WORDS))
_POSITION = (
    f"ABS(latitude) <= {MAX_LATITUDE} AND ABS(longitude) <= {MAX_LONGITUDE}"
    f" AND (ABS(latitude) >= {NULL_ISLAND_DEGREES} OR ABS(longitude) >= {NULL_ISLAND_DEGREES})"
)


def select_usable_rows(table: str, day: date, rows: str) -> str:
    """Return a subquery of the rows that `conform` does not reject, with the values that it gives them.

    `rows` is a subquery, in parentheses, that has the columns of the contract with their types.
    """
    specs = schema.UPSTREAM[table].to_schema().columns
    times = [name for name in TIME_RANGES if name in specs]
    trimmed = ", ".join(f"{_trim(name) if name in CODE_COLUMNS else quote(name)} AS {quote(name)}" for name in specs)
    ids = ", ".join(f"{_restore_id(name) if name in ID_COLUMNS else quote(name)} AS {quote(name)}" for name in specs)
    values = ", ".join(f"{_make_value(name, spec, day)} AS {quote(name)}" for name, spec in specs.items())
    conditions = [f"{quote(name)} IS NOT NULL" for name, spec in specs.items() if not spec.nullable]
    conditions += [rule for name, spec in specs.items() if not spec.nullable for rule in _list_rules(name, spec)]
    if times:
        had_none = " AND ".join(f"{quote(name)} IS NULL" for name in times)
        conditions.append(f"({' OR '.join(_is_in_range(name, day) for name in times)} OR ({had_none}))")
    rows = f"(SELECT {ids} FROM (SELECT {trimmed} FROM {rows}))"
    return f"(SELECT {values} FROM {rows} WHERE {' AND '.join(conditions)})"


def _trim(name: str) -> str:
    value = f"TRIM({quote(name)})"
    return f"IF({value} IN ({_MISSING}), NULL, {value})"


def _restore_id(name: str) -> str:
    """Return SQL for ids that were taken for floats, `70061.0`, as what they were, if all with a point are such."""
    whole, decimal = (f"REGEXP_CONTAINS({quote(name)}, r'{pattern}')" for pattern in (WHOLE_DECIMAL, DECIMAL))
    is_certain = f"MIN(IF({decimal} AND NOT {whole}, 0, 1)) OVER ()"
    return f"IF({is_certain} = 1, REGEXP_REPLACE({quote(name)}, r'{WHOLE_DECIMAL}', r'\\1'), {quote(name)})"


def _make_value(name: str, spec: Any, day: date) -> str:
    """Return SQL for a value of a row that is used, NULL where a nullable column has one that cannot be."""
    if name in ("latitude", "longitude"):
        return f"IF({_POSITION}, {quote(name)}, NULL)"
    if name in TIME_RANGES:
        return f"IF({_is_in_range(name, day)}, {quote(name)}, NULL)"
    rules = _list_rules(name, spec) if spec.nullable else []
    return f"IF({' AND '.join(rules)}, {quote(name)}, NULL)" if rules else quote(name)


def _list_rules(name: str, spec: Any) -> list[str]:
    return [_RULES[check.name](quote(name), check.statistics) for check in spec.checks]


def _is_in_range(name: str, day: date) -> str:
    first, end = (f"TIMESTAMP '{start_time(day) + timedelta(hours=hours)}'" for hours in TIME_RANGES[name])
    return f"({quote(name)} >= {first} AND {quote(name)} < {end})"
