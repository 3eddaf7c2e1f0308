"""The cross-fitting of the run-time lookup: training rows get its delay from lookups fitted on other service days.

A lookup fitted on a row predicts that row better than it predicts new ones. Models trained on such predictions would
rely on them too much.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from mbta_assets.ml.inference import run_time
from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE, Preprocessor
from mbta_assets.ml.inference.run_time import LOOKUP_FEATURES, MedianRunTime
from mbta_assets.ml.inference.slowdown import RATIO
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows
from mbta_assets.storage.bundle import Bundle

FIT_COLUMNS = ["part", *run_time.FIT_COLUMNS, RATIO]
"""Columns of a training set that `CrossFittedPreprocessor.fit` and its callers read."""
MIN_FOLDS, MAX_FOLDS = run_time.MIN_DAYS, 10
"""Number of folds: with more, training rows have features of nearly as many days as new rows will have."""
MAX_REMEMBERED_BYTES = 200_000_000
"""Maximum size of the lookup features that a process keeps for the next model; see `fit_once`."""


@dataclass(frozen=True)
class CrossFittedPreprocessor:
    """A fitted preprocessor, and the lookup delay of every row of the training set it was fitted on."""

    preprocessor: Preprocessor
    lookup: np.ndarray
    """(n, 4) `LOOKUP_FEATURES` in seconds; out of fold for the rows that the lookup was fitted on."""

    @classmethod
    def fit(
        cls, encoder: Encoder, rows: pd.DataFrame, fit_mask: np.ndarray, lookup: MedianRunTime | None = None
    ) -> Self:
        """Fit a preprocessor on the labelled rows selected by `fit_mask` (n,), of all n rows with `FIT_COLUMNS`.

        `lookup`, if given, was fitted on the same rows and is not fitted again.
        """
        fit_rows = rows[fit_mask]
        out_of_fold = compute_out_of_fold(fit_rows)
        preprocessor = Preprocessor.fit(encoder, lookup or MedianRunTime.fit(fit_rows), fit_rows, out_of_fold[:, 0])
        features = preprocessor.lookup.compute_features(rows)
        features[fit_mask] = out_of_fold
        return cls(preprocessor, features)

    def transform_blocks(self, frames: Iterable[pd.DataFrame], mask: np.ndarray, residual_to: str) -> Iterator[Arrays]:
        """Yield the model inputs of the rows selected by `mask` (n,), one block per frame.

        The frames together are all n rows in order; they are read one at a time.
        """
        begin = 0
        for frame in frames:
            end = begin + len(frame)
            selected = mask[begin:end]
            yield self.preprocessor.transform(frame[selected], residual_to, self.lookup[begin:end][selected])
            begin = end


_remembered: dict[tuple[str, ...], CrossFittedPreprocessor] = {}
"""Fits of this process by what they were fitted on, the latest one last."""


def fit_once(
    training_set: Bundle, rows: pd.DataFrame, fit_mask: np.ndarray, runtime_lookup: Bundle | None = None
) -> CrossFittedPreprocessor:
    """Fit a preprocessor on a stored training set, or return that of an earlier call with the same arguments.

    The models of a run learn from the same rows, and fitting takes several times as long as reading them. `rows` are
    all of `LEARNED_PARTS`; for the other arguments see `CrossFittedPreprocessor.fit`.
    """
    mask_digest = hashlib.sha256(np.packbits(fit_mask).tobytes()).hexdigest()
    key = (training_set.digest, mask_digest, runtime_lookup.digest if runtime_lookup else "")
    fitted = _remembered.pop(key, None)
    if fitted is None:
        encoder = Encoder.from_bytes(training_set.file(ENCODER_FILE))
        lookup = MedianRunTime.from_bundle(runtime_lookup) if runtime_lookup else None
        fitted = CrossFittedPreprocessor.fit(encoder, rows, fit_mask, lookup)
        fitted.lookup.setflags(write=False)
    _remembered[key] = fitted
    while sum(of_call.lookup.nbytes for of_call in _remembered.values()) > MAX_REMEMBERED_BYTES:
        del _remembered[next(iter(_remembered))]
    return fitted


def compute_out_of_fold(rows: pd.DataFrame) -> np.ndarray:
    """Return the `LOOKUP_FEATURES` (n, 4) of labelled rows, each from a lookup not fitted on its service day.

    Up to `MAX_FOLDS` service days are each a fold. Where there are fewer than `MIN_FOLDS`, folds are of trips.
    """
    by_day = rows.groupby("service_date").ngroup().to_numpy()
    n_days = by_day.max(initial=0) + 1
    has_enough_days = n_days >= MIN_FOLDS
    folds = min(n_days, MAX_FOLDS) if has_enough_days else MIN_FOLDS
    group = by_day if has_enough_days else rows.groupby("trip_id").ngroup().to_numpy()
    columns = rows[list(run_time.FIT_COLUMNS)]
    # Each lookup numbers the texts: that of a category takes no time.
    columns = columns.astype(dict.fromkeys(columns.select_dtypes(exclude="number"), "category"))
    features = np.empty((len(group), len(LOOKUP_FEATURES)))
    for fold in range(folds):
        held_out = group % folds == fold
        lookup = MedianRunTime.fit(columns[~held_out], with_trips=has_enough_days)
        features[held_out] = lookup.compute_features(columns[held_out])
    return features


def select_learned(rows: pd.DataFrame) -> np.ndarray:
    """Return a mask (n,) of the labelled rows of the training part."""
    return (rows["part"] == "train").to_numpy() & rows["delay_seconds"].notna().to_numpy()


def prepare_training_data(
    fitted: CrossFittedPreprocessor, rows: pd.DataFrame, frames: Iterable[pd.DataFrame], seed: int
) -> tuple[TrainingData, np.ndarray]:
    """Transform the rows of a training set, whose preprocessor was fitted on those that `select_learned` selects.

    Returns the model inputs, and the places (v,) of the validation rows among all n rows.

    `rows` has the columns `part` and `delay_seconds` of all rows. The frames together are all rows in order with all
    columns; they are read one at a time. Training rows without a label come last; validation rows without one, and rows
    of no part, are left out.
    """
    labelled = rows["delay_seconds"].notna().to_numpy()
    in_train, in_validation = ((rows["part"] == part).to_numpy() for part in ("train", "validation"))
    kept = [np.flatnonzero(mask) for mask in (select_learned(rows), in_train & ~labelled, in_validation & labelled)]
    places = np.full(len(labelled), -1)
    places[np.concatenate(kept)] = np.arange(sum(map(len, kept)))
    gathered = _gather(fitted, frames, places)
    n_train = len(kept[0]) + len(kept[1])
    train, validation = gathered.take(slice(n_train)), gathered.take(slice(n_train, None))
    data = TrainingData(train, validation, fitted.preprocessor.feature_names, seed)
    return data, kept[2]


def _gather(fitted: CrossFittedPreprocessor, frames: Iterable[pd.DataFrame], places: np.ndarray) -> TrainingRows:
    """Transform frames and put their rows at their places (n,); a row whose place is negative is left out."""

    def transform() -> Iterator[tuple[TrainingRows, np.ndarray]]:
        begin = 0
        for frame in frames:
            end = begin + len(frame)
            lookup = fitted.lookup[begin:end]
            arrays = fitted.preprocessor.transform(frame, "lookup", lookup)
            bases = fitted.preprocessor.compute_residual_bases(frame, lookup[:, 0])
            yield TrainingRows.from_arrays(arrays, bases), places[begin:end]
            begin = end

    return TrainingRows.gather(transform(), int(places.max(initial=-1)) + 1)
