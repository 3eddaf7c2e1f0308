"""Tests of the rows that a student learns beside the observed ones."""

import numpy as np
import pytest

from mbta_assets.ml.training.synthetic_rows import SyntheticRows, add_synthetic_rows
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows

CONFIG = SyntheticRows(per_row=7, max_rows=300_000, replaced=0.2)
FEATURES, CODES = ["last_delay_seconds", "stops_ahead", "sin_time"], ["stop_id", "season"]


def make_data(n: int, seed: int = 0) -> TrainingData:
    """Return data with n training rows, whose values say which row they are of."""
    row = np.arange(n, dtype=np.float32)
    numeric = np.stack([np.where(row % 7 == 0, np.float32(np.nan), row), row % 5, row], axis=1)
    rows = TrainingRows(
        numeric,
        np.stack([np.arange(n, dtype=np.int32)] * 2, axis=1),
        scale=row + 1,
        label=row * 2,
        slowdown=row + 2,
        bases={"now": row + 3, "lookup": row + 4},
    )
    return TrainingData(rows, rows.take(slice(0, 3)), [*FEATURES, *CODES], seed)


@pytest.mark.parametrize(("n", "rows"), [(0, 0), (1, 4), (25, 100), (26, 100), (99, 100), (100, 100), (101, 101)])
def test_observed_rows_come_first_and_unchanged_and_synthetic_ones_follow_up_to_a_maximum(n: int, rows: int) -> None:
    data = make_data(n)
    more = add_synthetic_rows(data, SyntheticRows(per_row=3, max_rows=100, replaced=0.2))
    assert len(more.train) == rows
    for name in ("numeric", "codes", "scale", "label", "slowdown"):
        np.testing.assert_array_equal(getattr(more.train, name)[:n], getattr(data.train, name))
    assert np.isnan(more.train.label[n:]).all()
    assert more.validation is data.validation and more.feature_names == data.feature_names


def test_a_synthetic_row_has_some_values_of_one_other_row_as_many_stops_ahead_but_its_own_time() -> None:
    train = add_synthetic_rows(make_data(5_000), CONFIG).train.take(slice(5_000, None))
    row = (train.scale - 1).astype(int)
    assert (np.bincount(row) == CONFIG.per_row).all()
    np.testing.assert_array_equal(train.bases["now"], row + 3)
    np.testing.assert_array_equal(train.numeric[:, 1:], np.stack([row % 5, row], axis=1))
    np.testing.assert_array_equal(train.codes[:, 1], row)
    missing, code = np.isnan(train.numeric[:, 0]), train.codes[:, 0]
    source = np.where(missing, row, train.numeric[:, 0]).astype(int)
    assert (code % 5 == row % 5).all() and (source % 5 == row % 5).all()
    both = (source != row) & (code != row)
    assert both.sum() > 50 and (source[both] == code[both]).all()
    assert (code != row).mean() == pytest.approx(CONFIG.replaced, abs=0.03)
    assert missing.mean() == pytest.approx(1 / 7, abs=0.02)


def test_synthetic_rows_depend_on_the_seed_alone() -> None:
    first, again, other = (add_synthetic_rows(make_data(500, seed), CONFIG).train for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.numeric, again.numeric)
    assert not np.array_equal(first.codes, other.codes)
