"""The training set: rows of several service days, split by time into parts, and stored as a bundle.

Features are computed in `transit`. `assembly` makes a training set of service days. How rows become model inputs is up
to `cross_fitting` and `training_data`.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from mbta_assets.ml.inference.transit_network import NETWORK
from mbta_assets.storage.bundle import Bundle, git_commit
from mbta_assets.storage.provenance import INPUTS, TRAINING_SET, Origin, merge_inputs
from mbta_assets.transit import schema
from mbta_assets.transit.agency_delays import AGENCY_DELAY

PARTS = ("train", "validation", "test")
LEARNED_PARTS = ("train", "validation")
"""Parts that models are trained, stopped and selected on."""
BATCH_ROWS = 100_000
"""Number of rows of a stored training set that are read at a time."""
MIN_LABELLED_ROWS = 2
"""Minimum number of rows with a label in each part: batch normalization needs two."""
ROWS_FILE = "rows.parquet"
NUMERIC_FEATURES = schema.columns_with_role(schema.TransitFeatures, "numeric")
CATEGORICAL_FEATURES = schema.columns_with_role(schema.TransitFeatures, "category")
_OTHERS = [name for role in ("lookup", "label") for name in schema.columns_with_role(schema.TransitFeatures, role)]
COLUMNS = list(
    dict.fromkeys([*schema.ROW_KEY, "actual_arrival_time", *CATEGORICAL_FEATURES, *NUMERIC_FEATURES, *_OTHERS])
)
"""Columns of `transit_features` that a training set is made from."""
OPTIONAL_COLUMNS = [AGENCY_DELAY]
"""Further columns that a training set has, with missing values where a service day was stored without them."""


@dataclass(frozen=True)
class SplitConfig:
    """Split of a training set by time."""

    validation_fraction: float = 0.15
    test_fraction: float = 0.15
    min_days: int = 10
    """Minimum number of service days for a split into whole service days; fewer are split by time."""


class TrainingSetError(ValueError):
    """Service days from which no training set can be made; the message says why and what to do."""


def select_split_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the parts of n rows of `transit_features` depend on, with a hash of the trip of each row."""
    trip = pd.util.hash_pandas_object(rows[["service_date", "trip_id"]], index=False).to_numpy()
    return rows[["service_date", "time_stamp", "delay_seconds", "actual_arrival_time"]].assign(trip=trip)


def assign_parts(rows: pd.DataFrame, split: SplitConfig) -> np.ndarray:
    """Return the part (n,) of each row of `transit_features`, "" for a row to leave out; see `assign_part_codes`."""
    return np.array([*PARTS, ""])[assign_part_codes(select_split_columns(rows), split)]


def assign_part_codes(rows: pd.DataFrame, split: SplitConfig) -> np.ndarray:
    """Return the index in `PARTS` (n,) int8 of the part of each row, -1 for a row to leave out.

    `rows` are those of `select_split_columns`. Parts follow one another in time. A row is left out if its arrival is
    later than the start of the next part: its label was not known when a model of its part would have been trained.
    Parts are whole service days if `split.min_days` or more have a label; at least one row has.

    The validation part of a single service day is whole trips of all hours before the test part: the last few hours of
    them say little of others, and stop trainings too early.
    """
    time = rows["time_stamp"].to_numpy(dtype="datetime64[us]")
    day = schema.to_service_dates(rows["service_date"])
    is_labelled = rows["delay_seconds"].notna().to_numpy()
    days = np.unique(day[is_labelled])  # so that each part has a day with labels
    draws_trips = len(days) == 1
    if len(days) >= split.min_days:
        first_validation, first_test = _find_boundaries(len(days), split)
        starts = [time[day == first].min() for first in (days[first_validation], days[first_test])]
        part = np.digitize(np.searchsorted(days, day), [first_validation, first_test])
    else:
        labelled = np.sort(time[is_labelled])
        first_validation, first_test = _find_boundaries(len(labelled), split)
        starts = [labelled[first] for first in (first_test if draws_trips else first_validation, first_test)]
        part = np.digitize(time.view(np.int64), [start.view(np.int64) for start in starts])
    codes = part.astype(np.int8)
    arrival = rows["actual_arrival_time"].to_numpy(dtype="datetime64[us]")
    for index, start in enumerate(starts):
        codes[(codes == index) & (arrival >= start)] = -1
    if draws_trips:
        trip, learned = rows["trip"].to_numpy(), codes == 0
        last_drawn = _find_last_drawn(trip[learned & is_labelled], first_test - first_validation)
        codes[learned & (trip <= last_drawn)] = 1
    return codes


def _find_last_drawn(trip: np.ndarray, n: int) -> np.integer[Any]:
    """Return the hash up to which trips are drawn: those of n or just more rows, but not all trips.

    `trip` has the hash of each row.
    """
    hashes, counts = np.unique(trip, return_counts=True)
    return hashes[:-1][: np.searchsorted(counts.cumsum(), n) + 1].max(initial=0)


def walk_forward(rows: pd.DataFrame, max_folds: int) -> list[np.ndarray]:
    """Return walk-forward folds, the latest first: the part (n,) of each row in each of them, "" for one left out.

    The first fold is the parts of the training set. Each further one has a whole service day of the training part for
    validation, the latest ones first, and the days before it, half of the training part's or more, to learn from.
    `rows` are of `LEARNED_PARTS`, with the columns `part`, `service_date` and `delay_seconds`.
    """
    part = rows["part"].to_numpy(dtype=object)
    day = schema.to_service_dates(rows["service_date"])
    labelled_day = day[(part == "train") & rows["delay_seconds"].notna().to_numpy()]
    days = np.unique(labelled_day)
    folds = [part]
    for index in range(len(days) - 1, max(0, len(days) // 2 - 1), -1):
        if len(folds) == max_folds:
            break
        validation = days[index]
        counts = [(labelled_day < validation).sum(), (labelled_day == validation).sum()]
        if min(counts) >= MIN_LABELLED_ROWS and not (day[part == "validation"] == validation).any():
            folds.append(np.select([part != "train", day < validation, day == validation], ["", *LEARNED_PARTS], ""))
    return folds


def read_rows(training_set: Bundle, columns: Sequence[str] | None = None, parts: Sequence[str] = PARTS) -> pd.DataFrame:
    """Read the rows of some parts of a stored training set, with all columns or some.

    The columns are those of `transit_features`, and `part`; parts are "train", "validation" and "test", by default all.
    Only these rows are in memory. Raises TrainingSetError if the training set lacks one of the columns, as it was
    stored by an earlier version of this package.
    """
    stored = parquet.ParquetFile(io.BytesIO(training_set.file(ROWS_FILE)))
    names = stored.schema_arrow.names if columns is None else list(columns)
    if missing := set(names) - set(stored.schema_arrow.names):
        raise TrainingSetError(
            f"{training_set.path} was made by an earlier version of mbta_assets, without {', '.join(sorted(missing))}. "
            "Materialize transit_features of its service days and then training_set again."
        )
    fields = arrow.schema([stored.schema_arrow.field(name) for name in names])
    return schema.to_frame(arrow.Table.from_batches(_iterate_batches(stored, names, parts), fields))


def iterate_rows(training_set: Bundle, parts: Sequence[str] = PARTS) -> Iterator[pd.DataFrame]:
    """Read the rows of some parts of a stored training set in batches, in order; see `read_rows`."""
    stored = parquet.ParquetFile(io.BytesIO(training_set.file(ROWS_FILE)))
    for batch in _iterate_batches(stored, stored.schema_arrow.names, parts):
        yield schema.to_frame(arrow.Table.from_batches([batch]))


def read_labelled(training_set: Bundle, *parts: str) -> pd.DataFrame:
    """Read the rows of some parts of a stored training set whose arrival was observed; see `read_rows`."""
    return select_labelled(read_rows(training_set, parts=parts), *parts)


def take_rows(training_set: Bundle, parts: Sequence[str], places: np.ndarray) -> pd.DataFrame:
    """Read the rows at some ascending places (k,) among those of some parts; only these rows are in memory."""
    taken, begin = [], 0
    for frame in iterate_rows(training_set, parts):
        end = begin + len(frame)
        first, last = np.searchsorted(places, [begin, end])
        taken.append(frame.iloc[places[first:last] - begin])
        begin = end
    return pd.concat(taken, ignore_index=True)


def _iterate_batches(
    stored: parquet.ParquetFile, names: Sequence[str], parts: Sequence[str]
) -> Iterator[arrow.RecordBatch]:
    """Yield columns of the rows of some parts in batches."""
    for batch in stored.iter_batches(BATCH_ROWS, columns=[*dict.fromkeys([*names, "part"])]):
        yield batch.filter(pc.is_in(batch["part"], arrow.array(parts))).select(names)


def select_labelled(rows: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """Return the rows of some parts whose arrival was observed."""
    return rows[rows["part"].isin(parts) & rows["delay_seconds"].notna()].reset_index(drop=True)


def make_provenance(training_set: Bundle, **inputs: Bundle) -> dict[str, Any]:
    """Return the manifest fields of a model that say what it was made from: give them to its `Draft`.

    They are the digests of all bundles that it comes from (`inputs`), the units, the commit of this code, and from the
    training set its service days and the versions of their tables. `inputs` are the further bundles by asset. Raises
    MixedVersions unless all of them come from this training set.
    """
    origins = {name: Origin.from_bundle(bundle) for name, bundle in {TRAINING_SET: training_set, **inputs}.items()}
    copied = {"training_window": "parts", **{name: name for name in ("data_versions", "learned_days", NETWORK)}}
    return {
        INPUTS: merge_inputs(origins),
        "training_set": training_set.digest,
        # Training sets of earlier releases lack some.
        **{name: training_set.manifest[field] for name, field in copied.items() if field in training_set.manifest},
        "git_commit": git_commit(),
        "units": {"label": "seconds of delay", "time": "UTC"},
    }


def _find_boundaries(n: int, split: SplitConfig) -> tuple[int, int]:
    """Return the first index of validation and of test among n ordered items; each has at least one item if n > 1."""
    validation = max(1, round(n * split.validation_fraction))
    test = max(1, round(n * split.test_fraction))
    return max(0, n - validation - test), n - test
