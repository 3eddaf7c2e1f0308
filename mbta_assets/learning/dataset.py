"""The training set: which rows, which part each belongs to, and the arrays a model sees."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mbta_assets.transit import schema

PARTS = ("train", "validation", "test")
SHARES = (0.70, 0.15, 0.15)
WHOLE_DAYS = 10
ROW_KEY = ["service_date", "trip_id", "vehicle_id", "time_stamp", "stop_id"]


@dataclass(frozen=True)
class Arrays:
    """Model inputs of n rows."""

    numeric: np.ndarray
    """(n, d) float32 in the units of the features; NaN is missing."""
    codes: np.ndarray
    """(n, c) int32 category codes; 0 is unknown or missing."""
    base: np.ndarray
    """(n,) float32 seconds of delay that a prediction starts from."""
    scale: np.ndarray
    """(n,) float32 seconds: one unit of what a model learns; far destinations have a coarser one than near ones."""
    label: np.ndarray
    """(n,) float32 seconds of delay; NaN is unlabelled."""

    @property
    def target(self) -> np.ndarray:
        """(n,) what a model learns: the residual to the base, in units of the scale."""
        return (self.label - self.base) / self.scale

    def __len__(self) -> int:
        return len(self.base)

    def take(self, rows: np.ndarray) -> "Arrays":
        """The rows of a boolean mask or an index."""
        return Arrays(self.numeric[rows], self.codes[rows], self.base[rows], self.scale[rows], self.label[rows])


def sample(features: pd.DataFrame, rows: int) -> pd.DataFrame:
    """At most `rows` rows of a service day, the same ones each time, chosen by a hash of each row's key."""
    if len(features) <= rows:
        return features
    order = pd.util.hash_pandas_object(features[ROW_KEY], index=False).to_numpy()
    return features[np.argsort(np.argsort(order, kind="stable")) < rows]


def split(rows: pd.DataFrame) -> np.ndarray:
    """The part (n,) of each row: "train", then "validation", then "test" in time, or "" for a row that is left out.

    Whole service days where there are ten or more, else by time. A row whose arrival came only after the next part
    had begun is left out: its label was not known when a model of its part would have been trained.
    """
    time = rows["time_stamp"].to_numpy(dtype="datetime64[us]")
    day = schema.days(rows["service_date"])
    days = np.unique(day)
    if len(days) >= WHOLE_DAYS:
        first_validation, first_test = _cuts(len(days))
        begins = [time[day == first].min() for first in (days[first_validation], days[first_test])]
        part = np.digitize(np.searchsorted(days, day), [first_validation, first_test])
    else:
        labelled = np.sort(time[rows["delay_seconds"].notna()])
        begins = [labelled[index] for index in _cuts(len(labelled))]
        part = np.digitize(time.view(np.int64), [begin.view(np.int64) for begin in begins])
    names = np.array(PARTS)[part]
    arrival = rows["actual_arrival_time"].to_numpy(dtype="datetime64[us]")
    for index, begin in enumerate(begins):
        names = np.where((part == index) & (arrival >= begin), "", names)
    return names


def _cuts(n: int) -> tuple[int, int]:
    """Where validation and test begin among n ordered items; each part has at least one."""
    held_out = max(1, round(n * SHARES[1])), max(1, round(n * SHARES[2]))
    return n - sum(held_out), n - held_out[1]
