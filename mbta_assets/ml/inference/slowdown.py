"""The extrapolation of run times to a network that runs slower than a model has learned at that time of the day.

Trees predict for a storm what they have learned of the slowest hours before it, and networks hardly more. Where
`network_run_ratio` is above the range of the learned rows of the same hours, the time to an event and the unit of the
residual are multiplied by how far above it is. What the model reads of current run times is divided by that: it sees
the slowest network that it has learned at that time. Within that range nothing changes, and models learn what the ratio
tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.hourly_run_time import N_BINS, find_bin_half_way, find_bins_half_way

RATIO = "network_run_ratio"
CURRENT_RUN_TIMES = (RATIO, "last_run_seconds", "recent_run_seconds")
"""Model inputs that tell how long vehicles take now."""
OUTER_SHARE = 0.2
"""Share of the learned rows of a bin of hours that is above its range: more than a storm on one day of eight."""
MIN_ROWS = 1_000
"""Bins of fewer learned rows have the range of all rows."""
UNKNOWN_RATIO = 1.0
"""Ratio while no run has been seen; it is always in the range."""
MAX_SLOWDOWN = 2.0


@dataclass(frozen=True)
class LearnedPace:
    """How slow the network has been in the rows that a model has learned."""

    highest_ratios: tuple[float, ...] | None = None
    """Upper end of the range of `network_run_ratio` in each of the `N_BINS` bins of hours; None if it was not learned,
    and there is no slowdown."""

    @classmethod
    def fit(cls, rows: Columns) -> Self:
        """Measure the ranges in rows with `network_run_ratio`, which may be missing in all of them, and their time."""
        ratio = np.asarray(rows[RATIO], dtype=np.float64)
        observed = ~np.isnan(ratio)
        if not observed.any():
            return cls()
        ratio, bins = ratio[observed], _find_bins(rows)[observed]
        highest_of_all = max(_find_upper_end(ratio), UNKNOWN_RATIO)
        by_bin = [ratio[bins == index] for index in range(N_BINS)]
        return cls(tuple(_find_upper_end(part) if len(part) >= MIN_ROWS else highest_of_all for part in by_bin))

    def compute_slowdown(self, columns: Columns) -> np.ndarray:
        """Return how many times longer (n,) than in any learned row of these hours run times are; 1 in the range."""
        if self.highest_ratios is None:
            return np.ones(len(columns["scheduled_seconds_ahead"]))
        ratio = np.asarray(columns[RATIO], dtype=np.float64)
        slowdown = ratio / np.array(self.highest_ratios)[_find_bins(columns)]
        slowdown[np.isnan(ratio) | (ratio == UNKNOWN_RATIO)] = 1.0
        return np.clip(slowdown, 1.0, MAX_SLOWDOWN)

    def compute_row_slowdown(self, row: Mapping[str, Any]) -> float:
        """Return the slowdown of one row of plain Python values."""
        if self.highest_ratios is None or (ratio := row[RATIO]) != ratio or ratio == UNKNOWN_RATIO:
            return 1.0
        slowdown: float = ratio / self.highest_ratios[find_bin_half_way(row["sin_time"], row["cos_time"], 0.0)]
        return min(max(slowdown, 1.0), MAX_SLOWDOWN)

    @classmethod
    def from_json(cls, stored: float | list[float] | None) -> Self:
        """Return the pace with these upper ends, or with one at all hours, as an earlier version stored it."""
        if stored is None:
            return cls()
        return cls(tuple(stored) if isinstance(stored, list) else (stored,) * N_BINS)


def _find_bins(columns: Columns) -> np.ndarray:
    """Return the bin of hours (n,) that each row is in."""
    return find_bins_half_way(columns, np.zeros(len(columns["scheduled_seconds_ahead"])))


def _find_upper_end(ratio: np.ndarray) -> float:
    """Return the upper end of the range of learned ratios (n,)."""
    return round(float(np.quantile(ratio, 1 - OUTER_SHARE)), 4)
