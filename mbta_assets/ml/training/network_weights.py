"""A network as files: its architecture as JSON, its weights as safetensors."""

import json

import numpy as np
import torch
from safetensors.numpy import load, save

from mbta_assets.ml.training.network import Network
from mbta_assets.storage.bundle import Bundle

ARCHITECTURE = "network.json"
WEIGHTS = "weights.safetensors"


def to_files(network: Network) -> dict[str, bytes]:
    """The network's files by name. The same network gives the same bytes."""
    tensors = {}
    for name, value in network.state_dict().items():
        tensors.update(_pack(name, value.numpy()))
    architecture = json.dumps(network.architecture(), sort_keys=True, separators=(",", ":"))
    return {ARCHITECTURE: architecture.encode(), WEIGHTS: save(tensors)}


def from_files(files: dict[str, bytes]) -> Network:
    """The network that `to_files` wrote, ready to predict."""
    network = Network.from_architecture(json.loads(files[ARCHITECTURE]))
    tensors = load(files[WEIGHTS])
    state = {name: _unpack(name, value.shape, tensors) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return network.eval()


def from_bundle(stored: Bundle) -> Network:
    """The network of a stored model, ready to predict."""
    return from_files({name: stored.file(name) for name in (ARCHITECTURE, WEIGHTS)})


def _pack(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """A tensor as it is stored: where most of it is zero, one bit for each element and then the others."""
    if 2 * np.count_nonzero(value) > value.size or value.ndim < 2:
        return {name: np.asarray(value, order="C")}
    return {f"{name}.non_zero": np.packbits(value != 0), f"{name}.values": value[value != 0]}


def _unpack(name: str, shape: tuple[int, ...], tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The tensor that `_pack` stored."""
    if name in tensors:
        return tensors[name]
    non_zero = np.unpackbits(tensors[f"{name}.non_zero"], count=int(np.prod(shape))).astype(bool).reshape(shape)
    value = np.zeros(shape, np.float32)
    value[non_zero] = tensors[f"{name}.values"]
    return value
