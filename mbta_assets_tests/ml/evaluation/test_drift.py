"""The drift of a service day, on rows that can be checked by hand."""

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import accuracy
from mbta_assets.ml.evaluation.drift import DriftReference, measure_drift
from mbta_assets.ml.evaluation.grouping import DISTANCE_BINS
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets_tests.ml.evaluation.conftest import select_members


def make_reference(stops_behind: list[float]) -> DriftReference:
    """Return a reference with these values of a feature, of the Red Line, and a test error of 5 s one stop ahead."""
    encoder = Encoder(["stops_behind", "month"], {"route_id": ["Red"]})
    return DriftReference(encoder, pd.DataFrame({"stops_behind": stops_behind, "month": 3.0}), {"1": 5.0})


@pytest.mark.parametrize(
    ("trained_on", "distance"),
    [
        ([1.0, 1.0, 2.0, 2.0], 0.0),
        ([1.0, 2.0, 2.0, 2.0], 0.25),
        ([3.0, 3.0, 3.0, 3.0], 1.0),
        ([np.nan, np.nan, 2.0, 2.0], 0.5),
    ],
)
def test_feature_drift_is_the_largest_distance_between_the_distributions(
    four_rows: pd.DataFrame, predicted: np.ndarray, trained_on: list[float], distance: float
) -> None:
    rows = measure_drift(four_rows, predicted, make_reference(trained_on))
    assert select_members(rows, "feature_drift", "feature") == {"stops_behind": (4, pytest.approx(distance))}


def test_values_that_are_missing_on_both_sides_have_not_drifted(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    features = four_rows.assign(stops_behind=np.nan, route_id=pd.array([None] * 4, accuracy.TEXT))
    rows = measure_drift(features, predicted, make_reference([np.nan]))
    assert select_members(rows, "feature_drift", "feature") == {"stops_behind": (4, 0.0)}
    assert select_members(rows, "unknown_share", "category") == {"route_id": (4, 0.0)}


def test_a_route_that_the_model_was_not_trained_on_is_unknown(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    rows = measure_drift(four_rows, predicted, make_reference([1.0]))
    assert select_members(rows, "unknown_share", "category") == {"route_id": (4, 0.5)}


def test_error_drift_is_the_error_over_that_on_the_test_part(four_rows: pd.DataFrame, predicted: np.ndarray) -> None:
    rows = measure_drift(four_rows, 2 * predicted, make_reference([1.0]))
    # One stop ahead the errors are -80 s and 30 s, where the test error is 5 s; other distances have no test error.
    assert select_members(rows, "error_drift", "stops_ahead") == {
        **dict.fromkeys(DISTANCE_BINS, (0, None)), "1": (2, pytest.approx(55 / 5)), "3": (1, None)
    }  # fmt: skip
