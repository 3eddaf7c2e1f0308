"""The groups that errors are reported by: distances, in bins with enough rows, and positions of the vehicle."""

from collections.abc import Collection

import numpy as np

from mbta_assets.agency import AGENCY
from mbta_assets.ml.inference.difficulty import is_at_first_stop
from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.transit.distances import DEPARTURE

POSITIONS = ["mid_trip", "terminal", "departure"]
"""What a prediction is about: an arrival of a vehicle under way, or of one that is still at the first stop of its trip
or on its way there, or stands at a stop of MBTA_TERMINAL_STOPS; or the departure from the first stop."""
MAX_SINGLE_DISTANCE = 10
"""Greater distances are binned: single ones have few rows."""
_BINS_OF_DISTANCES = {"11-15": 15, "16-20": 20}
DISTANCE_BINS = ["departure", *map(str, range(1, MAX_SINGLE_DISTANCE + 1)), *_BINS_OF_DISTANCES, ">20"]
"""Names of the bins of stops ahead, in order."""

_BINS_OF_CHANGES = {"0-30 s": 30, "30-60 s": 60, "1-2 min": 120, "2-5 min": 300}
CHANGE_BINS = [*_BINS_OF_CHANGES, ">5 min"]
"""Names of the bins of changes of delay, in order."""


def bin_changes(columns: Columns) -> np.ndarray:
    """Return the name (n,) of the bin of each row by how much the delay will have changed at the event.

    The change is that from the last observed delay of the trip, either way; None where there is no such delay. It is
    known afterwards only: the larger it is, the more there was to predict.
    """
    label, last = (np.asarray(columns[name], dtype=np.float64) for name in ("delay_seconds", "last_delay_seconds"))
    change = np.abs(label - last)
    names = np.array([*CHANGE_BINS, None], dtype=object)
    return names[np.where(np.isnan(change), -1, np.searchsorted([*_BINS_OF_CHANGES.values()], change, side="right"))]


def bin_distances(stops_ahead: np.ndarray) -> np.ndarray:
    """Return the name (n,) of the bin of each number of stops ahead (n,)."""
    last_distances = [DEPARTURE, *range(1, MAX_SINGLE_DISTANCE + 1), *_BINS_OF_DISTANCES.values()]
    index = np.searchsorted(last_distances, np.asarray(stops_ahead, dtype=np.int64))
    return np.array(DISTANCE_BINS, dtype=object)[index]


def classify_positions(columns: Columns, terminal_stops: Collection[str] = AGENCY.terminal_stops) -> np.ndarray:
    """Return the position (n,) of each row, one of `POSITIONS`."""
    mid_trip, terminal, departure = POSITIONS
    at_terminal = is_at_first_stop(columns)
    if terminal_stops:
        standing = np.asarray(columns["current_status"] == "STOPPED_AT", dtype=bool)
        at_terminal |= standing & np.isin(np.asarray(columns["current_stop_id"], dtype=str), [*terminal_stops])
    arrival = np.where(at_terminal, terminal, mid_trip)
    return np.where(np.asarray(columns["stops_ahead"], dtype=np.int64) == DEPARTURE, departure, arrival).astype(object)
