"""Prediction intervals by split conformal prediction, calibrated on rows that no weight was fitted to.

Half the width of an interval is a quantile of the absolute errors of a group of validation rows. Groups are formed by
route, by whether the vehicle has left its first stop, and by stops ahead, because errors differ most by these (Mondrian
conformal prediction, https://arxiv.org/abs/1209.2673); along the stops ahead the quantiles form a curve that never
decreases. How often arrivals lie within is scored in `ml.evaluation`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.distance_curve import DistanceCurve
from mbta_assets.ml.inference.encoder import Columns, encode_values

DEFAULT_CONFIDENCE_LEVEL = 0.9
"""Share of arrivals that should lie within the interval."""
MIN_TRIPS = 50
"""Groups of fewer trips are pooled with others; errors within one trip are correlated."""

Group = tuple[str | None, bool | None]
"""Route, and whether the vehicle is still at its first stop; None stands for any."""
ALL_ROWS: Group = (None, None)


@dataclass(frozen=True)
class IntervalCalibration:
    """Calibrated half widths in seconds of the interval around a predicted delay: a curve for each group of rows.

    All predictions of one report are of the same group, so that their intervals widen with the distance.
    """

    confidence_level: float
    curves: Mapping[Group, DistanceCurve]

    @classmethod
    def fit(cls, columns: Columns, error: np.ndarray, confidence_level: float = DEFAULT_CONFIDENCE_LEVEL) -> Self:
        """Compute half widths that cover the errors (n,), in seconds, of held-out rows at the confidence level.

        Raises ValueError if there are no rows.
        """
        if not len(error):
            raise ValueError(
                "There are no labelled validation rows to calibrate a prediction interval on; "
                "train on more service days."
            )
        stops_ahead, size, trip = _get_stops_ahead(columns), np.abs(error), _number_trips(columns)
        route, at_first_stop = np.array(_get_routes(columns), dtype=object), is_at_first_stop(columns)
        quantile = partial(_conformal_quantile, confidence_level=confidence_level)
        curves = {}
        for group in (ALL_ROWS, *product([None, *sorted({*route} - {None})], (False, True))):
            mask = ((group[0] is None) | (route == group[0])) & ((group[1] is None) | (at_first_stop == group[1]))
            if group == ALL_ROWS or len(np.unique(trip[mask])) >= MIN_TRIPS:
                curve = DistanceCurve.fit(stops_ahead[mask], size[mask], trip[mask], MIN_TRIPS, quantile)
                curves[group] = curve.cap_departure()
        return cls(confidence_level, curves)

    def compute_half_widths(self, columns: Columns) -> np.ndarray:
        """Return the half width (n,) in seconds for each row, by the curve of its smallest calibrated group."""
        stops_ahead, routes = _get_stops_ahead(columns), self._code_of_route
        route = encode_values(columns["route_id"], routes, len(routes))
        code, half_width = 2 * route + is_at_first_stop(columns), np.empty(len(route))
        names = [*routes, None]
        for distinct in np.flatnonzero(np.bincount(code)):
            route_id, at_first_stop = names[distinct // 2], bool(distinct % 2)
            fallbacks = ((route_id, at_first_stop), (None, at_first_stop), ALL_ROWS)
            curve = next(self.curves[group] for group in fallbacks if group in self.curves)
            half_width[code == distinct] = curve.evaluate(stops_ahead[code == distinct])
        return half_width

    @cached_property
    def _code_of_route(self) -> dict[str, int]:
        """Return the code of each route that has a curve."""
        routes = dict.fromkeys(route for route, _ in self.curves if route is not None)
        return {route: code for code, route in enumerate(routes)}

    def compute_bounds(self, columns: Columns, delay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper bounds (n,), in seconds of delay, around predicted delays (n,).

        The lower bound is never an arrival before now, as the vehicle has not arrived yet.
        """
        half_width = self.compute_half_widths(columns)
        arriving_now = -np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
        return np.maximum(delay - half_width, arriving_now), delay + half_width

    def to_json(self) -> bytes:
        """Serialize the interval as deterministic JSON."""
        rows = sorted(([*group, *curve.to_list()] for group, curve in self.curves.items()), key=json.dumps)
        stored = {"confidence_level": self.confidence_level, "half_width_seconds": rows}
        return json.dumps(stored, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read an interval that `to_json` wrote."""
        stored = json.loads(text)
        curves = {
            (route, first_stop): DistanceCurve.from_list(curve)
            for route, first_stop, *curve in stored["half_width_seconds"]
        }
        return cls(stored["confidence_level"], curves)


def is_at_first_stop(columns: Columns) -> np.ndarray:
    """Return a mask (n,) of the rows whose vehicle has not left the first stop of its trip, or is on its way to it."""
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    stops_behind = np.asarray(columns["stops_behind"], dtype=np.float64)
    return (stops_behind == 0) | (standing & (stops_behind <= 1))


def _get_stops_ahead(columns: Columns) -> np.ndarray:
    """Return the number of stops ahead (n,) of each row."""
    return np.asarray(columns["stops_ahead"], dtype=np.int64)


def _get_routes(columns: Columns) -> list[str | None]:
    """Return the route of each row; None where it is missing, which may be NaN, None or pandas' NA."""
    routes = np.asarray(columns["route_id"], dtype=object).tolist()
    return [route if isinstance(route, str) else None for route in routes]


def _number_trips(columns: Columns) -> np.ndarray:
    """Return an integer (n,) for each row, the same for all rows of a trip on a service day."""
    names: Iterable[Any] = (np.asarray(columns[name], dtype=object).tolist() for name in ("service_date", "trip_id"))
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(trip, len(numbers)) for trip in zip(*names, strict=True)])


def _conformal_quantile(absolute_errors: np.ndarray, confidence_level: float) -> float:
    """Return the conformal quantile of absolute errors in seconds, rounded up to a tenth."""
    rank = min(math.ceil((len(absolute_errors) + 1) * confidence_level), len(absolute_errors))
    return math.ceil(float(np.sort(absolute_errors)[rank - 1]) * 10) / 10
