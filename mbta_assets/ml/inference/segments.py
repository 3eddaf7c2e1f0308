"""The sums of run times along a trip: what the run-time lookup knows of pairs of stops that it has not stored.

A segment is two stops that trips of a route serve one after the other. Where a run begins, and what is predicted where
no sum is known, is up to `run_time`.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.monotone import group_reports
from mbta_assets.transit.integer_rows import find_distinct

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
        self._previous_stops: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
        for (route, begin), further in self._next_stops.items():
            for end, run_time in further:
                self._previous_stops[route, end].append((run_time, begin))
        self._reached: dict[tuple[int, int], list[dict[int, float]]] = {}

    def find_previous(self, route: int, stop: int) -> int | None:
        """Return the stop that is the least seconds before another on a route; None if there is none."""
        return min(self._previous_stops.get((route, stop), [(0.0, None)]))[1]

    def find_path(self, route: int, begin: int, end: int, n_segments: int) -> list[int] | None:
        """Return the stops of the quickest path of exactly so many segments of a route; None if there is none."""
        if self.sum_run_time(route, begin, end, n_segments) is None:
            return None
        reached, path = self._reached[route, begin], [end]
        for distance in range(n_segments - 1, -1, -1):
            before = [
                (reached[distance][stop] + seconds, stop)
                for seconds, stop in self._previous_stops[route, path[-1]]
                if stop in reached[distance]
            ]
            path.append(min(before)[1])
        return path[::-1]

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


class KeyCache:
    """The values of keys, each computed once; safe to use from several threads."""

    def __init__(self, compute: Callable[[Pair], Sequence[float]], n_values: int) -> None:
        """Take the function that computes the values (v,) of a key (k,), and their number."""
        self._compute = compute
        self._index_of: dict[Pair, int] = {}
        self._values = np.empty((0, n_values))
        self._lock = threading.Lock()

    def look_up(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values (m, v), and the row (n,) that has those of each of the keys (n, k), non-negative integers."""
        distinct_rows, _, inverse = find_distinct(keys)
        distinct = list(map(tuple, distinct_rows.tolist()))
        index = [self._index_of.get(key, -1) for key in distinct]
        if -1 in index:
            index = self._add(distinct)
        return self._values, np.array(index, dtype=np.int64)[inverse]

    def look_up_one(self, key: Pair) -> list[float]:
        """Return the values (v,) of one key."""
        index = self._index_of.get(key)
        if index is None:
            [index] = self._add([key])
        return self._values[index].tolist()

    def _add(self, keys: list[Pair]) -> list[int]:
        """Compute the values of keys that have none, and return the index of each key."""
        with self._lock:
            missing = [key for key in keys if key not in self._index_of]
            n_before = len(self._values)
            if missing:
                self._values = np.concatenate([self._values, [self._compute(key) for key in missing]])
            self._index_of.update(zip(missing, range(n_before, n_before + len(missing)), strict=True))
            return [self._index_of[key] for key in keys]


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
