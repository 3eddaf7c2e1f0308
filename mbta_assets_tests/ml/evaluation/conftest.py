"""Rows that are small enough to check accuracy and drift by hand."""

from collections.abc import Iterable
from datetime import date

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import accuracy
from mbta_assets.ml.evaluation.accuracy import MetricRow


@pytest.fixture
def four_rows() -> pd.DataFrame:
    """Return two rows of the Red Line, then two of the Blue Line; the arrival of the last one was never seen."""
    return pd.DataFrame(
        {
            "service_date": date(2024, 3, 5),
            "trip_id": ["1", "2", "3", "4"],
            "vehicle_id": "v",
            "time_stamp": pd.Timestamp("2024-03-05 12:00", tz="UTC"),
            "stop_id": "s",
            "stop_sequence": pd.array([2, 4, 3, 3], "Int64"),
            "event": "arrival",
            "route_id": pd.array(["Red", "Red", "Blue", "Blue"], accuracy.TEXT),
            "stops_ahead": pd.array([1, 3, 1, 1], "Int64"),
            "current_status": pd.array(["STOPPED_AT", "IN_TRANSIT_TO", "STOPPED_AT", "STOPPED_AT"], accuracy.TEXT),
            "stops_behind": [1.0, 1.0, 2.0, 2.0],
            "scheduled_seconds_ahead": [100.0, 300.0, 200.0, 60.0],
            "delay_seconds": [100.0, 0.0, -30.0, np.nan],
        }
    )


@pytest.fixture
def predicted() -> np.ndarray:
    """Return a predicted delay in seconds for each of the four rows."""
    return np.array([90.0, 40.0, -30.0, 0.0])


def select_members(rows: Iterable[MetricRow], measure: str, dimension: str) -> dict[str, tuple[int, float | None]]:
    """Return n and the value of a measure by member of a dimension."""
    return {row.member: (row.n, row.value) for row in rows if (row.measure, row.dimension) == (measure, dimension)}
