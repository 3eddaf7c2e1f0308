"""The correction of predictions along a trip: no vehicle arrives at a stop before it has arrived at the one before.

Models predict each stop by itself. Here the arrivals of one report become one story: the nearest ones, by least
squares, that never run backwards (isotonic regression). Intervals around them belong to `intervals`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.transit.distances import DEPARTURE, REPORT_KEY
from mbta_assets.transit.integer_rows import pack_columns

MIN_CORRECTION_SECONDS = 0.01
"""Smaller changes are rounding and count as none: features are stored as float32."""


class Correction(NamedTuple):
    """Predicted delays that run forwards along each trip."""

    delay: np.ndarray
    """(n,) seconds."""
    corrected_trips: float | None
    """Share of the reports with two rows or more that needed a correction; None if there are none."""


def correct_delays(columns: Columns, delay: np.ndarray, groups: np.ndarray | None = None) -> Correction:
    """Correct predicted delays (n,) in seconds so that no report's predictions run backwards.

    `columns` has `stops_ahead`, `scheduled_seconds_ahead` and, unless the group (n,) of each row is given, the
    `REPORT_KEY`. Rows without a prediction stay without.
    """
    groups = group_reports(columns) if groups is None else groups
    scheduled_ahead = np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
    corrected = shift_delays(delay, scheduled_ahead, np.asarray(columns["stops_ahead"], dtype=np.int64), groups)
    return Correction(corrected, _share_of_changed(corrected - delay, groups))


def shift_delays(
    delay: np.ndarray, scheduled_ahead: np.ndarray, stops_ahead: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return delays (n,) that are no events before now and, in each group, run forwards along the trip.

    `scheduled_ahead` (n,) is the time from now to the scheduled event. A delay that needs no correction is unchanged.
    """
    ahead = scheduled_ahead + delay
    corrected = make_monotone(ahead, stops_ahead, groups)
    # Times have whole microseconds: those that are made equal stay equal.
    return np.where(corrected == ahead, delay, np.round(corrected, 6) - scheduled_ahead)


def make_monotone(seconds_ahead: np.ndarray, order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (n,) seconds that are at least 0 and in each group never decrease with the order (n,).

    `seconds_ahead` (n,) is the predicted time from now to an event, `order` its stops ahead, and `groups` (n,) the
    group of each row as an integer; the rows may come in any order. Arrivals become the nearest ones by least squares.
    A departure, whose predictions are the least certain, is only brought forward to the first of them. Values that are
    not finite stay as they are.
    """
    result = np.asarray(seconds_ahead, dtype=np.float64).copy()
    order, groups = np.asarray(order), np.asarray(groups)
    finite = np.isfinite(result)
    if len(result) == 1:  # as most requests have
        return np.where(finite, np.maximum(result, 0), result)
    departing, arriving = (np.flatnonzero(finite & is_event) for is_event in (order == DEPARTURE, order != DEPARTURE))
    _correct_arrivals(result, arriving[np.lexsort((result[arriving], order[arriving], groups[arriving]))], groups)
    first_of_group, first_arrival = _find_first_arrivals(result, arriving, groups)
    if len(departing) and len(first_of_group):
        place = np.minimum(np.searchsorted(first_of_group, groups[departing]), len(first_of_group) - 1)
        limit = np.where(first_of_group[place] == groups[departing], first_arrival[place], np.inf)
        result[departing] = np.minimum(result[departing], limit)
    result[finite] = np.maximum(result[finite], 0)
    return result


def make_non_decreasing(values: np.ndarray, stops_ahead: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return values (n,) of arrivals raised to the greatest one of the stops before them in their group, integers (n,).

    That of a departure, whose predictions are the least certain, stays as it is and raises no other.
    """
    if len(values) < 2:
        return values
    rows = np.lexsort((values, stops_ahead, groups))
    group, departs = groups[rows], stops_ahead[rows] == DEPARTURE
    greatest = np.where(departs, -np.inf, values[rows])
    step = 1
    while step < len(rows) and (same := group[step:] == group[:-step]).any():
        greatest[step:] = np.maximum(greatest[step:], np.where(same, greatest[:-step], -np.inf))
        step *= 2
    result = np.empty_like(greatest)
    result[rows] = np.where(departs, values[rows], greatest)
    return result


def group_reports(columns: Columns) -> np.ndarray:
    """Return the group (n,) of each row as an integer, the same for all rows of a report."""
    return group_rows(columns, REPORT_KEY)


def group_rows(columns: Columns, names: Iterable[str]) -> np.ndarray:
    """Return the group (n,) of each row as an integer, the same for all rows with equal values in these columns."""
    packed = pack_columns(_number_values(columns[name]) for name in names)
    return np.unique(packed, return_inverse=True)[1]


def _correct_arrivals(seconds_ahead: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> None:
    """Make the values at some rows, sorted by group and order, never decrease within a group, in place."""
    if not len(rows):
        return
    values, group = seconds_ahead[rows], groups[rows]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    ends = np.r_[starts[1:], len(rows)]
    backwards = np.r_[False, (values[1:] < values[:-1]) & (group[1:] == group[:-1])]
    for index in np.flatnonzero(np.add.reduceat(backwards, starts)):
        begin, end = starts[index], ends[index]
        values[begin:end] = _pool_adjacent_violators(values[begin:end].tolist())
    seconds_ahead[rows] = values


def _find_first_arrivals(
    seconds_ahead: np.ndarray, arriving: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups that have an arrival, in order, and the seconds (m,) to the first one of each."""
    distinct, group = np.unique(groups[arriving], return_inverse=True)
    first = np.full(len(distinct), np.inf)
    np.minimum.at(first, group, seconds_ahead[arriving])
    return distinct, first


def _number_values(column: Any) -> np.ndarray:
    """Return an integer (n,) from 0 for each value of a column, the same for equal values."""
    if hasattr(column, "factorize"):
        return column.factorize()[0].astype(np.int64) + 1
    number_of: dict[Any, int] = {}
    values = (number_of.setdefault(value, len(number_of)) for value in np.asarray(column).tolist())
    return np.fromiter(values, dtype=np.int64, count=len(column))


def _pool_adjacent_violators(values: list[float]) -> np.ndarray:
    """Return the nearest values (n,), by least squares, that never decrease."""
    sums, counts = list[float](), list[int]()
    for value in values:
        sums.append(value)
        counts.append(1)
        while len(sums) > 1 and sums[-1] * counts[-2] < sums[-2] * counts[-1]:
            total, count = sums.pop(), counts.pop()
            sums[-1] += total
            counts[-1] += count
    return np.repeat(np.divide(sums, counts), counts)


def _share_of_changed(change: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the share of the groups of two rows or more with a change (n,) that is more than rounding."""
    if not len(groups):
        return None
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    changed = np.zeros(len(sizes), dtype=bool)
    changed[numbers[np.abs(change) > MIN_CORRECTION_SECONDS]] = True
    return float(changed[sizes > 1].mean()) if (sizes > 1).any() else None
