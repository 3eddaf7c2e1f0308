"""The run-time lookup and its cross-fitting, on rows that can be checked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.inference.run_time import DEPARTING, MedianRunTime, OutdatedModel
from mbta_assets.ml.training.cross_fitting import compute_out_of_fold
from mbta_assets.storage import bundle


def make_runs(n: int, seconds: float, **values: Any) -> pd.DataFrame:
    """Return n updates, each 30 s after a departure, of runs of so many seconds that are scheduled 100 s ahead."""
    rows = {
        "service_date": pd.Timestamp("2024-03-01"),
        "trip_id": [str(i) for i in range(n)],
        "vehicle_id": "v",
        "time_stamp": pd.Timestamp("2024-03-01 12:00"),
        "current_status": "IN_TRANSIT_TO",
        "current_stop_id": "a",
        "stop_id": "b",
        "stops_ahead": 1,
        "route_id": "Red",
        "direction_id": 0,
        "trip_start_seconds": 39_600.0,
        "stops_behind": 3.0,
        "timepoint": 0.0,
        "sin_time": 0.0,
        "cos_time": -1.0,
        "seconds_in_state": 30.0,
        "scheduled_seconds_ahead": 100.0,
        "scheduled_run_seconds": 120.0,
        "departure_delay_seconds": 5.0,
        "last_delay_seconds": 17.0,
        "delay_seconds": seconds - 30.0 - 100.0,
    }
    return pd.DataFrame(rows | values)


def make_line(stops: str, segment_seconds: list[float], route: str = "Red", n: int = 3) -> pd.DataFrame:
    """Return runs of vehicles that go to the first stop of a line, 50 s after a departure, and on to all others."""
    arrives = np.cumsum([20.0, *segment_seconds])
    reports = [
        make_runs(len(stops), 0.0).assign(
            trip_id=f"{stops} {i}",
            current_stop_id=stops[0],
            stop_id=list(stops),
            stops_ahead=np.arange(len(stops)) + 1,
            route_id=route,
            delay_seconds=arrives - 100.0,
        )
        for i in range(n)
    ]
    return pd.concat(reports, ignore_index=True)


def remaining(lookup: MedianRunTime, **values: Any) -> float:
    """Return the seconds that a lookup predicts for one row."""
    row = make_runs(1, 0.0, **values)
    return float((lookup.predict_delay(row) + row["scheduled_seconds_ahead"])[0])


def test_the_lookup_predicts_departure_plus_median_run_time() -> None:
    lookup = MedianRunTime.from_bytes(MedianRunTime.fit(make_runs(5, 150.0)).to_bytes())
    rows = make_runs(2, 0.0).assign(seconds_in_state=[10.0, 400.0])
    assert lookup.predict_delay(rows).tolist() == [150 - 10 - 100, 0 - 100]


def test_a_run_that_was_never_seen_is_the_sum_of_its_segments() -> None:
    rows = pd.concat([make_line("abcd", [60, 70, 80]), make_line("defg", [90, 100, 110])])
    lookup = MedianRunTime.from_bytes(MedianRunTime.fit(rows).to_bytes())
    assert lookup.pairs[:, 3].tolist() == [1, 1]
    far = {"current_stop_id": "a", "stop_id": "g", "stops_ahead": 7}
    assert remaining(lookup, **far) == pytest.approx(20 + 60 + 70 + 80 + 90 + 100 + 110)
    assert remaining(lookup, **far, seconds_in_state=100.0) == pytest.approx(50 - 100 + 20 + 510 - 20)


def test_the_path_has_exactly_as_many_stops_as_the_row_and_belongs_to_its_route() -> None:
    lollipop, express = make_line("abcbd", [10, 20, 30, 40]), make_line("acd", [15, 25], route="Express")
    lookup = MedianRunTime.fit(pd.concat([lollipop, express]))
    first, second = ({"current_stop_id": "a", "stop_id": "b", "stops_ahead": k} for k in (2, 4))
    assert remaining(lookup, **first) == pytest.approx(20 + 10)
    assert remaining(lookup, **second) == pytest.approx(20 + 10 + 20 + 30)
    to_d = {"current_stop_id": "a", "stop_id": "d"}
    assert remaining(lookup, **to_d, stops_ahead=5) == pytest.approx(20 + 10 + 20 + 30 + 40)
    assert remaining(lookup, **to_d, stops_ahead=3, route_id="Express") == pytest.approx(20 + 15 + 25)


def test_pairs_that_cannot_be_composed_are_stored() -> None:
    rows = make_line("abcd", [60, 70, 80])
    unseen_at_c = rows.assign(delay_seconds=rows["delay_seconds"].where(rows["stop_id"] != "c"))
    lookup = MedianRunTime.fit(unseen_at_c)
    assert remaining(lookup, current_stop_id="a", stop_id="d", stops_ahead=4) == pytest.approx(20 + 60 + 70 + 80)
    assert lookup.pairs[:, 3].tolist() == [1, 4]


def test_where_a_segment_was_never_seen_the_scheduled_run_time_is_scaled() -> None:
    lookup = MedianRunTime.fit(make_runs(5, 150.0))
    elsewhere = {"stop_id": "elsewhere", "scheduled_run_seconds": 400.0}
    assert remaining(lookup, **elsewhere) == pytest.approx(400 * 150 / 120 - 30)
    standing = make_runs(1, 0.0, current_status="STOPPED_AT", **elsewhere)
    assert lookup.predict_delay(standing).tolist() == [17.0]  # nothing is known of vehicles in that state


def test_without_an_entry_and_a_schedule_the_trip_keeps_its_last_delay() -> None:
    lookup = MedianRunTime.fit(make_runs(5, 150.0))
    rows = make_runs(1, 0.0, stop_id="elsewhere", scheduled_run_seconds=np.nan)
    assert lookup.predict_delay(rows).tolist() == [17.0]


def test_a_vehicle_that_waits_at_a_timepoint_leaves_on_time() -> None:
    waiting = {"current_status": "STOPPED_AT", "timepoint": 1.0}
    early = make_runs(5, 0.0, **waiting, departure_delay_seconds=-80.0, delay_seconds=80.0 + 60.0 - 100.0)
    lookup = MedianRunTime.fit(early)
    assert remaining(lookup, **waiting, departure_delay_seconds=-200.0, seconds_in_state=500.0) == 200 + 60
    late = MedianRunTime.fit(make_runs(5, 70.0, **waiting))
    assert remaining(late, **waiting, seconds_in_state=10.0) == 70 - 10


def test_a_departure_is_relative_to_the_later_of_now_and_the_scheduled_one() -> None:
    origin = {"current_status": "STOPPED_AT", "stops_behind": 1.0, "stop_id": "a", "stops_ahead": 0}
    lookup = MedianRunTime.fit(make_runs(5, 0.0, **origin, delay_seconds=40.0))
    assert lookup.pairs.tolist() == [[DEPARTING, 0, 0, 0]]
    assert remaining(lookup, **origin, scheduled_seconds_ahead=300.0) == 340
    assert remaining(lookup, **origin, scheduled_seconds_ahead=-25.0) == 40
    elsewhere = origin | {"current_stop_id": "z", "stop_id": "z"}
    assert remaining(lookup, **elsewhere, scheduled_seconds_ahead=300.0) == 340


def test_cross_fitting_never_uses_the_trip_of_a_row() -> None:
    rows = make_runs(10, 150.0)
    rows.loc[0, "delay_seconds"] = 10_000.0
    fitted_on_it = MedianRunTime.fit(rows.iloc[[0, 0, 0, 0]])
    assert fitted_on_it.predict_delay(rows.iloc[[0]])[0] == pytest.approx(10_000)
    assert compute_out_of_fold(rows)[0, 0] == pytest.approx(20)


def test_a_lookup_of_an_earlier_version_has_to_be_trained_again(tmp_path: Path) -> None:
    stored = bundle.write(tmp_path, "runtime_lookup", {"lookup.npz": b"of an earlier version"})
    with pytest.raises(OutdatedModel, match="Train again"):
        MedianRunTime.from_bundle(stored)
