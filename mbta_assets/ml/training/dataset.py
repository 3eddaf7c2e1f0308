"""The training set: rows of several service days, split by time into parts, and stored as a bundle.

Features are computed in `transit`. How rows become model inputs belongs to `cross_fitting` and `training_data`.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as parquet

from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE
from mbta_assets.storage.bundle import Bundle, Draft, git_commit
from mbta_assets.transit import schema

PARTS = ("train", "validation", "test")
ROWS_FILE = "rows.parquet"
NUMERIC_FEATURES = schema.columns_with_role(schema.TransitFeatures, "numeric")
CATEGORICAL_FEATURES = schema.columns_with_role(schema.TransitFeatures, "category")
LABELS = schema.columns_with_role(schema.TransitFeatures, "label")
COLUMNS = list(
    dict.fromkeys([*schema.ROW_KEY, "actual_arrival_time", *CATEGORICAL_FEATURES, *NUMERIC_FEATURES, *LABELS])
)
"""Columns of `transit_features` that a training set is made from."""


@dataclass(frozen=True)
class SplitConfig:
    """Split of a training set by time."""

    validation_fraction: float = 0.15
    test_fraction: float = 0.15
    min_days: int = 10
    """Minimum number of service days for a split into whole service days; fewer are split by time."""


@dataclass(frozen=True)
class TrainingSet:
    """Rows with their parts, and the encoder fitted on the labelled training rows."""

    rows: pd.DataFrame
    encoder: Encoder

    def describe_parts(self) -> list[dict[str, Any]]:
        """Return the time span and the number of rows of each part."""
        return [_describe_part(part, self.rows[self.rows["part"] == part]) for part in PARTS]

    def draft(self, data_versions: Mapping[str, str], rows_per_day: int) -> Draft:
        """Return the bundle, which names the version of each service day of `transit_features`."""
        buffer = io.BytesIO()
        self.rows.to_parquet(buffer, compression="zstd", index=False)
        return Draft(
            "training_set",
            {ROWS_FILE: buffer.getvalue(), ENCODER_FILE: self.encoder.to_json()},
            {"parts": self.describe_parts(), "data_versions": dict(data_versions), "rows_per_day": rows_per_day},
        )


def build_training_set(days: Iterable[pd.DataFrame], split: SplitConfig) -> TrainingSet:
    """Concatenate rows of `transit_features` of several service days, split them and fit an encoder."""
    rows = pd.concat(days, ignore_index=True)
    rows["part"] = assign_parts(rows, split)
    rows = rows[rows["part"] != ""].reset_index(drop=True)
    encoder = Encoder.fit(select_labelled(rows, "train"), NUMERIC_FEATURES, CATEGORICAL_FEATURES)
    return TrainingSet(rows, encoder)


def assign_parts(rows: pd.DataFrame, split: SplitConfig) -> np.ndarray:
    """Return the part (n,) of each row: "train", then "validation", then "test" in time, or "" for a row to leave out.

    A row is left out if its arrival is later than the start of the next part: its label was not known when a model of
    its part would have been trained. Parts are whole service days if there are `split.min_days` or more.
    """
    time = rows["time_stamp"].to_numpy(dtype="datetime64[us]")
    day = schema.to_service_dates(rows["service_date"])
    days = np.unique(day)
    if len(days) >= split.min_days:
        first_validation, first_test = _find_boundaries(len(days), split)
        starts = [time[day == first].min() for first in (days[first_validation], days[first_test])]
        part = np.digitize(np.searchsorted(days, day), [first_validation, first_test])
    else:
        labelled = np.sort(time[rows["delay_seconds"].notna()])
        starts = [labelled[index] for index in _find_boundaries(len(labelled), split)]
        part = np.digitize(time.view(np.int64), [start.view(np.int64) for start in starts])
    names = np.array(PARTS)[part]
    arrival = rows["actual_arrival_time"].to_numpy(dtype="datetime64[us]")
    for index, start in enumerate(starts):
        names = np.where((part == index) & (arrival >= start), "", names)
    return names


def read_rows(training_set: Bundle, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the rows of a stored training set with their parts, all columns by default."""
    return schema.to_frame(parquet.read_table(io.BytesIO(training_set.file(ROWS_FILE)), columns=columns))


def iterate_rows(training_set: Bundle, batch_size: int = 100_000) -> Iterator[pd.DataFrame]:
    """Read the rows of a stored training set in batches, in order."""
    for batch in parquet.ParquetFile(io.BytesIO(training_set.file(ROWS_FILE))).iter_batches(batch_size):
        yield schema.to_frame(arrow.Table.from_batches([batch]))


def select_labelled(rows: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """Return the rows of some parts whose arrival was observed."""
    return rows[rows["part"].isin(parts) & rows["delay_seconds"].notna()].reset_index(drop=True)


def make_provenance(training_set: Bundle) -> dict[str, Any]:
    """Return the manifest fields of a model that say what it was trained on, copied from its training set."""
    return {
        "training_set": training_set.digest,
        "training_window": training_set.manifest["parts"],
        "data_versions": training_set.manifest["data_versions"],
        "git_commit": git_commit(),
        "units": {"label": "seconds of delay", "time": "UTC"},
    }


def _find_boundaries(n: int, split: SplitConfig) -> tuple[int, int]:
    """Return the first index of validation and of test among n ordered items; each has at least one item."""
    validation = max(1, round(n * split.validation_fraction))
    test = max(1, round(n * split.test_fraction))
    return n - validation - test, n - test


def _describe_part(part: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the time span and the number of rows of a part."""
    return {
        "part": part,
        "from": str(rows["time_stamp"].min()),
        "to": str(rows["time_stamp"].max()),
        "rows": len(rows),
        "labelled": int(rows["delay_seconds"].notna().sum()),
    }
