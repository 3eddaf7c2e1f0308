"""The export of a network to ONNX: one graph from raw features to the residual, with batch norm folded.

The graph is built node by node. For networks this small that takes milliseconds where torch's exporter takes seconds,
so that the latency of every pruned candidate can be measured. The same network always gives the same bytes.
"""

import math
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from rtdl_num_embeddings import PeriodicEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import CODES, NUMERIC, OUTPUT, create_session, make_feed, predict
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_trainer import predict as predict_in_torch

FOLDED = "folded_bins"
"""Name of the node that multiplies weights with weights, which is no dense layer to quantizers."""
OPSET = 18
IR_VERSION = 10


def to_onnx(network: Network) -> bytes:
    """Serialize the computation of `Network.forward` as ONNX.

    The inputs are `numeric` (n, d) float32, where NaN is missing, and `codes` (n, c) int64; the output is `residual`
    (n,) float32 in units of the scale.
    """
    graph = _Graph()
    embedded = _add_categories(graph, network)
    scaled, indicators = _add_numeric(graph, network)
    inputs = graph.add("Concat", scaled, *indicators, embedded, *_add_numeric_embedding(graph, network, scaled), axis=1)
    column = _add_trunk(graph, network, inputs, _fill_bins(graph, network, scaled))
    graph.add("Reshape", column, np.array([-1]), output=OUTPUT)
    features, categories = network.features, len(network.cardinalities)
    arguments = [
        helper.make_tensor_value_info(NUMERIC, TensorProto.FLOAT, ["n", features]),
        helper.make_tensor_value_info(CODES, TensorProto.INT64, ["n", categories]),
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])
    body = helper.make_graph(graph.nodes, "residual", arguments, [output], graph.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def max_difference_seconds(network: Network, model: bytes, rows: Arrays) -> float:
    """Return the maximum absolute difference in seconds between torch and ONNX Runtime over all rows."""
    exported = predict(create_session(model), make_feed(rows.numeric, rows.codes))
    return float(np.abs(rows.unit * (predict_in_torch(network, rows) - exported)).max())


class _Graph:
    """Nodes and initializers of a graph, named briefly, by their position: names count in the size of a model."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output; arrays among the inputs become initializers."""
        names = [value if isinstance(value, str) else self._add_initializer(value) for value in inputs]
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def _add_initializer(self, value: np.ndarray) -> str:
        """Add an array and return its name."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name


def _add_categories(graph: _Graph, network: Network) -> str:
    """Add the embeddings (n, c · embedding_dim) of the codes; those out of range count as 0."""
    zero = np.array(0)
    above = graph.add("GreaterOrEqual", "codes", zero)
    below = graph.add("Less", "codes", _to_array(network.cardinalities))
    clamped = graph.add("Where", graph.add("And", above, below), "codes", zero)
    rows = graph.add("Gather", _to_array(network.table.weight), graph.add("Add", clamped, _to_array(network.first_row)))
    width = len(network.cardinalities) * network.config.embedding_dim
    return graph.add("Reshape", rows, np.array([-1, width]))


def _add_numeric(graph: _Graph, network: Network) -> tuple[str, list[str]]:
    """Add the scaled features (n, d), and the missing-value indicators (n, m) if there are any."""
    missing = graph.add("IsNaN", "numeric")
    clamped = graph.add("Min", graph.add("Max", "numeric", _to_array(network.low)), _to_array(network.high))
    scaled = graph.add("Div", graph.add("Sub", clamped, _to_array(network.center)), _to_array(network.width))
    scaled = graph.add("Where", missing, np.array(0, np.float32), graph.add("Asinh", scaled))
    if not len(network.missing):
        return scaled, []
    indicated = graph.add("Gather", missing, _to_array(network.missing), axis=1)
    return scaled, [graph.add("Cast", indicated, to=TensorProto.FLOAT)]


def _add_numeric_embedding(graph: _Graph, network: Network, scaled: str) -> list[str]:
    """Add the embeddings (n, d · numeric_dim) of the scaled features (n, d), if the network has any.

    Piecewise-linear ones are no inputs of the first dense layer: they are folded into it, see `_fold_bins`.
    """
    embedding = network.embed_numeric
    if embedding is None or isinstance(embedding, PiecewiseLinearEmbeddings):
        return []
    if isinstance(embedding, PeriodicEmbeddings):
        embedded = _add_periodic(graph, embedding, scaled)
    else:
        weight, bias = embedding.parameters()
        column = graph.add("Unsqueeze", scaled, np.array([2]))
        embedded = graph.add("Relu", graph.add("Add", graph.add("Mul", column, _to_array(weight)), _to_array(bias)))
    width = network.features * network.config.numeric_dim
    return [graph.add("Reshape", embedded, np.array([-1, width]))]


def _add_periodic(graph: _Graph, embedding: PeriodicEmbeddings, scaled: str) -> str:
    """Add a periodic embedding, (n, d) → (n, d, numeric_dim)."""
    column = graph.add("Unsqueeze", scaled, np.array([2]))
    angle = graph.add("Mul", column, 2 * math.pi * _to_array(embedding.periodic.weight))
    waves = graph.add("Concat", graph.add("Cos", angle), graph.add("Sin", angle), axis=2)
    linear = graph.add("MatMul", waves, _to_array(embedding.linear.weight).T)
    return graph.add("Relu", graph.add("Add", linear, _to_array(embedding.linear.bias)))


def _fill_bins(graph: _Graph, network: Network, scaled: str) -> str | None:
    """Add the fractions (n, d · bins) to which scaled features (n, d) fill their bins; None without such bins.

    Scaled features lie within their outermost edges, so that clipping is right for the outer bins too. Each feature is
    multiplied with its slopes by one matrix, whose other elements are 0: that takes less time than three-dimensional
    arrays. ONNX Runtime makes the matrix when it loads the model.
    """
    if not isinstance(network.embed_numeric, PiecewiseLinearEmbeddings):
        return None
    slope, offset = _to_array(network.embed_numeric.impl.weight), _to_array(network.embed_numeric.impl.bias)
    features, bins = slope.shape
    zeros = graph.add("ConstantOfShape", np.array([features, features]))
    by_feature = graph.add("Unsqueeze", graph.add("EyeLike", zeros), np.array([2]))
    matrix = graph.add("Reshape", graph.add("Mul", by_feature, slope), np.array([features, features * bins]))
    reached = graph.add("Gemm", scaled, matrix, offset.reshape(-1))
    return graph.add("Clip", reached, np.array(0, np.float32), np.array(1, np.float32))


def _fold_bins(graph: _Graph, embedding: PiecewiseLinearEmbeddings, layer: np.ndarray) -> tuple[str, np.ndarray]:
    """Add the weight (d · bins, outputs) of the filled bins in the dense layer that follows; return it and the bias.

    An embedding is linear in the bins, and `layer` (d · numeric_dim, outputs) is what the dense layer makes of it.
    A call takes one product with both multiplied, where a sum for each feature takes many times as long. The model has
    both, which are smaller; ONNX Runtime multiplies them when it loads the model.
    A scaled feature is the sum of the filled widths of its bins, minus the same sum at 0.
    """
    slope, linear = embedding.impl.weight, embedding.linear0
    width = torch.where(slope > 0, 1 / slope, 0)
    at_zero = (width * embedding.impl.bias.clamp(0, 1)).sum(dim=1, keepdim=True)
    weight = _to_array(embedding.linear.weight + width[:, :, None] * linear.weight[:, None, :])
    bias = _to_array(linear.bias - at_zero * linear.weight)
    by_feature = layer.reshape(*bias.shape, -1)
    product = graph.add("MatMul", weight, by_feature, name=FOLDED)
    return graph.add("Reshape", product, np.array([-1, layer.shape[1]])), np.tensordot(bias, by_feature, 2)


def _add_trunk(graph: _Graph, network: Network, value: str, filled: str | None) -> str:
    """Add the dense layers, (n, width) → (n, 1), each with the batch norm after it folded in.

    `filled` are the filled bins of piecewise-linear embeddings, which are the last inputs of the first layer.
    """
    layers = list(network.trunk)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            following = layers[index + 1] if index + 1 < len(layers) else None
            weight, bias = _fold_batch_norm(layer, following if isinstance(following, nn.BatchNorm1d) else None)
            weight, embedding = weight.T, network.embed_numeric
            if filled is not None and isinstance(embedding, PiecewiseLinearEmbeddings):
                embedded = embedding.linear0.bias.numel()
                of_bins, at_zero = _fold_bins(graph, embedding, weight[-embedded:])
                value = graph.add("MatMul", value, weight[:-embedded])
                value = graph.add("Add", value, graph.add("MatMul", filled, of_bins))
                value, filled = graph.add("Add", value, bias + at_zero), None
            else:
                value = graph.add("Add", graph.add("MatMul", value, weight), bias)
        elif isinstance(layer, nn.ReLU):
            value = graph.add("Relu", value)
    return value


def _fold_batch_norm(layer: nn.Linear, norm: nn.BatchNorm1d | None) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (outputs, inputs) and bias (outputs,) of a dense layer with its batch norm folded in."""
    if norm is not None:
        layer = fuse_linear_bn_eval(layer, norm)
    return _to_array(layer.weight), _to_array(layer.bias)


def _to_array(value: Tensor) -> np.ndarray:
    """Convert a tensor to an array."""
    return value.detach().cpu().numpy()
