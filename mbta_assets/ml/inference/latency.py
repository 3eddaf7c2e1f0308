"""How long one prediction takes."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def p50_microseconds(predict_one: Callable[[], Any], calls: int = 200) -> float:
    """Median microseconds of a call, after a warm-up of a tenth of the calls."""
    taken = []
    for _ in range(calls + calls // 10):
        begin = time.perf_counter_ns()
        predict_one()
        taken.append(time.perf_counter_ns() - begin)
    return float(np.median(taken[calls // 10 :]) / 1000)
