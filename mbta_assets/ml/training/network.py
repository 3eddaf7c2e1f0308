"""The network all neural models share: from raw features to the residual, preprocessing included.

Scaling, imputing and the clamping of codes are buffers of the module, fitted on the training part, so that whoever
holds the network holds everything between the features and the residual.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from rtdl_num_embeddings import LinearReLUEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor, nn

from mbta_assets.ml.inference.arrays import Arrays

TAIL = 0.001
"""Share of a feature's training values beyond either end of the range it is clamped to."""
NARROWEST_BIN = 0.01
"""In scaled units: within a narrower bin the slope is so steep that it magnifies the rounding of float32."""


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture of a network."""

    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the dense layers."""
    embedding_dim: int = 4
    """Dimensions of each category's embedding."""
    numeric: Literal["none", "linear_relu", "periodic", "piecewise_linear"] = "periodic"
    """How a numeric feature is embedded beside its scaled value (https://arxiv.org/abs/2203.05556)."""
    numeric_dim: int = 4
    """Dimensions of each numeric feature's embedding."""
    frequencies: int = 4
    """Frequencies of a periodic embedding."""
    frequency_scale: float = 0.05
    """Standard deviation of the frequencies at the start."""
    bins: int = 16
    """Bins of a piecewise-linear embedding, each with as many training values; ties leave a feature fewer."""
    dropout: float = 0.0
    """Share of a dense layer's outputs dropped in training."""
    batch_norm: bool = True
    """Whether each dense layer is batch-normalized."""
    category_dropout: float = 0.01
    """Share of codes turned unknown in training, so that the unknown code learns what an average category does."""


class Network(nn.Module):
    """Predicts the residual of a delay in units of its scale: `Arrays.target`.

    Args:
        config: the architecture.
        features: d, how many numeric features there are.
        cardinalities: for each of c categories how many codes it has, the unknown 0 included.
        missing: the numeric features that the training part lacks somewhere; each gets an indicator.
        edges: of a piecewise-linear embedding, for each numeric feature the edges (bins + 1,) of its bins, scaled.
    """

    center: Tensor
    """(d,) medians."""
    width: Tensor
    """(d,) interquartile ranges."""
    low: Tensor
    high: Tensor
    """(d,) what values are clamped to."""
    missing: Tensor
    cardinalities: Tensor
    first_row: Tensor
    """(c,) where each category's codes begin in the one table of embeddings."""

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
        self.bins = [len(ends) - 1 for ends in edges]
        for name in ("low", "high", "center", "width"):
            self.register_buffer(name, torch.ones(features))
        self.register_buffer("missing", torch.tensor(missing, dtype=torch.long), persistent=False)
        self.register_buffer("cardinalities", torch.tensor(cardinalities, dtype=torch.long), persistent=False)
        self.register_buffer("first_row", self.cardinalities.cumsum(0) - self.cardinalities, persistent=False)
        self.table = nn.Embedding(sum(cardinalities), config.embedding_dim)
        nn.init.normal_(self.table.weight, std=0.1)
        self.embed_numeric = _numeric_embedding(config, features, edges)
        width = features + len(missing) + len(cardinalities) * config.embedding_dim
        width += features * config.numeric_dim if self.embed_numeric is not None else 0
        self.trunk = _trunk(config, width)

    @classmethod
    def fitted_to(cls, config: NetworkConfig, train: Arrays) -> Self:
        """An untrained network whose preprocessing is fitted to the training part."""
        missing = np.isnan(train.numeric)
        numeric = np.where(missing.all(axis=0), np.float32(0), train.numeric)
        scale = {name: torch.from_numpy(value) for name, value in _robust_scale(numeric).items()}
        network = cls(
            config,
            features=train.numeric.shape[1],
            cardinalities=(train.codes.max(axis=0) + 1).tolist(),
            missing=np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0)).tolist(),
            edges=_edges(numeric, scale, config.bins) if config.numeric == "piecewise_linear" else (),
        )
        network.load_state_dict(scale, strict=False)
        return network

    def forward(self, numeric: Tensor, codes: Tensor) -> Tensor:
        """(n, d) raw features with NaN, (n, c) codes → (n,) residuals in units of the scale."""
        return self.residual(self.scale(numeric), self.known(codes))

    def scale(self, numeric: Tensor) -> Tensor:
        """(n, d) raw → (n, d + m) clamped, robustly scaled, tails pulled in; the missing at the median, indicated."""
        missing = numeric.isnan()
        scaled = _scaled(numeric, self.low, self.high, self.center, self.width)
        return torch.cat([torch.where(missing, 0.0, scaled), missing.index_select(1, self.missing).float()], dim=1)

    def known(self, codes: Tensor) -> Tensor:
        """(n, c) codes → (n, c), those out of range turned unknown."""
        return torch.where((codes >= 0) & (codes < self.cardinalities), codes, 0)

    def residual(self, scaled: Tensor, known: Tensor) -> Tensor:
        """(n, d + m) of `scale`, (n, c) of `known` → (n,) residuals in units of the scale."""
        parts = [scaled, self.table(known + self.first_row).flatten(1)]
        if self.embed_numeric is not None:
            parts.append(self.embed_numeric(scaled[:, : self.features]).flatten(1))
        return self.trunk(torch.cat(parts, dim=1)).squeeze(1)

    def dense_layers(self) -> list[nn.Linear]:
        """The dense layers, first to last."""
        return [layer for layer in self.trunk if isinstance(layer, nn.Linear)]

    def architecture(self) -> dict[str, Any]:
        """What rebuilds the network, and the shape (outputs, inputs) of each dense layer for who reads it."""
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
        """The network that `architecture` described, untrained."""
        config = architecture["config"]
        return cls(
            NetworkConfig(**{**config, "hidden": tuple(config["hidden"])}),
            architecture["features"],
            architecture["cardinalities"],
            architecture["missing"],
            # Where the edges truly lie comes with the weights.
            [torch.arange(bins + 1.0) for bins in architecture["bins"]],
        )


def parameters(network: Network) -> dict[str, int]:
    """How many parameters there are: all, those outside the category embeddings, and of these the ones not zero."""
    dense = [value for name, value in network.named_parameters() if not name.startswith("table.")]
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "non_embedding": sum(value.numel() for value in dense),
        "non_zero": sum(int(value.count_nonzero()) for value in dense),
    }


def _numeric_embedding(config: NetworkConfig, features: int, edges: Sequence[Tensor]) -> nn.Module | None:
    """(n, d) → (n, d, numeric_dim), or nothing."""
    if config.numeric == "piecewise_linear":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*just two bin edges")
            return PiecewiseLinearEmbeddings(list(edges), config.numeric_dim, activation=False, version="B")
    if config.numeric == "periodic":
        return PeriodicEmbeddings(
            features,
            config.numeric_dim,
            n_frequencies=config.frequencies,
            frequency_init_scale=config.frequency_scale,
            lite=True,
        )
    return LinearReLUEmbeddings(features, config.numeric_dim) if config.numeric == "linear_relu" else None


def _trunk(config: NetworkConfig, width: int) -> nn.Sequential:
    """(n, width) → (n, 1) through the dense layers."""
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


def _scaled(numeric: Tensor, low: Tensor, high: Tensor, center: Tensor, width: Tensor) -> Tensor:
    """(n, d) raw → (n, d) clamped, robustly scaled, tails pulled in; NaN stays."""
    return torch.asinh((numeric.clamp(low, high) - center) / width)


def _edges(numeric: np.ndarray, scale: dict[str, Tensor], bins: int) -> list[Tensor]:
    """For each column (n, d) the edges of at most so many bins: quantiles of what is present, as the scale maps them.

    The outermost are where the column is clamped. Quantiles are values that occur, so that ties fall together.
    """
    quantiles = np.nanquantile(numeric, np.linspace(0, 1, bins + 1), axis=0, method="nearest").astype(np.float32)
    return [_apart(column) for column in _scaled(torch.from_numpy(quantiles), **scale).T]


def _apart(edges: Tensor) -> Tensor:
    """The ascending edges without those too close to another, the outermost kept; of a constant column, 0 and 1."""
    first, *inner, last = edges.tolist()
    if last - first < NARROWEST_BIN:
        return torch.tensor([first, first + 1])
    kept = [first]
    for edge in inner:
        if edge - kept[-1] >= NARROWEST_BIN <= last - edge:
            kept.append(edge)
    return torch.tensor([*kept, last])


def _robust_scale(numeric: np.ndarray) -> dict[str, np.ndarray]:
    """By buffer, what `Network.scale` needs of each column (n, d): quantiles, not moments, as tails last for hours.

    Values are clamped to all but a thousandth at either end: beyond, trees stay level, but a network extrapolates.
    Where that leaves one value (a constant column, a calendar that has only begun) the column counts for nothing.
    """
    low, lower, center, upper, high = np.nanquantile(numeric, (TAIL, 0.25, 0.5, 0.75, 1 - TAIL), axis=0)
    width = np.where(upper > lower, upper - lower, (high - low) / 2)
    scale = {"low": low, "high": high, "center": center, "width": np.where(width > 0, width, 1)}
    return {name: value.astype(np.float32) for name, value in scale.items()}
