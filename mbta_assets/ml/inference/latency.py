"""The latency of single predictions, as `ml.training` and the leaderboard report it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_SHARE = 0.1
"""Calls before the measurement, as a share of the measured ones."""


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
