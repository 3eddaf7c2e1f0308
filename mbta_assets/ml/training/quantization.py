"""Makes an exported network smaller: int8 in three ways, each judged on validation.

Static and dynamic int8 multiply in int8. Weight-only int8 just stores the weights so: ONNX Runtime turns them back into
floats once, when it loads the model.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import Feed, feed, latency_us, predict, session

ERROR_BOUND = 1.002
"""A variant's validation error over that of fp32 may be at most this."""
CALIBRATION_ROWS = 2_000


@dataclass(frozen=True)
class Variant:
    """One way to store and run a network."""

    name: str
    model: bytes
    """ONNX."""
    validation_error: float
    """Mean absolute error in units of the scale."""
    size_bytes: int
    latency_us: float
    """Median of a call for one row."""
    passes: bool
    """Whether the error is within `ERROR_BOUND` of fp32's."""

    def row(self) -> dict[str, Any]:
        """The variant as a row of a table."""
        return {
            "name": self.name,
            "validation_error": self.validation_error,
            "size_bytes": self.size_bytes,
            "passes": self.passes,
            "latency_us": self.latency_us,
        }


def variants(model: bytes, train: Arrays, validation: Arrays) -> list[Variant]:
    """fp32 and every int8 variant of an ONNX model; static int8 is calibrated on training rows."""
    calibration = train.take(np.linspace(0, len(train) - 1, CALIBRATION_ROWS).astype(int))
    models = {
        "fp32": model,
        "int8_weight_only": weight_only(model),
        "int8_dynamic": dynamic(model),
        "int8_static": static(model, calibration),
    }
    labelled = validation.take(~np.isnan(validation.label))
    inputs = feed(labelled.numeric, labelled.codes)
    found: list[Variant] = []
    for name, candidate in models.items():
        run = session(candidate)
        error = float(np.abs(predict(run, inputs) - labelled.target).mean(dtype=np.float64))
        passes = not found or error <= ERROR_BOUND * found[0].validation_error
        found.append(Variant(name, candidate, error, len(candidate), latency_us(run, inputs), passes))
    return found


def choose(found: list[Variant]) -> Variant:
    """The smallest variant that passes, the more accurate of equals; fp32 always passes."""
    return min((variant for variant in found if variant.passes), key=lambda v: (v.size_bytes, v.validation_error))


def weight_only(model: bytes) -> bytes:
    """Weights of dense layers and embeddings as int8 with one scale for each output, cast and scaled in the graph.

    ONNX Runtime folds the cast and the scaling into constants at load, without any session option. The same written
    with DequantizeLinear it would run at each call unless told otherwise.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    weights = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    weights |= {node.input[0] for node in graph.node if node.op_type == "Gather"}
    nodes: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        value = numpy_helper.to_array(tensor)
        if tensor.name not in weights or value.ndim < 2:
            continue
        scale = np.abs(value).max(axis=0) / np.float32(127)
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(np.rint(value / scale).astype(np.int8), f"{tensor.name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{tensor.name}_scale"))
        nodes += [
            helper.make_node("Cast", [f"{tensor.name}_int8"], [f"{tensor.name}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{tensor.name}_cast", f"{tensor.name}_scale"], [tensor.name]),
        ]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return _bytes(proto)


def dynamic(model: bytes) -> bytes:
    """Dense layers in int8, their inputs quantized by the range of each call.

    `reduce_range` keeps weights to seven bits: without VNNI the sums of eight-bit products saturate.
    """
    return _through_files(
        model,
        lambda source, target: quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True
        ),
    )


def static(model: bytes, calibration: Arrays) -> bytes:
    """Dense layers in int8, their inputs quantized by the range they have on the calibration rows."""
    return _through_files(
        model,
        lambda source, target: quantize_static(
            source,
            target,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        ),
    )


class _Calibration(CalibrationDataReader):
    """Hands the calibration rows to ONNX Runtime, once, in one batch."""

    def __init__(self, rows: Arrays) -> None:
        self.feeds: Iterator[Feed] = iter([feed(rows.numeric, rows.codes)])

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def _through_files(model: bytes, quantize: Callable[[str, str], None]) -> bytes:
    """ONNX Runtime's quantizers read and write files."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        proto = onnx.load_from_string(model)
        # The quantizers ask for their own clean-up first; the graph is as clean as they would make it.
        helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(proto, source)
        quantize(str(source), str(target))
        return _bytes(onnx.load(target))


def _bytes(proto: onnx.ModelProto) -> bytes:
    """The model without what tools note in it about themselves; the same model gives the same bytes."""
    del proto.metadata_props[:]
    for part in (proto, proto.graph, *proto.graph.node):
        part.doc_string = ""
    del proto.graph.value_info[:]
    proto.producer_name = proto.producer_version = ""
    return proto.SerializeToString(deterministic=True)
