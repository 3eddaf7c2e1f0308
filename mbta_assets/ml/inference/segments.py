"""The sums of run times along a trip: what the run-time lookup knows of pairs of stops that it has not stored.

A segment is two stops that trips of a route serve one after the other. Where a run begins, and what is predicted where
no sum is known, is up to `run_time`.
"""

from collections import defaultdict

import numpy as np

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.monotone import group_reports

MAX_SEGMENTS = 250
"""Number of segments of the longest path that is searched for."""
MAX_BRANCHES = 64
"""Number of stops of a route at the same distance from another. Where there are more, no path is searched for."""

Pair = tuple[int, ...]
"""State, current stop, destination and number of stops ahead, as codes."""


class SegmentGraph:
    """The segments of each route with their run times."""

    def __init__(self, segments: np.ndarray, seconds: np.ndarray) -> None:
        """Take segments (s, 3), as codes of the route and the two stops, and their run times (s,) in seconds."""
        self._next_stops: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
        for (route, begin, end), run_time in zip(segments.tolist(), seconds.tolist(), strict=True):
            self._next_stops[route, begin].append((end, run_time))
        self._reached: dict[tuple[int, int], list[dict[int, float]]] = {}

    def sum_run_time(self, route: int, begin: int, end: int, n_segments: int) -> float | None:
        """Return the seconds of the quickest path of exactly so many segments of a route; None if there is none."""
        if n_segments > MAX_SEGMENTS:
            return None
        reached = self._reached.setdefault((route, begin), [{begin: 0.0}])
        while len(reached) <= n_segments and reached[-1]:
            reached.append(self._advance(route, reached[-1]))
        return reached[n_segments].get(end) if n_segments < len(reached) else None

    def _advance(self, route: int, reached: dict[int, float]) -> dict[int, float]:
        """Return the stops that are one segment further, with the least seconds to each."""
        further: dict[int, float] = {}
        for stop, seconds in reached.items():
            for next_stop, run_time in self._next_stops.get((route, stop), ()):
                further[next_stop] = min(seconds + run_time, further.get(next_stop, np.inf))
        return further if len(further) <= MAX_BRANCHES else {}


class RunTimes:
    """Run times of pairs of stops, and of those that can be composed of them and segments."""

    def __init__(self, graph: SegmentGraph, pairs: np.ndarray, seconds: np.ndarray) -> None:
        """Take pairs (m, 4) and their run times (m,) in seconds."""
        self._graph = graph
        self._seconds: dict[Pair, float] = {}
        self._ahead: dict[tuple[int, ...], list[Pair]] = defaultdict(list)
        self._looked_up: dict[Pair, float] = {}
        for index in np.argsort(pairs[:, 3], kind="stable"):
            self.add(tuple(pairs[index].tolist()), float(seconds[index]))

    def add(self, pair: Pair, seconds: float) -> None:
        """Add the run time of a pair that is as many stops ahead as those before, or more."""
        self._seconds[pair] = seconds
        self._ahead[pair[:2]].append(pair)

    def compose(self, pair: Pair, route: int) -> float | None:
        """Return the seconds of a pair on a route, or None if segments are missing.

        They are its own, else those to the farthest stop before the destination that has some, plus the segments from
        there.
        """
        if pair in self._seconds:
            return self._seconds[pair]
        _, _, destination, stops_ahead = pair
        for _, _, stop, stops_before in reversed(self._ahead.get(pair[:2], [])):
            if 0 < stops_before < stops_ahead:
                rest = self._graph.sum_run_time(route, stop, destination, stops_ahead - stops_before)
                if rest is not None:
                    return self._seconds[*pair[:2], stop, stops_before] + rest
        return None

    def look_up(self, keys: np.ndarray) -> np.ndarray:
        """Return the seconds (n,) of pairs with their routes (n, 5); NaN where there are none."""
        code = np.zeros(len(keys), dtype=np.int64)
        for column in keys.T:
            code = code * (column.max(initial=0) + 1) + column
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        seconds = [self._look_up_one(tuple(key)) for key in keys[first].tolist()]
        return np.array(seconds, dtype=np.float64)[inverse]

    def _look_up_one(self, key: Pair) -> float:
        """Return the seconds of a pair with its route; NaN if there are none."""
        if key not in self._looked_up:
            seconds = self.compose(key[:-1], key[-1])
            self._looked_up[key] = np.nan if seconds is None else seconds
        return self._looked_up[key]


def observe_segments(rows: Columns, arrives_in: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices (m,) of rows about both stops of a segment, and the observed seconds (m,) between arrivals.

    They are rows about two consecutive stops ahead in one report. `arrives_in` (n,) has the observed seconds from the
    report to the arrival; NaN is unlabelled.
    """
    report, stops_ahead = group_reports(rows), np.asarray(rows["stops_ahead"], dtype=np.int64)
    labelled = np.flatnonzero(~np.isnan(arrives_in) & (stops_ahead > 0))
    ordered = labelled[np.lexsort((stops_ahead[labelled], report[labelled]))]
    begin, end = ordered[:-1], ordered[1:]
    consecutive = (report[begin] == report[end]) & (stops_ahead[begin] + 1 == stops_ahead[end])
    begin, end = begin[consecutive], end[consecutive]
    return begin, end, arrives_in[end] - arrives_in[begin]
