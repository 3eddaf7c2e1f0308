"""The encoder of feature columns: numeric columns to floats, categories to integer codes.

It holds the order of the columns and the vocabulary of each category, and nothing else that is fitted.
"""

import json
import lzma
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    Columns = Mapping[str, Any] | pd.DataFrame
else:
    Columns = Mapping[str, Any]
"""Columns by name, each an array or a pandas series of the same length n."""

UNKNOWN_CODE = 0
"""Code of a category value that is missing or not in the vocabulary."""


@dataclass(frozen=True)
class Encoder:
    """Order of the numeric columns, and the vocabulary of each category."""

    numeric: list[str]
    vocabularies: dict[str, list[Any]]

    @classmethod
    def fit(cls, rows: Columns, numeric: list[str], categories: list[str]) -> Self:
        """Build an encoder of these columns whose vocabularies are the values in `rows`, sorted."""
        return cls(numeric, {name: sorted(set(_to_python_values(rows[name])) - {None}) for name in categories})

    def drop_columns(self, names: Collection[str]) -> Self:
        """Return an encoder without the columns of these names."""
        vocabularies = {name: values for name, values in self.vocabularies.items() if name not in names}
        return replace(self, numeric=[name for name in self.numeric if name not in names], vocabularies=vocabularies)

    def encode_numeric(self, columns: Columns) -> np.ndarray:
        """Return the numeric columns as (n, d) float32, NaN where missing."""
        return np.column_stack([np.asarray(columns[name], dtype=np.float32) for name in self.numeric])

    @cached_property
    def _code_of(self) -> dict[str, dict[Any, int]]:
        """Return the code of each value, by category; codes count from 1."""
        return {
            name: {value: code for code, value in enumerate(values, UNKNOWN_CODE + 1)}
            for name, values in self.vocabularies.items()
        }

    def encode_categories(self, columns: Columns) -> np.ndarray:
        """Return the categories as (n, c) int32 codes; `UNKNOWN_CODE` where unknown or missing."""
        codes = [encode_values(columns[name], code_of, UNKNOWN_CODE) for name, code_of in self._code_of.items()]
        return np.column_stack(codes).astype(np.int32)

    def encode_row(self, row: Mapping[str, Any]) -> tuple[list[float], list[int]]:
        """Return the numeric columns (d,) and the codes of the categories (c,) of one row of plain Python values."""
        codes = [code_of.get(row[name], UNKNOWN_CODE) for name, code_of in self._code_of.items()]
        return [row[name] for name in self.numeric], codes

    def to_bytes(self) -> bytes:
        """Serialize the encoder as deterministic JSON, compressed: names of stops take up most of it."""
        return lzma.compress(json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False).encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read an encoder that `to_bytes` wrote."""
        return cls(**json.loads(lzma.decompress(data)))


def encode_values(column: Any, code_of: Mapping[Any, int], default: int) -> np.ndarray:
    """Return the code (n,) of each value of a column, and `default` where it is missing or has no code."""
    if hasattr(column, "factorize"):
        # A pandas series is long: each distinct value is looked up once. Arrays come from requests and are short.
        positions, distinct = column.factorize()
        return np.array([*(code_of.get(value, default) for value in distinct.tolist()), default])[positions]
    return np.array(list(map(code_of.get, _to_python_values(column), repeat(default))), dtype=np.int64)


def _to_python_values(column: Any) -> list[Any]:
    """Return the values of a column as plain Python objects, None where missing."""
    values: list[Any] = np.asarray(column, dtype=object).tolist()
    if not hasattr(column, "isna"):
        return values
    return [None if is_missing else value for value, is_missing in zip(values, column.isna(), strict=True)]
