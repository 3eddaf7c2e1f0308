"""Makes a trained network smaller: whole neurons removed, single weights set to zero, or both.

Every candidate starts from the same teacher, is fine-tuned equally long towards the same targets (the labels and the
teacher's own predictions) and is judged on validation. So is the teacher itself, uncut: pruning may not take credit for
the extra epochs. Candidates are independent of each other and may be made side by side.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune as masks

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import feed, latency_us, session
from mbta_assets.ml.training.network import Network, parameters
from mbta_assets.ml.training.network_trainer import Fitted, OnEpoch, Targets, TrainConfig, improve, predict
from mbta_assets.ml.training.network_weights import to_files
from mbta_assets.ml.training.onnx_export import to_onnx

RAMP = 0.5
"""Share of the fine-tuning in which weights are zeroed; the rest recovers."""
PRUNINGS = 20
"""In how many goes the weights are zeroed."""
TOLERANCE = 0.01
"""How much worse than the uncut teacher, as a share of its validation error, a pruned one may be at any distance."""


@dataclass(frozen=True)
class Cut:
    """What is taken away; nothing by default."""

    neurons: float = 0.0
    """Share of the neurons removed from each hidden layer."""
    weights: float = 0.0
    """Share of the dense weights left that are set to zero."""

    @property
    def family(self) -> str:
        """unpruned, neurons, weights or both."""
        if self.neurons and self.weights:
            return "both"
        return "neurons" if self.neurons else "weights" if self.weights else "unpruned"

    @property
    def name(self) -> str:
        """Such as neurons-50 or neurons-25-weights-60, in percent."""
        parts = {"neurons": self.neurons, "weights": self.weights}
        return "-".join(f"{part}-{share:.0%}".rstrip("%") for part, share in parts.items() if share) or "unpruned"


CUTS = (
    Cut(),
    Cut(weights=0.8),
    Cut(neurons=0.5),
    Cut(neurons=0.75),
    Cut(neurons=0.5, weights=0.6),
    Cut(neurons=0.5, weights=0.8),
)


@dataclass(frozen=True)
class Candidate:
    """A pruned and fine-tuned network, judged."""

    cut: Cut
    fitted: Fitted
    errors: tuple[float, ...]
    """Validation errors in units of the scale, of each scale apart: each number of stops ahead has its own."""
    parameters: int
    non_embedding: int
    """Parameters outside the category embeddings."""
    non_zero: int
    """Those of them that are not zero."""
    size_bytes: int
    """Of its files, where tensors that are mostly zero are stored sparse."""
    latency_us: float
    """Median of a call for one row in ONNX Runtime, where zeros are multiplied like any number."""

    def row(self) -> dict[str, Any]:
        """The candidate as a row of a table; errors in units of the scale."""
        return {
            "name": self.cut.name,
            "family": self.cut.family,
            "neurons_removed": self.cut.neurons,
            "weights_zeroed": self.cut.weights,
            "validation_error": self.fitted.validation_error,
            "by_distance": " ".join(f"{error:.3f}" for error in self.errors),
            "parameters": self.parameters,
            "non_embedding": self.non_embedding,
            "non_zero": self.non_zero,
            "size_bytes": self.size_bytes,
            "layers": str(self.fitted.network.architecture()["layers"]),
            "latency_us": self.latency_us,
        }


def candidate(
    cut: Cut,
    teacher: Network,
    targets: Targets,
    config: TrainConfig,
    train: Arrays,
    validation: Arrays,
    *,
    on_epoch: OnEpoch | None = None,
) -> Candidate:
    """The teacher cut, fine-tuned towards `targets` (see `distil.lesson`) and judged. The teacher stays as it was."""
    network = without_neurons(teacher, cut.neurons) if cut.neurons else copy.deepcopy(teacher)
    sparsify = GradualSparsity(network, cut.weights) if cut.weights else None
    keep_from = math.floor(RAMP * config.epochs) + 1 if sparsify else 1
    fitted = improve(
        network, config, train, validation, targets=targets, on_epoch=on_epoch, on_step=sparsify, keep_from=keep_from
    )
    if sparsify:
        sparsify.finish()
    return _judged(cut, fitted, validation)


@dataclass(frozen=True)
class FineTuning:
    """What every candidate is made from."""

    teacher: Network
    targets: Targets
    """Of the training rows; see `distil.lesson`."""
    config: TrainConfig
    train: Arrays
    validation: Arrays

    def share(self, rank: int, workers: int) -> "FineTuning":
        """The same with the training rows of one of several workers, and all validation rows."""
        return replace(self, train=self.train.share(rank, workers), targets=self.targets.share(rank, workers))


def task(cut: Cut, data: FineTuning, threads: int = 1) -> Candidate:
    """`candidate` as one of many made side by side."""
    config = replace(data.config, threads=threads)
    return candidate(cut, data.teacher, data.targets, config, data.train, data.validation)


def unpruned(found: Sequence[Candidate]) -> Candidate:
    """The teacher itself after the same extra epochs."""
    return next(candidate for candidate in found if candidate.cut == Cut())


def choose(found: Sequence[Candidate]) -> Candidate:
    """The smallest candidate within `TOLERANCE` of the uncut teacher's validation error, the more accurate of equals.

    Within it at every number of stops ahead: what is lost at one must not be paid for by another. Among those that
    keep at most half of the teacher's parameters outside the embeddings, if any is that accurate.
    """
    teacher = unpruned(found)
    bounds = [(1 + TOLERANCE) * error for error in teacher.errors]
    accurate = [
        candidate
        for candidate in found
        if all(error <= bound for error, bound in zip(candidate.errors, bounds, strict=True))
    ]
    halved = [candidate for candidate in accurate if candidate.non_zero <= teacher.non_embedding / 2]
    return min(halved or accurate, key=lambda candidate: (candidate.size_bytes, candidate.fitted.validation_error))


def without_neurons(network: Network, ratio: float) -> Network:
    """A copy with this share of each hidden layer's least important neurons removed, widths rounded to multiples of 8.

    Importance is the L2 norm of all a neuron's weights, those that read it included. Torch-Pruning's dependency graph
    takes the neuron out of its layer, of the batch norm behind and of the next layer's inputs. The embeddings lie
    before the trunk, and the output is kept.
    """
    pruned = copy.deepcopy(network).eval()
    trunk = pruned.trunk
    layers = pruned.dense_layers()
    torch_pruning.pruner.BasePruner(
        trunk,
        torch.zeros(2, layers[0].in_features),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[layers[-1]],
        round_to=8,
    ).step()
    pruned.config = replace(pruned.config, hidden=tuple(layer.out_features for layer in layers[:-1]))
    return pruned


class GradualSparsity:
    """Sets the smallest dense weights of a network to zero, ever more of them over the first steps of fine-tuning.

    The share grows as sparsity · (1 − (1 − t)³) (Zhu & Gupta 2017), over all dense layers together.
    """

    def __init__(self, network: Network, sparsity: float) -> None:
        self.sparsity = sparsity
        layers = network.dense_layers()
        self.weights: list[tuple[nn.Module, str]] = [(layer, "weight") for layer in layers]
        self.total = sum(layer.weight.numel() for layer in layers)
        self.zeroed = 0
        for layer, name in self.weights:
            masks.identity(layer, name)

    def __call__(self, step: int, steps: int) -> None:
        """Zeroes as many as there should be at this step of all."""
        ramp = max(int(RAMP * steps), 1)
        if step == ramp - 1 or (step < ramp and step % max(ramp // PRUNINGS, 1) == 0):
            share = self.sparsity * (1 - (1 - (step + 1) / ramp) ** 3)
            due = round(share * self.total)
            masks.global_unstructured(self.weights, masks.L1Unstructured, amount=due - self.zeroed)
            self.zeroed = due

    def finish(self) -> None:
        """Makes the zeros part of the weights."""
        for layer, name in self.weights:
            masks.remove(layer, name)


def _judged(cut: Cut, fitted: Fitted, validation: Arrays) -> Candidate:
    """A fine-tuned network with its size and speed."""
    network = fitted.network
    inputs = feed(validation.numeric, validation.codes)
    error = np.abs(predict(network, validation) - validation.target)
    return Candidate(
        cut,
        fitted,
        tuple(float(np.nanmean(error[validation.scale == scale])) for scale in np.unique(validation.scale)),
        **parameters(network),
        size_bytes=sum(map(len, to_files(network).values())),
        latency_us=latency_us(session(to_onnx(network)), inputs),
    )
