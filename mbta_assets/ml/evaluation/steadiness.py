"""How much predictions for one stop visit change from report to report, beyond the passing of time."""

import numpy as np
import pandas as pd

MAX_GAP_SECONDS = 180
"""Reports, or publications, that are further apart are not compared: riders would not call that a jump."""
VISIT = ["service_date", "trip_id", "vehicle_id", "stop_sequence"]
"""Columns that identify a stop visit of a vehicle; its departure from the first stop is told by 0 stops ahead."""


def measure_change_per_minute(rows: pd.DataFrame, predicted: np.ndarray) -> float | None:
    """Return the mean absolute change of the predicted time per minute, in seconds; None if nothing can be compared.

    `rows` are n rows of `transit_features`, `predicted` (n,) their delays in seconds. Compared is each row with the one
    before it about the same visit, if that is at most `MAX_GAP_SECONDS` older. A prediction that stays right does not
    change, as it is a time of day and no countdown. Absolute changes are summed and divided by the minutes between.
    """
    visit = rows.assign(is_departure=rows["stops_ahead"].to_numpy() == 0).groupby(
        [*VISIT, "is_departure"], dropna=False
    )
    key = visit.ngroup().to_numpy()
    time = rows["time_stamp"].to_numpy(dtype="datetime64[us]").astype(np.int64) / 1e6
    order = np.lexsort((time, key))
    return compute_change(key[order], time[order], np.asarray(predicted, dtype=np.float64)[order])[1]


def compute_change(visit: np.ndarray, time: np.ndarray, predicted: np.ndarray) -> tuple[int, float | None]:
    """Return the number of changes that are compared, and their mean per minute in seconds; None if there are none.

    The predictions (n,) in seconds, NaN where there is none, are ordered by the number of their visit (n,) and their
    time (n,) in seconds.
    """
    gap, change = np.diff(time), np.abs(np.diff(predicted))
    compared = (np.diff(visit) == 0) & (gap > 0) & (gap <= MAX_GAP_SECONDS) & ~np.isnan(change)
    minutes = gap[compared].sum() / 60
    return int(compared.sum()), float(change[compared].sum() / minutes) if minutes > 0 else None
