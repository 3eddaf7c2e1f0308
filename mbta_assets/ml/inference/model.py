"""Stored models, opened to predict delays from feature columns.

Bundles of kind `onnx` need NumPy and ONNX Runtime only. Bundles of other kinds need a training library and are opened
by `ml.training.model_loading`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays, InputRow
from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.intervals import IntervalCalibration
from mbta_assets.ml.inference.preprocessing import Preprocessor
from mbta_assets.storage.bundle import Bundle, BundleError

ONNX_KIND = "onnx"
ONNX_FILE, INTERVAL_FILE = "model.onnx", "interval.json.xz"
EARLIER_INTERVAL_FILE = "interval.json"
"""Name of the file in models of earlier releases."""

ResidualFunction = Callable[[Arrays], np.ndarray]
"""Predicts residuals (n,) in units of the scale from model inputs of n rows."""
RowFunction = Callable[[InputRow], np.ndarray]
"""Predicts the residual (1,) of one row."""


class Model:
    """A stored model, opened once to predict many times."""

    interval: IntervalCalibration | None
    """The calibrated interval around predictions; None if the bundle has none."""

    def __init__(self, bundle: Bundle, predict_residual: ResidualFunction | None = None) -> None:
        """Open a bundle.

        `predict_residual` is needed unless the bundle is of kind `onnx`. Raises BundleError if it is missing, or if the
        bundle is damaged.
        """
        self.preprocessor = Preprocessor.from_bundle(bundle)
        self.residual_to: str = bundle.manifest["residual_to"]
        if predict_residual:
            self.predict_residual, self._predict_residual_of_row = predict_residual, _of_row(predict_residual)
        else:
            self.predict_residual, self._predict_residual_of_row = _load_onnx_bundle(bundle)
        intervals = [name for name in (INTERVAL_FILE, EARLIER_INTERVAL_FILE) if name in bundle.manifest["files"]]
        self.interval = IntervalCalibration.from_bytes(bundle.file(intervals[0])) if intervals else None

    def predict(self, columns: Columns) -> np.ndarray:
        """Return the predicted delay (n,) in seconds for feature columns of n rows."""
        return predict_delay(self.preprocessor, self.residual_to, self.predict_residual, columns)

    def predict_row(self, row: Mapping[str, Any]) -> float:
        """Return the predicted delay in seconds for the features of one row, the same to the bit as `predict`.

        They are plain Python values, numbers in single precision and NaN where missing: a column of one value costs
        NumPy ten times as much as the value.
        """
        inputs = self.preprocessor.transform_row(row, self.residual_to)
        unit = np.float32(inputs.scale) * np.float32(inputs.slowdown)
        delay = np.float32(inputs.base) + unit * self._predict_residual_of_row(inputs)[0]
        return max(float(delay), -row["scheduled_seconds_ahead"])


def predict_delay(
    preprocessor: Preprocessor, residual_to: str, predict_residual: ResidualFunction, columns: Columns
) -> np.ndarray:
    """Return the predicted delay (n,) in seconds for feature columns of n rows.

    A prediction is never an arrival before now, as the vehicle has not arrived yet.
    """
    arrays = preprocessor.transform(columns, residual_to)
    arriving_now = -np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
    return np.maximum(arrays.base + arrays.unit * predict_residual(arrays), arriving_now)


def _of_row(predict_residual: ResidualFunction) -> RowFunction:
    """Return the function for one row of a function for many."""
    return lambda inputs: predict_residual(inputs.to_arrays())


def load_onnx(model: bytes) -> ResidualFunction:
    """Return a function that predicts residuals with an ONNX model."""
    return _open_onnx(model)[0]


def _open_onnx(model: bytes) -> tuple[ResidualFunction, RowFunction]:
    """Return functions that predict residuals with an ONNX model, of many rows and of one."""
    # ONNX Runtime takes half a second to import; the Dagster code location imports this module and must load fast.
    from mbta_assets.ml.inference import onnx_session

    session = onnx_session.create_session(model)
    of_row = onnx_session.RowSession(session)
    return (
        lambda arrays: onnx_session.predict(session, onnx_session.make_feed(arrays.numeric, arrays.codes)),
        lambda inputs: of_row.predict(inputs.numeric, inputs.codes),
    )


def _load_onnx_bundle(bundle: Bundle) -> tuple[ResidualFunction, RowFunction]:
    """Return functions that predict residuals with the ONNX model of a bundle, of many rows and of one."""
    kind = bundle.manifest["kind"]
    if kind != ONNX_KIND:
        raise BundleError(
            f"{bundle.path} is a model of kind {kind!r}, which needs its training library. Serve a model of kind "
            f"{ONNX_KIND!r}, or open it with mbta_assets.ml.training.model_loading.load_model."
        )
    return _open_onnx(bundle.file(ONNX_FILE))
