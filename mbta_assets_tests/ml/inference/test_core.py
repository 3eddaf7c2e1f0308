"""Split, encode, look up, evaluate: on rows small enough to check by hand."""

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.inference.arrays import Arrays, Parts
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.run_time import RuntimeLookup, cross_fitted_delay
from mbta_assets.ml.training import dataset


def rows_of_days(days: int, a_day: int = 40) -> pd.DataFrame:
    """Rows a minute apart from noon UTC, each arriving five minutes later."""
    starts = pd.date_range("2024-03-01 12:00", periods=days, tz="UTC")
    time = pd.DatetimeIndex(np.concatenate([start + pd.to_timedelta(np.arange(a_day), unit="min") for start in starts]))
    return pd.DataFrame(
        {
            "service_date": time.tz_convert(None).normalize(),
            "time_stamp": time,
            "actual_arrival_time": time + pd.Timedelta(minutes=5),
            "delay_seconds": 1.0,
        }
    )


def test_ten_days_are_split_by_whole_days_in_time() -> None:
    rows = rows_of_days(10)
    parts = pd.Series(dataset.split(rows)).groupby(rows["service_date"]).unique()
    assert [list(part) for part in parts] == [["train"]] * 6 + [["validation"]] * 2 + [["test"]] * 2


def test_fewer_days_are_split_by_time_and_no_label_is_known_only_in_a_later_part() -> None:
    rows = rows_of_days(1, 200)
    part = dataset.split(rows)
    times = rows.groupby(part)["time_stamp"].agg(["min", "max"])
    assert times["max"]["train"] < times["min"]["validation"] < times["min"]["test"]
    assert rows.loc[part == "train", "actual_arrival_time"].max() < times["min"]["validation"]
    assert (part == "test").sum() == 30
    assert (part == "").sum() == 2 * 5


def test_a_sample_is_the_same_whatever_the_order_of_the_rows() -> None:
    random = np.random.default_rng(0)
    rows = rows_of_days(1, 300).assign(trip_id=random.integers(0, 9, 300).astype(str), vehicle_id="v", stop_id="s")
    chosen = dataset.sample(rows, 50)
    assert len(chosen) == 50
    shuffled = dataset.sample(rows.sample(frac=1, random_state=1), 50)
    pd.testing.assert_frame_equal(chosen, shuffled.sort_index())


def parts() -> Parts:
    """Six training rows, the last without a label, for both residuals."""
    codes = np.arange(12, dtype=np.int32).reshape(6, 2)
    label = np.array([1, 2, 3, 4, 5, np.nan], dtype=np.float32)
    base, scale = np.zeros((2, 6), np.float32)
    arrays = Arrays(np.eye(6, 3, dtype=np.float32), codes, base, scale, label)
    return Parts({"lookup": arrays, "now": arrays}, {"lookup": arrays.take(np.arange(5))}, list("abcde"), 0)


def test_columns_are_left_out_by_name_from_numbers_and_codes() -> None:
    without = parts().without({"b", "e"})
    assert without.names == ["a", "c", "d"]
    assert np.array_equal(without.train["now"].numeric, np.eye(6, 3)[:, [0, 2]])
    assert without.validation["lookup"].codes.tolist() == [[0], [2], [4], [6], [8]]


def test_fewer_rows_are_the_same_ones_for_every_residual_and_each_time() -> None:
    smaller = parts().smaller(3)
    assert len(smaller.train["lookup"]) == len(smaller.validation["lookup"]) == 3
    assert np.array_equal(smaller.train["lookup"].codes, smaller.train["now"].codes)
    assert np.array_equal(smaller.train["lookup"].codes, parts().smaller(3).train["lookup"].codes)


def test_only_labelled_training_rows_are_left_where_that_is_asked_for() -> None:
    assert parts().labelled().train["lookup"].label.tolist() == [1, 2, 3, 4, 5]


def test_what_the_encoder_has_not_seen_is_unknown() -> None:
    encoder = Encoder.fit({"route_id": pd.Series(["Red", "Blue", None])}, [], ["route_id"])
    again = Encoder.from_json(encoder.to_json())
    assert again.codes({"route_id": np.array(["Blue", "Red", "Mattapan", None], dtype=object)})[:, 0].tolist() == [
        1,
        2,
        0,
        0,
    ]
    assert again.cardinalities == [3]


def runs(n: int, seconds: float, status: str = "IN_TRANSIT_TO") -> pd.DataFrame:
    """n updates, each 30 s after a departure, of runs that take so many seconds in all; on time is 100 s ahead."""
    return pd.DataFrame(
        {
            "service_date": pd.Timestamp("2024-03-01"),
            "trip_id": [str(i) for i in range(n)],
            "current_status": status,
            "current_stop_id": "a",
            "stop_id": "b",
            "stops_behind": 3.0,
            "seconds_in_state": 30.0,
            "scheduled_seconds_ahead": 100.0,
            "departure_delay_seconds": 5.0,
            "last_delay_seconds": 17.0,
            "delay_seconds": seconds - 30.0 - 100.0,
        }
    )


def test_the_lookup_predicts_departure_plus_median_run_time() -> None:
    lookup = RuntimeLookup.from_bytes(RuntimeLookup.fit(runs(5, 150.0)).to_bytes())
    asked = runs(2, 0.0).assign(seconds_in_state=[10.0, 400.0])
    assert lookup.delay(asked).tolist() == [150 - 10 - 100, 0 - 100]


def test_without_an_entry_the_trip_stays_as_late_as_it_was() -> None:
    lookup = RuntimeLookup.fit(runs(5, 150.0))
    assert lookup.delay(runs(1, 0.0).assign(stop_id="elsewhere")).tolist() == [17.0]


def test_cross_fitting_never_uses_the_rows_own_trip() -> None:
    rows = runs(10, 150.0)
    rows.loc[0, "delay_seconds"] = 10_000.0
    fitted_on_all = RuntimeLookup.fit(rows.iloc[[0, 0, 0, 0]]).delay(rows.iloc[[0]])
    assert fitted_on_all[0] == pytest.approx(10_000)
    assert cross_fitted_delay(rows)[0] == pytest.approx(20)


def test_errors_are_those_of_the_textbook() -> None:
    found = metrics.errors(np.array([0.0, 10.0, 20.0]), np.array([0.0, 0.0, 26.0]))
    assert found["mae"] == pytest.approx(16 / 3)
    assert found["rmse"] == pytest.approx(np.sqrt(136 / 3))
    assert found["medae"] == 6
    assert found["me"] == pytest.approx(4 / 3)
    assert found["smape"] == pytest.approx(100 * (0 + 2 + 12 / 46) / 3)
    assert found["r2"] == pytest.approx(1 - 136 / 200)


def test_the_mbta_window_is_open_and_depends_on_the_predicted_time_ahead() -> None:
    ahead = np.array([100.0, 100.0, 200.0, 200.0, 400.0, 4000.0])
    late = np.array([59.0, 60.0, 119.0, -90.0, 209.0, 0.0])
    shares = metrics.within_mbta_window(late, np.zeros(6), ahead)
    assert shares == {"0-3 min": 0.5, "3-6 min": 0.5, "6-12 min": 1.0}
