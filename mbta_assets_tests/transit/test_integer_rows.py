"""Rows of integers as single integers: their order, their counts, and numbers too large for one integer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mbta_assets.transit.integer_rows import compact, find_distinct, pack_columns

LARGE = 2**40
integers = st.one_of(st.integers(0, 4), st.integers(LARGE, LARGE + 3))
rows_of_integers = arrays.arrays(np.int64, arrays.array_shapes(min_dims=2, max_dims=2), elements=integers)


@given(rows=rows_of_integers)
def test_packed_rows_are_in_the_order_of_the_rows_and_equal_where_they_are(rows: np.ndarray) -> None:
    packed = pack_columns(rows.T)
    texts = rows.tolist()
    for first, of_first in zip(texts, packed.tolist(), strict=True):
        for second, of_second in zip(texts, packed.tolist(), strict=True):
            assert (first < second) == (of_first < of_second)


@given(rows=rows_of_integers)
def test_distinct_rows_are_those_of_numpy(rows: np.ndarray) -> None:
    distinct, counts, index = find_distinct(rows)
    expected, expected_counts = np.unique(rows, axis=0, return_counts=True)
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_array_equal(distinct[index], rows)


def test_no_rows_have_no_distinct_ones() -> None:
    distinct, counts, index = find_distinct(np.empty((0, 3), np.int64))
    assert distinct.shape == (0, 3) and len(counts) == len(index) == 0


@given(arrays.arrays(np.int64, arrays.array_shapes(max_dims=2), elements=st.integers(-(2**40), 2**40)))
def test_stored_integers_are_the_same_in_no_more_bytes(array: np.ndarray) -> None:
    for stored in (compact(array), compact(array.T).T):
        np.testing.assert_array_equal(stored, array)
        assert stored.nbytes <= array.nbytes


def test_integers_are_stored_in_the_smallest_type_in_the_order_of_their_rows() -> None:
    ranges = [(-128, 127), (0, 255), (-129, 0), (0, 256), (0, 65_535), (-1, 65_535), (0, 2**31)]
    stored = [compact(np.array([lowest, highest])).dtype.name for lowest, highest in ranges]
    assert stored == ["int8", "uint8", "int16", "int16", "uint16", "int32", "int64"]
    assert compact(np.zeros((2, 3), np.int64).T).flags.c_contiguous
