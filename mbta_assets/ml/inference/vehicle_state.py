"""The state of a vehicle on its trip, and the time from which run times in that state are measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbta_assets.ml.inference.encoder import Columns

MOVING, STANDING, WAITING, UNSEEN, DEPARTING = STATES = range(5)
"""Vehicle states. Each measures run time from another reference time, see `MedianRunTime`."""
STATE_NAMES = ("moving", "standing", "waiting", "unseen", "departing")


def to_floats(columns: Columns, name: str) -> np.ndarray:
    """Return a column as (n,) float64."""
    return np.asarray(columns[name], dtype=np.float64)


def classify_state(columns: Columns) -> np.ndarray:
    """Return the vehicle state (n,), one of `STATES`."""
    standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
    departure_delay = to_floats(columns, "departure_delay_seconds")
    early_at_timepoint = (to_floats(columns, "timepoint") == 1) & (departure_delay < 0)
    at_first_stop = (to_floats(columns, "stops_behind") == 1) & ~np.isnan(departure_delay)
    seen = ~np.isnan(to_floats(columns, "seconds_in_state"))
    departing = to_floats(columns, "stops_ahead") == 0
    waiting = standing & (at_first_stop | early_at_timepoint)
    return np.select([departing, waiting, standing & seen, seen], [DEPARTING, WAITING, STANDING, MOVING], UNSEEN)


def compute_elapsed(columns: Columns) -> np.ndarray:
    """Return the seconds (n,) since the reference time; negative while that is in the future."""
    state = classify_state(columns)
    until_departure = np.minimum(to_floats(columns, "departure_delay_seconds"), 0)
    until_own_departure = np.minimum(-to_floats(columns, "scheduled_seconds_ahead"), 0)
    return np.select(
        [state == DEPARTING, state == WAITING, state == UNSEEN],
        [until_own_departure, until_departure, 0.0],
        to_floats(columns, "seconds_in_state"),
    )


def classify_row(row: Mapping[str, Any]) -> tuple[int, float]:
    """Return the vehicle state of one row of plain Python values, and the seconds since the reference time."""
    standing, departure_delay = row["current_status"] == "STOPPED_AT", row["departure_delay_seconds"]
    if row["stops_ahead"] == 0:
        return DEPARTING, min(-row["scheduled_seconds_ahead"], 0.0)
    at_first_stop = row["stops_behind"] == 1 and departure_delay == departure_delay
    if standing and (at_first_stop or (row["timepoint"] == 1 and departure_delay < 0)):
        return WAITING, min(departure_delay, 0.0)
    in_state = row["seconds_in_state"]
    if in_state != in_state:
        return UNSEEN, 0.0
    return STANDING if standing else MOVING, in_state
