"""ONNX Runtime sessions of exported networks.

Export and quantization belong to `ml.training`.
"""

import threading
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from mbta_assets.ml.inference.latency import measure_median_latency_us

NUMERIC, CODES, OUTPUT = "numeric", "codes", "residual"
"""Names of a model's two inputs and of its output."""
MAX_BATCH_ROWS = 2048
"""Rows in one call of a session: the intermediate values of more do not fit the processor's cache."""

Feed = dict[str, np.ndarray]
"""Inputs of a model by name; see `make_feed`."""


def create_session(model: bytes) -> onnxruntime.InferenceSession:
    """Create a session of an ONNX model on one CPU thread that does not spin between requests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def make_feed(numeric: np.ndarray, codes: np.ndarray) -> Feed:
    """Return the model inputs for numeric features (n, d) float32, NaN where missing, and category codes (n, c)."""
    return {NUMERIC: numeric, CODES: codes.astype(np.int64, copy=False)}


def predict(session: onnxruntime.InferenceSession, feed: Feed, batch_rows: int = MAX_BATCH_ROWS) -> np.ndarray:
    """Return the predicted residuals (n,) float32 in units of the scale, computed in batches."""
    if 0 < len(feed[CODES]) <= batch_rows:
        return session.run([OUTPUT], feed)[0]
    batches = [np.empty(0, np.float32)]
    for begin in range(0, len(feed[CODES]), batch_rows):
        batches.append(session.run([OUTPUT], _slice_rows(feed, begin, begin + batch_rows))[0])
    return np.concatenate(batches)


class RowSession:
    """A session that predicts one row at a time into buffers that are bound to it, one set for each thread.

    A call takes three quarters of the time of `run`, which wraps its inputs and output anew.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session, self._of_thread = session, threading.local()

    def predict(self, numeric: Sequence[float], codes: Sequence[int]) -> np.ndarray:
        """Return the residual (1,) float32 in units of the scale; it is overwritten by the next call of the thread."""
        try:
            binding, numeric_buffer, codes_buffer, output = self._of_thread.bound
        except AttributeError:
            binding, numeric_buffer, codes_buffer, output = self._bind(len(numeric), len(codes))
        numeric_buffer[:], codes_buffer[:] = array("f", numeric), array("q", codes)
        self._session.run_with_iobinding(binding)
        return output

    def _bind(self, n_numeric: int, n_codes: int) -> tuple[Any, Any, Any, np.ndarray]:
        """Bind buffers for one row in this thread."""
        numeric, codes = np.zeros((1, n_numeric), np.float32), np.zeros((1, n_codes), np.int64)
        output = np.zeros(1, np.float32)
        binding = self._session.io_binding()
        for name, buffer in ((NUMERIC, numeric), (CODES, codes)):
            binding.bind_input(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, output.shape, output.ctypes.data)
        # Each view keeps its array alive.
        views = numeric.data.cast("B").cast("f"), codes.data.cast("B").cast("q")
        self._of_thread.bound = binding, *views, output
        return self._of_thread.bound


def measure_latency_us(session: onnxruntime.InferenceSession, feed: Feed) -> float:
    """Return the median latency in microseconds of a call for the first row."""
    row = _slice_rows(feed, 0, 1)
    return measure_median_latency_us(lambda: session.run([OUTPUT], row))


def _slice_rows(feed: Feed, begin: int, end: int) -> Feed:
    """Return the rows from `begin` up to `end`, which is excluded."""
    return {name: value[begin:end] for name, value in feed.items()}
