"""The removal of neurons and the gradual zeroing of weights of a network."""

import copy
from dataclasses import dataclass, replace

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune as masks

from mbta_assets.ml.training.network import Network


@dataclass(frozen=True)
class SparsitySchedule:
    """Schedule of zeroing weights over the steps of fine-tuning."""

    ramp_fraction: float = 0.5
    """Fraction of the steps over which weights are zeroed; in the others the network recovers."""
    pruning_steps: int = 20
    """Number of times that further weights are zeroed."""


def remove_neurons(network: Network, fraction: float, width_multiple: int) -> Network:
    """Return a copy without this fraction of each hidden layer's least important neurons.

    Importance is the L2 norm of all weights of a neuron, including those that read it. Torch-Pruning's dependency graph
    removes the neuron from its layer, the batch norm after it and the inputs of the next layer. Widths are rounded to
    multiples of `width_multiple`. The embeddings, before the dense layers, and the output are kept.
    """
    pruned = copy.deepcopy(network).eval()
    layers = pruned.dense_layers()
    torch_pruning.pruner.BasePruner(
        pruned.trunk,
        torch.zeros(2, layers[0].in_features),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=fraction,
        ignored_layers=[layers[-1]],
        round_to=width_multiple,
    ).step()
    pruned.config = replace(pruned.config, hidden=tuple(layer.out_features for layer in layers[:-1]))
    return pruned


class GradualSparsity:
    """Zeroes the smallest dense weights of a network, more and more of them over the steps of fine-tuning.

    After a fraction t of the ramp, sparsity · (1 − (1 − t)³) of the weights of all dense layers together are zero
    (Zhu & Gupta 2017).
    """

    def __init__(self, network: Network, sparsity: float, schedule: SparsitySchedule) -> None:
        self.sparsity, self.schedule = sparsity, schedule
        layers = network.dense_layers()
        self.weights: list[tuple[nn.Module, str]] = [(layer, "weight") for layer in layers]
        self.total = sum(layer.weight.numel() for layer in layers)
        self.zeroed = 0
        for layer, name in self.weights:
            masks.identity(layer, name)

    def __call__(self, step: int, steps: int) -> None:
        """Zero the weights that are due before step `step` of `steps`."""
        ramp = max(int(self.schedule.ramp_fraction * steps), 1)
        interval = max(ramp // self.schedule.pruning_steps, 1)
        if step == ramp - 1 or (step < ramp and step % interval == 0):
            fraction = self.sparsity * (1 - (1 - (step + 1) / ramp) ** 3)
            due = round(fraction * self.total)
            masks.global_unstructured(self.weights, masks.L1Unstructured, amount=due - self.zeroed)
            self.zeroed = due

    def finish(self) -> None:
        """Remove the masks; the zeros become part of the weights."""
        for layer, name in self.weights:
            masks.remove(layer, name)
