"""Predictions of service days before the validation part, which prediction intervals are calibrated on too.

Each of these days is predicted by a network that learned from the days before it. That network has fewer rows and no
teacher, so its errors are larger than the student's: by how much is measured on the validation part, which neither of
them has learned.
"""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.ml.inference.distance_curve import DistanceCurve
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_data import RESIDUAL_TO, NetworkData
from mbta_assets.ml.training.network_trainer import predict

EARLIER_DAYS_FILE = "earlier_days.parquet"
"""File of the student that was not trained on the validation part, with what `predict_earlier_days` returns."""
MIN_ROWS_PER_RATIO = 2_000
"""Distances of fewer rows have the ratio of those around them."""
MIN_RATIO, MAX_RATIO = 0.7, 1.1


def predict_earlier_days(
    folds: Sequence[NetworkData],
    networks: Sequence[Network],
    validation: pd.DataFrame,
    validation_error: np.ndarray,
) -> bytes:
    """Return a Parquet file with predictions of the service days that folds predict from the days before.

    Each network has learned the training rows of a fold. `validation` are the labelled rows of the validation part with
    all columns, and `validation_error` (n,) the absolute errors in seconds of the student there. Columns are the place
    of the row among those of `LEARNED_PARTS`, its predicted `delay` in seconds, and the `error_ratio`: how large the
    student's errors are at this distance, relative to those of the network.
    """
    places, delays, ratios = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    for fold, network in zip(folds, networks, strict=True):
        rows = fold.validation
        of_validation = fold.preprocessor.transform(validation, RESIDUAL_TO)
        error = of_validation.absolute_errors(predict(network, of_validation))
        curve = fit_error_ratio(validation["stops_ahead"].to_numpy(dtype=np.int64), validation_error, error)
        places.append(fold.validation_places)
        delays.append(rows.base + rows.unit * predict(network, rows))
        ratios.append(curve.evaluate(rows.numeric[:, fold.preprocessor.feature_names.index("stops_ahead")]))
    place, delay, ratio = (np.concatenate(parts) for parts in (places, delays, ratios))
    order, buffer = np.argsort(place), io.BytesIO()
    columns = {"place": place[order], "delay": delay[order], "error_ratio": ratio[order]}
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()


def fit_error_ratio(stops_ahead: np.ndarray, error: np.ndarray, other_error: np.ndarray) -> DistanceCurve:
    """Return how large the mean of absolute errors (n,) is relative to that of others (n,), by stops ahead (n,)."""
    errors = np.column_stack([error, other_error])
    rows = np.arange(len(errors))
    return DistanceCurve.fit(stops_ahead, errors, rows, MIN_ROWS_PER_RATIO, _compute_ratio, never_decreases=False)


def _compute_ratio(errors: np.ndarray) -> float:
    """Return the ratio of the means of errors (m, 2), within limits; 1 where the others are all 0."""
    of_student, of_other = errors.mean(axis=0, dtype=np.float64).tolist()
    return min(max(of_student / of_other, MIN_RATIO), MAX_RATIO) if of_other else 1.0
