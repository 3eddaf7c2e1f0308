"""Trains networks: one loop for teachers, pruned teachers and students.

Where processes form a group of torch's and each has its share of the training rows, they train one network together:
each takes its part of every batch, and gradients are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.network import Network, NetworkConfig

OnEpoch = Callable[[int, float], None]
"""Told the epoch (from 1) and the validation error after each epoch."""
OnStep = Callable[[int, int], None]
"""Told the step (from 0) and how many there are, before each step."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained: AdamW on a one-cycle schedule, the best epoch kept."""

    learning_rate: float = 0.01
    """At the top of the cycle."""
    weight_decay: float = 0.01
    epochs: int = 8
    batch_size: int = 2048
    steps_per_epoch: int = 64
    """At least so many: little data gets smaller batches."""
    warmup: float = 0.2
    """Share of the steps in which the learning rate rises."""
    smooth: float = 0.0
    """Where labels are learned alone, see `Targets.smooth`."""
    clip_norm: float = 1.0
    patience: int = 8
    """Epochs without a better validation error after which training ends."""
    validation_rows: int = 20_000
    """How many validation rows, evenly taken, judge an epoch."""
    seed: int = 0
    threads: int = 1
    device: str = "auto"
    """A torch device, or "auto": the GPU if there is one."""


@dataclass(frozen=True)
class Targets:
    """What each of n rows is trained towards: k values, each with a weight."""

    values: np.ndarray
    """(n, k) float32 residuals in units of the scale."""
    weights: np.ndarray
    """(n, k) float32, not negative; a row whose weights are all 0 is not trained on."""
    smooth: tuple[float, ...]
    """For each of the k, the miss in units of the scale up to which its loss is quadratic, and absolute beyond."""

    def share(self, rank: int, workers: int) -> "Targets":
        """Those of the rows of one of several workers, as `Arrays.share`."""
        return Targets(self.values[rank::workers], self.weights[rank::workers], self.smooth)


@dataclass(frozen=True)
class Fitted:
    """A trained network with the weights of its best epoch, on the CPU, ready to predict."""

    network: Network
    validation_error: float
    """Mean absolute error in units of the scale, over all labelled validation rows."""
    history: tuple[float, ...]
    """The same after each epoch, over the rows that judge epochs."""
    best_epoch: int
    """From 1."""


def labels(train: Arrays, smooth: float = 0.0) -> Targets:
    """The labels alone; unlabelled rows weigh nothing."""
    labelled = ~np.isnan(train.label)
    return Targets(np.where(labelled, train.target, 0)[:, None], labelled[:, None].astype(np.float32), (smooth,))


def fit(
    network_config: NetworkConfig,
    train_config: TrainConfig,
    train: Arrays,
    validation: Arrays,
    *,
    targets: Targets | None = None,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """A new network, preprocessing and weights fitted to the training part; see `improve`."""
    with torch.random.fork_rng():
        torch.manual_seed(train_config.seed)
        network = _of_first(Network.fitted_to(network_config, train))
    return improve(network, train_config, train, validation, targets=targets, on_epoch=on_epoch)


def improve(
    network: Network,
    config: TrainConfig,
    train: Arrays,
    validation: Arrays,
    *,
    targets: Targets | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    keep_from: int = 1,
) -> Fitted:
    """Trains `network` in place towards `targets` (the labels by default) and keeps its best epoch, `keep_from` on.

    The same data, configuration (threads included) and starting weights give the same weights, bit for bit. In a group
    the batch is that of all, and every member ends with the same network.

    Raises:
        FloatingPointError: the validation error is no longer a number.
    """
    torch.set_num_threads(config.threads)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed + _rank())
        loop = _Loop(network, config, train, targets or labels(train, config.smooth))
        judges = _labelled(validation, config.validation_rows)
        history: list[float] = []
        best: tuple[float, int, dict[str, Tensor]] | None = None
        for epoch in range(1, config.epochs + 1):
            loop.epoch(on_step)
            _agree(network)
            error = mean_error(network, judges)
            if not np.isfinite(error):
                raise FloatingPointError(f"training diverged: validation error {error} after epoch {epoch} of {config}")
            history.append(error)
            if epoch >= keep_from and (best is None or error < best[0]):
                best = error, epoch, {name: value.clone() for name, value in network.state_dict().items()}
            if on_epoch:
                on_epoch(epoch, error)
            if best and epoch - best[1] >= config.patience:
                break
    if best is None:
        raise ValueError(f"training ended after epoch {len(history)}, before {keep_from}, the first that may be kept")
    network.load_state_dict(best[2])
    network.cpu().eval()
    return Fitted(network, mean_error(network, _labelled(validation)), tuple(history), best[1])


@torch.no_grad()
def predict(network: Network, rows: Arrays, batch: int = 16_384) -> np.ndarray:
    """Residuals (n,) float32 in units of the scale for n rows, in torch."""
    network.eval()
    device = network.center.device
    parts = [np.empty(0, np.float32)]
    for begin in range(0, len(rows), batch):
        chunk = slice(begin, begin + batch)
        inputs = (rows.numeric[chunk], rows.codes[chunk].astype(np.int64))
        parts.append(network(*(torch.from_numpy(array).to(device) for array in inputs)).cpu().numpy())
    return np.concatenate(parts)


def mean_error(network: Network, labelled: Arrays) -> float:
    """Mean absolute error over labelled rows, in units of the scale: near destinations count as much as far ones."""
    return float(np.abs(predict(network, labelled) - labelled.target).mean(dtype=np.float64))


class _Loop:
    """The training rows as tensors, and the optimizer's state from epoch to epoch."""

    def __init__(self, network: Network, config: TrainConfig, train: Arrays, targets: Targets) -> None:
        self.network, self.config = network, config
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        device = automatic if config.device == "auto" else config.device
        network.to(device)
        used = (targets.weights > 0).any(axis=1)
        # Scaling learns nothing, so it is done once for all epochs.
        with torch.no_grad():
            self.scaled = network.scale(torch.from_numpy(train.numeric[used]).to(device))
            self.codes = network.known(torch.from_numpy(train.codes[used].astype(np.int64)).to(device))
        self.targets = torch.from_numpy(targets.values[used]).to(device)
        self.weights = torch.from_numpy(targets.weights[used]).to(device)
        self.smooth = torch.tensor(targets.smooth, device=device).clamp_min(1e-6)
        counts = _counts(len(self.targets))
        n = sum(counts)
        self.batch = max(min(config.batch_size, n // config.steps_per_epoch) // len(counts), min(*counts, 2))
        self.steps = min(counts) // self.batch
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=self.steps * config.epochs, pct_start=config.warmup
        )

    def epoch(self, on_step: OnStep | None) -> None:
        """Every row once, in random order; the last few that do not fill a batch wait for another epoch."""
        self.network.train()
        order = torch.randperm(len(self.targets)).to(self.targets.device)
        for rows in order[: self.steps * self.batch].split(self.batch):
            if on_step:
                on_step(self.step, self.steps * self.config.epochs)
            self.optimizer.zero_grad()
            self._loss(rows).backward()
            _average_gradients(self.network)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            self.step += 1

    def _loss(self, rows: Tensor) -> Tensor:
        """The weighted loss of a batch."""
        codes = self.codes[rows]
        codes = codes * (torch.rand(codes.shape, device=codes.device) >= self.network.config.category_dropout)
        miss = (self.network.residual(self.scaled[rows], codes)[:, None] - self.targets[rows]).abs()
        size = torch.where(miss < self.smooth, miss**2 / (2 * self.smooth), miss - self.smooth / 2)
        return (self.weights[rows] * size).sum(dim=1).mean()


def _in_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _rank() -> int:
    """This process's place in its group, from 0."""
    return distributed.get_rank() if _in_group() else 0


def _counts(own: int) -> list[int]:
    """What each member of the group counts."""
    counts = [own]
    if _in_group():
        counts = [0] * distributed.get_world_size()
        distributed.all_gather_object(counts, own)
    return counts


def _of_first(network: Network) -> Network:
    """The network of the group's first member."""
    networks = [network]
    if _in_group():
        distributed.broadcast_object_list(networks)
    return networks[0]


def _average_gradients(network: Network) -> None:
    """The mean of all members' gradients, in place; in one message, for the networks are small."""
    if not _in_group():
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _agree(network: Network) -> None:
    """What batch normalization has seen, of the first member; the weights are equal already."""
    if _in_group():
        for value in network.buffers():
            distributed.broadcast(value, 0)


def _labelled(rows: Arrays, most: int | None = None) -> Arrays:
    """The labelled rows, or at most `most` of them, evenly taken."""
    index = np.flatnonzero(~np.isnan(rows.label))
    if most is not None and len(index) > most:
        index = index[np.linspace(0, len(index) - 1, most).astype(int)]
    return rows.take(index)
