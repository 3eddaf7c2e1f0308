"""The network all neural models share: from raw features to seconds of delay, preprocessing included.

Scaling, imputing, clamping of codes and the target's scale are buffers of the module, fitted on the training part, so
that whoever holds the network holds everything between the features and the delay.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from rtdl_num_embeddings import LinearReLUEmbeddings, PeriodicEmbeddings
from torch import Tensor, nn

from mbta_assets.learning.dataset import Arrays


@dataclass(frozen=True)
class NetworkConfig:
    """The architecture of a network."""

    hidden: tuple[int, ...] = (256, 128, 64)
    """Widths of the dense layers."""
    embedding_dim: int = 4
    """Dimensions of each category's embedding."""
    numeric: Literal["none", "linear_relu", "periodic"] = "periodic"
    """How a numeric feature is embedded beside its scaled value (https://arxiv.org/abs/2203.05556)."""
    numeric_dim: int = 4
    """Dimensions of each numeric feature's embedding."""
    frequencies: int = 4
    """Frequencies of a periodic embedding."""
    frequency_scale: float = 0.05
    """Standard deviation of the frequencies at the start."""
    dropout: float = 0.0
    """Share of a dense layer's outputs dropped in training."""
    batch_norm: bool = True
    """Whether each dense layer is batch-normalized."""
    category_dropout: float = 0.01
    """Share of codes turned unknown in training, so that the unknown code learns what an average category does."""
    spread_category: int | None = None
    """The category (column of the codes) by which the size of the residual varies, such as how many stops ahead."""


class Network(nn.Module):
    """Predicts seconds of delay: `base` plus a residual in units of its own spread.

    Args:
        config: the architecture.
        features: d, how many numeric features there are.
        cardinalities: for each of c categories how many codes it has, the unknown 0 included.
        missing: the numeric features that the training part lacks somewhere; each gets an indicator.
    """

    def __init__(
        self, config: NetworkConfig, features: int, cardinalities: Sequence[int], missing: Sequence[int]
    ) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("width", torch.ones(features))
        self.register_buffer("residual_center", torch.zeros(()))
        groups = 1 if config.spread_category is None else cardinalities[config.spread_category]
        self.register_buffer("residual_spread", torch.ones(groups))
        self.register_buffer("missing", torch.tensor(missing, dtype=torch.long), persistent=False)
        self.register_buffer("cardinalities", torch.tensor(cardinalities), persistent=False)
        self.register_buffer("first_row", self.cardinalities.cumsum(0) - self.cardinalities, persistent=False)
        self.table = nn.Embedding(sum(cardinalities), config.embedding_dim)
        nn.init.normal_(self.table.weight, std=0.1)
        self.embed_numeric = _numeric_embedding(config, features)
        width = features + len(missing) + len(cardinalities) * config.embedding_dim
        width += features * config.numeric_dim if self.embed_numeric is not None else 0
        self.trunk = _trunk(config, width)

    @classmethod
    def fitted_to(cls, config: NetworkConfig, train: Arrays) -> Self:
        """An untrained network whose preprocessing is fitted to the training part."""
        missing = np.isnan(train.numeric)
        network = cls(
            config,
            features=train.numeric.shape[1],
            cardinalities=(train.codes.max(axis=0) + 1).tolist(),
            missing=np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0)).tolist(),
        )
        center, width = _robust_scale(np.where(missing.all(axis=0), np.float32(0), train.numeric))
        residual_center, residual_spread = _residual_scale(train, config.spread_category, len(network.residual_spread))
        network.load_state_dict(
            {
                "center": torch.tensor(center),
                "width": torch.tensor(width),
                "residual_center": torch.tensor(residual_center),
                "residual_spread": torch.tensor(residual_spread),
            },
            strict=False,
        )
        return network

    def forward(self, numeric: Tensor, codes: Tensor, base: Tensor) -> Tensor:
        """(n, d) raw features with NaN, (n, c) codes, (n,) seconds → (n,) seconds of delay."""
        known = self.known(codes)
        residual = self.residual(self.scale(numeric), known)
        return base + self.residual_center + self.spread(known) * residual

    def scale(self, numeric: Tensor) -> Tensor:
        """(n, d) raw → (n, d + m) robustly scaled, tails pulled in, the missing at the median and indicated."""
        missing = numeric.isnan()
        scaled = torch.asinh((numeric - self.center) / self.width)
        return torch.cat([torch.where(missing, 0.0, scaled), missing.index_select(1, self.missing).float()], dim=1)

    def known(self, codes: Tensor) -> Tensor:
        """(n, c) codes → (n, c), those out of range turned unknown."""
        return torch.where((codes >= 0) & (codes < self.cardinalities), codes, 0)

    def spread(self, known: Tensor) -> Tensor:
        """(n, c) codes → (n,) or (1,) seconds: how far residuals of such rows lie from their median."""
        if self.config.spread_category is None:
            return self.residual_spread
        return self.residual_spread[known[:, self.config.spread_category]]

    def residual(self, scaled: Tensor, known: Tensor) -> Tensor:
        """(n, d + m) of `scale`, (n, c) of `known` → (n,) residuals in units of their spread."""
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
        )


def parameters(network: Network) -> dict[str, int]:
    """How many parameters there are: all, those outside the category embeddings, and of these the ones not zero."""
    dense = [value for name, value in network.named_parameters() if not name.startswith("table.")]
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "non_embedding": sum(value.numel() for value in dense),
        "non_zero": sum(int(value.count_nonzero()) for value in dense),
    }


def _numeric_embedding(config: NetworkConfig, features: int) -> nn.Module | None:
    """(n, d) → (n, d, numeric_dim), or nothing."""
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


def _robust_scale(numeric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range of each column (n, d); half the range where that is zero, 1 where it is constant.

    Quartiles, not moments: the features have tails of hours.
    """
    low, center, high = np.nanquantile(numeric, (0.25, 0.5, 0.75), axis=0)
    width = high - low
    width = np.where(width > 0, width, (np.nanmax(numeric, axis=0) - np.nanmin(numeric, axis=0)) / 2)
    return center.astype(np.float32), np.where(width > 0, width, 1).astype(np.float32)


def _residual_scale(train: Arrays, category: int | None, groups: int) -> tuple[np.float32, np.ndarray]:
    """Median residual of the labelled rows and their mean distance from it (groups,), by category if there is one.

    Ten stops ahead errors are ten times those of the next stop. In units of their own spread all weigh alike.
    """
    labelled = ~np.isnan(train.label)
    residual = (train.label - train.base)[labelled]
    center = np.median(residual)
    distance = np.abs(residual - center)
    group = np.zeros(len(residual), np.int64) if category is None else train.codes[labelled, category]
    count = np.bincount(group, minlength=groups)
    spread = np.bincount(group, distance, minlength=groups) / np.maximum(count, 1)
    return center, np.where(spread > 0, spread, max(distance.mean(), 1e-3)).astype(np.float32)
