"""Rules that the daily tables must satisfy.

Each rule looks at the rows of one service day and returns an `Outcome`: a sentence that says what is wrong, if anything
is, and the numbers that it has judged by. Which rules block what is downstream, and how they become Dagster asset
checks, is decided in `mbta_assets.defs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pandera.errors import SchemaErrors

from mbta_assets.transit import features, schema
from mbta_assets.transit.integer_rows import pack_columns
from mbta_assets.transit.table import Table

Problem: TypeAlias = str | None
"""A sentence that says what is wrong with the rows; None where nothing is."""

MIN_SHARE_OF_MEDIAN = 0.5
"""Minimum share of labelled rows, or of matched reports, against the median of recent days."""
MAX_MISSING_SHARE = 0.6
MIN_ROWS_AGAINST_MEDIAN, MAX_ROWS_AGAINST_MEDIAN = 0.4, 2.5
RECENT_DAYS = 14
"""Stored service days whose row counts a day is compared with."""
MIN_RECENT_DAYS = 3
"""Fewer days have no median worth comparing with."""
MAX_COMPARED_ROWS = 50_000
BOUNDS = ("greater_than_or_equal_to", "less_than_or_equal_to")
"""Pandera's names of the rules that a column keeps if its smallest and its largest value do."""
NUMERIC_FEATURES = schema.columns_with_role(schema.TransitFeatures, "numeric")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a rule."""

    problem: Problem
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    """What the rule has judged by, by name, whether it is kept or not."""


def schema_holds(rows: arrow.Table, table: str) -> Outcome:
    """Require every column to have its type and range, and no value to be missing that must be present."""
    model = schema.TABLES[table]
    is_certain = bool(len(rows)) and _validate(_select_extremes(rows, model), model) is None
    problem = None if is_certain else _validate(schema.to_frame(rows), model)
    return Outcome(problem, {"rows": len(rows), "columns": rows.num_columns})


def _validate(rows: pd.DataFrame, model: type[Table]) -> Problem:
    try:
        model.validate(rows, lazy=True, inplace=True)  # else all rows are copied
    except SchemaErrors as error:
        cases = error.failure_cases.groupby(["column", "check"]).size()
        return "; ".join(f"column {column}: {check} fails in {n} rows" for (column, check), n in cases.items())
    return None


def _select_extremes(rows: arrow.Table, model: type[Table]) -> pd.DataFrame:
    """Return few rows that break a rule of the model if any row does, as each rule is about the values of one column.

    They have the smallest and the largest value of each column, all distinct ones where a rule is no bound, and a
    missing one if there is any.
    """
    specs = model.to_schema().columns
    extremes = [_find_extremes(rows[name], specs.get(name)) for name in rows.column_names]
    size = max(map(len, extremes))
    padded = [values.take(np.minimum(np.arange(size), len(values) - 1)) for values in extremes]
    return schema.to_frame(arrow.table(padded, schema=rows.schema))


def _find_extremes(values: arrow.ChunkedArray, spec: Any) -> arrow.Array:
    """Return values of a column among which is one that breaks a rule of `spec`, if any value does."""
    if not spec or any(check.name not in BOUNDS for check in spec.checks):
        return pc.unique(values)
    found = list(pc.min_max(values).as_py().values()) if spec.checks else [values[0].as_py()]
    return arrow.array([*found, None] if values.null_count else found, values.type)


def keys_unique(rows: arrow.Table) -> Outcome:
    """Require every row to have a key of its own: service date, trip, vehicle, time stamp and stop sequence."""
    if not len(rows):
        return Outcome(None, {"rows": 0})
    # One number for a row, made of codes in place of values, takes less time to compare.
    codes = [rows[name].dictionary_encode().combine_chunks().indices for name in schema.ROW_KEY]
    keys = pack_columns([column.fill_null(-1).to_numpy() + 1 for column in codes])
    repeated = int(pd.Series(keys).duplicated().sum())
    problem = f"{repeated} rows repeat the key of another ({', '.join(schema.ROW_KEY)})" if repeated else None
    return Outcome(problem, {"rows": len(rows), "repeated_keys": repeated})


def labels_cover(rows: arrow.Table, min_share: float, recent_shares: Sequence[float] = ()) -> Outcome:
    """Require enough rows to have a label: a minimum share, and half of the median share of recent days."""
    share = labelled_share(rows)
    if share is None:
        return Outcome(None, {"rows": 0})
    if share < min_share:
        problem: Problem = f"only {share:.1%} of the rows have a label; the minimum is {min_share:.1%}"
    else:
        problem = _far_below_recent(share, recent_shares, "of the rows have a label")
    return Outcome(problem, {"rows": len(rows), **_list_shares("labelled_share", share, min_share, recent_shares)})


def labelled_share(rows: arrow.Table) -> float | None:
    """Return the share of the rows of `transit_features` that have a label; None without rows."""
    return 1 - rows["delay_seconds"].null_count / len(rows) if len(rows) else None


def inputs_used(
    usage: pd.DataFrame, min_share: float, recent_shares: Sequence[float] = (), unmatched: str = ""
) -> Outcome:
    """Require the join to use its inputs: some rows, a minimum share of reports, and half of the recent median.

    `usage` is typed as `schema.UpstreamUsage`; `recent_shares` are the `matched_share` of recent days. `unmatched` is
    the sentence of `Accounting.describe_unmatched`, which is part of the problem.
    """
    vehicle_rows, schedule_rows = (_count_rows(usage, table) for table in ("vehicle", "schedule"))
    if not vehicle_rows:
        return Outcome(None, {"vehicle_rows": 0})
    share = matched_share(usage)
    problem: Problem = None
    if schedule_rows and not _count_rows(usage, "vehicle", outcome="matched"):
        problem = f"none of the {vehicle_rows:,} rows of `vehicle` match the {schedule_rows:,} rows of `schedule`"
    elif share is not None and share < min_share:
        problem = f"only {share:.1%} of the reports that name a trip match `schedule`; the minimum is {min_share:.1%}"
    elif share is not None:
        problem = _far_below_recent(share, recent_shares, "of the reports that name a trip match `schedule`")
    if problem and unmatched:
        problem = f"{problem}. {unmatched}".rstrip(" ")
    return Outcome(
        problem, {"vehicle_rows": vehicle_rows, **_list_shares("matched_share", share, min_share, recent_shares)}
    )


def matched_share(usage: pd.DataFrame) -> float | None:
    """Return the share of the distinct reports that name a trip that are matched; None if there are none."""
    matched = _count_rows(usage, "vehicle", outcome="matched")
    unnamed = sum(_count_rows(usage, "vehicle", reason=reason) for reason in ("no_trip", "repeated"))
    named = _count_rows(usage, "vehicle") - unnamed
    return matched / named if named else None


def _count_rows(usage: pd.DataFrame, table: str, **values: str) -> int:
    """Return the number of rows of an upstream table, those with some values of the columns of `usage`."""
    selected = usage["source_table"] == table
    for name, value in values.items():
        selected &= usage[name] == value
    return int(usage.loc[selected, "row_count"].sum())


def _list_shares(
    name: str, share: float | None, min_share: float, recent_shares: Sequence[float]
) -> dict[str, int | float | str]:
    """Return a share and what it is compared with, by name."""
    numbers: dict[str, int | float | str] = {} if share is None else {name: share}
    numbers[f"min_{name}"] = min_share
    if len(recent_shares) >= MIN_RECENT_DAYS:
        numbers["median_of_recent_days"] = float(np.median(recent_shares))
    return numbers


def _far_below_recent(share: float, recent_shares: Sequence[float], what: str) -> Problem:
    """Require a share to be at least half of the median of recent days, if there are enough of them."""
    if len(recent_shares) < MIN_RECENT_DAYS:
        return None
    median = float(np.median(recent_shares))
    if share >= MIN_SHARE_OF_MEDIAN * median:
        return None
    return f"{share:.1%} {what}, where recent days have about {median:.1%}"


def features_present(rows: arrow.Table) -> Outcome:
    """Require no numeric feature to be missing in most rows."""
    shares = {name: rows[name].null_count / max(len(rows), 1) for name in NUMERIC_FEATURES}
    excessive = {name: share for name, share in shares.items() if share > MAX_MISSING_SHARE}
    problem = "; ".join(f"{name} is missing in {share:.0%} of the rows" for name, share in excessive.items()) or None
    rarest = max(shares, key=lambda name: shares[name])
    numbers = {"largest_missing_share": shares[rarest], "max_missing_share": MAX_MISSING_SHARE}
    return Outcome(problem, {"features": len(shares), "most_often_missing": rarest, **numbers})


def row_count_anomaly(rows: int, recent: Mapping[date, int]) -> Outcome:
    """Require a number of rows that is near the median of recent service days, given by day."""
    if len(recent) < MIN_RECENT_DAYS:
        return Outcome(None, {"rows": rows, "recent_days": len(recent)})
    median = float(np.median(list(recent.values())))
    is_near = MIN_ROWS_AGAINST_MEDIAN * median <= rows <= MAX_ROWS_AGAINST_MEDIAN * median
    problem = None if is_near else f"{rows:,} rows, where recent days have about {median:,.0f}"
    return Outcome(problem, {"rows": rows, "recent_days": len(recent), "median_of_recent_days": median})


def point_in_time_correct(
    complete: arrow.Table, raw: arrow.Table, vehicle: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame
) -> Outcome:
    """Require features up to the middle of the service day to stay the same when all later vehicle updates are removed.

    The middle is the time stamp in the middle of `raw`, rows of `raw_transit_data`, of which `complete` has the
    features in the same order.
    """
    if not len(raw):
        return Outcome(None, {"rows_compared": 0})
    time_stamp = schema.to_frame(raw.select(["time_stamp"]))["time_stamp"]
    moment = time_stamp.iloc[len(raw) // 2]
    index = np.flatnonzero(time_stamp <= moment)[-MAX_COMPARED_ROWS:]
    truncated = features.compute_feature_table(
        raw.take(index), vehicle[vehicle["updated_at"] <= moment], schedule, stop
    )
    compared = complete.select(NUMERIC_FEATURES).take(index)
    differing = [name for name in NUMERIC_FEATURES if not truncated[name].equals(compared[name])]
    problem = f"updates after {moment} change {', '.join(differing)}" if differing else None
    numbers = {"rows_compared": len(index), "features_compared": len(NUMERIC_FEATURES)}
    return Outcome(problem, {"updates_removed_after": str(moment), **numbers, "features_changed": len(differing)})
