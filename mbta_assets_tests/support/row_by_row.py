"""A comparison of the tables of a day with rows and features that are computed one by one; see `plain_features`."""

import math
from typing import Any

import pandas as pd

from mbta_assets.transit import schema
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_features import PlainDay
from mbta_assets_tests.support.plain_trips import microseconds

NAMES = [
    "stop_id", "stop_sequence", "event", "current_stop_id", "current_stop_sequence", "current_status", "season",
    "delay_seconds",
    *(name for name in schema.columns_with_role(schema.TransitFeatures, "numeric") if name != "stops_ahead"),
]  # fmt: skip
"""Columns that are compared, beside the key of a row."""


def read_plainly(tables: plain_day.Tables) -> PlainDay:
    """Return the upstream tables for a computation row by row."""
    records: dict[str, Any] = {}
    for name, table in tables.items():
        plain = table.astype(object).where(table.notna(), None)
        records[name] = plain.to_dict("records")
    return PlainDay(plain_day.DAY, **records)


def find_differences(features: pd.DataFrame, plain: PlainDay, every: bool = False) -> list[str]:
    """Return what differs, a sentence for each row or value."""
    made: dict[tuple[Any, ...], dict[Any, Any]] = {}
    differences = []
    for row in features.to_dict("records"):
        time = microseconds(row["time_stamp"].to_pydatetime()) or 0
        key: tuple[Any, ...] = (row["vehicle_id"], row["trip_id"], time, row["stops_ahead"])
        if key in made:
            differences.append(f"{key} is there twice")
        made[key] = row
    expected = list(plain.list_rows(every))
    differences += [f"{key} is missing" for key in expected if key not in made]
    differences += [f"{key} should not be there" for key in made.keys() - set(expected)]
    for key in expected:
        if key in made:
            values = plain.compute(*key) or {}
            differences += [
                f"{key}: {name} is {made[key][name]}, not {values.get(name)}"
                for name in NAMES
                if not is_same(made[key][name], values.get(name))
            ]
    return differences


def is_same(value: Any, plain: Any) -> bool:
    """Return whether a value is the same but for the rounding to a 32-bit float."""
    if plain is None or isinstance(plain, str):
        return bool(pd.isna(value)) if plain is None else bool(value == plain)
    return not pd.isna(value) and math.isclose(value, plain, rel_tol=2e-6, abs_tol=1e-6)
