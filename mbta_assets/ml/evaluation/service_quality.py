"""What riders had of the predictions that were published, beside their error: gaps, false hopes, changes and waits.

All measures are about stop visits of one service day and publications once a minute, as in `delay_predictions`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.accuracy import MetricRow
from mbta_assets.ml.evaluation.steadiness import compute_change

VISIT = ["trip_id", "stop_sequence"]
"""Columns that identify a stop visit of a service day; its departure from the first stop is left out."""
LOOK_SECONDS = 600.0
"""Time before an arrival in which a rider looks: an arrival without a prediction then came unannounced."""
MARGIN_SECONDS = 60.0
"""Time before the predicted arrival at which a rider is at the stop."""


class Published(NamedTuple):
    """Predicted arrivals as they were published, ordered by visit and time."""

    visit: np.ndarray
    """(n,) number of the stop visit."""
    at: np.ndarray
    """(n,) epoch seconds of the publication."""
    predicted: np.ndarray
    """(n,) epoch seconds of the predicted arrival."""


def measure_service(published: pd.DataFrame, arrivals: pd.DataFrame) -> list[MetricRow]:
    """Return the measures of the published predictions of a model.

    `published` has rows of `delay_predictions`; `arrivals` has rows of `transit_features`, of which one
    for each visit counts: its arrival is missing where none was observed.

    - `unpredicted_share`: share of the observed arrivals for which nothing was published in the ten minutes before.
    - `never_came_share`: share of the predicted visits whose last predicted arrival was before the last publication of
      the day, and that were never observed.
    - `change_per_minute_seconds`: mean absolute change of the predicted arrival from one publication to the next.
    - `extra_wait_seconds`: mean wait beyond `MARGIN_SECONDS`, for a rider who looks ten minutes before an arrival that
      is observed and comes `MARGIN_SECONDS` before the predicted time: until that vehicle, or, if it has left, the next
      one of the route and direction there; less than the margin counts as none. A rider without a next one is left out.
    """
    rows = published[published["event"] == "arrival"]
    arrivals = arrivals[(arrivals["event"] == "arrival") & arrivals["actual_arrival_time"].notna()].drop_duplicates(
        VISIT
    )
    visits = pd.MultiIndex.from_frame(pd.concat([rows[VISIT], arrivals[VISIT]])).unique()
    said = _order(rows, visits.get_indexer(pd.MultiIndex.from_frame(rows[VISIT])))
    observed = visits.get_indexer(pd.MultiIndex.from_frame(arrivals[VISIT]))
    arrived, place = np.full(len(visits), np.nan), np.full(len(visits), -1)
    arrived[observed] = _to_seconds(arrivals["actual_arrival_time"])
    place[observed] = arrivals.groupby(["stop_id", "route_id", "direction_id"], dropna=False).ngroup()
    waits = _list_extra_waits(said, arrived, place)
    return [
        _measure_unpredicted(said, arrived),
        _measure_never_came(said, arrived),
        MetricRow("change_per_minute_seconds", "all", "all", *compute_change(*said)),
        MetricRow("extra_wait_seconds", "all", "all", len(waits), float(waits.mean()) if len(waits) else None),
    ]


def _order(rows: pd.DataFrame, visit: np.ndarray) -> Published:
    """Return the rows (n,) in the order of their visits (n,) and times."""
    at, predicted = _to_seconds(rows["published_at"]), _to_seconds(rows["predicted_arrival"])
    order = np.lexsort((at, visit))
    return Published(visit[order], at[order], predicted[order])


def _to_seconds(times: pd.Series) -> np.ndarray:
    """Return times (n,) in epoch seconds."""
    return times.to_numpy(dtype="datetime64[us]").astype(np.int64) / 1e6


def _make_row(measure: str, is_counted: np.ndarray) -> MetricRow:
    """Return the share of a mask (n,) that is true."""
    share = float(is_counted.mean()) if len(is_counted) else None
    return MetricRow(measure, "all", "all", len(is_counted), share)


def _measure_unpredicted(said: Published, arrived: np.ndarray) -> MetricRow:
    """Return the share of the arrivals that came unannounced; `arrived` (v,) has the arrival of each visit, or NaN."""
    time = arrived[said.visit]
    announced = np.zeros(len(arrived), dtype=bool)
    announced[said.visit[(said.at < time) & (said.at >= time - LOOK_SECONDS)]] = True
    return _make_row("unpredicted_share", ~announced[~np.isnan(arrived)])


def _measure_never_came(said: Published, arrived: np.ndarray) -> MetricRow:
    """Return the share of the predicted visits that should have come, and did not."""
    last = np.flatnonzero(np.r_[said.visit[1:] != said.visit[:-1], True][: len(said.visit)])
    due = last[said.predicted[last] < said.at.max(initial=-np.inf)]
    return _make_row("never_came_share", np.isnan(arrived[said.visit[due]]))


def _list_extra_waits(said: Published, arrived: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the extra wait (k,) in seconds of the rider of each visit that was predicted ten minutes before.

    `arrived` (v,) has the arrival of each visit, NaN where none was observed, and `place` (v,) a number of its stop,
    route and direction.
    """
    latest = np.full(len(arrived), -1)
    looked = np.flatnonzero(said.at <= arrived[said.visit] - LOOK_SECONDS)
    latest[said.visit[looked]] = looked  # the last one of each visit stays
    order = np.lexsort((arrived, place))
    waits = []
    for visit in np.flatnonzero(latest >= 0):
        comes = said.predicted[latest[visit]] - MARGIN_SECONDS
        begin, end = (np.searchsorted(place[order], place[visit], side) for side in ("left", "right"))
        times = arrived[order[begin:end]]
        following = np.searchsorted(times, comes)
        if arrived[visit] >= comes:
            waits.append(max(arrived[visit] - comes - MARGIN_SECONDS, 0.0))
        elif following < len(times):
            waits.append(max(times[following] - comes - MARGIN_SECONDS, 0.0))
    return np.array(waits, dtype=np.float64)
