"""Metrics of predicted delays: errors in seconds, shares within error windows, and rows of the leaderboard."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mbta_assets.agency import AGENCY
from mbta_assets.ml.evaluation.grouping import bin_changes, classify_positions
from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.intervals import UNCORRECTED, IntervalCalibration
from mbta_assets.ml.inference.monotone import group_reports
from mbta_assets.setting_types import parse_minutes
from mbta_assets.transit.agency_delays import AGENCY_DELAY


class ErrorWindow(NamedTuple):
    """Errors (actual minus predicted) that count as accurate in a bin of time to arrival, all in seconds."""

    min_ahead: int
    max_ahead: int
    """Exclusive."""
    min_error: int
    max_error: int


class Share(NamedTuple):
    """A share of n predictions."""

    n: int
    value: float | None
    """None if n is 0."""


def make_windows(settings: Mapping[str, tuple[int, int]]) -> dict[str, ErrorWindow]:
    """Return the windows of the setting MBTA_ACCURACY_WINDOWS by bin."""
    windows = {}
    for name, (min_error, max_error) in settings.items():
        start, end = parse_minutes(name)
        windows[name] = ErrorWindow(60 * start, 60 * end, min_error, max_error)
    return windows


MBTA_WINDOWS: Mapping[str, ErrorWindow] = make_windows(AGENCY.accuracy_windows)
"""Windows of `within_mbta_window`, by predicted time to arrival: by default the MBTA's accuracy standard.

An error on a bound of the window is outside.
"""

ETA_WINDOWS: Mapping[str, ErrorWindow] = {
    "0-3 min": ErrorWindow(0, 180, -30, 90),
    "3-6 min": ErrorWindow(180, 360, -60, 150),
    "6-10 min": ErrorWindow(360, 600, -60, 210),
    "10-15 min": ErrorWindow(600, 900, -90, 270),
}
"""The ETA Accuracy Benchmark, by actual time to arrival. An error on a bound of the window is inside.

https://github.com/TransitApp/ETA-Accuracy-Benchmark
"""

AGENCY_BASELINE = "agency"
"""Name of the agency's own predictions, where they are scored like those of a model."""

LeaderboardRow = dict[str, Any]
"""One row of `model_leaderboard.json`."""


def compute_errors(label: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Return the error metrics of predicted delays (n,) against actual ones (n,), in seconds; `smape` in percent.

    `me` is the mean of actual minus predicted, positive where vehicles arrive later than predicted. `r2` is None if all
    labels are equal.
    """
    error = label - predicted
    magnitude = np.abs(label) + np.abs(predicted)
    relative_error = np.divide(2 * np.abs(error), magnitude, out=np.zeros_like(magnitude), where=magnitude > 0)
    total_variation = np.sum((label - label.mean()) ** 2)
    return {
        "n": len(label),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "medae": float(np.median(np.abs(error))),
        "me": float(error.mean()),
        "smape": float(100 * np.mean(relative_error)),
        "r2": float(1 - np.sum(error**2) / total_variation) if total_variation > 0 else None,
    }


def score_mbta_windows(
    label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray
) -> dict[str, Share]:
    """Return the share of predictions within `MBTA_WINDOWS`, by predicted time to arrival; arrays (n,) in seconds.

    A missing label is an arrival that was never seen; its prediction counts as outside.
    """
    error, seconds_ahead = label - predicted, scheduled_seconds_ahead + predicted
    shares = {}
    for name, window in MBTA_WINDOWS.items():
        binned = error[_in_bin(seconds_ahead, window)]
        shares[name] = _compute_share((binned > window.min_error) & (binned < window.max_error))
    return shares


def score_eta_windows(
    label: np.ndarray, predicted: np.ndarray, scheduled_seconds_ahead: np.ndarray
) -> dict[str, Share]:
    """Return the share of predictions within `ETA_WINDOWS`, by actual time to arrival; arrays (n,) in seconds.

    A prediction without a label has no actual time to arrival and is in no bin.
    """
    error, seconds_ahead = label - predicted, scheduled_seconds_ahead + label
    shares = {}
    for name, window in ETA_WINDOWS.items():
        binned = error[_in_bin(seconds_ahead, window)]
        shares[name] = _compute_share((binned >= window.min_error) & (binned <= window.max_error))
    return shares


def score_interval(interval: IntervalCalibration, columns: Columns, delay: np.ndarray) -> dict[str, Any]:
    """Return the coverage and mean width of an interval around predicted delays (n,), in all and by distance and day.

    `columns` are feature columns of n labelled rows. `adaptive` has the same for intervals that are corrected by what
    the service days before taught, day by day.
    """
    groups, days = group_reports(columns), np.asarray(columns["service_date"], dtype="datetime64[D]").astype(str)
    lower, upper = interval.compute_bounds(columns, delay, groups)
    adaptive, correction = np.empty((2, len(delay))), UNCORRECTED
    arrays = {name: np.asarray(columns[name]) for name in map(str, columns)}
    for day in np.unique(days):
        mask = days == day
        of_day = {name: values[mask] for name, values in arrays.items()}
        adaptive[:, mask] = interval.compute_bounds(of_day, delay[mask], groups[mask], correction)
        correction = interval.learn_day(correction, of_day, delay[mask], groups[mask])
    return {
        "confidence_level": interval.confidence_level,
        **_score_bounds(columns, days, lower, upper),
        "adaptive": _score_bounds(columns, days, *adaptive),
    }


def _score_bounds(columns: Columns, days: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> dict[str, Any]:
    """Return the coverage and mean width of bounds (n,), in all and by distance and service day (n,)."""
    label = np.asarray(columns["delay_seconds"], dtype=np.float64)
    stops_ahead = np.asarray(columns["stops_ahead"], dtype=np.int64)
    within, width = (label >= lower) & (label <= upper), upper - lower

    def score(mask: np.ndarray) -> dict[str, Any]:
        return {
            "n": int(mask.sum()),
            "coverage": float(within[mask].mean()),
            "mean_width_seconds": float(width[mask].mean()),
        }

    return {
        **score(np.ones(len(label), dtype=bool)),
        "by_stops_ahead": {str(stops): score(stops_ahead == stops) for stops in np.unique(stops_ahead)},
        "by_day": {day: score(days == day) for day in np.unique(days)},
    }


def make_leaderboard_row(model: str, rows: Columns, predicted: np.ndarray) -> LeaderboardRow:
    """Return the leaderboard row of a model's predicted delays (n,) for n labelled rows of the test part.

    Rows without a prediction, NaN, are left out. `mae_beside_agency` is the MAE on the rows with a prediction by the
    agency, None if there are none. Fields that only stored models have are None.
    """
    is_predicted = ~np.isnan(predicted)
    if not is_predicted.all():
        rows = {str(name): np.asarray(values)[is_predicted] for name, values in rows.items()}
        predicted = predicted[is_predicted]
    label = np.asarray(rows["delay_seconds"], dtype=np.float64)
    scheduled_seconds_ahead = np.asarray(rows["scheduled_seconds_ahead"], dtype=np.float64)
    beside_agency = np.abs(label - predicted)[~np.isnan(get_agency_delays(rows))]
    shares = score_mbta_windows(label, predicted, scheduled_seconds_ahead)
    return {
        "model": model,
        **compute_errors(label, predicted),
        "mae_beside_agency": float(beside_agency.mean()) if len(beside_agency) else None,
        "within_mbta_window": {name: share.value for name, share in shares.items() if share.value is not None},
        "by_stops_ahead": _compute_errors_by(rows["stops_ahead"], label, predicted),
        "by_position": _compute_errors_by(classify_positions(rows), label, predicted),
        "by_route": _compute_errors_by(rows["route_id"], label, predicted),
        "by_day": _compute_errors_by(rows["service_date"], label, predicted),
        "by_change": _compute_errors_by(bin_changes(rows), label, predicted),
        "corrected_trips": None,
        "mae_uncorrected": None,
        "interval": None,
        "version": None,
        "size_bytes": None,
        "parameters": None,
        "latency_us_p50": None,
    }


def predict_baselines(rows: Columns) -> dict[str, np.ndarray]:
    """Return the predicted delays (n,) of the baselines that need no fitting.

    `schedule` predicts no delay, `persistence` the last delay of the trip.
    """
    last_delay = np.asarray(rows["last_delay_seconds"], dtype=np.float64)
    return {"schedule": np.zeros(len(last_delay)), "persistence": np.nan_to_num(last_delay)}


def get_agency_delays(rows: Columns) -> np.ndarray:
    """Return the delays (n,) that the agency predicted, NaN where it did not; rows of earlier releases have none."""
    if AGENCY_DELAY in rows:
        return np.asarray(rows[AGENCY_DELAY], dtype=np.float64)
    return np.full(len(rows["delay_seconds"]), np.nan)


def _in_bin(seconds_ahead: np.ndarray, window: ErrorWindow) -> np.ndarray:
    """Return a mask (n,) of the predictions whose time to arrival is in a window's bin."""
    return (seconds_ahead >= window.min_ahead) & (seconds_ahead < window.max_ahead)


def _compute_share(within: np.ndarray) -> Share:
    """Return the share of a mask (n,) that is true."""
    return Share(len(within), float(within.mean()) if len(within) else None)


def _compute_errors_by(column: Any, label: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return n, MAE and RMSE for each value of a column (n,), in order; missing values are left out."""
    codes, members = pd.factorize(np.asarray(column, dtype=object), sort=True)
    by_member = {}
    for code, member in enumerate(members):
        errors = compute_errors(label[codes == code], predicted[codes == code])
        by_member[str(member)] = {name: errors[name] for name in ("n", "mae", "rmse")}
    return by_member
