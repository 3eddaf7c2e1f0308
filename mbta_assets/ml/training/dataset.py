"""The training set: rows of several service days, split by time into parts, and stored as a bundle.

Features are computed in `transit`. How rows become model inputs belongs to `cross_fitting` and `training_data`.
"""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as parquet

from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE
from mbta_assets.storage.bundle import Bundle, Draft, git_commit
from mbta_assets.storage.provenance import INPUTS, TRAINING_SET, Origin, merge_inputs
from mbta_assets.transit import schema

PARTS = ("train", "validation", "test")
MIN_LABELLED_ROWS = 2
"""Minimum number of rows with a label in each part: batch normalization needs two."""
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

    def list_learned_days(self) -> list[str]:
        """Return the service days that have rows of the training or validation part, YYYY-MM-DD, in order."""
        learned = self.rows.loc[self.rows["part"] != "test", "service_date"]
        return sorted(np.unique(schema.to_service_dates(learned)).astype(str).tolist())

    def draft(self, data_versions: Mapping[str, str], rows_per_day: int) -> Draft:
        """Return the bundle, which names the version of each service day of `transit_features`."""
        buffer = io.BytesIO()
        self.rows.to_parquet(buffer, compression="zstd", index=False)
        return Draft(
            "training_set",
            {ROWS_FILE: buffer.getvalue(), ENCODER_FILE: self.encoder.to_json()},
            {
                "parts": self.describe_parts(),
                "learned_days": self.list_learned_days(),
                "data_versions": dict(data_versions),
                "rows_per_day": rows_per_day,
            },
        )


class TrainingSetError(ValueError):
    """Service days from which no training set can be made; the message says why and what to do."""


def build_training_set(samples: Mapping[date, pd.DataFrame], split: SplitConfig) -> TrainingSet:
    """Concatenate rows of `transit_features` by service day, split them and fit an encoder.

    Raises TrainingSetError where there is too little to learn from, or to tell what was learned.
    """
    rows = pd.concat(samples.values(), ignore_index=True)
    if rows.empty:
        raise _too_little(samples, "transit_features has no rows of them, as no report of a vehicle was used")
    if rows["delay_seconds"].isna().all():
        reason = "no vehicle was reported STOPPED_AT a stop that was ahead of it"
        raise _too_little(samples, f"none of their {len(rows):,} rows has a label, as {reason}")
    rows["part"] = assign_parts(rows, split)
    rows = rows[rows["part"] != ""].reset_index(drop=True)
    labels = {part: len(select_labelled(rows, part)) for part in PARTS}
    if min(labels.values()) < MIN_LABELLED_ROWS:
        counts = ", ".join(f"{n:,} in the {part} part" for part, n in labels.items())
        raise _too_little(samples, f"rows with a label are {counts}; {MIN_LABELLED_ROWS} in each is the minimum")
    encoder = Encoder.fit(select_labelled(rows, "train"), NUMERIC_FEATURES, CATEGORICAL_FEATURES)
    return TrainingSet(rows, encoder)


def assign_parts(rows: pd.DataFrame, split: SplitConfig) -> np.ndarray:
    """Return the part (n,) of each row: "train", then "validation", then "test" in time, or "" for a row to leave out.

    A row is left out if its arrival is later than the start of the next part: its label was not known when a model of
    its part would have been trained. Parts are whole service days if `split.min_days` or more have a label; at least
    one row has.
    """
    time = rows["time_stamp"].to_numpy(dtype="datetime64[us]")
    day = schema.to_service_dates(rows["service_date"])
    is_labelled = rows["delay_seconds"].notna().to_numpy()
    days = np.unique(day[is_labelled])  # so that each part has a day with labels
    if len(days) >= split.min_days:
        first_validation, first_test = _find_boundaries(len(days), split)
        starts = [time[day == first].min() for first in (days[first_validation], days[first_test])]
        part = np.digitize(np.searchsorted(days, day), [first_validation, first_test])
    else:
        labelled = np.sort(time[is_labelled])
        starts = [labelled[index] for index in _find_boundaries(len(labelled), split)]
        part = np.digitize(time.view(np.int64), [start.view(np.int64) for start in starts])
    names = np.array(PARTS)[part]
    arrival = rows["actual_arrival_time"].to_numpy(dtype="datetime64[us]")
    for index, start in enumerate(starts):
        names = np.where((part == index) & (arrival >= start), "", names)
    return names


def read_rows(training_set: Bundle, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the rows of a stored training set with their parts, all columns by default.

    Raises TrainingSetError if it lacks one of the columns, as it was stored by an earlier version of this package.
    """
    stored = parquet.ParquetFile(io.BytesIO(training_set.file(ROWS_FILE)))
    missing = set(columns or ()) - set(stored.schema_arrow.names)
    if missing:
        raise TrainingSetError(
            f"{training_set.path} was made by an earlier version of mbta_assets, without {', '.join(sorted(missing))}. "
            "Materialize transit_features of its service days and then training_set again."
        )
    return schema.to_frame(stored.read(columns))


def iterate_rows(training_set: Bundle, batch_size: int = 100_000) -> Iterator[pd.DataFrame]:
    """Read the rows of a stored training set in batches, in order."""
    for batch in parquet.ParquetFile(io.BytesIO(training_set.file(ROWS_FILE))).iter_batches(batch_size):
        yield schema.to_frame(arrow.Table.from_batches([batch]))


def select_labelled(rows: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """Return the rows of some parts whose arrival was observed."""
    return rows[rows["part"].isin(parts) & rows["delay_seconds"].notna()].reset_index(drop=True)


def make_provenance(training_set: Bundle, **inputs: Bundle) -> dict[str, Any]:
    """Return the manifest fields of a model that say what it was made from, copied from the manifests of its inputs.

    `inputs` are the further bundles by asset. Raises MixedVersions unless all of them come from this training set.
    """
    origins = {name: Origin.from_bundle(bundle) for name, bundle in {TRAINING_SET: training_set, **inputs}.items()}
    copied = {"training_window": "parts", "data_versions": "data_versions", "learned_days": "learned_days"}
    return {
        INPUTS: merge_inputs(origins),
        "training_set": training_set.digest,
        # Training sets from before there were `learned_days` have none.
        **{name: training_set.manifest[field] for name, field in copied.items() if field in training_set.manifest},
        "git_commit": git_commit(),
        "units": {"label": "seconds of delay", "time": "UTC"},
    }


def _find_boundaries(n: int, split: SplitConfig) -> tuple[int, int]:
    """Return the first index of validation and of test among n ordered items; each has at least one item if n > 1."""
    validation = max(1, round(n * split.validation_fraction))
    test = max(1, round(n * split.test_fraction))
    return max(0, n - validation - test), n - test


def _too_little(days: Collection[date], reason: str) -> TrainingSetError:
    """Return the error that some service days are too little to train on."""
    span = f"service day {min(days)}" if len(days) == 1 else f"{len(days)} service days {min(days)} to {max(days)}"
    return TrainingSetError(
        f"No training set can be made of the {span}: {reason}. Materialize more service days, then training_set "
        "again: dagster asset materialize -m mbta_assets.definitions --select 'group:upstream or group:transit' "
        "--partition YYYY-MM-DD"
    )


def _describe_part(part: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the time span and the number of rows of a part."""
    return {
        "part": part,
        "from": str(rows["time_stamp"].min()),
        "to": str(rows["time_stamp"].max()),
        "rows": len(rows),
        "labelled": int(rows["delay_seconds"].notna().sum()),
    }
