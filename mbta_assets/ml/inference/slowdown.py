"""The extrapolation of run times to a network that runs slower than a model has ever learned.

Trees predict for a storm what they have learned of the slowest hours before it, and networks hardly more. Where
`network_run_ratio` is above the range of the learned rows, the time to an event and the unit of the residual are
multiplied by how far above it is. Within that range nothing changes, and models learn what the ratio tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns

RATIO = "network_run_ratio"
OUTER_SHARE = 0.02
"""Share of the learned rows that is above the range: in the first hours of a day the ratio is that of few vehicles."""
UNKNOWN_RATIO = 1.0
"""Ratio while no run has been seen; it is always in the range."""
MAX_SLOWDOWN = 2.0


@dataclass(frozen=True)
class LearnedPace:
    """How slow the network has been in the rows that a model has learned."""

    highest_ratio: float | None = None
    """Upper end of the range of `network_run_ratio`; None if it was not learned, and there is no slowdown."""

    @classmethod
    def fit(cls, rows: Columns) -> Self:
        """Measure the range in rows with the column `network_run_ratio`, which may be missing in all of them."""
        ratio = np.asarray(rows[RATIO], dtype=np.float64)
        ratio = ratio[~np.isnan(ratio)]
        return cls(max(round(float(np.quantile(ratio, 1 - OUTER_SHARE)), 4), UNKNOWN_RATIO) if len(ratio) else None)

    def compute_slowdown(self, columns: Columns) -> np.ndarray:
        """Return how many times longer (n,) than in any learned row run times are; 1 within the range."""
        if self.highest_ratio is None:
            return np.ones(len(columns["scheduled_seconds_ahead"]))
        slowdown = np.asarray(columns[RATIO], dtype=np.float64) / self.highest_ratio
        return np.clip(np.nan_to_num(slowdown, nan=1.0), 1.0, MAX_SLOWDOWN)

    def compute_row_slowdown(self, row: Mapping[str, Any]) -> float:
        """Return the slowdown of one row of plain Python values."""
        if self.highest_ratio is None or row[RATIO] != row[RATIO]:
            return 1.0
        return min(max(row[RATIO] / self.highest_ratio, 1.0), MAX_SLOWDOWN)
