"""The arrays that hyperparameter trials and final trainings learn from, and how rows are sampled for them.

Arrays of single blocks are defined in `ml.inference.arrays`; which rows belong to which part, in `dataset`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays


@dataclass(frozen=True)
class TrainingRows:
    """Model inputs of n rows, stored once, with a residual base for each delay that a residual can be relative to."""

    numeric: np.ndarray
    """(n, d) float32; see `Arrays`."""
    codes: np.ndarray
    """(n, c) int32."""
    scale: np.ndarray
    """(n,) float32; see `Arrays`."""
    label: np.ndarray
    """(n,) float32 delay in seconds; NaN is unlabelled."""
    slowdown: np.ndarray
    """(n,) float32; see `Arrays`."""
    bases: Mapping[str, np.ndarray]
    """(n,) float32 delay in seconds by residual base; see `ml.inference.preprocessing.RESIDUAL_BASES`."""

    @classmethod
    def from_arrays(cls, arrays: Arrays, bases: Mapping[str, np.ndarray]) -> Self:
        """Replace the one base of some arrays by several."""
        return cls(arrays.numeric, arrays.codes, arrays.scale, arrays.label, arrays.slowdown, bases)

    @classmethod
    def gather(cls, blocks: Iterable[tuple[Self, np.ndarray]], n: int) -> Self:
        """Put the rows of blocks, which are taken one at a time, at their places among n rows.

        Each block of k rows comes with their places (k,); a row whose place is negative is left out.
        """
        gathered: Self | None = None
        for block, place in blocks:
            kept = place >= 0
            if gathered is None:
                gathered = block._allocate(n)
            for target, source in zip(gathered._columns(), block._columns(), strict=True):
                target[place[kept]] = source[kept]
        if gathered is None:
            raise ValueError("There is no block of rows.")
        return gathered

    @classmethod
    def concat(cls, blocks: Sequence[Self]) -> Self:
        """Concatenate the rows of blocks, in order."""
        ends = np.cumsum([len(block) for block in blocks])
        places = (np.arange(end - len(block), end) for block, end in zip(blocks, ends, strict=True))
        return cls.gather(zip(blocks, places, strict=True), int(ends[-1]))

    def _allocate(self, n: int) -> Self:
        """Return n rows with the columns and types of these, whose values are not set."""

        def allocate(column: np.ndarray) -> np.ndarray:
            return np.empty((n, *column.shape[1:]), column.dtype)

        return replace(
            self,
            numeric=allocate(self.numeric),
            codes=allocate(self.codes),
            scale=allocate(self.scale),
            label=allocate(self.label),
            slowdown=allocate(self.slowdown),
            bases={name: allocate(base) for name, base in self.bases.items()},
        )

    def _columns(self) -> list[np.ndarray]:
        """Return all arrays, in the same order for all rows."""
        bases = [self.bases[name] for name in sorted(self.bases)]
        return [self.numeric, self.codes, self.scale, self.label, self.slowdown, *bases]

    def __len__(self) -> int:
        return len(self.label)

    def relative_to(self, residual_to: str) -> Arrays:
        """Return the rows with one residual base, without copying them."""
        return Arrays(self.numeric, self.codes, self.bases[residual_to], self.scale, self.label, self.slowdown)

    def take(self, rows: np.ndarray | slice) -> Self:
        """Return the rows selected by a boolean mask (n,), by an index array, or by a slice, which copies nothing."""
        bases = {name: base[rows] for name, base in self.bases.items()}
        return replace(
            self,
            numeric=self.numeric[rows],
            codes=self.codes[rows],
            scale=self.scale[rows],
            label=self.label[rows],
            slowdown=self.slowdown[rows],
            bases=bases,
        )

    def select_columns(self, numeric: Sequence[int], codes: Sequence[int]) -> Self:
        """Return the rows with some columns only, by their indices."""
        return replace(self, numeric=self.numeric.take(numeric, 1), codes=self.codes.take(codes, 1))


@dataclass(frozen=True)
class TrainingData:
    """Training and validation rows of a model."""

    train: TrainingRows
    validation: TrainingRows
    feature_names: list[str]
    """Names of the columns: those of `numeric`, then those of `codes`."""
    seed: int

    def drop_unlabelled(self) -> Self:
        """Drop training rows that have no label."""
        return replace(self, train=self.train.take(~np.isnan(self.train.label)))

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the training rows of worker `rank` of `world_size` (see `Arrays.shard`), with all validation rows."""
        return replace(self, train=self.train.take(np.arange(rank, len(self.train), world_size)))

    def subsample(self, max_rows: int) -> Self:
        """Draw at most `max_rows` training rows and as many validation rows, uniformly by the seed."""
        train, validation = (
            rows.take(sample_indices(len(rows), max_rows, self.seed)) for rows in (self.train, self.validation)
        )
        return replace(self, train=train, validation=validation)

    def drop_columns(self, names: Collection[str]) -> Self:
        """Drop the columns with these names from `numeric` and `codes`."""
        first_code = self.train.numeric.shape[1]
        kept = [index for index, name in enumerate(self.feature_names) if name not in names]
        numeric = [index for index in kept if index < first_code]
        codes = [index - first_code for index in kept if index >= first_code]
        return replace(
            self,
            train=self.train.select_columns(numeric, codes),
            validation=self.validation.select_columns(numeric, codes),
            feature_names=[self.feature_names[index] for index in kept],
        )


def subsample_mask(mask: np.ndarray, max_rows: int, seed: int) -> np.ndarray:
    """Return a mask (n,) of at most `max_rows` of the rows in a mask (n,), drawn uniformly by the seed."""
    subsample = np.zeros_like(mask)
    rows = np.flatnonzero(mask)
    subsample[rows[sample_indices(len(rows), max_rows, seed)]] = True
    return subsample


def sample_indices(n: int, max_rows: int, seed: int) -> np.ndarray:
    """Return at most `max_rows` of the indices below n, sorted, drawn uniformly by the seed."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:max_rows])
