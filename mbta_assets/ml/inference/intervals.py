"""How far an arrival may be from its prediction: split conformal, calibrated on rows that no weight was fitted to.

Half of an interval's width is a quantile of the absolute errors of the validation part, taken for each route, number
of stops ahead and position by itself: a vehicle that waits where its trip begins is far harder to predict than one
on its way, and lines differ as much. Vovk's Mondrian conformal prediction: https://arxiv.org/abs/1209.2673
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns

PROMISE = 0.9
"""The share of arrivals that are to lie within."""
FEWEST_TRIPS = 50
"""A group of fewer trips takes the width of the next larger one; rows of one trip are much alike."""
Group = tuple[str | None, int | None, bool | None]
"""Route, stops ahead and whether at the origin; None stands for any."""


@dataclass(frozen=True)
class Interval:
    """Half widths in seconds by group."""

    promise: float
    half_widths: Mapping[Group, float]

    @classmethod
    def calibrate(cls, columns: Columns, error: np.ndarray, promise: float = PROMISE) -> Self:
        """Half widths within which the absolute errors (n,), in seconds, of held-out rows lie as often as promised.

        Raises ValueError where there are no rows.
        """
        if not len(error):
            raise ValueError("There are no validation rows with an arrival to calibrate an interval on.")
        sizes: dict[Group, list[float]] = defaultdict(list)
        trips: dict[Group, set[tuple]] = defaultdict(set)
        days, ids = (np.asarray(columns[name], dtype=object).tolist() for name in ("service_date", "trip_id"))
        for groups, size, *trip in zip(_groups(columns), np.abs(error).tolist(), days, ids, strict=True):
            for group in groups:
                sizes[group].append(size)
                trips[group].add(tuple(trip))
        # Distances differ by far the most, so each keeps a width of its own however few trips there are.
        kept = [group for group in sizes if len(trips[group]) >= FEWEST_TRIPS or group[2] is None]
        return cls(promise, {group: _quantile(sizes[group], promise) for group in kept})

    def half_width(self, columns: Columns) -> np.ndarray:
        """Seconds (n,) to either side of the predictions of n rows."""
        return np.array(
            [next(self.half_widths[g] for g in groups if g in self.half_widths) for groups in _groups(columns)]
        )

    def bounds(self, columns: Columns, delay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest seconds of delay (n,) around predicted ones (n,).

        A vehicle that has not arrived arrives no earlier than now.
        """
        half, earliest = self.half_width(columns), -np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
        return np.maximum(delay - half, earliest), delay + half

    def to_json(self) -> bytes:
        """The interval as deterministic JSON."""
        rows = sorted(([*group, seconds] for group, seconds in self.half_widths.items()), key=json.dumps)
        return json.dumps({"promise": self.promise, "half_width_seconds": rows}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The interval that `to_json` wrote."""
        stored = json.loads(text)
        return cls(
            stored["promise"], {(route, stops, at): size for route, stops, at, size in stored["half_width_seconds"]}
        )


EVERYTHING: Group = (None, None, None)


def at_origin(columns: Columns) -> np.ndarray:
    """Whether (n,) each vehicle still stands at the stop where its trip begins."""
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    return standing & (np.asarray(columns["stops_behind"], dtype=np.float64) <= 1)


def scored(interval: Interval, columns: Columns, delay: np.ndarray) -> dict[str, Any]:
    """How often the arrivals of labelled rows lie within the interval around predictions (n,), and how wide it is."""
    label, stops = (np.asarray(columns[name], dtype=np.float64) for name in ("delay_seconds", "stops_ahead"))
    lower, upper = interval.bounds(columns, delay)
    within = (label >= lower) & (label <= upper)

    def of(rows: np.ndarray) -> dict[str, Any]:
        width = float((upper - lower)[rows].mean())
        return {"n": int(rows.sum()), "coverage": float(within[rows].mean()), "mean_width_seconds": width}

    by_stops = {str(int(n)): of(stops == n) for n in np.unique(stops)}
    return {"promise": interval.promise, **of(np.ones(len(label), dtype=bool)), "by_stops_ahead": by_stops}


def _groups(columns: Columns) -> Iterator[tuple[Group, ...]]:
    """For each row the groups that it belongs to, the smallest first."""
    routes = np.asarray(columns["route_id"], dtype=object).tolist()
    stops_ahead = np.asarray(columns["stops_ahead"], dtype=np.int64).tolist()
    for route, stops, waits in zip(routes, stops_ahead, at_origin(columns).tolist(), strict=True):
        named = route if isinstance(route, str) else None
        yield (named, stops, waits), (None, stops, waits), (None, stops, None), EVERYTHING


def _quantile(sizes: list[float], promise: float) -> float:
    """The conformal quantile, rounded up to a tenth of a second."""
    rank = min(math.ceil((len(sizes) + 1) * promise), len(sizes))
    return math.ceil(sorted(sizes)[rank - 1] * 10) / 10
