"""The training loop of networks: teachers, pruned teachers and students.

Processes that form a process group of torch, each with a shard of the training rows, train one network together: each
takes its part of every batch, and gradients are averaged.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training import process_group
from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig
from mbta_assets.ml.training.network import Network
from mbta_assets.progress.lines import ProgressLog

OnEpoch = Callable[[int, float], None]
"""Called after each epoch with its number, from 1, and the validation error."""
OnStep = Callable[[int, int], None]
"""Called before each step with its index, from 0, and the total number of steps."""


@dataclass(frozen=True)
class Targets:
    """Training targets of n rows: k values each, with a weight in the loss."""

    values: np.ndarray
    """(n, k) float32 residuals in units of the scale."""
    weights: np.ndarray
    """(n, k) float32, not negative; rows whose weights are all 0 are left out of training."""
    huber_delta: tuple[float, ...]
    """Error in units of the scale up to which the loss is quadratic, for each of the k values."""

    def shard(self, rank: int, world_size: int) -> "Targets":
        """Return the targets of worker `rank` of `world_size`; see `Arrays.shard`."""
        return Targets(self.values[rank::world_size], self.weights[rank::world_size], self.huber_delta)


@dataclass(frozen=True)
class Further:
    """Length and learning rate of a training that goes on from a trained network."""

    epochs: int
    learning_rate: float
    """Peak learning rate relative to that of its training."""


@dataclass(frozen=True)
class Fitted:
    """A trained network with the weights of its best epoch, on the CPU and in evaluation mode.

    One that was trained without validation rows has the weights of its last epoch.
    """

    network: Network
    validation_error: float
    """Mean absolute error in seconds, over all labelled validation rows."""
    validation_rows: int
    """Number of these rows."""
    history: tuple[float, ...]
    """Validation error after each epoch, over the rows of early stopping."""
    best_epoch: int
    """Number of the best epoch, from 1."""

    def replace_network(self, final: Self) -> Self:
        """Return the network of a final training, with the validation errors of this one, from which it was made."""
        return replace(self, network=final.network)


def label_targets(train: Arrays, huber_delta: float = 0.0) -> Targets:
    """Return the labels as targets; rows without a label have weight 0."""
    labelled = ~np.isnan(train.label)
    values = np.where(labelled, train.target, 0)[:, None]
    return Targets(values, labelled[:, None].astype(np.float32), (huber_delta,))


def fit(
    network_config: NetworkConfig,
    train_config: TrainConfig,
    train: Arrays,
    validation: Arrays,
    *,
    targets: Targets | None = None,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Create a network, fit its preprocessing on the training rows and train it; see `fine_tune`."""
    with _seeded(train_config.seed, train_config.device):
        network = process_group.broadcast_model(Network.from_training_rows(network_config, train))
    return fine_tune(network, train_config, train, validation, targets=targets, on_epoch=on_epoch)


def fine_tune(
    network: Network,
    config: TrainConfig,
    train: Arrays,
    validation: Arrays,
    *,
    targets: Targets | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    first_epoch_to_keep: int = 1,
) -> Fitted:
    """Train `network` in place towards `targets`, by default the labels, and keep the weights of its best epoch.

    The best epoch is one from `first_epoch_to_keep` on; without validation rows it is the last one. The same rows,
    configuration (threads included) and initial weights give the same weights, bit for bit. In a process group every
    rank ends with the same network. With `average_decay`, the weights are a moving average of those of all steps.

    Raises FloatingPointError if the validation error is not finite, and ValueError if there are fewer epochs than
    `first_epoch_to_keep`.
    """
    torch.set_num_threads(config.threads)
    with _seeded(config.seed + process_group.get_rank(), config.device):
        loop = _TrainingLoop(network, config, train, targets or label_targets(train, config.huber_delta))
        if not len(validation):
            return _train_to_the_end(loop, on_step)
        early_stopping_rows = _select_labelled(validation, config.early_stopping_rows)
        progress, history = ProgressLog("network", "epochs"), list[float]()
        best: tuple[float, int, dict[str, Tensor]] | None = None
        for epoch in range(1, config.epochs + 1):
            loop.run_epoch(on_step)
            error = early_stopping_rows.mean_absolute_error(predict(loop.averaged, early_stopping_rows))
            _require_finite(error, config)
            history.append(error)
            progress.update(epoch, config.epochs, f"validation error {error:.1f} s")
            if epoch >= first_epoch_to_keep and (best is None or error < best[0]):
                best = error, epoch, {name: value.clone() for name, value in loop.averaged.state_dict().items()}
            if on_epoch:
                on_epoch(epoch, error)
            if best and epoch - best[1] >= config.patience:
                break
    if best is None:
        raise ValueError(
            f"no epoch can be kept: {len(history)} were trained, and the first to keep is {first_epoch_to_keep}; "
            "train for more epochs"
        )
    progress.end(len(history), f"validation error {best[0]:.1f} s after {best[1]}")
    network.load_state_dict(best[2])
    network.cpu().eval()
    error = validation.mean_absolute_error(predict(network, validation))
    return Fitted(network, error, int((~np.isnan(validation.label)).sum()), tuple(history), best[1])


def train_further(
    network: Network, config: TrainConfig, further: Further, learned: Arrays, targets: Targets | None = None
) -> Fitted:
    """Train a copy of `network`, which has learned some of the rows with `config`, on all of them for few epochs more.

    There are no validation rows, as these rows are learned too, and no more epochs than `config` has.
    """
    learning_rate = further.learning_rate * config.learning_rate
    config = replace(config, epochs=min(further.epochs, config.epochs), learning_rate=learning_rate)
    return fine_tune(copy.deepcopy(network), config, learned, learned.take(np.arange(0)), targets=targets)


def _train_to_the_end(loop: "_TrainingLoop", on_step: OnStep | None) -> Fitted:
    """Train a network up to the configured last epoch, without validation rows to tell the best one by."""
    config, network, progress = loop.config, loop.network, ProgressLog("network", "epochs")
    for epoch in range(1, config.epochs + 1):
        loop.run_epoch(on_step)
        progress.update(epoch, config.epochs)
    progress.end(config.epochs)
    network.load_state_dict(loop.averaged.state_dict())
    network.cpu().eval()
    _require_finite(float(sum(value.detach().abs().sum() for value in network.parameters())), config)
    return Fitted(network, float("nan"), 0, (), config.epochs)


def _require_finite(number: float, config: TrainConfig) -> None:
    """Raise FloatingPointError unless an error of a network, or the sum of its weights, is finite."""
    if not np.isfinite(number):
        raise FloatingPointError(f"training diverged: a validation error or the weights are {number}, with {config}")


@torch.no_grad()
def predict(network: Network, rows: Arrays, batch_size: int = 16_384) -> np.ndarray:
    """Return the residuals (n,) float32 of n rows in units of the scale, computed in torch."""
    network.eval()
    device = network.center.device
    parts = [np.empty(0, np.float32)]
    for begin in range(0, len(rows), batch_size):
        batch = slice(begin, begin + batch_size)
        inputs = (rows.numeric[batch], rows.codes[batch].astype(np.int64))
        parts.append(network(*(torch.from_numpy(array).to(device) for array in inputs)).cpu().numpy())
    return np.concatenate(parts)


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Start the random streams of the CPU and of the device at a seed, and restore them when the context ends."""
    # By default torch saves the streams of all GPUs, for which it initializes CUDA, in a training on the CPU too.
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        yield


class _TrainingLoop:
    """Training rows as tensors, and the state of the optimizer and its schedule."""

    def __init__(self, network: Network, config: TrainConfig, train: Arrays, targets: Targets) -> None:
        self.network, self.config = network, config
        device = config.device
        network.to(device)
        used = (targets.weights > 0).any(axis=1)
        # Scaling has no trained parameters, so it is computed once for all epochs.
        with torch.no_grad():
            self.scaled = network.scale(torch.from_numpy(train.numeric[used]).to(device))
            self.codes = network.clamp_codes(torch.from_numpy(train.codes[used].astype(np.int64)).to(device))
        self.targets = torch.from_numpy(targets.values[used]).to(device)
        self.weights = torch.from_numpy(targets.weights[used]).to(device)
        self.huber_delta = torch.tensor(targets.huber_delta, device=device).clamp_min(1e-6)
        counts = process_group.gather_counts(len(self.targets))
        total, world_size = sum(counts), len(counts)
        batch_of_all = min(config.batch_size, total // config.min_steps_per_epoch)
        self.batch_size = max(batch_of_all // world_size, min(*counts, 2))
        self.steps = min(counts) // self.batch_size
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            config.learning_rate,
            total_steps=self.steps * config.epochs,
            pct_start=config.warmup_fraction,
        )
        averaging = get_ema_multi_avg_fn(config.average_decay)
        self.average = AveragedModel(network, multi_avg_fn=averaging) if config.average_decay else None

    @property
    def averaged(self) -> Network:
        """Return the network with the average of the weights, or the trained one if they are not averaged."""
        return cast(Network, self.average.module) if self.average else self.network

    def run_epoch(self, on_step: OnStep | None) -> None:
        """Train on the rows once, in random order, without those that do not fill the last batch."""
        self.network.train()
        order = torch.randperm(len(self.targets)).to(self.targets.device)
        for rows in order[: self.steps * self.batch_size].split(self.batch_size):
            if on_step:
                on_step(self.step, self.steps * self.config.epochs)
            self.optimizer.zero_grad()
            self._loss(rows).backward()
            process_group.average_gradients(self.network)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_gradient_norm)
            self.optimizer.step()
            self.schedule.step()
            self.step += 1
            if self.average:
                self.average.update_parameters(self.network)
        process_group.broadcast_buffers(self.averaged)

    def _loss(self, rows: Tensor) -> Tensor:
        """Return the weighted Huber loss of the rows with these indices, after dropout of category codes."""
        scaled, codes, targets, weights = (
            values.index_select(0, rows) for values in (self.scaled, self.codes, self.targets, self.weights)
        )
        codes = codes * (torch.rand(codes.shape, device=codes.device) >= self.network.config.category_dropout)
        error = (self.network.residual(scaled, codes)[:, None] - targets).abs()
        delta = self.huber_delta
        loss = torch.where(error < delta, error**2 / (2 * delta), error - delta / 2)
        return (weights * loss).sum(dim=1).mean()


def _select_labelled(rows: Arrays, max_rows: int) -> Arrays:
    """Return at most `max_rows` of the labelled rows, evenly spaced."""
    index = np.flatnonzero(~np.isnan(rows.label))
    if len(index) > max_rows:
        index = index[np.linspace(0, len(index) - 1, max_rows).astype(int)]
    return rows.take(index)
