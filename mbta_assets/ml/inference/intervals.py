"""Prediction intervals by split conformal prediction, calibrated on rows that no weight was fitted to.

Half the width of an interval is a quantile of the absolute errors in a group of validation rows. Groups are formed by
route, stops ahead and whether the vehicle is at its first stop, because errors differ most by these (Mondrian
conformal prediction, https://arxiv.org/abs/1209.2673). How often arrivals lie within is scored in `ml.evaluation`.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns

DEFAULT_CONFIDENCE_LEVEL = 0.9
"""Share of arrivals that should lie within the interval."""
MIN_TRIPS_PER_GROUP = 50
"""Groups of fewer trips take the half width of the next larger group; errors within one trip are correlated."""

Group = tuple[str | None, int | None, bool | None]
"""Route, stops ahead and whether the vehicle is at its first stop; None stands for any."""
ALL_ROWS: Group = (None, None, None)


@dataclass(frozen=True)
class IntervalCalibration:
    """Calibrated half widths of the interval around a predicted delay, in seconds, by group of rows."""

    confidence_level: float
    half_widths: Mapping[Group, float]

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
        absolute_errors: dict[Group, list[float]] = defaultdict(list)
        trips: dict[Group, set[tuple[Any, Any]]] = defaultdict(set)
        days, trip_ids = (np.asarray(columns[name], dtype=object).tolist() for name in ("service_date", "trip_id"))
        for groups, size, day, trip_id in zip(
            _iterate_groups(columns), np.abs(error).tolist(), days, trip_ids, strict=True
        ):
            for group in groups:
                absolute_errors[group].append(size)
                trips[group].add((day, trip_id))
        # Errors depend on the stops ahead by far the most, so those groups are kept however few trips they have.
        calibrated = [
            group for group in absolute_errors if len(trips[group]) >= MIN_TRIPS_PER_GROUP or group[2] is None
        ]
        half_widths = {group: _conformal_quantile(absolute_errors[group], confidence_level) for group in calibrated}
        return cls(confidence_level, half_widths)

    def compute_half_widths(self, columns: Columns) -> np.ndarray:
        """Return the half width (n,) in seconds for each row, that of its smallest calibrated group."""
        return np.array(
            [
                next(self.half_widths[group] for group in groups if group in self.half_widths)
                for groups in _iterate_groups(columns)
            ]
        )

    def compute_bounds(self, columns: Columns, delay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper bounds (n,), in seconds of delay, around predicted delays (n,).

        The lower bound is never an arrival before now, as the vehicle has not arrived yet.
        """
        half_width = self.compute_half_widths(columns)
        arriving_now = -np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
        return np.maximum(delay - half_width, arriving_now), delay + half_width

    def to_json(self) -> bytes:
        """Serialize the interval as deterministic JSON."""
        rows = sorted(([*group, seconds] for group, seconds in self.half_widths.items()), key=json.dumps)
        # Stored bundles name the confidence level "promise"; another key would change the digest of every model.
        stored = {"promise": self.confidence_level, "half_width_seconds": rows}
        return json.dumps(stored, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read an interval that `to_json` wrote."""
        stored = json.loads(text)
        half_widths = {
            (route, stops_ahead, first_stop): seconds
            for route, stops_ahead, first_stop, seconds in stored["half_width_seconds"]
        }
        return cls(stored["promise"], half_widths)


def is_at_first_stop(columns: Columns) -> np.ndarray:
    """Return a mask (n,) of the rows whose vehicle still stands at the first stop of its trip."""
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    return standing & (np.asarray(columns["stops_behind"], dtype=np.float64) <= 1)


def _iterate_groups(columns: Columns) -> Iterator[tuple[Group, ...]]:
    """Yield for each row the groups that it belongs to, the smallest first."""
    routes = np.asarray(columns["route_id"], dtype=object).tolist()
    stops_ahead = np.asarray(columns["stops_ahead"], dtype=np.int64).tolist()
    for route, stops, first_stop in zip(routes, stops_ahead, is_at_first_stop(columns).tolist(), strict=True):
        route_or_any = route if isinstance(route, str) else None  # a missing route is NaN, None or pandas' NA
        yield (route_or_any, stops, first_stop), (None, stops, first_stop), (None, stops, None), ALL_ROWS


def _conformal_quantile(absolute_errors: list[float], confidence_level: float) -> float:
    """Return the conformal quantile of absolute errors in seconds, rounded up to a tenth."""
    rank = min(math.ceil((len(absolute_errors) + 1) * confidence_level), len(absolute_errors))
    return math.ceil(sorted(absolute_errors)[rank - 1] * 10) / 10
