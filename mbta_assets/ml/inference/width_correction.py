"""The correction of interval widths by how the days before were covered, so that coverage returns after a drift.

Adaptive conformal inference over service days (https://arxiv.org/abs/2106.00170), as quantile tracking in the logarithm
of the width (https://arxiv.org/abs/2307.16895): after a day, widths move a step towards those that would have covered
it. A step is bounded, so that one odd day moves little and a lasting change is followed. What widths are without it is
up to `intervals`.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.difficulty import is_at_first_stop
from mbta_assets.ml.inference.encoder import Columns

STEP = 0.3
"""Share of the change that a day asks for by which widths move."""
MAX_CHANGE = math.log(1.3)
"""Logarithm of the greatest change that a day can ask for."""
PRIOR_TRIPS = 200
"""Number of trips at which a group counts half: one of fewer follows all rows, or no other route."""
MIN_RATIO = 1e-3
LAST_STOPS = (0, 2, 5, 10)
"""Last number of stops ahead of each band of distances but the farthest; the first band is the departure."""

_BANDS = tuple(tuple(f"{position} {stops}" for stops in (*LAST_STOPS, "more")) for position in ("mid_trip", "terminal"))
"""Names of the bands of distances, for a vehicle on its trip and for one at its first stop."""

Changes = Mapping[str, float]
"""Logarithms of factors by group."""


@dataclass(frozen=True)
class WidthCorrection:
    """Factors of interval widths: one by distance and position of the vehicle, times one by route."""

    by_distance: Changes = field(default_factory=dict)
    by_route: Changes = field(default_factory=dict)

    def evaluate(self, columns: Columns) -> np.ndarray:
        """Return the factor (n,) of the width of each row's interval, 1 where nothing was learned."""
        total = np.zeros(len(columns["stops_ahead"]))
        for group, changes in ((_name_bands(columns), self.by_distance), (_get_routes(columns), self.by_route)):
            if changes:
                total += np.array([changes.get(name, 0.0) for name in group.tolist()])
        return np.exp(total)

    def evaluate_row(self, row: Mapping[str, Any], at_first_stop: bool) -> float:
        """Return the factor of the width of the interval of one row of plain Python values."""
        if not self.by_distance and not self.by_route:
            return 1.0
        band = _BANDS[at_first_stop][bisect_left(LAST_STOPS, row["stops_ahead"])]
        route_id = row["route_id"]
        route = route_id if isinstance(route_id, str) else ""
        return float(np.exp(self.by_distance.get(band, 0.0) + self.by_route.get(route, 0.0)))

    def learn(self, columns: Columns, ratio: np.ndarray, confidence_level: float) -> Self:
        """Return the correction after a service day, given the size of each error (n,) relative to its interval.

        The intervals are those of this correction, so that a row is covered if its ratio is 1 or less.
        """
        if not len(ratio):
            return self
        trips = np.unique(np.asarray(columns["trip_id"], dtype=object).astype(str), return_inverse=True)[1]
        log_ratio = np.log(np.maximum(ratio, MIN_RATIO))
        overall = float(np.quantile(log_ratio, confidence_level))
        bands, routes = _name_bands(columns), _get_routes(columns)
        by_band = _measure_changes(bands, log_ratio, trips, confidence_level, overall)
        left = log_ratio - np.array([by_band[band] for band in bands.tolist()])
        by_route = _measure_changes(routes, left, trips, confidence_level, 0.0)
        return type(self)(_move(self.by_distance, by_band), _move(self.by_route, by_route))

    def to_json(self, model_version: str) -> bytes:
        """Serialize the correction of a model's widths as deterministic JSON."""
        return json.dumps({"model_version": model_version, **asdict(self)}, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, model_version: str) -> Self:
        """Read the correction of a model's widths that `to_json` wrote, none if it is another model's.

        Raises ValueError if the text is damaged.
        """
        try:
            stored = json.loads(text)
            if stored["model_version"] != model_version:
                return cls()
            by_distance, by_route = (
                {str(name): float(change) for name, change in stored[group].items()}
                for group in ("by_distance", "by_route")
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if not all(math.isfinite(change) for change in (*by_distance.values(), *by_route.values())):
            raise ValueError("a change of width is not a finite number")
        return cls(by_distance, by_route)


def _measure_changes(
    group: np.ndarray, log_ratio: np.ndarray, trips: np.ndarray, confidence_level: float, prior: float
) -> dict[str, float]:
    """Return the change that would have covered each group (n,) at the confidence level, shrunk to a prior."""
    changes = {}
    names, codes = np.unique(group, return_inverse=True)
    for code, name in enumerate(names.tolist()):
        mask = codes == code
        n_trips = len(np.unique(trips[mask]))
        change = float(np.quantile(log_ratio[mask], confidence_level))
        changes[name] = (n_trips * change + PRIOR_TRIPS * prior) / (n_trips + PRIOR_TRIPS)
    return changes


def _move(before: Changes, changes: Changes) -> dict[str, float]:
    """Return factors moved a bounded step by the changes that a day asks for."""
    steps = {name: STEP * min(max(change, -MAX_CHANGE), MAX_CHANGE) for name, change in changes.items()}
    return {name: round(before.get(name, 0.0) + steps.get(name, 0.0), 4) for name in sorted({*before, *steps})}


def _name_bands(columns: Columns) -> np.ndarray:
    """Return the position and the band of distances (n,) of each row as text."""
    band = np.searchsorted(LAST_STOPS, np.asarray(columns["stops_ahead"], dtype=np.int64))
    return np.array(_BANDS).ravel()[band + (len(LAST_STOPS) + 1) * is_at_first_stop(columns)]


def _get_routes(columns: Columns) -> np.ndarray:
    """Return the route (n,) of each row as text, empty where it is missing."""
    routes = np.asarray(columns["route_id"], dtype=object).tolist()
    return np.array([route if isinstance(route, str) else "" for route in routes], dtype=np.str_)
