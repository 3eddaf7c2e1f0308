"""Differences of error between two models on the same rows, by service day or by trip, with a confidence interval.

The days or trips are the sample: errors within one depend on one another, so a difference that does not hold from one
to the next is chance, however many arrivals it is of.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbta_assets.counts import format_count

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class DailyDifference:
    """MAE of a model minus that of a baseline, in seconds; negative where the model is better."""

    model: str
    days: int
    better_days: int
    """Number of days on which the model is better."""
    mean: float
    """Mean over the days, each of which counts the same."""
    half_width: float | None
    """Half width of the interval at `CONFIDENCE_LEVEL`; None for a single day."""

    def __str__(self) -> str:
        """Return the difference in words."""
        bounds = ", no interval" if self.half_width is None else f" ± {self.half_width:.2f}"
        days = format_count(self.days, "day")
        return f"{self.model:18}{self.mean:+9.2f} s{bounds}; better on {self.better_days} of {days}"


def compare_by_day(leaderboard: Sequence[Mapping[str, Any]], baseline: str) -> list[DailyDifference]:
    """Return the difference of each row of a leaderboard to that of a baseline, over the days that both have.

    A row of fewer arrivals, as that of the agency may be, is left out. The interval is Student's, of the mean of the
    days' differences. Raises KeyError if there is no such baseline.
    """
    rows = {row["model"]: row for row in leaderboard}
    of_baseline = rows[baseline]["by_day"]
    differences = []
    for model, row in rows.items():
        by_day = [
            errors["mae"] - of_baseline[day]["mae"] for day, errors in row["by_day"].items() if day in of_baseline
        ]
        if model != baseline and by_day and row.get("n") == rows[baseline].get("n"):
            differences.append(_summarize(model, by_day))
    return differences


def _summarize(model: str, by_day: Sequence[float]) -> DailyDifference:
    n = len(by_day)
    mean = math.fsum(by_day) / n
    half_width = None
    if n > 1:
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in by_day) / (n - 1))
        half_width = _find_quantile(n) * deviation / math.sqrt(n)
    return DailyDifference(model, n, sum(value < 0 for value in by_day), mean, half_width)


def compute_half_width(difference: np.ndarray, group: np.ndarray) -> float | None:
    """Return the half width at `CONFIDENCE_LEVEL` of the interval around the mean of the differences (n,) of n rows.

    `group` (n,) has the group of each row: rows of different groups are independent, those of one group may not be. A
    group weighs as much as it has rows. It is None for a single group.
    """
    codes, counts = np.unique(group, return_inverse=True, return_counts=True)[1:]
    n = len(counts)
    if n < 2:
        return None
    deviation = np.bincount(codes, difference - difference.mean())  # of the sum of each group from what it should be
    variance = n / (n - 1) * (deviation**2).sum() / len(difference) ** 2
    return _find_quantile(n) * math.sqrt(variance)


def _find_quantile(n: int) -> float:
    """Return Student's quantile for the mean of n values at `CONFIDENCE_LEVEL`."""
    from scipy.stats import t as student_t  # takes a second to import; the code location imports this module

    return float(student_t.ppf((1 + CONFIDENCE_LEVEL) / 2, n - 1))
