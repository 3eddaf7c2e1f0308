"""The run times of segments by hour of the day, summed along the path from a vehicle to its destination.

Two consecutive stops are one segment whatever the route. Its run time at an hour is the median of all its runs plus
their mean excess over that median, and a deviation of the hour from it, each shrunk where runs are few. Which stops are
on a path is up to `segments`; where none is known, or what is predicted, to `run_time`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.segments import SegmentGraph
from mbta_assets.transit.integer_rows import find_distinct, pack_columns

TIME_COLUMNS = ("sin_time", "cos_time")
"""Columns of `transit_features` that tell the time of the service day."""
HOURS_PER_BIN = 2
N_BINS = 24 // HOURS_PER_BIN
SECONDS_PER_DAY = 86_400
QUARTER_SECOND = N_BINS / (4 * SECONDS_PER_DAY)
"""A quarter of a second in bins. Times are whole or half seconds, so that no rounding error takes one from its bin."""
BINS_PER_RADIAN, BINS_PER_SECOND_AHEAD = N_BINS / (2 * np.pi), N_BINS / (2 * SECONDS_PER_DAY)
"""Bins in a radian of the angle that tells the time, and half of those in a second."""
MIN_RUNS = 3
"""Segments of fewer runs are not stored."""
NONE = -1
"""Stored for the seconds of a segment that has none."""
MAX_RUN_SECONDS = 7200
"""Longer runs are no run times."""
EXCESS_RANGE = (-600.0, 900.0)
"""Limits of the excess of a run over the segment's median, in seconds."""
PRIOR_RUNS, PRIOR_RUNS_OF_HOUR = 10, 8
"""Number of runs that the means are shrunk by: of a segment to its median, of an hour to its segment."""
DEVIATION_SECONDS = 5
"""Unit of stored deviations."""


class Visits(NamedTuple):
    """Observed arrivals of m rows; departures at first stops."""

    trip: np.ndarray
    """(m,) integers, one for each vehicle on a trip of a service day."""
    position: np.ndarray
    """(m,) number of the stop along the trip."""
    stop: np.ndarray
    """(m,) code of the stop."""
    route: np.ndarray
    """(m,) code of the route."""
    time: np.ndarray
    """(m,) seconds of the service day, modulo a day."""


class Runs(NamedTuple):
    """Observed runs from one visit to the next, once however many rows tell of them; each array is (r,)."""

    trip: np.ndarray
    """As of `Visits`, like the codes."""
    route: np.ndarray
    first_stop: np.ndarray
    second_stop: np.ndarray
    end: np.ndarray
    """Seconds of the service day at which it ends, modulo a day."""
    seconds: np.ndarray
    """Run time, less than `MAX_RUN_SECONDS`."""


@dataclass(frozen=True)
class HourlyRunTime:
    """Run times of segments by hour."""

    pairs: np.ndarray
    """(p, 2) integers: the first and the second stop of each segment, in order."""
    seconds: np.ndarray
    """(p,) plain seconds at any hour."""
    deviations: np.ndarray
    """(p, N_BINS) seconds to add at each hour."""
    hops: np.ndarray
    """(h, 3) segments of routes that the run-time lookup lacks: route, first stop, second stop."""
    usual_hops: np.ndarray
    """(u, 3) the most frequent segment to each second stop of a route that several lead to."""

    @classmethod
    def fit(cls, runs: Runs, known_segments: np.ndarray) -> Self:
        """Fit the run times to observed runs; `known_segments` (s, 3) are those of the run-time lookup."""
        run = runs.seconds
        segments = np.column_stack([runs.route, runs.first_stop, runs.second_stop])
        pairs, n_runs, segment = find_distinct(segments[:, 1:])
        medians = _compute_group_medians(segment, run, n_runs)
        excess = np.clip(run - medians[segment], *EXCESS_RANGE)
        mean = np.bincount(segment, excess, len(pairs)) / (n_runs + PRIOR_RUNS)
        by_hour = segment * N_BINS + to_bins(runs.end)
        total = np.bincount(by_hour, excess, len(pairs) * N_BINS).reshape(-1, N_BINS)
        n_of_hour = np.bincount(by_hour, minlength=len(pairs) * N_BINS).reshape(-1, N_BINS)
        of_hour = (total + PRIOR_RUNS_OF_HOUR * mean[:, None]) / (n_of_hour + PRIOR_RUNS_OF_HOUR)
        stored = n_runs >= MIN_RUNS
        hops, n_hops, _ = find_distinct(segments[stored[segment]])
        listed = set(map(tuple, known_segments.tolist()))
        is_new = np.array([tuple(hop) not in listed for hop in hops.tolist()], dtype=bool)
        return cls(
            pairs[stored],
            np.round(medians + mean, 1)[stored],
            _round_deviations(of_hour - mean[:, None])[stored],
            hops[is_new],
            _find_usual_hops(hops, n_hops),
        )

    @cached_property
    def _index_of(self) -> dict[tuple[int, int], int]:
        return {(begin, end): index for index, (begin, end) in enumerate(self.pairs.tolist())}

    @cached_property
    def _usual_previous(self) -> dict[tuple[int, int], int]:
        return {(route, end): begin for route, begin, end in self.usual_hops.tolist()}

    def compare_runs(self, runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the trip (k,) of each run, its usual seconds at its hour, and its excess over them.

        Runs over segments that are not stored are left out.
        """
        hops = zip(runs.first_stop.tolist(), runs.second_stop.tolist(), strict=True)
        index = np.array([self._index_of.get(hop, -1) for hop in hops], dtype=np.int64)
        stored = index >= 0
        index = index[stored]
        usual = self.seconds[index] + self.deviations[index, to_bins(runs.end[stored])]
        return runs.trip[stored], usual, np.clip(runs.seconds[stored] - usual, *EXCESS_RANGE)

    def find_previous(self, graph: SegmentGraph, route: int, stop: int) -> int | None:
        """Return the stop that vehicles of a route most often come from; None if none is known."""
        usual = self._usual_previous.get((route, stop))
        return graph.find_previous(route, stop) if usual is None else usual

    def make_graph(self, known_segments: np.ndarray) -> SegmentGraph:
        """Return the segments of all routes with their plain seconds."""
        segments = np.concatenate([known_segments, self.hops])
        index = [self._index_of.get((begin, end), -1) for _, begin, end in segments.tolist()]
        found = np.array(index, dtype=np.int64) >= 0
        return SegmentGraph(segments[found], self.seconds[np.array(index, dtype=np.int64)[found]])

    def sum_path(self, path: Sequence[int]) -> list[float]:
        """Return the plain seconds of a path of stops, and the `N_BINS` deviations to add at each hour."""
        index = [self._index_of[hop] for hop in zip(path[:-1], path[1:], strict=True)]
        return [float(self.seconds[index].sum()), *self.deviations[index].sum(axis=0).tolist()]

    def to_arrays(self, known_segments: np.ndarray) -> dict[str, np.ndarray]:
        """Return the run times as arrays of integers.

        Pairs are those of `known_segments` (s, 3) and `hops`, in order; one that has no seconds has `NONE`.
        """
        index = [self._index_of.get((begin, end), -1) for begin, end in _list_pairs(known_segments, self.hops).tolist()]
        seconds = np.append(np.round(self.seconds * 10), NONE)[index]
        deviations = np.concatenate([self.deviations, np.zeros((1, N_BINS))])[index]
        return {
            "hourly_seconds": seconds.astype(np.int64),
            "hourly_deviations": np.round(deviations / DEVIATION_SECONDS).astype(np.int64).T,
            "hourly_hops": self.hops.T,
            "hourly_usual_hops": self.usual_hops.T,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], known_segments: np.ndarray) -> Self:
        """Return the run times that `to_arrays` gave for the same `known_segments` (s, 3)."""
        hops, usual_hops = (arrays[name].T.astype(np.int64) for name in ("hourly_hops", "hourly_usual_hops"))
        stored = arrays["hourly_seconds"] != NONE
        pairs = _list_pairs(known_segments, hops)[stored]
        seconds, deviations = arrays["hourly_seconds"][stored] / 10, arrays["hourly_deviations"].T[stored]
        return cls(pairs, seconds, deviations.astype(np.float64) * DEVIATION_SECONDS, hops, usual_hops)


def _list_pairs(known_segments: np.ndarray, hops: np.ndarray) -> np.ndarray:
    """Return the distinct pairs of stops (p, 2) of segments with their routes (s, 3) and (h, 3), in order."""
    return find_distinct(np.concatenate([known_segments, hops])[:, 1:])[0]


def compute_time_of_day(columns: Columns) -> np.ndarray:
    """Return the time of the service day (n,) in seconds, from 0 to a day."""
    sine, cosine = (np.asarray(columns[name], dtype=np.float64) for name in TIME_COLUMNS)
    seconds = np.arctan2(sine, cosine) * (SECONDS_PER_DAY / (2 * np.pi))
    return np.round(seconds, 1) % SECONDS_PER_DAY


def find_bins_half_way(columns: Columns, seconds_ahead: np.ndarray) -> np.ndarray:
    """Return the bin (n,) of the time half way to an event that is so many seconds ahead (n,)."""
    sine, cosine = (np.asarray(columns[name], dtype=np.float64) for name in TIME_COLUMNS)
    bins = np.arctan2(sine, cosine) * BINS_PER_RADIAN + (N_BINS + QUARTER_SECOND)
    bins += np.maximum(seconds_ahead, 0) * BINS_PER_SECOND_AHEAD
    return bins.astype(np.int64) % N_BINS


def find_bin_half_way(sin_time: float, cos_time: float, seconds_ahead: float) -> int:
    """Return the bin of the time half way to one event.

    The C library may round the angle otherwise than NumPy; see `QUARTER_SECOND`.
    """
    bins = math.atan2(sin_time, cos_time) * BINS_PER_RADIAN + (N_BINS + QUARTER_SECOND)
    return int(bins + max(seconds_ahead, 0.0) * BINS_PER_SECOND_AHEAD) % N_BINS


def to_bins(seconds: np.ndarray) -> np.ndarray:
    """Return the bin (n,) of times of the service day in seconds, which may exceed a day."""
    return (seconds % SECONDS_PER_DAY // (3600 * HOURS_PER_BIN)).astype(np.int64)


def find_runs(visits: Visits) -> Runs:
    """Return the runs between consecutive visits."""
    order = np.unique(pack_columns([visits.trip, visits.position]), return_index=True)[1]
    begin, end = order[:-1], order[1:]
    seconds = np.round((visits.time[end] - visits.time[begin]) % SECONDS_PER_DAY, 1)
    usable = (visits.trip[begin] == visits.trip[end]) & (visits.position[begin] + 1 == visits.position[end])
    usable &= seconds < MAX_RUN_SECONDS
    begin, end = begin[usable], end[usable]
    stops = visits.stop[begin], visits.stop[end]
    return Runs(visits.trip[begin], visits.route[begin], *stops, visits.time[end], seconds[usable])


def _compute_group_medians(group: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the median (g,) of values (n,) by group (n,), from 0 to g - 1, of so many values each (g,)."""
    ordered = values[np.lexsort((values, group))]
    first = np.cumsum(counts) - counts
    return (ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]) / 2


def _find_usual_hops(hops: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the most frequent of the segments (h, 3) to each second stop of a route that several lead to."""
    order = np.lexsort((-counts, hops[:, 2], hops[:, 0]))
    ordered = hops[order]
    is_first = np.r_[True, (ordered[1:, [0, 2]] != ordered[:-1, [0, 2]]).any(axis=1)][: len(ordered)]
    has_more = np.r_[~is_first[1:], False][: len(ordered)]
    return ordered[is_first & has_more]


def _round_deviations(seconds: np.ndarray) -> np.ndarray:
    """Return deviations in seconds as they are stored."""
    return np.clip(np.round(seconds / DEVIATION_SECONDS), -127, 127) * DEVIATION_SECONDS
