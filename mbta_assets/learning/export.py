"""Writes a network as ONNX: batch norm folded, from raw features to seconds of delay in one graph.

The graph is written node by node. For a network this small that is milliseconds where torch's exporter takes seconds,
so every pruned candidate can be timed as it would be served; and the same network always gives the same bytes.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rtdl_num_embeddings import PeriodicEmbeddings
from torch import Tensor, nn

from mbta_assets.learning.dataset import Arrays
from mbta_assets.learning.network import Network
from mbta_assets.learning.runtime import OUTPUT, predict, session
from mbta_assets.learning.train import predict as predict_in_torch

OPSET = 18
IR_VERSION = 10


def to_onnx(network: Network) -> bytes:
    """The network as ONNX: `numeric` (n, d) float32, NaN allowed, `codes` (n, c) int64 and `base` (n,) float32 seconds
    to `delay_seconds` (n,) float32. It computes what `Network.forward` does, step by step.
    """
    graph = _Graph()
    known, embedded = _categories(graph, network)
    scaled, indicators = _numeric(graph, network)
    parts = [scaled, *indicators, embedded, *_numeric_embedding(graph, network, scaled)]
    residual = graph.add("Reshape", _trunk(graph, network, graph.add("Concat", *parts, axis=1)), np.array([-1]))
    delay = graph.add("Mul", residual, _spread(graph, network, known))
    delay = graph.add("Add", delay, _array(network.residual_center))
    graph.add("Add", delay, "base", output=OUTPUT)
    features, categories = network.features, len(network.cardinalities)
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", features]),
        helper.make_tensor_value_info("codes", TensorProto.INT64, ["n", categories]),
        helper.make_tensor_value_info("base", TensorProto.FLOAT, ["n"]),
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])
    body = helper.make_graph(graph.nodes, "delay", inputs, [output], graph.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def parity_seconds(network: Network, model: bytes, rows: Arrays) -> float:
    """The largest difference in seconds between torch and ONNX Runtime over all rows."""
    return float(np.abs(predict_in_torch(network, rows) - predict(session(model), rows)).max())


class _Graph:
    """Nodes and initializers as they are added, named after their place."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: int) -> str:
        """Adds a node and gives its output's name; an array among the inputs becomes an initializer."""
        names = [value if isinstance(value, str) else self._initializer(value) for value in inputs]
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def _initializer(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name


def _categories(graph: _Graph, network: Network) -> tuple[str, str]:
    """Codes (n, c) with those out of range turned 0, and their embeddings (n, c · embedding_dim)."""
    zero = np.int64(0).reshape(())
    above = graph.add("GreaterOrEqual", "codes", zero)
    below = graph.add("Less", "codes", _array(network.cardinalities))
    known = graph.add("Where", graph.add("And", above, below), "codes", zero)
    rows = graph.add("Gather", _array(network.table.weight), graph.add("Add", known, _array(network.first_row)))
    width = len(network.cardinalities) * network.config.embedding_dim
    return known, graph.add("Reshape", rows, np.array([-1, width]))


def _numeric(graph: _Graph, network: Network) -> tuple[str, list[str]]:
    """Scaled features (n, d), and indicators (n, m) if any feature has one."""
    missing = graph.add("IsNaN", "numeric")
    scaled = graph.add("Div", graph.add("Sub", "numeric", _array(network.center)), _array(network.width))
    scaled = graph.add("Where", missing, np.float32(0).reshape(()), graph.add("Asinh", scaled))
    if not len(network.missing):
        return scaled, []
    indicated = graph.add("Gather", missing, _array(network.missing), axis=1)
    return scaled, [graph.add("Cast", indicated, to=TensorProto.FLOAT)]


def _numeric_embedding(graph: _Graph, network: Network, scaled: str) -> list[str]:
    """Embeddings (n, d · numeric_dim) of the scaled features (n, d), if there are any."""
    embedding = network.embed_numeric
    if embedding is None:
        return []
    each = graph.add("Unsqueeze", scaled, np.array([2]))
    if isinstance(embedding, PeriodicEmbeddings):
        angle = graph.add("Mul", each, 2 * math.pi * _array(embedding.periodic.weight))
        waves = graph.add("Concat", graph.add("Cos", angle), graph.add("Sin", angle), axis=2)
        linear = graph.add("MatMul", waves, _array(embedding.linear.weight).T)
        linear = graph.add("Add", linear, _array(embedding.linear.bias))
    else:
        linear = graph.add("Mul", each, _array(embedding.linear.weight))
        linear = graph.add("Add", linear, _array(embedding.linear.bias))
    width = network.features * network.config.numeric_dim
    return [graph.add("Reshape", graph.add("Relu", linear), np.array([-1, width]))]


def _trunk(graph: _Graph, network: Network, value: str) -> str:
    """(n, width) → (n, 1) through the dense layers, each with the batch norm behind it folded in."""
    layers = list(network.trunk)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            behind = layers[index + 1] if index + 1 < len(layers) else None
            weight, bias = _folded(layer, behind if isinstance(behind, nn.BatchNorm1d) else None)
            value = graph.add("Add", graph.add("MatMul", value, weight.T), bias)
        elif isinstance(layer, nn.ReLU):
            value = graph.add("Relu", value)
    return value


def _folded(layer: nn.Linear, norm: nn.BatchNorm1d | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight (outputs, inputs) and bias (outputs,) of a dense layer with its batch norm folded in."""
    weight, bias = _array(layer.weight).astype(np.float64), _array(layer.bias).astype(np.float64)
    if norm is not None:
        gain = _array(norm.weight) / np.sqrt(_array(norm.running_var).astype(np.float64) + norm.eps)
        weight = weight * gain[:, None]
        bias = (bias - _array(norm.running_mean)) * gain + _array(norm.bias)
    return weight.astype(np.float32), bias.astype(np.float32)


def _spread(graph: _Graph, network: Network, known: str) -> str | np.ndarray:
    """Seconds (n,) or (1,) that a residual of 1 stands for."""
    spread = _array(network.residual_spread)
    category = network.config.spread_category
    if category is None:
        return spread
    return graph.add("Gather", spread, graph.add("Gather", known, np.int64(category).reshape(()), axis=1))


def _array(value: Tensor) -> np.ndarray:
    """A tensor as an array."""
    return value.detach().cpu().numpy()
