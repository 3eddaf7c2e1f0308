"""Runs exported networks: what serving needs of them, with NumPy and ONNX Runtime alone."""

import time

import numpy as np
import onnxruntime

from mbta_assets.learning.dataset import Arrays

INPUTS = ("numeric", "codes", "base")
OUTPUT = "delay_seconds"


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A session of an ONNX model on one thread that does not spin between requests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predict(model: onnxruntime.InferenceSession, rows: Arrays, batch: int = 16_384) -> np.ndarray:
    """Seconds of delay (n,) float32 for n rows."""
    parts = [np.empty(0, np.float32)]
    for begin in range(0, len(rows.base), batch):
        chunk = slice(begin, begin + batch)
        parts.append(model.run([OUTPUT], _feed(rows, chunk))[0])
    return np.concatenate(parts)


def latency_us(model: onnxruntime.InferenceSession, rows: Arrays, calls: int = 300) -> float:
    """Median microseconds of a call for one row, over different rows after a warm-up."""
    feeds = [_feed(rows, slice(index, index + 1)) for index in range(min(len(rows.base), 50))]
    for feed in feeds:
        model.run([OUTPUT], feed)
    took = np.empty(calls)
    for call in range(calls):
        begin = time.perf_counter_ns()
        model.run([OUTPUT], feeds[call % len(feeds)])
        took[call] = time.perf_counter_ns() - begin
    return float(np.median(took)) / 1000


def _feed(rows: Arrays, chunk: slice) -> dict[str, np.ndarray]:
    """The rows of a slice as the model's inputs."""
    return dict(zip(INPUTS, (rows.numeric[chunk], rows.codes[chunk].astype(np.int64), rows.base[chunk]), strict=True))
