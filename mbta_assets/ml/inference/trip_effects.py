"""How the run times of a scheduled trip differ from those of others, on every day.

The same trip runs on many service days, mostly with the same driver, riders and traffic. Its effect is a mean over the
service days, shrunk to zero where there are few and by how little one says about another (empirical Bayes). Where trips
differ by chance alone, none has an effect. Ids of trips change with each timetable and, at some agencies, every day, so
a trip is known by its route, direction and scheduled start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns, encode_values
from mbta_assets.ml.inference.hourly_run_time import HourlyRunTime, Runs

TRIP_COLUMNS = ("trip_start_seconds", "direction_id")
"""Columns of `transit_features` that tell the scheduled trips of a route apart."""
NO_TRIP = -1
"""Number of a trip whose route or start is not known."""
N_DIRECTIONS = 3
"""Both directions and a missing one."""
MINUTES = 4 * 24 * 60
"""Range of the start of a trip, in minutes of the service day."""
MIN_SECONDS = 300
"""Trips that were observed over shorter run times tell nothing of the ratio to usual ones."""
RATIO_RANGE = (-0.5, 0.5)
"""Limits of the excess of a trip's run times relative to usual ones."""
STEP = 0.04
"""Unit of stored effects."""
MAX_DAYS_TO_HALF = 30
"""Effects that are halved by the shrinkage even after so many service days are none."""


@dataclass(frozen=True)
class TripEffects:
    """Effects of scheduled trips; others have none."""

    trips: np.ndarray
    """(t,) numbers of trips, ascending; see `number_trips`."""
    run_ratios: np.ndarray
    """(t,) excess of the trip's run times relative to usual ones."""

    @classmethod
    def none(cls) -> Self:
        """Return effects of no trip."""
        return cls(np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def fit(cls, trip: np.ndarray, runs: Runs, hourly: HourlyRunTime) -> Self:
        """Fit the effects of observed trips.

        `trip` (v,) are the numbers of the scheduled trips that vehicles served, each on a service day; `Runs.trip` are
        indices of these.
        """
        of_run, seconds, excess = hourly.compare_runs(runs)
        total, usual = (np.bincount(of_run, values, len(trip)) for values in (excess, seconds))
        observed = (usual >= MIN_SECONDS) & (trip != NO_TRIP)
        trips, group = np.unique(trip[observed], return_inverse=True)
        effects = _shrink(group, np.clip(total[observed] / usual[observed], *RATIO_RANGE), len(trips))
        run_ratios = np.round(effects / STEP) * STEP
        stored = run_ratios != 0
        return cls(trips[stored], run_ratios[stored])

    @cached_property
    def _ratio_of_trip(self) -> dict[int, float]:
        return dict(zip(self.trips.tolist(), self.run_ratios.tolist(), strict=True))

    def find(self, trip: np.ndarray) -> np.ndarray:
        """Return the run ratio (n,) of trips by number (n,); 0 where there is no effect."""
        if not len(self.trips):
            return np.zeros(len(trip))
        index = np.minimum(np.searchsorted(self.trips, trip), len(self.trips) - 1)
        return np.where(self.trips[index] == trip, self.run_ratios[index], 0.0)

    def find_one(self, trip: int) -> float:
        """Return the run ratio of one trip."""
        return self._ratio_of_trip.get(trip, 0.0)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the effects as arrays of small integers."""
        return {
            "trip_steps": np.diff(self.trips, prepend=0),
            "trip_run_ratios": np.round(self.run_ratios / STEP).astype(np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Return the effects that `to_arrays` gave."""
        return cls(np.cumsum(arrays["trip_steps"], dtype=np.int64), arrays["trip_run_ratios"] * STEP)


def number_trips(columns: Columns, route: np.ndarray, n_routes: int) -> np.ndarray:
    """Return the number (n,) of the scheduled trip of each row, `NO_TRIP` where it is not known.

    `route` (n,) are codes below `n_routes`, or that where a route is not known.
    """
    direction = encode_values(columns["direction_id"], {0: 0, 1: 1}, N_DIRECTIONS - 1)
    start = np.asarray(columns["trip_start_seconds"], dtype=np.float64)
    minute = np.nan_to_num(start // 60, nan=NO_TRIP).astype(np.int64)
    is_known = (route < n_routes) & (minute >= 0) & (minute < MINUTES)
    return np.where(is_known, (route * N_DIRECTIONS + direction) * MINUTES + minute, NO_TRIP)


def number_trip(row: Mapping[str, Any], route: int, n_routes: int) -> int:
    """Return the number of the scheduled trip of one row of plain Python values; arguments as of `number_trips`."""
    start, direction = row["trip_start_seconds"], row["direction_id"]
    if route == n_routes or not 0 <= start < MINUTES * 60:
        return NO_TRIP
    return (route * N_DIRECTIONS + (N_DIRECTIONS - 1 if direction is None else direction)) * MINUTES + int(start // 60)


def _shrink(group: np.ndarray, values: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the effects (g,) of groups: how far their means are from that of all values, without the share of chance.

    `group` (n,) are from 0 to g - 1, and each has a value among the n. The variances within and between groups are
    those of the analysis of variance with random effects.
    """
    n = len(values)
    if n_groups < 2 or n <= n_groups:
        return np.zeros(n_groups)
    counts, deviations = np.bincount(group), values - values.mean()
    effects = np.bincount(group, deviations) / counts
    within = np.square(deviations - effects[group]).sum() / (n - n_groups)
    usual_count = (n - np.square(counts).sum() / n) / (n_groups - 1)
    between = ((counts * np.square(effects)).sum() / (n_groups - 1) - within) / usual_count
    if between <= 0 or within > MAX_DAYS_TO_HALF * between:
        return np.zeros(n_groups)
    return effects * counts / (counts + within / between)
