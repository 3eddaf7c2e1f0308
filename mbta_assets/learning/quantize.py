"""Makes an exported network smaller: int8 in three ways, each judged on validation.

Static and dynamic int8 multiply in int8. Weight-only int8 just stores the weights so: ONNX Runtime turns them back into
floats once, when it loads the model.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from mbta_assets.learning.dataset import Arrays
from mbta_assets.learning.runtime import INPUTS, latency_us, predict, session

ERROR_BOUND = 1.002
"""A variant's validation MAE over that of fp32 may be at most this."""
CALIBRATION_ROWS = 2_000


@dataclass(frozen=True)
class Variant:
    """One way to store and run a network."""

    name: str
    model: bytes
    """ONNX."""
    validation_mae: float
    """Seconds."""
    size_bytes: int
    latency_us: float
    """Median of a call for one row."""
    passes: bool
    """Whether the error is within `ERROR_BOUND` of fp32's."""


def variants(model: bytes, train: Arrays, validation: Arrays) -> list[Variant]:
    """fp32 and every int8 variant of an ONNX model; static int8 is calibrated on training rows."""
    calibration = train.take(np.linspace(0, len(train.base) - 1, CALIBRATION_ROWS).astype(int))
    models = {
        "fp32": model,
        "int8_weight_only": weight_only(model),
        "int8_dynamic": dynamic(model),
        "int8_static": static(model, calibration),
    }
    labelled = validation.take(~np.isnan(validation.label))
    found: list[Variant] = []
    for name, candidate in models.items():
        run = session(candidate)
        mae = float(np.abs(predict(run, labelled) - labelled.label).mean(dtype=np.float64))
        passes = not found or mae <= ERROR_BOUND * found[0].validation_mae
        found.append(Variant(name, candidate, mae, len(candidate), latency_us(run, labelled), passes))
    return found


def choose(found: list[Variant]) -> Variant:
    """The smallest variant that passes, the faster of equals; fp32 always passes."""
    return min((variant for variant in found if variant.passes), key=lambda v: (v.size_bytes, v.latency_us))


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
        feed = dict(zip(INPUTS, (rows.numeric, rows.codes.astype(np.int64), rows.base), strict=True))
        self.feeds: Iterator[dict[str, np.ndarray]] = iter([feed])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _through_files(model: bytes, quantize: Callable[[str, str], None]) -> bytes:
    """ONNX Runtime's quantizers read and write files."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
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
