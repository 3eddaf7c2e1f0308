"""What a model sees of rows: arrays, and the parts that a search learns from and is judged by. NumPy alone."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Arrays:
    """Model inputs of n rows."""

    numeric: np.ndarray
    """(n, d) float32 in the units of the features; NaN is missing."""
    codes: np.ndarray
    """(n, c) int32 category codes; 0 is unknown or missing."""
    base: np.ndarray
    """(n,) float32 seconds of delay that a prediction starts from."""
    scale: np.ndarray
    """(n,) float32 seconds: one unit of what a model learns; far destinations have a coarser one than near ones."""
    label: np.ndarray
    """(n,) float32 seconds of delay; NaN is unlabelled."""

    @property
    def target(self) -> np.ndarray:
        """(n,) what a model learns: the residual to the base, in units of the scale."""
        return (self.label - self.base) / self.scale

    def __len__(self) -> int:
        return len(self.base)

    def take(self, rows: np.ndarray) -> "Arrays":
        """The rows of a boolean mask or an index."""
        return Arrays(self.numeric[rows], self.codes[rows], self.base[rows], self.scale[rows], self.label[rows])

    def share(self, rank: int, workers: int) -> "Arrays":
        """The rows of one of several workers: every so manieth, so that each has some of every time."""
        return self.take(np.arange(rank, len(self), workers))

    @classmethod
    def concat(cls, blocks: Iterable["Arrays"]) -> "Arrays":
        """The rows of all blocks, in order."""
        columns = zip(*([getattr(block, field.name) for field in fields(cls)] for block in blocks), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class Parts:
    """What a search trains on and is judged by: rows for each residual that may be learned."""

    train: dict[str, Arrays]
    validation: dict[str, Arrays]
    names: list[str]
    """What the columns are: those of `numeric`, then those of `codes`."""
    seed: int

    def labelled(self) -> "Parts":
        """The same without training rows that have no label."""
        known = {to: arrays.take(~np.isnan(arrays.label)) for to, arrays in self.train.items()}
        return replace(self, train=known)

    def share(self, rank: int, workers: int) -> "Parts":
        """The same with the training rows of one of several workers, and all validation rows."""
        return replace(self, train={to: arrays.share(rank, workers) for to, arrays in self.train.items()})

    def smaller(self, rows: int) -> "Parts":
        """The same with at most so many training and validation rows, drawn evenly by the seed."""
        return replace(self, train=self._fewer(self.train, rows), validation=self._fewer(self.validation, rows))

    def without(self, names: Collection[str]) -> "Parts":
        """The same without some of the columns."""
        first_code = next(iter(self.train.values())).numeric.shape[1]
        kept = [index for index, name in enumerate(self.names) if name not in names]
        numeric = [index for index in kept if index < first_code]
        codes = [index - first_code for index in kept if index >= first_code]

        def fewer(part: dict[str, Arrays]) -> dict[str, Arrays]:
            return {
                to: replace(arrays, numeric=arrays.numeric.take(numeric, 1), codes=arrays.codes.take(codes, 1))
                for to, arrays in part.items()
            }

        columns = [self.names[index] for index in kept]
        return replace(self, train=fewer(self.train), validation=fewer(self.validation), names=columns)

    def _fewer(self, part: dict[str, Arrays], rows: int) -> dict[str, Arrays]:
        chosen = drawn(len(next(iter(part.values()))), rows, self.seed)
        return {to: arrays.take(chosen) for to, arrays in part.items()}


def few(wanted: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows of a mask (n,), as a mask, drawn evenly by the seed."""
    chosen = np.zeros_like(wanted)
    rows = np.flatnonzero(wanted)
    chosen[rows[drawn(len(rows), most, seed)]] = True
    return chosen


def drawn(n: int, most: int, seed: int) -> np.ndarray:
    """At most so many of n rows, as a sorted index, drawn evenly by the seed."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
