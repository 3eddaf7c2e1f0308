"""Runs exported networks: what serving needs of them, with NumPy and ONNX Runtime alone."""

import numpy as np
import onnxruntime

from mbta_assets.ml.inference.latency import p50_microseconds

OUTPUT = "residual"

Feed = dict[str, np.ndarray]
"""A model's inputs by name; see `feed`."""


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A session of an ONNX model on one thread that does not spin between requests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(numeric: np.ndarray, codes: np.ndarray) -> Feed:
    """n rows as a model's inputs: features (n, d) float32, NaN where missing, and category codes (n, c)."""
    return {"numeric": numeric, "codes": codes.astype(np.int64)}


def predict(model: onnxruntime.InferenceSession, inputs: Feed, batch: int = 16_384) -> np.ndarray:
    """Residuals (n,) float32 in units of the scale for n rows."""
    parts = [np.empty(0, np.float32)]
    for begin in range(0, len(inputs["codes"]), batch):
        parts.append(model.run([OUTPUT], _rows(inputs, begin, begin + batch))[0])
    return np.concatenate(parts)


def latency_us(model: onnxruntime.InferenceSession, inputs: Feed) -> float:
    """Median microseconds of a call for one row, the first."""
    row = _rows(inputs, 0, 1)
    return p50_microseconds(lambda: model.run([OUTPUT], row))


def _rows(inputs: Feed, begin: int, end: int) -> Feed:
    """Some of the rows, in order."""
    return {name: value[begin:end] for name, value in inputs.items()}
