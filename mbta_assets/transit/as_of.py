"""As-of lookups: the events of a group up to a time, for many queries at once.

Groups and times may be any int64. They are never combined as they are, but replaced by their ranks among the events, so
that neither an extreme time nor the size of the network can overflow.
"""

from typing import Literal

import numpy as np

Side = Literal["left", "right"]
"""Side of a query's time: an event at that very time is excluded ("left") or included ("right")."""


def count_before(
    groups: np.ndarray, times: np.ndarray, query_groups: np.ndarray, query_times: np.ndarray, side: Side
) -> np.ndarray:
    """Count the events (n,) that sort before each query: those of smaller groups, and the earlier ones of its own.

    `groups` and `times` (m,) are the events, sorted by group, then time; `query_groups` and `query_times` are (n,).
    With `side` "right" an event at the time of the query counts as earlier, with "left" it does not.
    """
    if not len(groups):
        return np.zeros(len(query_groups), dtype=np.int64)
    begins = np.append(True, groups[1:] != groups[:-1])
    distinct_groups, distinct_times = groups[begins], np.unique(times)
    base = len(distinct_times) + 1  # a rank of a time is at most the number of distinct times
    keys = (np.cumsum(begins) - 1) * base + np.searchsorted(distinct_times, times)
    group = np.searchsorted(distinct_groups, query_groups)
    has_events = distinct_groups[np.minimum(group, len(distinct_groups) - 1)] == query_groups
    rank = np.where(has_events, np.searchsorted(distinct_times, query_times, side=side), 0)
    return search_in_order(keys, group * base + rank, group)


def find_latest(
    groups: np.ndarray, times: np.ndarray, query_groups: np.ndarray, query_times: np.ndarray, side: Side
) -> np.ndarray:
    """Return the index (n,) of the latest event of each query's group up to its time; -1 if there is none.

    Takes the arguments of `count_before`. A negative group of a query has no events.
    """
    index = count_before(groups, times, query_groups, query_times, side) - 1
    if not len(groups):
        return index
    return np.where((query_groups >= 0) & (index >= 0) & (groups[index] == query_groups), index, -1)


def search_in_order(keys: np.ndarray, queries: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return how many of the sorted keys are smaller than each query (n,).

    A search in order is the faster one. Queries are put in the order of their groups (n,), integers from 0 on, which is
    that of the keys where queries of a group are in order of time.
    """
    order = _sort_groups(groups)
    found = np.empty(len(queries), dtype=np.int64)
    found[order] = np.searchsorted(keys, queries[order])
    return found


def _sort_groups(groups: np.ndarray) -> np.ndarray:
    """Return the indices (n,) that sort groups and keep the order within each: NumPy sorts 16 bits in linear time."""
    order = np.argsort(groups.astype(np.uint16), kind="stable")
    for shift in range(16, int(groups.max(initial=0)).bit_length(), 16):
        order = order[np.argsort((groups >> shift).astype(np.uint16)[order], kind="stable")]
    return order
