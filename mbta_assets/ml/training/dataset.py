"""The training set: which rows, and which part each belongs to."""

import numpy as np
import pandas as pd

from mbta_assets.transit import schema

PARTS = ("train", "validation", "test")
SHARES = (0.70, 0.15, 0.15)
WHOLE_DAYS = 10
ROW_KEY = ["service_date", "trip_id", "vehicle_id", "time_stamp", "stop_id"]


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
