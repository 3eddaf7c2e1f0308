"""Rules that the daily tables must satisfy.

Each rule looks at the rows of one service day and returns a sentence that says what is wrong, or None. Which rules
block what is downstream, and how they become Dagster asset checks, is decided in `mbta_assets.defs`.
"""

from collections.abc import Mapping
from datetime import date
from typing import TypeAlias

import numpy as np
import pandas as pd
from pandera.errors import SchemaErrors

from mbta_assets.transit import features, schema

Problem: TypeAlias = str | None
"""A sentence that says what is wrong with the rows; None where nothing is."""

MIN_LABELLED_SHARE = 0.5
MAX_MISSING_SHARE = 0.6
MIN_ROWS_AGAINST_MEDIAN, MAX_ROWS_AGAINST_MEDIAN = 0.4, 2.5
RECENT_DAYS = 14
"""Stored service days whose row counts a day is compared with."""
MIN_RECENT_DAYS = 3
"""Fewer days have no median worth comparing with."""
MAX_COMPARED_ROWS = 50_000
NUMERIC_FEATURES = schema.columns_with_role(schema.TransitFeatures, "numeric")


def schema_holds(rows: pd.DataFrame, table: str) -> Problem:
    """Require every column to have its type and range, and no value to be missing that must be present."""
    try:
        schema.TABLES[table].validate(rows, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.groupby(["column", "check"]).size()
        return "; ".join(f"column {column}: {check} fails in {n} rows" for (column, check), n in cases.items())
    return None


def keys_unique(rows: pd.DataFrame) -> Problem:
    """Require every row to have a key of its own: service date, trip, vehicle, time stamp and stop."""
    repeated = int(rows.duplicated(schema.ROW_KEY).sum())
    return f"{repeated} rows repeat the key of another ({', '.join(schema.ROW_KEY)})" if repeated else None


def labels_cover(rows: pd.DataFrame) -> Problem:
    """Require at least half of the rows to have a label, so that labels represent the service day."""
    share = rows["delay_seconds"].notna().mean() if len(rows) else 1.0
    if share >= MIN_LABELLED_SHARE:
        return None
    return f"only {share:.0%} of the rows have a label; the minimum is {MIN_LABELLED_SHARE:.0%}"


def features_present(rows: pd.DataFrame) -> Problem:
    """Require no numeric feature to be missing in most rows."""
    missing = rows[NUMERIC_FEATURES].isna().mean() if len(rows) else pd.Series(dtype=float)
    excessive = missing[missing > MAX_MISSING_SHARE]
    return "; ".join(f"{name} is missing in {share:.0%} of the rows" for name, share in excessive.items()) or None


def row_count_anomaly(rows: int, recent: Mapping[date, int]) -> Problem:
    """Require a number of rows that is near the median of recent service days, given by day."""
    if len(recent) < MIN_RECENT_DAYS:
        return None
    median = float(np.median(list(recent.values())))
    if MIN_ROWS_AGAINST_MEDIAN * median <= rows <= MAX_ROWS_AGAINST_MEDIAN * median:
        return None
    return f"{rows:,} rows, where recent days have about {median:,.0f}"


def point_in_time_correct(raw: pd.DataFrame, vehicle: pd.DataFrame, schedule: pd.DataFrame) -> Problem:
    """Require features up to a moment to stay the same when all later vehicle updates are removed.

    The moment is the time stamp in the middle of the service day's `raw_transit_data`.
    """
    if raw.empty:
        return None
    moment = raw["time_stamp"].iloc[len(raw) // 2]
    rows = raw[raw["time_stamp"] <= moment].tail(MAX_COMPARED_ROWS)
    truncated = features.compute_transit_features(rows, vehicle[vehicle["updated_at"] <= moment], schedule)
    complete = features.compute_transit_features(rows, vehicle, schedule)
    differing = [
        name for name in NUMERIC_FEATURES if not np.array_equal(truncated[name], complete[name], equal_nan=True)
    ]
    return f"updates after {moment} change {', '.join(differing)}" if differing else None
