"""Conversions of an ONNX model to int8: weights only, with dynamic, and with static quantization of activations."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import Feed, make_feed
from mbta_assets.ml.training.onnx_export import FOLDED


def quantize_weights(model: bytes) -> bytes:
    """Store the weights of dense layers and embeddings as int8, with a scale per output.

    Weights that embeddings of numbers are folded into have one per dimension of the embedding too. The graph casts and
    scales them, which ONNX Runtime folds into constants when it loads the model. DequantizeLinear would be computed at
    each call unless a session option prevents it.
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
    return _serialize(proto)


def quantize_dynamically(model: bytes) -> bytes:
    """Compute dense layers in int8, with activations quantized by their range in each call.

    `reduce_range` limits weights to seven bits: without VNNI the sums of eight-bit products saturate.
    """
    return _quantize_files(
        model,
        lambda source, target: quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[FOLDED],
            per_channel=True,
            reduce_range=True,
        ),
    )


def quantize_statically(model: bytes, calibration: Arrays) -> bytes:
    """Compute dense layers in int8, with activations quantized by their range on the calibration rows."""
    return _quantize_files(
        model,
        lambda source, target: quantize_static(
            source,
            target,
            _CalibrationReader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[FOLDED],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        ),
    )


class _CalibrationReader(CalibrationDataReader):
    """Passes the calibration rows to ONNX Runtime, once, in one batch."""

    def __init__(self, rows: Arrays) -> None:
        self.feeds: Iterator[Feed] = iter([make_feed(rows.numeric, rows.codes)])

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def _quantize_files(model: bytes, quantize: Callable[[str, str], None]) -> bytes:
    """Quantize a model with one of ONNX Runtime's quantizers, which read and write files."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        proto = onnx.load_from_string(model)
        # Without this mark the quantizers ask for their own preprocessing, which would not change this graph.
        helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(proto, source)
        quantize(str(source), str(target))
        return _serialize(onnx.load(target))


def _serialize(proto: onnx.ModelProto) -> bytes:
    """Serialize a model without the names and versions of tools, so that the same model gives the same bytes."""
    del proto.metadata_props[:]
    for part in (proto, proto.graph, *proto.graph.node):
        part.doc_string = ""
    del proto.graph.value_info[:]
    proto.producer_name = proto.producer_version = ""
    return proto.SerializeToString(deterministic=True)
