"""The model inputs: features, category codes, residual base and scale of a block of rows, as NumPy arrays.

Feature columns become these arrays in `preprocessing`. How rows are split and sampled for training belongs to
`ml.training`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np


class InputRow(NamedTuple):
    """Model inputs of one row as plain Python values, before they are rounded to single precision."""

    numeric: list[float]
    codes: list[int]
    base: float
    scale: float
    slowdown: float

    def to_arrays(self) -> "Arrays":
        """Return the row as arrays, without a label."""
        numbers = (np.array([value], np.float32) for value in (self.base, self.scale, np.nan, self.slowdown))
        return Arrays(np.array([self.numeric], np.float32), np.array([self.codes], np.int32), *numbers)


@dataclass(frozen=True)
class Arrays:
    """Model inputs of n rows with d numeric features and c categories."""

    numeric: np.ndarray
    """(n, d) float32 in the units of the features; NaN is missing."""
    codes: np.ndarray
    """(n, c) int32 category codes; 0 is unknown or missing."""
    base: np.ndarray
    """(n,) float32 delay in seconds that the residual is relative to."""
    scale: np.ndarray
    """(n,) float32 seconds per unit of the residual where there is no slowdown; larger for stops farther ahead."""
    label: np.ndarray
    """(n,) float32 delay in seconds; NaN is unlabelled."""
    slowdown: np.ndarray
    """(n,) float32 factor of the unit of the residual; see `slowdown.LearnedPace`."""

    @property
    def unit(self) -> np.ndarray:
        """Return the seconds (n,) per unit of the residual: what "in units of the scale" means everywhere."""
        return self.scale * self.slowdown

    @property
    def target(self) -> np.ndarray:
        """Return the residuals (n,) that a model learns: label minus base, in their unit."""
        return (self.label - self.base) / self.unit

    def absolute_errors(self, residual: np.ndarray) -> np.ndarray:
        """Return the absolute errors (n,) of predicted residuals (n,) in seconds; NaN where there is no label."""
        return self.unit * np.abs(residual - self.target)

    def mean_absolute_error(self, residual: np.ndarray) -> float:
        """Return the mean absolute error in seconds of predicted residuals (n,) over the rows with a label.

        It counts as the leaderboard does. In units of the scale a few rows, departures above all, would decide.
        """
        labelled = ~np.isnan(self.label)
        return float(self.absolute_errors(residual)[labelled].mean(dtype=np.float64))

    def __len__(self) -> int:
        return len(self.base)

    def take(self, rows: np.ndarray) -> "Arrays":
        """Return the rows selected by a boolean mask (n,) or by an index array."""
        return Arrays(*(getattr(self, field.name)[rows] for field in fields(self)))

    def shard(self, rank: int, world_size: int) -> "Arrays":
        """Return the rows of worker `rank` of `world_size`.

        Rows are dealt out in turn, so that every shard covers the whole time span.
        """
        return self.take(np.arange(rank, len(self), world_size))

    @classmethod
    def concat(cls, blocks: Iterable["Arrays"]) -> "Arrays":
        """Concatenate the rows of all blocks, in order."""
        columns = zip(*([getattr(block, field.name) for field in fields(cls)] for block in blocks), strict=True)
        return cls(*(np.concatenate(column) for column in columns))
