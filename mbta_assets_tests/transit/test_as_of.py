"""As-of lookups agree with a search in lists, whatever the groups and times are."""

import bisect

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.transit.as_of import Side, count_before, find_latest

LARGEST = np.iinfo(np.int64)
YEARS = (0, 68 * 31_556_952 * 10**6, 136 * 31_556_952 * 10**6)
"""Epoch microseconds of about 1970, 2038 and 2106."""
LARGEST_STRETCH = 2 * 100_000 * 100_000
"""Codes of stretches in a network of 100,000 stops; a trip and stop of a million trips has five times as many."""

times = st.one_of(
    st.sampled_from([LARGEST.min, LARGEST.min + 1, LARGEST.max, -1, *YEARS]),
    st.integers(0, 8),
    st.integers(LARGEST.min, LARGEST.max),
)
groups = st.one_of(st.integers(0, 3), st.integers(0, 5 * LARGEST_STRETCH), st.sampled_from([LARGEST.max - 1]))
query_groups = st.one_of(groups, st.just(-1))
sides = st.sampled_from(["left", "right"])


def to_arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return groups and times, each (n,) int64."""
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


@given(
    events=st.lists(st.tuples(groups, times)).map(sorted), queries=st.lists(st.tuples(query_groups, times)), side=sides
)
def test_lookups_agree_with_a_search_in_lists(
    events: list[tuple[int, int]], queries: list[tuple[int, int]], side: Side
) -> None:
    search = bisect.bisect_left if side == "left" else bisect.bisect_right
    counts = [search(events, query) for query in queries]
    latest = [
        count - 1 if count and group >= 0 and events[count - 1][0] == group else -1
        for count, (group, _) in zip(counts, queries, strict=True)
    ]
    arguments = (*to_arrays(events), *to_arrays(queries), side)
    assert count_before(*arguments).tolist() == counts
    assert find_latest(*arguments).tolist() == latest


def test_the_largest_network_over_a_century_has_every_event_in_its_place() -> None:
    rng = np.random.default_rng(0)
    codes, when = rng.integers(0, 1_000_000 * 100_000, 50_000), rng.integers(YEARS[0], YEARS[2], 50_000)
    order = np.lexsort((when, codes))
    codes, when = codes[order], when[order]
    assert find_latest(codes, when, codes, when, "right").tolist() == list(range(50_000))
    assert (find_latest(codes, when, codes, when - 1, "right") == -1).mean() > 0.99
