"""Training spread over the workers of a Ray cluster: each holds its share of the rows, and nobody all of them.

The outcome is that of one process up to what the order of sums, each worker's own draws and XGBoost's sketch of a
share's quantiles leave; the same number of workers gives the same outcome again. What was lost with a node is begun
again.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.tuning import LOST_NODES, Resources
from mbta_assets.ml.training.xgboost_trainer import Growth

Value = TypeVar("Value")


def grow_trees(
    growth: Growth, train: Iterable[Arrays], validation: Arrays | None, workers: int, resources: Resources
) -> Any:
    """Grow trees on several workers with Ray's XGBoost trainer, within a `tune.ray_session`; see `Growth.grow`.

    The blocks of `train` are handed on one by one, so that they need not fit into this process together. A worker holds
    its rows as XGBoost's quantized matrix, about a byte a value. Returns the booster.
    """
    import ray
    import xgboost
    from ray.train.xgboost import XGBoostTrainer

    growth = replace(growth, threads=resources.threads)
    blocks: list[list[Any]] = [[] for _ in range(workers)]
    targets = []
    for block in train:
        targets.append(block.target)
        for rank in range(workers):
            blocks[rank].append(ray.put(block.share(rank, workers)))
    held_out = [validation.share(rank, workers) if validation is not None else None for rank in range(workers)]
    shares = [
        {"growth": growth, "center": float(np.median(np.concatenate(targets))), "blocks": refs, "held_out": rows}
        for refs, rows in zip(blocks, held_out, strict=True)
    ]
    weights = _run(XGBoostTrainer, _grow, shares, resources)
    return xgboost.Booster(model_file=bytearray(weights))


def _grow(job: dict[str, Any]) -> bytes:
    """One worker's part in growing trees."""
    import ray
    import xgboost

    growth: Growth = job["growth"]

    class Blocks(xgboost.DataIter):
        """Reads this worker's blocks, one at a time."""

        def __init__(self) -> None:
            super().__init__()
            self.at = 0

        def next(self, input_data: Callable[..., None]) -> bool:
            if self.at == len(job["blocks"]):
                return False
            rows: Arrays = ray.get(job["blocks"][self.at])
            input_data(data=growth.columns(rows), label=rows.target)
            self.at += 1
            return True

        def reset(self) -> None:
            self.at = 0

    matrix = xgboost.QuantileDMatrix(Blocks(), nthread=growth.threads)
    return bytes(growth.grow(matrix, job["held_out"], job["center"]).save_raw("ubj"))


def together(call: Callable[..., Value], item: Any, data: Any, workers: int, resources: Resources) -> Value:
    """`call(item, share, threads=…)` on each of several workers, with Ray's Torch trainer, within a `tune.ray_session`.

    For calls that train one network by `train.fit` or `train.improve`: these learn together. `data` has a
    method `share`, or is a tuple of which some parts have one. Returns what the first worker's call does.
    """
    from ray.train.torch import TorchTrainer

    def job(rank: int) -> dict[str, Any]:
        return {"call": call, "item": item, "data": _share(data, rank, workers), "threads": resources.threads}

    return pickle.loads(_run(TorchTrainer, _call, (job(rank) for rank in range(workers)), resources))


def _call(job: dict[str, Any]) -> bytes:
    """One worker's call. What it returns is pickled here: Ray's trainer hands on no tensors."""
    return pickle.dumps(job["call"](job["item"], job["data"], threads=job["threads"]))


def _share(data: Any, rank: int, workers: int) -> Any:
    if isinstance(data, tuple):
        return tuple(_share(part, rank, workers) for part in data)
    return data.share(rank, workers) if hasattr(data, "share") else data


def _run(
    trainer: Any, work: Callable[[dict[str, Any]], bytes], jobs: Iterable[dict[str, Any]], resources: Resources
) -> bytes:
    """What the first worker returns, of those that each do one job."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    stored = [ray.put(job) for job in jobs]
    with tempfile.TemporaryDirectory() as scratch:
        result = trainer(
            _of_rank,
            train_loop_config={"work": work, "jobs": stored},
            scaling_config=ScalingConfig(
                num_workers=len(stored),
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
            ),
            run_config=RunConfig(
                storage_path=scratch, name="training", failure_config=FailureConfig(max_failures=LOST_NODES)
            ),
        ).fit()
    return result.return_value


def _of_rank(config: dict[str, Any]) -> bytes:
    """Does the job of the worker this is."""
    import ray
    from ray.train import get_context

    return config["work"](ray.get(config["jobs"][get_context().get_world_rank()]))
