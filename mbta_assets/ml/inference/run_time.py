"""The run-time lookup: predicts an arrival as a reference time plus the median run time seen in history.

It is the baseline `runtime_lookup` on the leaderboard and the base of the residual that models learn. Nothing is
learned beyond medians.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from mbta_assets.ml.inference.encoder import Columns, encode_values

LOOKUP_COLUMNS = (
    "delay_seconds", "scheduled_seconds_ahead", "seconds_in_state", "departure_delay_seconds", "last_delay_seconds",
    "current_status", "stops_behind", "current_stop_id", "stop_id",
)  # fmt: skip
"""Columns of `transit_features` that `MedianRunTime.fit` reads."""
MIN_RUNS = 3
"""Keys with fewer labelled updates get no median."""
MOVING, STANDING, WAITING, UNSEEN = range(4)
"""Vehicle states. Each measures run time from another reference time, see `MedianRunTime`."""
UNKNOWN_STOP = -1


@dataclass(frozen=True)
class MedianRunTime:
    """Median seconds from a reference time to the arrival, by vehicle state, current stop and destination.

    The reference time is the departure from the previous stop (moving), the arrival at the current stop (standing),
    the later of now and the scheduled departure (waiting at the first stop), or now (the start of the state was not
    seen). Medians are taken over vehicle updates, so a run with more updates weighs more.
    """

    stops: list[str]
    keys: np.ndarray
    """(m,) int64, sorted; see `_make_keys`."""
    seconds: np.ndarray
    """(m,) float32 median run times."""

    @classmethod
    def fit(cls, rows: Columns) -> Self:
        """Compute the medians of labelled rows with the columns `LOOKUP_COLUMNS`; unlabelled rows are ignored."""
        label = _to_floats(rows, "delay_seconds")
        labelled = ~np.isnan(label)
        stops = sorted(set(_to_texts(rows, "current_stop_id")) | set(_to_texts(rows, "stop_id")))
        key = _make_keys({stop: index for index, stop in enumerate(stops)}, rows)[labelled]
        run_time = (label + _to_floats(rows, "scheduled_seconds_ahead") + _compute_elapsed(rows))[labelled]
        order = np.lexsort((run_time, key))
        keys, first, count = np.unique(key[order], return_index=True, return_counts=True)
        sorted_run_time = run_time[order]
        medians = (sorted_run_time[first + (count - 1) // 2] + sorted_run_time[first + count // 2]) / 2
        frequent = count >= MIN_RUNS
        return cls(stops, keys[frequent], medians[frequent].astype(np.float32))

    @cached_property
    def _code_of(self) -> dict[str, int]:
        """Return the code of each stop."""
        return {stop: index for index, stop in enumerate(self.stops)}

    def predict_remaining(self, columns: Columns) -> np.ndarray:
        """Return the predicted seconds (n,) from now to the arrival; NaN where the lookup has no median."""
        key = _make_keys(self._code_of, columns)
        if not len(self.keys):
            return np.full(len(key), np.nan)
        position = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        run_time = np.where(self.keys[position] == key, self.seconds[position], np.nan)
        return np.maximum(run_time - _compute_elapsed(columns), 0)

    def predict_delay(self, columns: Columns) -> np.ndarray:
        """Return the predicted delay (n,) in seconds.

        Where the lookup has no median, the trip is predicted to keep its last delay, and to arrive no earlier than now.
        """
        ahead = _to_floats(columns, "scheduled_seconds_ahead")
        last_delay = np.nan_to_num(_to_floats(columns, "last_delay_seconds"))
        predicted = self.predict_remaining(columns) - ahead
        return np.where(np.isnan(predicted), np.maximum(last_delay, -ahead), predicted)

    def to_bytes(self) -> bytes:
        """Serialize the lookup as a deterministic NumPy archive."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, stops=np.array(self.stops, dtype=np.str_), keys=self.keys, seconds=self.seconds)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a lookup that `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return cls(archive["stops"].tolist(), archive["keys"], archive["seconds"])


def _to_floats(columns: Columns, name: str) -> np.ndarray:
    """Return a column as (n,) float64."""
    return np.asarray(columns[name], dtype=np.float64)


def _to_texts(columns: Columns, name: str) -> list[str]:
    """Return a column as Python strings."""
    return np.asarray(columns[name], dtype=object).tolist()


def _classify_state(columns: Columns) -> np.ndarray:
    """Return the vehicle state (n,): MOVING, STANDING, WAITING or UNSEEN."""
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    scheduled = ~np.isnan(_to_floats(columns, "departure_delay_seconds"))
    waiting = standing & (_to_floats(columns, "stops_behind") == 1) & scheduled
    seen = ~np.isnan(_to_floats(columns, "seconds_in_state"))
    return np.select([waiting, standing & seen, seen], [WAITING, STANDING, MOVING], UNSEEN)


def _compute_elapsed(columns: Columns) -> np.ndarray:
    """Return the seconds (n,) since the reference time; negative while that is in the future."""
    until_departure = np.minimum(_to_floats(columns, "departure_delay_seconds"), 0)
    state = _classify_state(columns)
    return np.select(
        [state == WAITING, state == UNSEEN], [until_departure, 0.0], _to_floats(columns, "seconds_in_state")
    )


def _make_keys(code_of: Mapping[str, int], columns: Columns) -> np.ndarray:
    """Combine state, current stop and destination into one key (n,) int64; -1 where a stop has no code."""
    current, destination = (
        encode_values(columns[name], code_of, UNKNOWN_STOP) for name in ("current_stop_id", "stop_id")
    )
    key = (_classify_state(columns) * len(code_of) + current) * len(code_of) + destination
    return np.where((current == UNKNOWN_STOP) | (destination == UNKNOWN_STOP), -1, key)
