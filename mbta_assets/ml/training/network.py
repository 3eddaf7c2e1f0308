"""The architecture of all neural models: a multilayer perceptron on embedded features that predicts the residual.

The module contains its preprocessing: buffers for clipping and scaling, fitted on the training rows. How a network is
trained belongs to `network_trainer`, how it is stored to `network_weights`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from rtdl_num_embeddings import LinearReLUEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor, nn

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.hyperparameters import NetworkConfig

CLIP_QUANTILE = 0.001
"""Quantile of a feature's training values that lower values are clipped to, and likewise for the upper end."""
MIN_BIN_WIDTH = 0.01
"""Minimum width of a bin in scaled units: the slope of a narrower one would magnify the rounding of float32."""


class Network(nn.Module):
    """Multilayer perceptron from raw features to the residual of the delay in units of the scale (`Arrays.target`).

    Args:
        config: the architecture.
        features: number d of numeric features.
        cardinalities: number of codes of each of the c categories, including 0 for unknown.
        missing: indices of the m numeric features that are missing in some training rows; each gets an indicator.
        edges: scaled bin edges (bins + 1,) of each numeric feature, for a piecewise-linear embedding.
    """

    center: Tensor
    """(d,) medians."""
    width: Tensor
    """(d,) interquartile ranges."""
    low: Tensor
    """(d,) lower ends of the ranges that values are clipped to."""
    high: Tensor
    """(d,) upper ends of these ranges."""
    missing: Tensor
    """(m,) indices of the features with a missing-value indicator."""
    cardinalities: Tensor
    """(c,) number of codes of each category."""
    first_row: Tensor
    """(c,) first row of each category in the embedding table, which all categories share."""

    def __init__(
        self,
        config: NetworkConfig,
        features: int,
        cardinalities: Sequence[int],
        missing: Sequence[int],
        edges: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.bins = [len(feature_edges) - 1 for feature_edges in edges]
        for name in ("low", "high", "center", "width"):
            self.register_buffer(name, torch.ones(features))
        self.register_buffer("missing", torch.tensor(missing, dtype=torch.long), persistent=False)
        self.register_buffer("cardinalities", torch.tensor(cardinalities, dtype=torch.long), persistent=False)
        self.register_buffer("first_row", self.cardinalities.cumsum(0) - self.cardinalities, persistent=False)
        self.table = nn.Embedding(sum(cardinalities), config.embedding_dim)
        nn.init.normal_(self.table.weight, std=0.1)
        self.embed_numeric = _create_numeric_embedding(config, features, edges)
        width = features + len(missing) + len(cardinalities) * config.embedding_dim
        width += features * config.numeric_dim if self.embed_numeric is not None else 0
        self.trunk = _create_trunk(config, width)

    @classmethod
    def from_training_rows(cls, config: NetworkConfig, train: Arrays) -> Self:
        """Create an untrained network whose preprocessing is fitted on the training rows."""
        missing = np.isnan(train.numeric)
        numeric = np.where(missing.all(axis=0), np.float32(0), train.numeric)
        scale = {name: torch.from_numpy(value) for name, value in _fit_scale(numeric).items()}
        network = cls(
            config,
            features=train.numeric.shape[1],
            cardinalities=(train.codes.max(axis=0) + 1).tolist(),
            missing=np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0)).tolist(),
            edges=_compute_edges(numeric, scale, config.bins) if config.numeric == "piecewise_linear" else (),
        )
        network.load_state_dict(scale, strict=False)
        return network

    def forward(self, numeric: Tensor, codes: Tensor) -> Tensor:
        """Map raw features (n, d) with NaN and codes (n, c) to residuals (n,) in units of the scale."""
        return self.residual(self.scale(numeric), self.clamp_codes(codes))

    def scale(self, numeric: Tensor) -> Tensor:
        """Map raw features (n, d) to (n, d + m): clipped, robustly scaled, asinh-transformed, with m indicators.

        Missing values are imputed with the median.
        """
        missing = numeric.isnan()
        scaled = _scale_robustly(numeric, self.low, self.high, self.center, self.width)
        return torch.cat([torch.where(missing, 0.0, scaled), missing.index_select(1, self.missing).float()], dim=1)

    def clamp_codes(self, codes: Tensor) -> Tensor:
        """Replace codes (n, c) that are out of range by 0, the unknown code."""
        return torch.where((codes >= 0) & (codes < self.cardinalities), codes, 0)

    def residual(self, scaled: Tensor, codes: Tensor) -> Tensor:
        """Map scaled features (n, d + m) and codes (n, c) in range to residuals (n,) in units of the scale."""
        parts = [scaled, self.table(codes + self.first_row).flatten(1)]
        if self.embed_numeric is not None:
            parts.append(self.embed_numeric(scaled[:, : self.features]).flatten(1))
        return self.trunk(torch.cat(parts, dim=1)).squeeze(1)

    def dense_layers(self) -> list[nn.Linear]:
        """Return the dense layers, first to last."""
        return [layer for layer in self.trunk if isinstance(layer, nn.Linear)]

    def architecture(self) -> dict[str, Any]:
        """Return the arguments that rebuild the network, and the shape (outputs, inputs) of each dense layer."""
        return {
            "config": asdict(self.config),
            "features": self.features,
            "cardinalities": self.cardinalities.tolist(),
            "missing": self.missing.tolist(),
            "bins": self.bins,
            "layers": [list(layer.weight.shape) for layer in self.dense_layers()],
        }

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> Self:
        """Create an untrained network from the result of `architecture`."""
        config = architecture["config"]
        return cls(
            NetworkConfig(**{**config, "hidden": tuple(config["hidden"])}),
            architecture["features"],
            architecture["cardinalities"],
            architecture["missing"],
            # Placeholders: the edges are loaded with the weights.
            [torch.arange(bins + 1.0) for bins in architecture["bins"]],
        )


class _PiecewiseLinear(PiecewiseLinearEmbeddings):
    """Embed as the library does, with bins clipped by one operation in place of four and their concatenation."""

    lower: Tensor
    """(d, bins) smallest fraction to which each bin is filled: the first bin of a feature has none."""
    upper: Tensor
    """(d, bins) largest fraction: the last bin of a feature has none."""

    def __init__(self, edges: list[Tensor], embedding_dim: int) -> None:
        super().__init__(edges, embedding_dim, activation=False, version="B")
        lower, upper = torch.zeros_like(self.impl.weight), torch.ones_like(self.impl.weight)
        lower[:, 0] = -torch.inf
        upper[:, -1] = torch.inf
        if self.impl.single_bin_mask is not None:
            lower[self.impl.single_bin_mask, -1] = -torch.inf  # the only bin of a feature is its last one
        self.register_buffer("lower", lower, persistent=False)
        self.register_buffer("upper", upper, persistent=False)

    def forward(self, scaled: Tensor) -> Tensor:
        """Map scaled features (n, d) to their embeddings (n, d, embedding_dim)."""
        filled = torch.addcmul(self.impl.bias, self.impl.weight, scaled[..., None]).clamp(self.lower, self.upper)
        return self.linear0(scaled) + self.linear(filled)


def count_parameters(network: Network) -> dict[str, int]:
    """Count all parameters, those outside the category embeddings, and those of the latter that are not zero."""
    dense = [value for name, value in network.named_parameters() if not name.startswith("table.")]
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "non_embedding": sum(value.numel() for value in dense),
        "non_zero": sum(int(value.count_nonzero()) for value in dense),
    }


def _create_numeric_embedding(config: NetworkConfig, features: int, edges: Sequence[Tensor]) -> nn.Module | None:
    """Create the module that maps (n, d) to (n, d, numeric_dim), or None without an embedding."""
    if config.numeric == "piecewise_linear":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*just two bin edges")
            return _PiecewiseLinear(list(edges), config.numeric_dim)
    if config.numeric == "periodic":
        return PeriodicEmbeddings(
            features,
            config.numeric_dim,
            n_frequencies=config.frequencies,
            frequency_init_scale=config.frequency_scale,
            lite=True,
        )
    if config.numeric == "linear_relu":
        return LinearReLUEmbeddings(features, config.numeric_dim)
    return None


def _create_trunk(config: NetworkConfig, width: int) -> nn.Sequential:
    """Create the dense layers, which map (n, width) to (n, 1)."""
    layers: list[nn.Module] = []
    for hidden in config.hidden:
        layers.append(nn.Linear(width, hidden))
        if config.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU())
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _scale_robustly(numeric: Tensor, low: Tensor, high: Tensor, center: Tensor, width: Tensor) -> Tensor:
    """Clip raw features (n, d), center them on the median, divide by the range and apply asinh; NaN stays."""
    return torch.asinh((numeric.clamp(low, high) - center) / width)


def _compute_edges(numeric: np.ndarray, scale: dict[str, Tensor], bins: int) -> list[Tensor]:
    """Return scaled bin edges of each column of (n, d): quantiles, for at most `bins` bins.

    The outermost edges are the ends of the range that the column is clipped to. Equal quantiles are merged.
    """
    quantiles = np.nanquantile(numeric, np.linspace(0, 1, bins + 1), axis=0, method="nearest").astype(np.float32)
    return [_merge_close_edges(column) for column in _scale_robustly(torch.from_numpy(quantiles), **scale).T]


def _merge_close_edges(edges: Tensor) -> Tensor:
    """Drop inner edges closer than `MIN_BIN_WIDTH` to another; return one bin of width 1 for a constant column."""
    first, *inner, last = edges.tolist()
    if last - first < MIN_BIN_WIDTH:
        return torch.tensor([first, first + 1])
    merged = [first]
    for edge in inner:
        if edge - merged[-1] >= MIN_BIN_WIDTH <= last - edge:
            merged.append(edge)
    return torch.tensor([*merged, last])


def _fit_scale(numeric: np.ndarray) -> dict[str, np.ndarray]:
    """Return the buffers (d,) of `Network.scale`, fitted on the columns of (n, d).

    They are quantiles rather than moments, as delays are heavy-tailed. Values are clipped because a network, unlike
    trees, extrapolates. A column with a single value within the clipping range is scaled to 0.
    """
    low, lower, center, upper, high = np.nanquantile(
        numeric, (CLIP_QUANTILE, 0.25, 0.5, 0.75, 1 - CLIP_QUANTILE), axis=0
    )
    width = np.where(upper > lower, upper - lower, (high - low) / 2)
    scale = {"low": low, "high": high, "center": center, "width": np.where(width > 0, width, 1)}
    return {name: value.astype(np.float32) for name, value in scale.items()}
