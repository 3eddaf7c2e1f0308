"""How good predictions are: errors in seconds of delay, and the share inside the MBTA's own window."""

from typing import Any

import numpy as np

from mbta_assets.learning.encode import Columns

MBTA_WINDOWS = {"0-3 min": (0, 180, -60, 60), "3-6 min": (180, 360, -90, 120),
                "6-12 min": (360, 720, -150, 210), "12-30 min": (720, 1800, -240, 360)}  # fmt: skip
"""By predicted time ahead in seconds (from, below): an error (actual minus predicted) inside (above, below) counts."""

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
    error = label - predicted
    ahead = scheduled_seconds_ahead + predicted
    shares = {}
    for name, (begin, end, early, late) in MBTA_WINDOWS.items():
        binned = (ahead >= begin) & (ahead < end)
        if binned.any():
            shares[name] = float(((error[binned] > early) & (error[binned] < late)).mean())
    return shares


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
        "size_bytes": None,
        "parameters": None,
        "latency_us_p50": None,
    }


def baselines(rows: Columns) -> dict[str, np.ndarray]:
    """Predicted delays (n,) of the baselines that need no fitting: on schedule, and as late as it last was."""
    last_delay = np.asarray(rows["last_delay_seconds"], dtype=np.float64)
    return {"schedule": np.zeros(len(last_delay)), "persistence": np.nan_to_num(last_delay)}
