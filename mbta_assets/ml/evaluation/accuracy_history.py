"""The errors of many service days, ours beside the agency's, as the report that the accuracy page shows.

It is made from stored rows of `prediction_accuracy`. Models in the shadow are left out; where several versions
predicted a day, their errors are averaged by their numbers of predictions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.accuracy import BESIDE_AGENCY, SHADOW_PREFIX
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE

MEASURE = "mae_seconds"
STOP = "stop_id"
DIMENSIONS = ("all", "route_id", "stops_ahead", "hour", STOP)
"""Dimensions that have errors of each day, and over all days."""
MAX_STOPS_BY_DAY = 200
"""Maximum number of stops that have errors of each day, those with most predictions: there may be thousands."""
SERIES = ("ours", "ours_beside_agency", "agency")
"""Whose errors: ours on all arrivals, ours on those that the agency has predicted too, and the agency's on these."""


def make_history(days: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the errors of service days, whose rows of `prediction_accuracy` are given by day.

    `by_day` and `over_all_days` are lists of rows: the dimension, its member, and for each of `SERIES` the number of
    predictions and their mean absolute error in seconds, 0 and None where there are none; those of `by_day` begin with
    the day.
    """
    parts = [_select(rows).assign(day=day) for day, rows in sorted(days.items())]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["day", *_COLUMNS])
    rows = rows[rows["dimension"].isin(DIMENSIONS)]
    return {
        "days": sorted(days),
        "series": list(SERIES),
        "by_day": _average(rows[_has_errors_by_day(rows)], ["day", "dimension", "member"]),
        "over_all_days": _average(rows, ["dimension", "member"]),
    }


_COLUMNS = ("dimension", "member", "series", "n", "total")


def _select(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the errors among rows of a day, with their series, number and sum."""
    version, dimension = rows["model_version"].astype(str), rows["dimension"].astype(str)
    is_agency, is_beside = version == AGENCY_BASELINE, dimension.str.startswith(BESIDE_AGENCY)
    below = dimension.str.removeprefix(BESIDE_AGENCY).str.removeprefix(", ")
    selected = pd.DataFrame(
        {
            "dimension": below.where(below != "", "all"),
            "member": rows["member"].astype(str),
            "series": np.select([is_agency, is_beside], [SERIES[2], SERIES[1]], SERIES[0]),
            "n": rows["n"].astype(np.int64),
            "total": rows["value"].astype(np.float64) * rows["n"].astype(np.int64),
        }
    )
    is_error = rows["measure"].eq(MEASURE) & ~version.str.startswith(SHADOW_PREFIX) & rows["value"].notna()
    return selected[is_error & ~(is_agency & is_beside)]


def _has_errors_by_day(rows: pd.DataFrame) -> pd.Series:
    """Return which rows (n,) are of members that have errors of each day: all but the stops with few predictions."""
    of_stops = rows["dimension"] == STOP
    counts = rows[of_stops & (rows["series"] == SERIES[0])].groupby("member")["n"].sum().sort_index()
    most = counts.sort_values(ascending=False, kind="stable").index[:MAX_STOPS_BY_DAY]
    return ~of_stops | rows["member"].isin(most)


def _average(rows: pd.DataFrame, keys: list[str]) -> list[list[Any]]:
    """Return a row for each key with the number and the mean error of each series."""
    sums = rows.groupby([*keys, "series"], sort=True)[["n", "total"]].sum()
    table: dict[tuple[str, ...], list[Any]] = {}
    for (*key, series), n, total in zip(sums.index, sums["n"], sums["total"], strict=True):
        row = table.setdefault(tuple(key), [0, None] * len(SERIES))
        place = SERIES.index(series)
        if n:
            row[2 * place : 2 * place + 2] = [int(n), round(float(total) / int(n), 2)]
    return [[*key, *values] for key, values in table.items()]
