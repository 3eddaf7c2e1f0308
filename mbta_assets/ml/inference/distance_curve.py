"""Curves over the number of stops ahead: how large errors are at each distance, by what was seen at some.

They give the scale of residuals in `preprocessing` and the widths of intervals in `intervals`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from mbta_assets.transit.distances import DEPARTURE

Statistic = Callable[[np.ndarray], float]
"""Reduces the errors of m rows, (m,) or (m, k), to one value."""


@dataclass(frozen=True)
class DistanceCurve:
    """A value at each number of stops ahead, which may never decrease with it, and another one at the departure.

    It is linear between its knots and constant before the first and after the last.
    """

    knots: Sequence[float]
    """Numbers of stops ahead, ascending."""
    levels: Sequence[float]
    """The value at each of them."""
    departure: float
    """The value of the departure from the first stop."""

    @classmethod
    def fit(
        cls,
        stops_ahead: np.ndarray,
        errors: np.ndarray,
        clusters: np.ndarray,
        min_clusters: int,
        statistic: Statistic,
        *,
        min_departures: int | None = None,
        never_decreases: bool = True,
    ) -> Self:
        """Fit a curve to the errors, (n,) or (n, k), of one or more rows that are so many stops ahead (n,).

        Rows are pooled with those of further distances until they are of `min_clusters` clusters, integers (n,). If it
        never decreases, pools are merged where the statistic would. The departure has the level of one stop ahead
        unless there are `min_departures` clusters with departures, by default as many.
        """
        departing = stops_ahead == DEPARTURE
        pools = _pool_rows(stops_ahead, clusters, min_clusters)
        if never_decreases:
            pools = _merge_decreasing(pools, errors, statistic)
        knots = [round(float(np.mean(stops_ahead[pool])), 2) for pool in pools]
        levels = [statistic(errors[pool]) for pool in pools]
        if not pools:
            knots, levels = [1.0], [statistic(errors[departing])]
        enough = len(np.unique(clusters[departing])) >= (min_departures or min_clusters)
        return cls(knots, levels, statistic(errors[departing]) if enough else float(np.interp(1, knots, levels)))

    def evaluate(self, stops_ahead: np.ndarray) -> np.ndarray:
        """Return the values (n,) at numbers of stops ahead (n,)."""
        return np.where(stops_ahead == DEPARTURE, self.departure, np.interp(stops_ahead, self.knots, self.levels))

    @cached_property
    def _evaluated(self) -> dict[int, float]:
        return {}

    def evaluate_one(self, stops_ahead: int) -> float:
        """Return the value at one number of stops ahead, computed once."""
        value = self._evaluated.get(stops_ahead)
        if value is None:
            value = self._evaluated[stops_ahead] = float(self.evaluate(np.array([stops_ahead]))[0])
        return value

    def to_list(self) -> list[Any]:
        """Return the curve as JSON."""
        return [list(self.knots), list(self.levels), self.departure]

    @classmethod
    def from_list(cls, stored: Sequence[Any]) -> Self:
        """Return the curve that `to_list` gave."""
        return cls(*stored)


def _pool_rows(stops_ahead: np.ndarray, clusters: np.ndarray, min_clusters: int) -> list[np.ndarray]:
    """Return the rows of each pool of arrivals, in order of their stops ahead; see `DistanceCurve.fit`."""
    pools: list[np.ndarray] = []
    pending = np.empty(0, dtype=np.int64)
    for stops in np.unique(stops_ahead[stops_ahead != DEPARTURE]):
        pending = np.concatenate([pending, np.flatnonzero(stops_ahead == stops)])
        if len(np.unique(clusters[pending])) >= min_clusters:
            pools.append(pending)
            pending = pending[:0]
    if len(pending):
        pools[-1:] = [np.concatenate([*pools[-1:], pending])]
    return pools


def _merge_decreasing(pools: list[np.ndarray], errors: np.ndarray, statistic: Statistic) -> list[np.ndarray]:
    """Return pools of rows, merged so that the statistic of their errors never decreases from one to the next."""
    merged: list[np.ndarray] = []
    for pool in pools:
        merged.append(pool)
        while len(merged) > 1 and statistic(errors[merged[-1]]) < statistic(errors[merged[-2]]):
            merged[-2:] = [np.concatenate(merged[-2:])]
    return merged
