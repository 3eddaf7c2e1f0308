"""The arrays that hyperparameter trials and final trainings learn from, and how rows are sampled for them.

Arrays of single blocks are defined in `ml.inference.arrays`; which rows belong to which part, in `dataset`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays

ArraysByBase = dict[str, Arrays]
"""The same rows for each residual base (see `ml.inference.preprocessing.RESIDUAL_BASES`)."""


@dataclass(frozen=True)
class TrainingData:
    """Training and validation rows, for each residual base that may be learned."""

    train: ArraysByBase
    validation: ArraysByBase
    feature_names: list[str]
    """Names of the columns: those of `numeric`, then those of `codes`."""
    seed: int

    def drop_unlabelled(self) -> "TrainingData":
        """Drop training rows that have no label."""
        train = {base: arrays.take(~np.isnan(arrays.label)) for base, arrays in self.train.items()}
        return replace(self, train=train)

    def shard(self, rank: int, world_size: int) -> "TrainingData":
        """Return the training rows of worker `rank` of `world_size`, with all validation rows."""
        return replace(self, train={base: arrays.shard(rank, world_size) for base, arrays in self.train.items()})

    def subsample(self, max_rows: int) -> "TrainingData":
        """Draw at most `max_rows` training rows and as many validation rows, uniformly by the seed."""

        def subsample(arrays: Arrays) -> Arrays:
            return arrays.take(sample_indices(len(arrays), max_rows, self.seed))

        return self._map(subsample)

    def drop_columns(self, names: Collection[str]) -> "TrainingData":
        """Drop the columns with these names from `numeric` and `codes`."""
        first_code = next(iter(self.train.values())).numeric.shape[1]
        kept = [index for index, name in enumerate(self.feature_names) if name not in names]
        numeric = [index for index in kept if index < first_code]
        codes = [index - first_code for index in kept if index >= first_code]

        def select(arrays: Arrays) -> Arrays:
            return replace(arrays, numeric=arrays.numeric.take(numeric, 1), codes=arrays.codes.take(codes, 1))

        return replace(self._map(select), feature_names=[self.feature_names[index] for index in kept])

    def _map(self, function: Callable[[Arrays], Arrays]) -> "TrainingData":
        """Apply a function to the arrays of both parts."""
        train = {base: function(arrays) for base, arrays in self.train.items()}
        validation = {base: function(arrays) for base, arrays in self.validation.items()}
        return replace(self, train=train, validation=validation)


def subsample_mask(mask: np.ndarray, max_rows: int, seed: int) -> np.ndarray:
    """Return a mask (n,) of at most `max_rows` of the rows in a mask (n,), drawn uniformly by the seed."""
    subsample = np.zeros_like(mask)
    rows = np.flatnonzero(mask)
    subsample[rows[sample_indices(len(rows), max_rows, seed)]] = True
    return subsample


def sample_indices(n: int, max_rows: int, seed: int) -> np.ndarray:
    """Return at most `max_rows` of the indices below n, sorted, drawn uniformly by the seed."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:max_rows])
