"""What riders had of the predictions that were published, beside their error: gaps, false hopes, changes and waits.

All measures are about stop visits of one service day and publications once a minute, as in `delay_predictions`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.accuracy import BESIDE_AGENCY, MetricRow
from mbta_assets.ml.evaluation.steadiness import compute_change
from mbta_assets.transit.as_of import count_before, find_latest

VISIT = ["trip_id", "stop_sequence"]
"""Columns that identify a stop visit of a service day; its departure from the first stop is left out."""
LOOK_SECONDS = 600.0
"""Time before an arrival in which a rider looks: an arrival without a prediction then came unannounced."""
MARGIN_SECONDS = 60.0
"""Time before the predicted arrival at which a rider is at the stop."""


class Published(NamedTuple):
    """Predicted arrivals, ordered by visit and time."""

    visit: np.ndarray
    """(n,) number of the stop visit."""
    at: np.ndarray
    """(n,) epoch seconds of the publication."""
    predicted: np.ndarray
    """(n,) epoch seconds of the predicted arrival."""

    def select(self, mask: np.ndarray) -> "Published":
        """Return the predictions of a mask (n,)."""
        return Published(*(values[mask] for values in self))


class Arrivals(NamedTuple):
    """Observed arrivals of stop visits."""

    time: np.ndarray
    """(v,) epoch seconds of the arrival at each visit, NaN where none was observed."""
    place: np.ndarray
    """(v,) number of the stop, route and direction of each visit with an arrival, else -1."""


def measure_service(
    published: pd.DataFrame, arrivals: pd.DataFrame, agency: pd.DataFrame
) -> tuple[list[MetricRow], list[MetricRow]]:
    """Return the measures of the published predictions, and of the agency's at the same times.

    `published` has rows of `delay_predictions`; `arrivals` has rows of `transit_features`, of which one
    for each visit counts: its arrival is missing where none was observed. `agency` is of `list_agency_arrivals`;
    without rows, nothing is measured of the agency.

    - `unpredicted_share`: share of the observed arrivals for which nothing was published in the ten minutes before.
    - `never_came_share`: share of the predicted visits whose last predicted arrival was before the last publication of
      the day, and that were never observed.
    - `change_per_minute_seconds`: mean absolute change of the predicted arrival from one publication to the next.
    - `extra_wait_seconds`: mean wait beyond `MARGIN_SECONDS`, for a rider who looks ten minutes before an arrival that
      is observed and comes `MARGIN_SECONDS` before the predicted time: until that vehicle, or, if it has left, the next
      one of the route and direction there; less than the margin counts as none. A rider without a next one is left out.

    The agency counts as if it had published whenever we did, and only then: its latest prediction of each visit up to
    that time, as in `agency_delay_seconds`, unless its predicted arrival had passed. Both shares of the agency are over
    all visits: `unpredicted_share` over the same observed arrivals as ours, whether one side, both or neither predicts
    them, `never_came_share` over the visits that it predicted itself, also on trips that no vehicle served. The change
    and the extra wait of the agency are on the visits and times that both predicted; ours on those have the dimension
    `beside_agency`.
    """
    rows = published[published["event"] == "arrival"]
    arrivals = arrivals[(arrivals["event"] == "arrival") & arrivals["actual_arrival_time"].notna()].drop_duplicates(
        VISIT
    )
    visits = pd.MultiIndex.from_frame(pd.concat([frame[VISIT] for frame in (rows, arrivals, agency)])).unique()
    said = _order(rows, "published_at", visits)
    observed = _observe(arrivals, visits)
    times = np.unique(said.at)
    ours = [*_measure_shares(said, said, observed, times), *_measure_trust("all", said, observed)]
    if agency.empty:
        return ours, []
    changes = _order(agency, "predicted_at", visits)
    beside = said._replace(predicted=_look_up(changes, said.visit, said.at))
    both = ~np.isnan(beside.predicted)
    looks = _list_looks(changes, observed, times)
    of_agency = [
        *_measure_shares(looks, _select_shown(changes, times), observed, times),
        *_measure_trust("all", beside.select(both), observed),
    ]
    return [*ours, *_measure_trust(BESIDE_AGENCY, said.select(both), observed)], of_agency


def _order(rows: pd.DataFrame, time: str, visits: pd.MultiIndex) -> Published:
    """Return the rows (n,) in the order of their visits and times; of equal ones the last stays the last."""
    visit = visits.get_indexer(pd.MultiIndex.from_frame(rows[VISIT]))
    at, predicted = _to_seconds(rows[time]), _to_seconds(rows["predicted_arrival"])
    order = np.lexsort((at, visit))
    return Published(visit[order], at[order], predicted[order])


def _observe(arrivals: pd.DataFrame, visits: pd.MultiIndex) -> Arrivals:
    """Return the arrivals by the number of their visit; there is one row for each visit."""
    time, place = np.full(len(visits), np.nan), np.full(len(visits), -1)
    visit = visits.get_indexer(pd.MultiIndex.from_frame(arrivals[VISIT]))
    time[visit] = _to_seconds(arrivals["actual_arrival_time"])
    place[visit] = arrivals.groupby(["stop_id", "route_id", "direction_id"], dropna=False).ngroup()
    return Arrivals(time, place)


def _to_seconds(times: pd.Series) -> np.ndarray:
    """Return times (n,) in epoch seconds, NaN where they are missing."""
    seconds = times.to_numpy(dtype="datetime64[us]").astype(np.int64) / 1e6
    return np.where(times.isna(), np.nan, seconds)


def _look_up(changes: Published, visit: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the latest predicted arrival (n,) of visits (n,) up to times (n,); NaN if it is missing or has passed."""
    latest = find_latest(changes.visit, changes.at, visit, at, "right")
    predicted = np.append(changes.predicted, np.nan)[latest]
    return np.where(predicted >= at, predicted, np.nan)


def _list_looks(changes: Published, observed: Arrivals, times: np.ndarray) -> Published:
    """Return what was said of each observed arrival at the publication times (t,) in the ten minutes before it."""
    visit = np.flatnonzero(~np.isnan(observed.time))
    begin, end = (np.searchsorted(times, observed.time[visit] - before) for before in (LOOK_SECONDS, 0.0))
    count = end - begin
    at = times[np.repeat(end - count.cumsum(), count) + np.arange(count.sum())]
    looks = Published(np.repeat(visit, count), at, _look_up(changes, np.repeat(visit, count), at))
    return looks.select(~np.isnan(looks.predicted))


def _select_shown(changes: Published, times: np.ndarray) -> Published:
    """Return the predictions that were the latest of their visit, and had not passed, at one of some times (t,)."""
    first = np.append(times, np.inf)[np.searchsorted(times, changes.at)]
    is_last = np.append(changes.visit[1:] != changes.visit[:-1], True)
    replaced = np.where(is_last, np.inf, np.append(changes.at[1:], np.inf))
    return changes.select((first < replaced) & (changes.predicted >= first))


def _measure_shares(looks: Published, said: Published, observed: Arrivals, times: np.ndarray) -> Iterator[MetricRow]:
    """Yield the shares of arrivals and of predictions without the other.

    `looks` has what was said in the ten minutes before each arrival, at least; `said` what was said last of each visit,
    at least. `times` (t,) are those of all publications.
    """
    time = observed.time[looks.visit]
    announced = np.zeros(len(observed.time), dtype=bool)
    announced[looks.visit[(looks.at < time) & (looks.at >= time - LOOK_SECONDS)]] = True
    yield _make_row("unpredicted_share", ~announced[~np.isnan(observed.time)])
    last = np.flatnonzero(np.append(said.visit[1:] != said.visit[:-1], True)[: len(said.visit)])
    due = last[said.predicted[last] < times.max(initial=-np.inf)]
    yield _make_row("never_came_share", np.isnan(observed.time[said.visit[due]]))


def _measure_trust(dimension: str, said: Published, observed: Arrivals) -> Iterator[MetricRow]:
    """Yield how much predictions change, and how long riders who trust them wait."""
    yield MetricRow("change_per_minute_seconds", dimension, "all", *compute_change(*said))
    waits = _list_extra_waits(said, observed)
    yield MetricRow("extra_wait_seconds", dimension, "all", len(waits), float(waits.mean()) if len(waits) else None)


def _make_row(measure: str, is_counted: np.ndarray) -> MetricRow:
    """Return the share of a mask (n,) that is true."""
    share = float(is_counted.mean()) if len(is_counted) else None
    return MetricRow(measure, "all", "all", len(is_counted), share)


def _list_extra_waits(said: Published, observed: Arrivals) -> np.ndarray:
    """Return the extra wait (k,) in seconds of the rider of each visit that was predicted ten minutes before."""
    latest = np.full(len(observed.time), -1)
    looked = np.flatnonzero(said.at <= observed.time[said.visit] - LOOK_SECONDS)
    latest[said.visit[looked]] = looked  # the last one of each visit stays
    visit = np.flatnonzero(latest >= 0)
    comes, time, place = said.predicted[latest[visit]] - MARGIN_SECONDS, observed.time[visit], observed.place[visit]
    order = np.lexsort((observed.time, observed.place))
    order = order[np.searchsorted(observed.place[order], 0) :]
    events = observed.place[order], observed.time[order]
    following = np.append(order, -1)[count_before(*events, place, comes, "left")]
    is_there = (following >= 0) & (observed.place[following] == place)
    taken = np.where(time >= comes, time, np.where(is_there, observed.time[following], np.nan))
    waits = np.maximum(taken - comes - MARGIN_SECONDS, 0.0)
    return waits[~np.isnan(waits)]
