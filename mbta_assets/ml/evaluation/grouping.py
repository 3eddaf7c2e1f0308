"""The groups that errors are reported by: distances, in bins with enough rows, and positions of the vehicle."""

from collections.abc import Collection

import numpy as np

from mbta_assets.agency import AGENCY
from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.intervals import is_at_first_stop
from mbta_assets.transit.distances import DEPARTURE

POSITIONS = ["mid_trip", "terminal", "departure"]
"""What a prediction is about: an arrival of a vehicle under way, or of one that is still at the first stop of its trip
or on its way there, or stands at a stop of MBTA_TERMINAL_STOPS; or the departure from the first stop."""
MAX_SINGLE_DISTANCE = 10
"""Greater distances are binned: single ones have few rows."""
_BINS_OF_DISTANCES = {"11-15": 15, "16-20": 20}
DISTANCE_BINS = ["departure", *map(str, range(1, MAX_SINGLE_DISTANCE + 1)), *_BINS_OF_DISTANCES, ">20"]
"""Names of the bins of stops ahead, in order."""


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
