"""Data-parallel training on a Ray cluster: each worker holds a shard of the rows, and no process holds all of them.

The result differs from that of one process only by the order of sums, the random draws of each worker and XGBoost's
quantile sketch of a shard. The same world size gives the same result again. Workers whose node is lost start again.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.compute import MAX_RETRIES_ON_NODE_FAILURE, Resources
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer, stack_features

Item = TypeVar("Item")
Value = TypeVar("Value")


class Shardable(Protocol):
    """Data of which each worker can get a shard."""

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the part of worker `rank` of `world_size`."""


Data = TypeVar("Data", bound=Shardable)


@dataclass(frozen=True)
class _TreeShard:
    """The part of one worker in the training of trees."""

    trainer: XGBoostTrainer
    base_score: float
    blocks: list[Any]
    """References to blocks of `Arrays` in Ray's object store."""
    validation: Arrays | None


def train_trees_data_parallel(
    trainer: XGBoostTrainer,
    train: Iterable[Arrays],
    validation: Arrays | None,
    world_size: int,
    resources: Resources,
) -> Any:
    """Train trees on several workers, within a `ray_session`, and return the booster; see `XGBoostTrainer.train`.

    The blocks of `train` are passed on one at a time, so that they need not fit into this process together. A worker
    holds its rows as XGBoost's quantile matrix, of about a byte per value.
    """
    import ray  # these take seconds to import; the code location imports this module and must load fast
    import xgboost
    from ray.train.xgboost import XGBoostTrainer as RayXGBoostTrainer

    blocks: list[list[Any]] = [[] for _ in range(world_size)]
    targets = []
    for block in train:
        targets.append(trainer.target(block))
        for rank in range(world_size):
            blocks[rank].append(ray.put(block.shard(rank, world_size)))
    base_score = float(np.median(np.concatenate(targets)))
    trainer = replace(trainer, resources=resources)
    shards = [
        _TreeShard(trainer, base_score, blocks[rank], _shard_validation(validation, rank, world_size))
        for rank in range(world_size)
    ]
    return xgboost.Booster(model_file=bytearray(_run_workers(RayXGBoostTrainer, _train_tree_shard, shards, resources)))


def _shard_validation(validation: Arrays | None, rank: int, world_size: int) -> Arrays | None:
    """Return the validation rows of a worker, if there are any."""
    return None if validation is None else validation.shard(rank, world_size)


def _train_tree_shard(shard: _TreeShard) -> bytes:
    """Train trees with the other workers on the blocks of this one and return the serialized booster."""
    import ray
    import xgboost

    class Blocks(xgboost.DataIter):
        """Reads the blocks of this worker, one at a time."""

        def __init__(self) -> None:
            super().__init__()
            self.position = 0

        def next(self, input_data: Callable[..., None]) -> bool:
            if self.position == len(shard.blocks):
                return False
            rows: Arrays = ray.get(shard.blocks[self.position])
            input_data(data=stack_features(rows), label=shard.trainer.target(rows))
            self.position += 1
            return True

        def reset(self) -> None:
            self.position = 0

    matrix = xgboost.QuantileDMatrix(Blocks(), nthread=shard.trainer.resources.threads)
    return bytes(shard.trainer.train(matrix, shard.validation, shard.base_score).save_raw("ubj"))


def train_data_parallel(
    function: Callable[[Item, Data, Resources], Value],
    item: Item,
    data: Data,
    world_size: int,
    resources: Resources,
) -> Value:
    """Call `function(item, shard, resources)` on each of several workers, within a `ray_session`.

    The function trains one network by `network_trainer.fit` or `fine_tune`; its workers form a process group of torch
    and train it together. Returns the value of rank 0.
    """
    from ray.train.torch import TorchConfig, TorchTrainer

    # NCCL is the faster one between GPUs, and refuses workers that share one.
    torch_config = TorchConfig(backend="nccl" if resources.gpus >= 1 else "gloo")
    trainer = partial(TorchTrainer, torch_config=torch_config)
    calls = ((function, item, data.shard(rank, world_size), resources) for rank in range(world_size))
    return pickle.loads(_run_workers(trainer, _call_pickled, calls, resources))


def _call_pickled(call: tuple[Callable[..., Any], Any, Any, Resources]) -> bytes:
    """Make one call and return its pickled value, as Ray's trainers return no tensors."""
    function, *arguments = call
    return pickle.dumps(function(*arguments))


def _run_workers(trainer: Any, work: Callable[[Any], bytes], worker_data: Iterable[Any], resources: Resources) -> bytes:
    """Run `work` of one item of `worker_data` on each worker of a Ray trainer and return the value of rank 0."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    stored = [ray.put(data) for data in worker_data]
    with tempfile.TemporaryDirectory() as scratch:
        result = trainer(
            _run_rank,
            train_loop_config={"work": work, "worker_data": stored},
            scaling_config=ScalingConfig(
                num_workers=len(stored),
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
            ),
            run_config=RunConfig(
                storage_path=scratch,
                name="training",
                failure_config=FailureConfig(max_failures=MAX_RETRIES_ON_NODE_FAILURE),
            ),
        ).fit()
    return result.return_value


def _run_rank(config: dict[str, Any]) -> bytes:
    """Run the work of this worker's rank."""
    import ray
    from ray.train import get_context

    return config["work"](ray.get(config["worker_data"][get_context().get_world_rank()]))
