"""Operations on the process group of torch that trains one network; without a group each does nothing.

Every member holds a shard of the training rows and a replica of the network.
"""

import torch
from torch import distributed

from mbta_assets.ml.training.network import Network


def get_rank() -> int:
    """Return the rank of this process, 0 without a group."""
    return distributed.get_rank() if _has_group() else 0


def gather_counts(count: int) -> list[int]:
    """Return the counts of all ranks in order, only `count` without a group."""
    counts = [count]
    if _has_group():
        counts = [0] * distributed.get_world_size()
        distributed.all_gather_object(counts, count)
    return counts


def broadcast_model(network: Network) -> Network:
    """Return the network of rank 0, on every rank."""
    networks = [network]
    if _has_group():
        distributed.broadcast_object_list(networks)
    return networks[0]


def broadcast_buffers(network: Network) -> None:
    """Overwrite the buffers with those of rank 0: running statistics of batch norm differ, weights do not."""
    if _has_group():
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


def average_gradients(network: Network) -> None:
    """Replace each gradient by its mean over all ranks, in a single message, as the networks are small."""
    if not _has_group():
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _has_group() -> bool:
    """Return whether this process is a member of a group."""
    return distributed.is_available() and distributed.is_initialized()
