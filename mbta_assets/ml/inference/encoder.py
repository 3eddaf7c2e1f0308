"""The encoder: the columns a model reads, in order, and the vocabulary of each category."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    Columns = Mapping[str, Any] | pd.DataFrame
else:
    Columns = Mapping[str, Any]
"""Columns by name, each an array or series of the same length n."""


@dataclass(frozen=True)
class Encoder:
    """Turns columns into arrays. Fitted on the training part; what it has not seen there is unknown."""

    numeric: list[str]
    vocabularies: dict[str, list[Any]]

    @classmethod
    def fit(cls, rows: Columns, numeric: list[str], categories: list[str]) -> Self:
        """An encoder of these columns with the values each category has in `rows`."""
        return cls(numeric, {name: sorted(set(_values(rows[name])) - {None}) for name in categories})

    def without(self, names: Collection[str]) -> Self:
        """The same encoder for fewer columns."""
        kept = {name: values for name, values in self.vocabularies.items() if name not in names}
        return replace(self, numeric=[name for name in self.numeric if name not in names], vocabularies=kept)

    @property
    def cardinalities(self) -> list[int]:
        """How many codes each category has, the unknown one included."""
        return [len(values) + 1 for values in self.vocabularies.values()]

    def numbers(self, columns: Columns) -> np.ndarray:
        """The numeric columns as (n, d) float32, NaN where missing."""
        return np.column_stack([np.asarray(columns[name], dtype=np.float32) for name in self.numeric])

    @cached_property
    def _code_of(self) -> dict[str, dict[Any, int]]:
        return {name: {v: code for code, v in enumerate(values, 1)} for name, values in self.vocabularies.items()}

    def codes(self, columns: Columns) -> np.ndarray:
        """The categories as (n, c) int32 codes; 0 is unknown or missing."""
        return np.column_stack([coded(columns[name], code, 0) for name, code in self._code_of.items()]).astype(np.int32)

    def to_json(self) -> bytes:
        """The encoder as deterministic JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The encoder that `to_json` wrote."""
        return cls(**json.loads(text))


def coded(column: Any, code_of: Mapping[Any, int], missing: int) -> np.ndarray:
    """The code (n,) of each value of a column; `missing` for one that has none, or is missing.

    A series is looked up once for each distinct value; an array, which is short, value by value.
    """
    if hasattr(column, "factorize"):
        places, distinct = column.factorize()
        return np.array([*(code_of.get(value, missing) for value in distinct.tolist()), missing])[places]
    return np.fromiter((code_of.get(value, missing) for value in _values(column)), dtype=np.int64)


def _values(column: Any) -> list[Any]:
    """Plain Python values of a column, None where missing."""
    missing = column.isna() if hasattr(column, "isna") else np.array([value is None for value in column])
    return [
        None if gone else value for value, gone in zip(np.asarray(column, dtype=object).tolist(), missing, strict=True)
    ]
