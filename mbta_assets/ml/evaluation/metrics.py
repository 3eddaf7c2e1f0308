"""How good predictions are: errors in seconds of delay, and the share inside the MBTA's own window."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbta_assets.ml.inference.encoder import Columns

Windows = Mapping[str, tuple[int, int, int, int]]
"""By time ahead in seconds (from, below), which errors (actual minus predicted, in seconds) are right (least, most)."""

MBTA_WINDOWS: Windows = {"0-3 min": (0, 180, -60, 60), "3-6 min": (180, 360, -90, 120),
                         "6-12 min": (360, 720, -150, 210), "12-30 min": (720, 1800, -240, 360)}  # fmt: skip
"""The MBTA's rule, by predicted time ahead: an error on a bound is wrong, and so is an arrival that never came."""

ETA_WINDOWS: Windows = {"0-3 min": (0, 180, -30, 90), "3-6 min": (180, 360, -60, 150),
                        "6-10 min": (360, 600, -60, 210), "10-15 min": (600, 900, -90, 270)}  # fmt: skip
"""The ETA Accuracy Benchmark, by actual time ahead: an error on a bound is right.

https://github.com/TransitApp/ETA-Accuracy-Benchmark
"""

Judged = dict[str, tuple[int, float | None]]
"""By bin of time ahead, how many predictions there are and the share of them that is right; None where none are."""

Row = dict[str, Any]


def errors(label: np.ndarray, predicted: np.ndarray) -> Row:
    """Errors of predicted delays (n,) against actual ones (n,), in seconds; `smape` in percent, `r2` a share.

    `me` is the mean of actual minus predicted: positive where vehicles came later than predicted.
    """
    error = label - predicted
    size = np.abs(label) + np.abs(predicted)
    variance = np.sum((label - label.mean()) ** 2)
    return {
        "n": len(label),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "medae": float(np.median(np.abs(error))),
        "me": float(error.mean()),
        "smape": float(100 * np.mean(np.divide(2 * np.abs(error), size, out=np.zeros_like(size), where=size > 0))),
        "r2": float(1 - np.sum(error**2) / variance) if variance > 0 else None,
    }


def within_mbta_window(
    label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray
) -> dict[str, float]:
    """Share of predictions the MBTA would accept, by predicted time ahead; bins without a prediction are left out."""
    counted = mbta_window(label, predicted, scheduled_seconds_ahead)
    return {name: share for name, (_, share) in counted.items() if share is not None}


def mbta_window(label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray) -> Judged:
    """What the MBTA would accept, by predicted time ahead; arrays (n,) in seconds.

    A missing label is an arrival that never came: its prediction is wrong.
    """
    return _judged(MBTA_WINDOWS, label - predicted, scheduled_seconds_ahead + predicted, bounds_are_right=False)


def eta_benchmark(label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray) -> Judged:
    """What the ETA Accuracy Benchmark accepts, by actual time ahead; arrays (n,) in seconds.

    Without a label there is no actual time, so that such a prediction is in no bin.
    """
    return _judged(ETA_WINDOWS, label - predicted, scheduled_seconds_ahead + label, bounds_are_right=True)


def _judged(windows: Windows, error: np.ndarray, ahead: np.ndarray, *, bounds_are_right: bool) -> Judged:
    above, below = (np.greater_equal, np.less_equal) if bounds_are_right else (np.greater, np.less)
    judged: Judged = {}
    for name, (begin, end, least, most) in windows.items():
        binned = error[(ahead >= begin) & (ahead < end)]
        right = above(binned, least) & below(binned, most)
        judged[name] = len(binned), float(right.mean()) if len(binned) else None
    return judged


def leaderboard_row(model: str, rows: Columns, predicted: np.ndarray) -> Row:
    """One leaderboard row: every metric of a model's predicted delays (n,) over labelled rows of the test part."""
    label = np.asarray(rows["delay_seconds"], dtype=np.float64)
    ahead = np.asarray(rows["scheduled_seconds_ahead"], dtype=np.float64)

    def grouped(column: str) -> dict[str, Row]:
        values = np.asarray(rows[column], dtype=object)
        names = sorted(set(values.tolist()) - {None}, key=lambda value: (str(type(value)), value))
        parts = {str(name): errors(label[values == name], predicted[values == name]) for name in names}
        return {name: {key: part[key] for key in ("n", "mae", "rmse")} for name, part in parts.items()}

    return {
        "model": model,
        **errors(label, predicted),
        "within_mbta_window": within_mbta_window(label, predicted, ahead),
        "by_stops_ahead": grouped("stops_ahead"),
        "by_route": grouped("route_id"),
        "interval": None,
        "version": None,
        "size_bytes": None,
        "parameters": None,
        "latency_us_p50": None,
    }


def baselines(rows: Columns) -> dict[str, np.ndarray]:
    """Predicted delays (n,) of the baselines that need no fitting: on schedule, and as late as it last was."""
    last_delay = np.asarray(rows["last_delay_seconds"], dtype=np.float64)
    return {"schedule": np.zeros(len(last_delay)), "persistence": np.nan_to_num(last_delay)}
