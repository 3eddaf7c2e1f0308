"""The run-time lookup: departure plus the median run time, with nothing learned beyond medians.

The baseline to beat, and what the models learn the residual to.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns, coded

if TYPE_CHECKING:
    import pandas as pd

MOVING, STANDING, WAITING, UNSEEN = range(4)
FEWEST_RUNS = 3


@dataclass(frozen=True)
class RuntimeLookup:
    """Median seconds from an anchor to the arrival, for each way to stand to a stop, that stop and a destination.

    The anchor is the departure from the stop before (moving), the arrival at the stop (standing), the later of now
    and the scheduled departure (waiting at the origin), or now (when the state began unseen).
    Medians run over updates, not runs: a run that is asked about more often counts more often.
    """

    stops: list[str]
    keys: np.ndarray
    """(m,) int64, sorted."""
    seconds: np.ndarray
    """(m,) float32."""

    @classmethod
    def fit(cls, rows: Columns) -> Self:
        """The medians of labelled rows (columns of `transit_features`)."""
        label = _floats(rows, "delay_seconds")
        known = ~np.isnan(label)
        stops = sorted(set(_texts(rows, "current_stop_id")) | set(_texts(rows, "stop_id")))
        key = _keys({stop: index for index, stop in enumerate(stops)}, rows)
        elapsed = _elapsed(rows)
        run = label + _floats(rows, "scheduled_seconds_ahead") + elapsed
        order = np.lexsort((run[known], key[known]))
        keys, first, count = np.unique(key[known][order], return_index=True, return_counts=True)
        sorted_runs = run[known][order]
        medians = (sorted_runs[first + (count - 1) // 2] + sorted_runs[first + count // 2]) / 2
        enough = count >= FEWEST_RUNS
        return cls(stops, keys[enough], medians[enough].astype(np.float32))

    @cached_property
    def _code_of(self) -> dict[str, int]:
        return {stop: index for index, stop in enumerate(self.stops)}

    def remaining(self, columns: Columns) -> np.ndarray:
        """Seconds (n,) from now until the arrival; NaN where the lookup has no entry."""
        key = _keys(self._code_of, columns)
        if not len(self.keys):
            return np.full(len(key), np.nan)
        found = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        run = np.where(self.keys[found] == key, self.seconds[found], np.nan)
        return np.maximum(run - _elapsed(columns), 0)

    def delay(self, columns: Columns) -> np.ndarray:
        """Predicted seconds of delay (n,). Where the lookup has no entry the trip stays as late as it last was."""
        ahead = _floats(columns, "scheduled_seconds_ahead")
        persistent = np.nan_to_num(_floats(columns, "last_delay_seconds"))
        predicted = self.remaining(columns) - ahead
        return np.where(np.isnan(predicted), np.maximum(persistent, -ahead), predicted)

    def to_bytes(self) -> bytes:
        """The lookup as a deterministic NumPy archive."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, stops=np.array(self.stops, dtype=np.str_), keys=self.keys, seconds=self.seconds)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The lookup that `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return cls(archive["stops"].tolist(), archive["keys"], archive["seconds"])


def cross_fitted_delay(rows: "pd.DataFrame", folds: int = 5) -> np.ndarray:
    """Lookup delays (n,) for the rows it is fitted on, each from a lookup that did not see the row's own day.

    Where there are fewer days than folds, none saw the row's own trip.
    """
    by_day = rows.groupby("service_date").ngroup().to_numpy()
    index = by_day if by_day.max(initial=0) + 1 >= folds else rows.groupby("trip_id").ngroup().to_numpy()
    columns = rows[list(COLUMNS)]
    predicted = np.empty(len(index))
    for fold in range(folds):
        out = index % folds == fold
        predicted[out] = RuntimeLookup.fit(columns[~out]).delay(columns[out])
    return predicted


COLUMNS = (
    "delay_seconds", "scheduled_seconds_ahead", "seconds_in_state", "departure_delay_seconds", "last_delay_seconds",
    "current_status", "stops_behind", "current_stop_id", "stop_id",
)  # fmt: skip


def _floats(columns: Columns, name: str) -> np.ndarray:
    return np.asarray(columns[name], dtype=np.float64)


def _texts(columns: Columns, name: str) -> list[str]:
    return np.asarray(columns[name], dtype=object).tolist()


def _state(columns: Columns) -> np.ndarray:
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    waiting = (
        standing & (_floats(columns, "stops_behind") == 1) & ~np.isnan(_floats(columns, "departure_delay_seconds"))
    )
    seen = ~np.isnan(_floats(columns, "seconds_in_state"))
    return np.select([waiting, standing & seen, seen], [WAITING, STANDING, MOVING], UNSEEN)


def _elapsed(columns: Columns) -> np.ndarray:
    """Seconds (n,) since the anchor; negative while it lies ahead."""
    late = np.minimum(_floats(columns, "departure_delay_seconds"), 0)
    state = _state(columns)
    return np.select([state == WAITING, state == UNSEEN], [late, 0.0], _floats(columns, "seconds_in_state"))


def _keys(code: Mapping[str, int], columns: Columns) -> np.ndarray:
    """One number (n,) for state, stop and destination; -1 where a stop is not in the lookup."""
    current, target = (coded(columns[name], code, -1) for name in ("current_stop_id", "stop_id"))
    key = (_state(columns) * len(code) + current) * len(code) + target
    return np.where((current < 0) | (target < 0), -1, key)
