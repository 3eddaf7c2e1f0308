"""The files of a network: its architecture as JSON and its weights as safetensors."""

import json

import numpy as np
import torch
from safetensors.numpy import load, save

from mbta_assets.ml.training.network import Network
from mbta_assets.storage.bundle import Bundle

ARCHITECTURE_FILE = "network.json"
WEIGHTS_FILE = "weights.safetensors"


def to_files(network: Network) -> dict[str, bytes]:
    """Serialize a network as files, by name. The same network gives the same bytes."""
    tensors = {}
    for name, value in network.state_dict().items():
        tensors.update(_pack(name, value.numpy()))
    architecture = json.dumps(network.architecture(), sort_keys=True, separators=(",", ":"))
    return {ARCHITECTURE_FILE: architecture.encode(), WEIGHTS_FILE: save(tensors)}


def from_files(files: dict[str, bytes]) -> Network:
    """Read a network from the files of `to_files`, in evaluation mode."""
    network = Network.from_architecture(json.loads(files[ARCHITECTURE_FILE]))
    tensors = load(files[WEIGHTS_FILE])
    state = {name: _unpack(name, value.shape, tensors) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return network.eval()


def from_bundle(bundle: Bundle) -> Network:
    """Read the network of a stored model, in evaluation mode. Raises BundleError if a file is missing or damaged."""
    return from_files({name: bundle.file(name) for name in (ARCHITECTURE_FILE, WEIGHTS_FILE)})


def _pack(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that store a tensor: if most of it is zero, a bit mask and the values that are not zero."""
    if 2 * np.count_nonzero(value) > value.size or value.ndim < 2:
        return {name: np.asarray(value, order="C")}
    return {f"{name}.non_zero": np.packbits(value != 0), f"{name}.values": value[value != 0]}


def _unpack(name: str, shape: tuple[int, ...], tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Return the tensor that `_pack` stored."""
    if name in tensors:
        return tensors[name]
    non_zero = np.unpackbits(tensors[f"{name}.non_zero"], count=int(np.prod(shape))).astype(bool).reshape(shape)
    value = np.zeros(shape, np.float32)
    value[non_zero] = tensors[f"{name}.values"]
    return value
