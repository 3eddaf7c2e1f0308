"""Run times of vehicles over stretches: from the move to a stop, or the arrival there, to the arrival at another.

They are found among the stop visits of a service day, for the features of rows at many points in time.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mbta_assets.transit.as_of import search_in_order
from mbta_assets.transit.formulas import RECENT_RUN_COUNT
from mbta_assets.transit.ids import combine_codes
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.stop_visits import StopEvents

MAX_PAIRED_VISITS = 4_000_000
"""Visits that are paired with destinations at a time, which bounds the memory that run times take."""
_UNSCHEDULED_BEGIN, _UNSCHEDULED_END, _NEVER = 0, np.iinfo(np.int64).max, -1
"""Positions that stand in where the schedule of a trip does not have a visit, or the stop no visit before."""


def find_recent_runs(
    stretch: np.ndarray, now: np.ndarray, events: StopEvents
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return run times (r,) in microseconds, and where the recent ones (n,) of each query begin and end among them.

    A query is a stretch (see `IdCodes.encode_stretches`), -1 for none, and a time. Its recent runs are the latest
    `RECENT_RUN_COUNT` over the stretch that ended before that time. A run begins with the move to the current stop, or
    with the arrival there, and ends with the arrival at the first visit of the destination from there on.
    """
    number, stretches = pd.factorize(stretch, sort=True)
    arrivals = _Arrivals(events)
    n_times = len(arrivals.time) + 1
    keys, run_time = _extract_runs(stretches, n_times, arrivals, events)
    end = search_in_order(keys, number * n_times + np.searchsorted(arrivals.time, now), number)
    begin = np.searchsorted(keys, np.arange(len(stretches)) * n_times)[number]
    return run_time, np.maximum(begin, end - RECENT_RUN_COUNT), end


class _Arrivals:
    """Arrivals in order of time, at which runs end, by vehicle's trip and stop; `time` (a,)."""

    def __init__(self, events: StopEvents) -> None:
        visits = events.visits
        arrived, vehicle_trip, stop, stop_time = (
            visits[name].to_numpy() for name in ("arrived", "vehicle_trip", "stop", "stop_time")
        )
        order = np.lexsort((vehicle_trip, arrived))
        order = order[np.searchsorted(arrived[order], NAT, side="right") :]
        self.time = arrived[order]
        self._n_stops = len(events.codes.stops)
        self._position = np.append(events.stop_times.position, _UNSCHEDULED_END)[stop_time[order]]
        self._position_before = np.append(events.stop_times.position_at_stop_before, _NEVER)[stop_time[order]]
        keys = pd.Series(combine_codes(vehicle_trip[order], stop[order], self._n_stops))
        times_before = keys.groupby(keys).cumcount().to_numpy()
        self._repeats = [np.flatnonzero(times_before == times) for times in range(times_before.max(initial=0) + 1)]
        self._keys = [pd.Index(keys.to_numpy()[repeat]) for repeat in self._repeats]

    def find(
        self, vehicle_trips: np.ndarray, stops: np.ndarray, first_positions: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices of queries and of the arrivals at the first visits of stops (n,) from positions on.

        Where a vehicle arrives at a stop several times on its trip, each of the pairs of arrays is about one of them.
        """
        keys = pd.Index(combine_codes(vehicle_trips, stops, self._n_stops))
        for repeat, keys_of_repeat in zip(self._repeats, self._keys, strict=True):
            found = keys_of_repeat.get_indexer(keys)
            query = np.flatnonzero(found >= 0)
            arrival = repeat[found[query]]
            first = first_positions[query]
            is_first = (self._position_before[arrival] < first) & (first <= self._position[arrival])
            yield query[is_first], arrival[is_first]


def _extract_runs(
    stretches: np.ndarray, n_times: int, arrivals: _Arrivals, events: StopEvents
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and the times (r,) of all runs over some stretches, sorted by key.

    A key is the number of the stretch times `n_times`, plus the index of the arrival at which the run ended.
    """
    stop, destination, moving = events.codes.decode_stretches(stretches)
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
    for is_moving in (False, True):
        begins = _RunBegins(events, is_moving)
        index = np.flatnonzero((stretches >= 0) & (moving == is_moving))
        part = np.cumsum(begins.count[stop[index]]) // MAX_PAIRED_VISITS
        for numbers in np.split(index, np.flatnonzero(np.diff(part)) + 1):
            number, visit = begins.list_visits(stop[numbers])
            number = numbers[number]
            # A vehicle that stands at the destination is not on its way there.
            first_positions = begins.position[visit] + (not is_moving)
            for query, arrival in arrivals.find(begins.vehicle_trip[visit], destination[number], first_positions):
                run_time = arrivals.time[arrival] - begins.began[visit[query]]
                is_run = run_time > 0
                parts.append(((number[query] * n_times + arrival)[is_run], run_time[is_run]))
    keys, run_time = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    return keys[order], run_time[order]


class _RunBegins:
    """Visits at which runs begin, arrays (v,) with those of a stop in a row; `count` (stops,) of each stop."""

    def __init__(self, events: StopEvents, moving: bool) -> None:
        visits = events.visits
        began, stop, stop_time = (
            visits[name].to_numpy() for name in ("moved" if moving else "arrived", "stop", "stop_time")
        )
        index = np.flatnonzero(began != NAT)
        index = index[np.lexsort((stop_time[index], stop[index]))]
        self.began, self.vehicle_trip = began[index], visits["vehicle_trip"].to_numpy()[index]
        self.position = np.append(events.stop_times.position, _UNSCHEDULED_BEGIN)[stop_time[index]]
        self.count = np.bincount(stop[index], minlength=len(events.codes.stops))
        self._begin = np.cumsum(self.count) - self.count

    def list_visits(self, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all visits of each of some stops (n,): for each visit the index of the stop, and its own."""
        count = self.count[stops]
        number = np.repeat(np.arange(len(stops)), count)
        return number, np.arange(len(number)) + np.repeat(self._begin[stops] - np.cumsum(count) + count, count)
