"""How hard each prediction is: the size of error to expect in a vehicle's situation, relative to other predictions.

Errors grow with the time to go, and where a recent run time and the predicted one disagree, among others. The size is
log-linear in a few terms that every row has, so that it costs a few bytes and microseconds. How wide an interval is at
a given difficulty is calibrated in `intervals`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns

MIN_ERROR_SECONDS = 3.0
"""Added to the size of each error: smaller ones are rounding."""
MAX_FIT_ROWS = 200_000
"""More rows are thinned out evenly."""
LIMIT_QUANTILES = (0.001, 0.999)
"""No prediction counts as easier or harder than these quantiles of the rows that it was fitted on."""
RIDGE = 1e-4
"""Penalty on squared coefficients, in units of the standardized terms; it decides between terms that are equal."""
MAX_STEPS, MIN_GAIN = 40, 1e-7
"""Newton's method ends after so many steps, or when one lowers the mean loss by less."""


@dataclass(frozen=True)
class Difficulty:
    """The expected size of an error, 1 for the average prediction, as the exponential of a sum of terms."""

    coefficients: tuple[float, ...]
    """One for each of the terms, see `_compute_terms`."""
    center: float
    """The average of the sum."""
    limits: tuple[float, float]
    """The least and the greatest difference of the sum from it."""

    @classmethod
    def fit(cls, columns: Columns, delay: np.ndarray, error: np.ndarray, weights: np.ndarray) -> Self:
        """Fit the size of the errors (n,) in seconds of predicted delays (n,), each row with its weight (n,).

        The square root of the size is fitted, with the likelihood of an exponential distribution, which is convex: few
        enormous errors do not decide.
        """
        rows = slice(None, None, -(-len(error) // MAX_FIT_ROWS))
        terms = np.column_stack(list(_compute_terms(columns, delay)))[rows]
        weights = weights[rows] / weights[rows].sum()
        spread = terms.std(axis=0)
        varies = spread > 1e-9
        standard = (terms[:, varies] - terms[:, varies].mean(axis=0)) / spread[varies]
        fitted = _fit_log_size(standard, np.sqrt(np.abs(error[rows]) + MIN_ERROR_SECONDS), weights)
        coefficients = np.zeros(len(spread))
        coefficients[varies] = np.round(2 * fitted / spread[varies], 4)
        total = sum(coefficient * terms[:, index] for index, coefficient in enumerate(coefficients))
        center = float(np.round(weights @ total, 4))
        lowest, highest = np.round(np.quantile(total - center, LIMIT_QUANTILES), 4)
        return cls(tuple(coefficients.tolist()), center, (float(lowest), float(highest)))

    def evaluate(self, columns: Columns, delay: np.ndarray) -> np.ndarray:
        """Return the difficulty (n,) of predicted delays (n,) in seconds.

        It is summed row by row, so that it does not depend on which rows are predicted together.
        """
        total = np.full(len(delay), -self.center)
        for coefficient, term in zip(self.coefficients, _compute_terms(columns, delay), strict=True):
            total += coefficient * term
        return np.exp(np.clip(total, *self.limits))

    def evaluate_row(self, row: Mapping[str, Any], delay: float, at_first_stop: bool) -> float:
        """Return the difficulty of one row of plain Python values and its predicted delay in seconds."""
        ahead = max(delay + row["scheduled_seconds_ahead"], 0.0)
        recent, scheduled = row["recent_run_seconds"], row["scheduled_run_seconds"]
        run = max(_zero_if_missing(scheduled if recent != recent else recent), 0.0)
        early = max(-_zero_if_missing(row["departure_delay_seconds"]), 0.0)
        logarithms = (ahead + 10, run + 30, abs(ahead - run) + 30, row["stops_ahead"] + 0.5, early + 30)
        total = -self.center
        for coefficient, value in zip(self.coefficients, logarithms, strict=False):
            total += coefficient * float(np.log(value))
        total += self.coefficients[-1] * at_first_stop
        lowest, highest = self.limits
        return float(np.exp(min(max(total, lowest), highest)))

    def to_list(self) -> list[Any]:
        """Return the difficulty as JSON."""
        return [list(self.coefficients), self.center, list(self.limits)]

    @classmethod
    def from_list(cls, stored: tuple[list[float], float, list[float]]) -> Self:
        """Return the difficulty that `to_list` gave."""
        coefficients, center, (lowest, highest) = stored
        return cls(tuple(coefficients), center, (lowest, highest))


def _compute_terms(columns: Columns, delay: np.ndarray) -> Iterable[np.ndarray]:
    """Yield the terms (n,) that the difficulty of predicted delays (n,) depends on.

    They are, in logarithms, the time to go, a recent run time, by how much these differ, the stops ahead, and how early
    the vehicle left the last stop; and whether it is at the first stop of its trip. The time of the day is not among
    them, as a calibration may lack some of its hours.
    """
    ahead = np.maximum(delay + _to_floats(columns, "scheduled_seconds_ahead"), 0)
    recent, scheduled = (_to_floats(columns, name) for name in ("recent_run_seconds", "scheduled_run_seconds"))
    run = np.maximum(np.nan_to_num(np.where(np.isnan(recent), scheduled, recent)), 0)
    early = np.maximum(-np.nan_to_num(_to_floats(columns, "departure_delay_seconds")), 0)
    yield np.log(ahead + 10)
    yield np.log(run + 30)
    yield np.log(np.abs(ahead - run) + 30)
    yield np.log(_to_floats(columns, "stops_ahead") + 0.5)
    yield np.log(early + 30)
    yield is_at_first_stop(columns).astype(np.float64)


def _zero_if_missing(value: float) -> float:
    return 0.0 if value != value else value


def is_at_first_stop(columns: Columns) -> np.ndarray:
    """Return a mask (n,) of the rows whose vehicle has not left the first stop of its trip, or is on its way to it."""
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    stops_behind = _to_floats(columns, "stops_behind")
    return (stops_behind == 0) | (standing & (stops_behind <= 1))


def is_row_at_first_stop(row: Mapping[str, Any]) -> bool:
    """Return `is_at_first_stop` of one row of plain Python values."""
    stops_behind: float = row["stops_behind"]
    return stops_behind == 0 or (row["current_status"] == "STOPPED_AT" and stops_behind <= 1)


def _fit_log_size(terms: np.ndarray, size: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coefficients (k,) of standardized terms (n, k) that predict the logarithm of positive sizes (n,).

    They minimize the weighted mean of `size / predicted + log(predicted)` by Newton's method.
    """
    design = np.column_stack([np.ones(len(size)), terms])
    penalty = RIDGE * np.diag(np.arange(design.shape[1]) > 0)
    log_size = np.log(size)

    def compute_loss(b: np.ndarray) -> float:
        predicted = design @ b
        return float(weights @ (np.exp(np.minimum(log_size - predicted, 50)) + predicted) + b @ penalty @ b / 2)

    b = np.linalg.solve((design * weights[:, None]).T @ design + penalty, design.T @ (weights * log_size))
    loss = compute_loss(b)
    for _ in range(MAX_STEPS):
        ratio = weights * np.exp(np.minimum(log_size - design @ b, 50))
        gradient = design.T @ (weights - ratio) + penalty @ b
        step = np.linalg.solve((design * ratio[:, None]).T @ design + penalty, gradient)
        while (next_loss := compute_loss(b - step)) > loss and np.abs(step).max() > 1e-9:
            step = step / 2
        b, gain, loss = b - step, loss - next_loss, next_loss
        if gain < MIN_GAIN:
            break
    return b[1:]


def _to_floats(columns: Columns, name: str) -> np.ndarray:
    """Return a column as (n,) float64."""
    return np.asarray(columns[name], dtype=np.float64)
