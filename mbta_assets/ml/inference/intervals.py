"""Prediction intervals by split conformal prediction, calibrated on rows that no weight was fitted to.

The width of an interval is a quantile of the errors of a group of validation rows, each relative to its difficulty,
times the difficulty of the row (normalized residuals, see `difficulty`). Groups are formed by route, by whether the
vehicle has left its first stop, and by stops ahead, because errors differ most by these (Mondrian conformal prediction,
https://arxiv.org/abs/1209.2673); along the stops ahead the quantiles form a curve. Each service day counts the
same. How often arrivals lie within is scored in `ml.evaluation`.
"""

import json
import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.difficulty import Difficulty, is_at_first_stop, is_row_at_first_stop
from mbta_assets.ml.inference.distance_curve import DistanceCurve
from mbta_assets.ml.inference.encoder import Columns, encode_values
from mbta_assets.ml.inference.monotone import group_reports, group_rows, make_non_decreasing
from mbta_assets.ml.inference.width_correction import WidthCorrection

DEFAULT_CONFIDENCE_LEVEL = 0.9
"""Share of arrivals that should lie within the interval."""
MIN_TRIPS = 50
"""Groups of fewer trips are pooled with others; errors within one trip are correlated."""

POOLED_TRIPS = 300
"""Distances of fewer trips are pooled with further ones."""
MAX_DAY_RATIO = 1.25
"""Errors of a day count as if they were at most so many times as large, or as small, as those of the median day."""
MIN_DAYS = 3
"""Of fewer days none is odd."""
MIN_WIDTH_SECONDS = 0.1
UNCORRECTED = WidthCorrection()
MIN_EARLY_RATIO, MAX_EARLY_RATIO = 0.7, 1.4
"""Errors of one calibration day may lie more to one side than those of the next days."""

Group = tuple[str | None, bool | None]
"""Route, and whether the vehicle is still at its first stop; None stands for any."""
ALL_ROWS: Group = (None, None)


@dataclass(frozen=True)
class IntervalCalibration:
    """Calibrated interval around a predicted delay: seconds by curves for groups of rows, times the difficulty.

    Within a report the intervals of arrivals widen with the distance.
    """

    confidence_level: float
    curves: Mapping[Group, DistanceCurve]
    """Seconds that the interval extends beyond the prediction to the late side, for a row of average difficulty."""
    difficulty: Difficulty
    early_ratio: float
    """How far the interval extends to the early side, relative to the late one."""

    @classmethod
    def fit(cls, columns: Columns, error: np.ndarray, confidence_level: float = DEFAULT_CONFIDENCE_LEVEL) -> Self:
        """Compute widths that cover the errors (n,), in seconds, of held-out rows at the confidence level.

        An error is the actual delay minus the predicted one, and `columns` has the former. Each service day counts the
        same, and an odd one no more than `MAX_DAY_RATIO` allows. Raises ValueError if there are no rows.
        """
        if not len(error):
            raise ValueError(
                "There are no labelled validation rows to calibrate a prediction interval on; "
                "train on more service days."
            )
        day = group_rows(columns, ["service_date"])
        weights = len(day) / (day.max() + 1) / np.bincount(day)[day]
        delay = np.asarray(columns["delay_seconds"], dtype=np.float64) - error
        difficulty = Difficulty.fit(columns, delay, error, weights)
        relative = _temper_odd_days(error / difficulty.evaluate(columns, delay), day, confidence_level)
        early_ratio = _compute_early_ratio(relative, weights, confidence_level)
        size = np.where(relative < 0, -relative / early_ratio, relative)
        curves = _fit_curves(columns, np.column_stack([size, weights]), confidence_level)
        return cls(confidence_level, curves, difficulty, early_ratio)

    def compute_widths(
        self,
        columns: Columns,
        delay: np.ndarray,
        groups: np.ndarray | None = None,
        correction: WidthCorrection = UNCORRECTED,
    ) -> np.ndarray:
        """Return by how many seconds (n,) the interval of each predicted delay (n,) extends to the late side.

        Those of arrivals never decrease with the distance within a report; `groups` (n,) has an integer for each
        report, by default by the columns `REPORT_KEY`.
        """
        groups = group_reports(columns) if groups is None else groups
        widths = self._evaluate_curves(columns) * self.difficulty.evaluate(columns, delay)
        widths = widths * correction.evaluate(columns)
        return make_non_decreasing(widths, _get_stops_ahead(columns), groups)

    def compute_bounds(
        self,
        columns: Columns,
        delay: np.ndarray,
        groups: np.ndarray | None = None,
        correction: WidthCorrection = UNCORRECTED,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper bounds (n,), in seconds of delay, around predicted delays (n,).

        `groups` are those of `compute_widths`. The lower bound is never an arrival before now, as the vehicle has not
        arrived yet.
        """
        return self._place_bounds(columns, delay, self.compute_widths(columns, delay, groups, correction))

    def learn_day(
        self, correction: WidthCorrection, columns: Columns, delay: np.ndarray, groups: np.ndarray | None = None
    ) -> WidthCorrection:
        """Return a correction that has learned from the labelled rows of a service day, which it was applied to.

        `delay` (n,) is what was predicted for them; `groups` are those of `compute_widths`.
        """
        error = np.asarray(columns["delay_seconds"], dtype=np.float64) - delay
        size = np.where(error < 0, -error / self.early_ratio, error)
        ratio = size / np.maximum(self.compute_widths(columns, delay, groups, correction), MIN_WIDTH_SECONDS)
        return correction.learn(columns, ratio, self.confidence_level)

    def compute_row_bounds(
        self, row: Mapping[str, Any], delay: float, correction: WidthCorrection = UNCORRECTED
    ) -> tuple[float, float]:
        """Return the bounds, in seconds of delay, of one row of plain Python values that is a report by itself."""
        width = self._compute_row_width(row, delay, correction)
        return max(delay - self.early_ratio * width, -row["scheduled_seconds_ahead"]), delay + width

    def compute_bounds_of_rows(
        self, rows: Sequence[Mapping[str, Any]], delay: np.ndarray, groups: np.ndarray, correction: WidthCorrection
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `compute_bounds` does for n rows of plain Python values, in less time if they are few."""
        columns = {name: [row[name] for row in rows] for name in ("stops_ahead", "scheduled_seconds_ahead")}
        delays = zip(rows, delay.tolist(), strict=True)
        widths = np.array([self._compute_row_width(row, seconds, correction) for row, seconds in delays])
        widths = make_non_decreasing(widths, _get_stops_ahead(columns), groups)
        return self._place_bounds(columns, delay, widths)

    def _compute_row_width(self, row: Mapping[str, Any], delay: float, correction: WidthCorrection) -> float:
        """Return by how many seconds the interval of one row extends to the late side, were it a report by itself."""
        at_first_stop = is_row_at_first_stop(row)
        curve = self._find_curve(row["route_id"], at_first_stop)
        width = curve.evaluate_one(row["stops_ahead"]) * self.difficulty.evaluate_row(row, delay, at_first_stop)
        return width * correction.evaluate_row(row, at_first_stop)

    def _place_bounds(self, columns: Columns, delay: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper bounds (n,) of intervals that extend by widths (n,) to the late side."""
        arriving_now = -np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
        return np.maximum(delay - self.early_ratio * widths, arriving_now), delay + widths

    def _find_curve(self, route_id: str | None, at_first_stop: bool) -> DistanceCurve:
        """Return the curve of the smallest calibrated group of a row."""
        for group in ((route_id, at_first_stop), (None, at_first_stop)):
            if group in self.curves:
                return self.curves[group]
        return self.curves[ALL_ROWS]

    def _evaluate_curves(self, columns: Columns) -> np.ndarray:
        """Return the seconds (n,) of each row at average difficulty, by the curve of its smallest calibrated group."""
        stops_ahead, routes = _get_stops_ahead(columns), self._code_of_route
        route = encode_values(columns["route_id"], routes, len(routes))
        code, seconds = 2 * route + is_at_first_stop(columns), np.empty(len(route))
        names = [*routes, None]
        for distinct in np.flatnonzero(np.bincount(code)):
            route_id, at_first_stop = names[distinct // 2], bool(distinct % 2)
            curve = self._find_curve(route_id, at_first_stop)
            seconds[code == distinct] = curve.evaluate(stops_ahead[code == distinct])
        return seconds

    @cached_property
    def _code_of_route(self) -> dict[str, int]:
        """Return the code of each route that has a curve."""
        routes = dict.fromkeys(route for route, _ in self.curves if route is not None)
        return {route: code for code, route in enumerate(routes)}

    def to_bytes(self) -> bytes:
        """Serialize the interval as deterministic JSON, compressed."""
        rows = sorted(([*group, *curve.to_list()] for group, curve in self.curves.items()), key=json.dumps)
        stored = {
            "confidence_level": self.confidence_level,
            "difficulty": self.difficulty.to_list(),
            "early_ratio": self.early_ratio,
            "seconds": rows,
        }
        return lzma.compress(json.dumps(stored, separators=(",", ":")).encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read an interval that `to_bytes` wrote, or one of an earlier release, which is not compressed."""
        stored = json.loads(data if data.startswith(b"{") else lzma.decompress(data))
        curves = {
            (route, first_stop): DistanceCurve.from_list(curve) for route, first_stop, *curve in stored["seconds"]
        }
        difficulty = Difficulty.from_list(stored["difficulty"])
        return cls(stored["confidence_level"], curves, difficulty, stored["early_ratio"])


def _fit_curves(columns: Columns, sizes: np.ndarray, confidence_level: float) -> dict[Group, DistanceCurve]:
    """Return the curve of each group of enough trips. `sizes` (n, 2) has the size of each error and its weight."""
    stops_ahead, trip = _get_stops_ahead(columns), group_rows(columns, ["service_date", "trip_id"])
    routes, at_first_stop = _get_routes(columns), is_at_first_stop(columns)
    names = [None, *sorted({name for name in routes if name is not None})]
    code_of = {name: code for code, name in enumerate(names)}
    route = np.array([code_of[name] for name in routes])
    quantile = partial(_conformal_quantile, confidence_level=confidence_level)
    curves = {}
    for group in (ALL_ROWS, *product(names, (False, True))):
        mask = ((group[0] is None) | (route == code_of[group[0]])) & ((group[1] is None) | (at_first_stop == group[1]))
        if group == ALL_ROWS or len(np.unique(trip[mask])) >= MIN_TRIPS:
            rows = stops_ahead[mask], sizes[mask], trip[mask]
            curves[group] = DistanceCurve.fit(
                *rows, POOLED_TRIPS, quantile, min_departures=MIN_TRIPS, never_decreases=False
            )
    return curves


def _temper_odd_days(error: np.ndarray, day: np.ndarray, confidence_level: float) -> np.ndarray:
    """Return errors (n,) with those of days that are out of line with the median day, integers (n,), scaled back."""
    levels = np.array([np.quantile(np.abs(error[day == number]), confidence_level) for number in range(day.max() + 1)])
    median = np.median(levels)
    if len(levels) < MIN_DAYS or median <= 0:
        return error
    ratio = np.maximum(levels / median, 1e-6)
    return error * (np.clip(ratio, 1 / MAX_DAY_RATIO, MAX_DAY_RATIO) / ratio)[day]


def _compute_early_ratio(error: np.ndarray, weights: np.ndarray, confidence_level: float) -> float:
    """Return the ratio of the quantiles of early and late errors (n,) beyond which equal shares of them lie."""
    level = (1 + confidence_level) / 2
    early, late = (_conformal_quantile(np.column_stack([side, weights]), level) for side in (-error, error))
    if min(early, late) <= 0:
        return 1.0
    return round(min(max(early / late, MIN_EARLY_RATIO), MAX_EARLY_RATIO), 2)


def _get_stops_ahead(columns: Columns) -> np.ndarray:
    """Return the number of stops ahead (n,) of each row."""
    return np.asarray(columns["stops_ahead"], dtype=np.int64)


def _get_routes(columns: Columns) -> list[str | None]:
    """Return the route of each row; None where it is missing, which may be NaN, None or pandas' NA."""
    routes = np.asarray(columns["route_id"], dtype=object).tolist()
    return [route if isinstance(route, str) else None for route in routes]


def _conformal_quantile(sizes: np.ndarray, confidence_level: float) -> float:
    """Return the conformal quantile of sizes of errors in seconds, rounded up to a tenth.

    `sizes` (n, 2) has the size of each error and its weight.
    """
    ordered = sizes[np.argsort(sizes[:, 0], kind="stable")]
    total = np.cumsum(ordered[:, 1])
    # As if there were one more row, of average weight.
    wanted = confidence_level * total[-1] * (1 + 1 / len(total))
    rank = min(int(np.searchsorted(total, wanted * (1 - 1e-12))), len(total) - 1)
    return math.ceil(float(ordered[rank, 0]) * 10) / 10
