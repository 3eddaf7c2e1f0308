"""The run-time lookup and its cross-fitting, on rows that can be checked by hand."""

import pandas as pd
import pytest

from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.training.cross_fitting import predict_out_of_fold


def make_runs(n: int, seconds: float, status: str = "IN_TRANSIT_TO") -> pd.DataFrame:
    """Return n updates, each 30 s after a departure, of runs of so many seconds that are scheduled 100 s ahead."""
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
    lookup = MedianRunTime.from_bytes(MedianRunTime.fit(make_runs(5, 150.0)).to_bytes())
    rows = make_runs(2, 0.0).assign(seconds_in_state=[10.0, 400.0])
    assert lookup.predict_delay(rows).tolist() == [150 - 10 - 100, 0 - 100]


def test_without_an_entry_the_trip_keeps_its_last_delay() -> None:
    lookup = MedianRunTime.fit(make_runs(5, 150.0))
    assert lookup.predict_delay(make_runs(1, 0.0).assign(stop_id="elsewhere")).tolist() == [17.0]


def test_cross_fitting_never_uses_the_trip_of_a_row() -> None:
    rows = make_runs(10, 150.0)
    rows.loc[0, "delay_seconds"] = 10_000.0
    fitted_on_it = MedianRunTime.fit(rows.iloc[[0, 0, 0, 0]])
    assert fitted_on_it.predict_delay(rows.iloc[[0]])[0] == pytest.approx(10_000)
    assert predict_out_of_fold(rows)[0] == pytest.approx(20)
