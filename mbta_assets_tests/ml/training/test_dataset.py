"""The split of a training set into parts and its samples, on rows that can be checked by hand."""

import numpy as np
import pandas as pd

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.dataset import SplitConfig, assign_parts
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows
from mbta_assets.transit.sampling import sample_rows

SPLIT = SplitConfig()


def make_days(days: int, rows_per_day: int = 40) -> pd.DataFrame:
    """Return rows a minute apart from noon UTC of each day, each of which arrives five minutes later."""
    minutes = pd.to_timedelta(np.arange(rows_per_day), unit="min")
    starts = pd.date_range("2024-03-01 12:00", periods=days, tz="UTC")
    time = pd.DatetimeIndex(np.concatenate([start + minutes for start in starts]))
    return pd.DataFrame(
        {
            "service_date": time.tz_convert(None).normalize(),
            "time_stamp": time,
            "actual_arrival_time": time + pd.Timedelta(minutes=5),
            "delay_seconds": 1.0,
        }
    )


def test_ten_days_are_split_by_whole_days_in_time() -> None:
    rows = make_days(10)
    parts = pd.Series(assign_parts(rows, SPLIT)).groupby(rows["service_date"]).unique()
    assert [list(part) for part in parts] == [["train"]] * 6 + [["validation"]] * 2 + [["test"]] * 2


def test_fewer_days_are_split_by_time_and_no_label_is_known_only_in_a_later_part() -> None:
    rows = make_days(1, 200)
    part = assign_parts(rows, SPLIT)
    times = rows.groupby(part)["time_stamp"].agg(["min", "max"])
    assert times["max"]["train"] < times["min"]["validation"] < times["min"]["test"]
    assert rows.loc[part == "train", "actual_arrival_time"].max() < times["min"]["validation"]
    assert (part == "test").sum() == 30
    assert (part == "").sum() == 2 * 5


def test_a_sample_is_the_same_whatever_the_order_of_the_rows() -> None:
    random = np.random.default_rng(0)
    rows = make_days(1, 300).assign(trip_id=random.integers(0, 9, 300).astype(str), vehicle_id="v", stop_id="s")
    sample = sample_rows(rows, 50)
    assert len(sample) == 50
    shuffled = sample_rows(rows.sample(frac=1, random_state=1), 50)
    pd.testing.assert_frame_equal(sample, shuffled.sort_index())


def make_training_data() -> TrainingData:
    """Return six training rows, the last without a label, and five validation rows, with both residual bases."""
    codes = np.arange(12, dtype=np.int32).reshape(6, 2)
    label = np.array([1, 2, 3, 4, 5, np.nan], dtype=np.float32)
    base, scale = np.zeros((2, 6), np.float32)
    arrays = Arrays(np.eye(6, 3, dtype=np.float32), codes, base, scale, label)
    rows = TrainingRows.from_arrays(arrays, {"lookup": base, "now": base + np.arange(6, dtype=np.float32)})
    return TrainingData(rows, rows.take(np.arange(5)), list("abcde"), seed=0)


def test_columns_are_dropped_by_name_from_numbers_and_codes() -> None:
    data = make_training_data().drop_columns({"b", "e"})
    assert data.feature_names == ["a", "c", "d"]
    assert np.array_equal(data.train.relative_to("now").numeric, np.eye(6, 3)[:, [0, 2]])
    assert data.validation.relative_to("lookup").codes.tolist() == [[0], [2], [4], [6], [8]]


def test_a_subsample_has_the_same_rows_for_every_residual_base_and_each_time() -> None:
    subsample, again = make_training_data().subsample(3), make_training_data().subsample(3)
    to_lookup, to_now = subsample.train.relative_to("lookup"), subsample.train.relative_to("now")
    assert len(to_lookup) == len(subsample.validation.relative_to("lookup")) == 3
    assert np.array_equal(to_lookup.codes, to_now.codes)
    assert np.array_equal(to_now.base, to_now.codes[:, 0] / 2)  # both count the rows
    assert np.array_equal(to_lookup.codes, again.train.relative_to("lookup").codes)


def test_training_rows_without_a_label_are_dropped_on_request() -> None:
    assert make_training_data().drop_unlabelled().train.label.tolist() == [1, 2, 3, 4, 5]
