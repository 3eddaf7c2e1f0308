"""The latency of single predictions, as the leaderboard reports it and the gate judges it."""

import time
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_SHARE = 0.1
"""Calls before the measurement, as a share of the measured ones."""
MIN_CALLS = 100
"""Number of calls of which the gate takes the fastest."""


def measure_median_latency_us(predict_row: Callable[[], Any], calls: int = 200) -> float:
    """Return the median duration of a call in microseconds, after a warm-up."""
    durations = []
    for _ in range(round(calls * WARM_UP_SHARE)):
        predict_row()
    for _ in range(calls):
        start = time.perf_counter_ns()
        predict_row()
        durations.append(time.perf_counter_ns() - start)
    return float(np.median(durations) / 1000)


def measure_min_latency_us(predict_row: Callable[[], Any]) -> float:
    """Return the least duration of `MIN_CALLS` calls in microseconds, as other load on the machine only adds to it."""
    return 1e6 * min(timeit.repeat(predict_row, number=1, repeat=MIN_CALLS))
