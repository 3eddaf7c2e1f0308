"""Interpolation of scheduled times at stops where none is published, between those at which one is.

Times are epoch microseconds in int64, `NAT` where missing. The rule is that of `raw_transit_data.sql`, in whole seconds
and metres, so that engines agree. Which stop times are given to it is decided in `stop_times`.
"""

import numpy as np

from mbta_assets.transit.formulas import haversine_miles
from mbta_assets.transit.plausibility import MICROSECONDS_PER_SECOND, NAT

METRES_PER_MILE = 1609.344


def interpolate_times(
    trip: np.ndarray,
    sequence: np.ndarray,
    arrival: np.ndarray,
    departure: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
) -> np.ndarray:
    """Return the time (n,) of each stop time that has neither arrival nor departure; `NAT` for all others.

    `trip` and `sequence` (n,) are int64, no pair of them repeated; positions are in degrees, NaN where missing. The
    time is between those of the stops before and after it that have one, which are found as follows: the one before has
    the largest smaller sequence, the one after follows that one by time. It is distributed by the distance along the
    way where all positions on it are known, else evenly. A stop without such a stop before or after it has no time.
    """
    interpolated = np.full(len(trip), NAT)
    due = np.where(arrival == NAT, departure, arrival)
    order = np.lexsort((sequence, trip))
    timed = due[order] != NAT
    before = np.maximum.accumulate(np.where(timed, np.arange(len(order)), -1))
    gaps = np.flatnonzero(~timed)
    if not len(gaps):
        return interpolated
    previous = order[np.maximum(before[gaps], 0)]
    after = _find_following(trip, sequence, arrival, departure)[previous]
    between = (before[gaps] >= 0) & (trip[previous] == trip[order[gaps]]) & (after >= 0)
    blank, previous, after = order[gaps[between]], previous[between], after[between]
    if not len(blank):
        return interpolated
    left = np.where(departure == NAT, arrival, departure)[previous]
    seconds = np.maximum((due[after] - left) // MICROSECONDS_PER_SECOND, 0)
    offset = _distribute(seconds, blank, previous, after, latitude, longitude)
    interpolated[blank] = left + offset * MICROSECONDS_PER_SECOND
    return interpolated


def measure_metres(
    latitude: np.ndarray, longitude: np.ndarray, other_latitude: np.ndarray, other_longitude: np.ndarray
) -> np.ndarray:
    """Return great-circle distances (n,) between points in degrees, rounded to whole metres; NaN where missing."""
    miles = haversine_miles(latitude, longitude, other_latitude, other_longitude)
    return np.floor(miles * METRES_PER_MILE + 0.5)


def _find_following(trip: np.ndarray, sequence: np.ndarray, arrival: np.ndarray, departure: np.ndarray) -> np.ndarray:
    """Return the index (n,) of the stop time that follows each by time on its trip; -1 without one."""
    due = np.where(arrival == NAT, departure, arrival)
    timed = np.flatnonzero(due != NAT)
    keys = (sequence, departure == NAT, arrival != NAT, due, trip)
    order = timed[np.lexsort([key[timed] for key in keys])]
    following = np.full(len(trip), -1)
    same_trip = trip[order[1:]] == trip[order[:-1]]
    following[order[:-1]] = np.where(same_trip, order[1:], -1)
    return following


def _distribute(
    seconds: np.ndarray,
    blank: np.ndarray,
    previous: np.ndarray,
    after: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
) -> np.ndarray:
    """Return the seconds (n,) from the departure from the stop before to each blank stop.

    `seconds`, `blank`, `previous` and `after` (n,) are of the blank stops, those between the same two stops beside one
    another in the order of travel.
    """
    begins = np.append(True, previous[1:] != previous[:-1])
    ends = np.append(begins[1:], True)
    group, first = np.cumsum(begins) - 1, np.flatnonzero(begins)
    number = np.arange(len(blank)) - first[group] + 1
    parts = (number[ends] + 1)[group]
    came_from = np.where(begins, previous, np.roll(blank, 1))
    metres = measure_metres(latitude[came_from], longitude[came_from], latitude[blank], longitude[blank])
    rest = measure_metres(latitude[blank], longitude[blank], latitude[after], longitude[after])[ends]
    way = np.add.reduceat(metres, first) + rest
    is_known = (way > 0)[group]  # a way with a missing position is NaN
    metres, way = (np.where(is_known, values, 1).astype(np.int64) for values in (metres, way[group]))
    total = np.cumsum(metres)
    covered = total - (total - metres)[first][group]
    by_distance = (2 * seconds * covered + way) // (2 * way)
    evenly = (2 * seconds * number + parts) // (2 * parts)
    return np.where(is_known, by_distance, evenly)
