"""The preprocessing of feature columns into model inputs, stored with every model.

Training and serving use the same code, so that a stored model sees the inputs it was trained on. Cross-fitting of the
run-time lookup for training rows belongs to `ml.training.cross_fitting`.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays, InputRow
from mbta_assets.ml.inference.distance_curve import DistanceCurve
from mbta_assets.ml.inference.encoder import Columns, Encoder
from mbta_assets.ml.inference.run_time import LOOKUP_FEATURES, LOOKUP_FILE, MedianRunTime
from mbta_assets.ml.inference.slowdown import CURRENT_RUN_TIMES, RATIO, LearnedPace
from mbta_assets.storage.bundle import Bundle

ENCODER_FILE, SCALES_FILE, PACE_FILE = "encoder.json.xz", "scales.json", "pace.json"
RESIDUAL_BASES = ("lookup", "now")
"""Delays that a residual can be relative to (`residual_to` of a model): that which the run-time lookup predicts, or
that of an arrival right now. The former is later where the network runs slower than was learned."""
MIN_SCALE_SECONDS = 1.0
MIN_ROWS_PER_SCALE = 200
"""Distances of fewer rows have the scale of those around them."""


@dataclass(frozen=True)
class Preprocessor:
    """A fitted transformation of feature columns into `Arrays`: an encoder, a run-time lookup and residual scales."""

    encoder: Encoder
    """Features as numbers and category codes."""
    lookup: MedianRunTime
    """Median run times, fitted on the rows that a model learns from."""
    scales: DistanceCurve
    """Seconds per unit of the residual by stops ahead: the median absolute error of the lookup.

    Departures are uncertain, and have their own scale however large: with that of the next stop they would weigh ten
    times as much, and networks learned all other distances less well.
    """
    pace: LearnedPace = LearnedPace()
    """How slow the network was in the rows that a model learns from, if the model reads that."""

    @classmethod
    def fit(cls, encoder: Encoder, lookup: MedianRunTime, rows: Columns, lookup_delay: np.ndarray) -> Self:
        """Fit the scales on labelled rows.

        `lookup_delay` (n,) is the delay of each row in seconds, predicted by lookups that were not fitted on that row.
        """
        pace = LearnedPace.fit(rows) if RATIO in encoder.numeric else LearnedPace()
        slowdown = pace.compute_slowdown(rows)
        base = _compute_residual_base(rows, "lookup", lookup_delay, slowdown)
        error = np.abs(np.asarray(rows["delay_seconds"], dtype=np.float64) - base) / slowdown
        stops_ahead = np.asarray(rows["stops_ahead"], dtype=np.int64)
        scales = DistanceCurve.fit(stops_ahead, error, np.arange(len(error)), MIN_ROWS_PER_SCALE, _compute_scale)
        return cls(encoder, lookup, scales, pace)

    def transform(self, columns: Columns, residual_to: str, lookup: np.ndarray | None = None) -> Arrays:
        """Transform feature columns of n rows into model inputs.

        `residual_to` is one of `RESIDUAL_BASES`. `lookup` (n, 4) replaces the `LOOKUP_FEATURES` of the lookup;
        they are needed for rows that the lookup was fitted on. Without a column `delay_seconds` all labels are NaN.
        """
        lookup = self.lookup.compute_features(columns) if lookup is None else lookup
        delay = lookup[:, 0]
        ahead = np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
        label = columns["delay_seconds"] if "delay_seconds" in columns else np.full(len(ahead), np.nan)
        slowdown = self.pace.compute_slowdown(columns)
        encoded = self.encoder.encode_numeric(columns)
        encoded[:, self._current_run_times] /= slowdown[:, None]
        numeric = np.column_stack([encoded, lookup, delay + ahead])
        return Arrays(
            numeric=numeric.astype(np.float32),
            codes=self.encoder.encode_categories(columns),
            base=_compute_residual_base(columns, residual_to, delay, slowdown),
            scale=self.scales.evaluate(np.asarray(columns["stops_ahead"], dtype=np.int64)).astype(np.float32),
            label=np.asarray(label, dtype=np.float32),
            slowdown=slowdown.astype(np.float32),
        )

    def compute_residual_bases(self, columns: Columns, lookup_delay: np.ndarray) -> dict[str, np.ndarray]:
        """Return the delay (n,) in seconds for each of `RESIDUAL_BASES`, given the lookup's (n,)."""
        slowdown = self.pace.compute_slowdown(columns)
        return {base: _compute_residual_base(columns, base, lookup_delay, slowdown) for base in RESIDUAL_BASES}

    def transform_row(self, row: Mapping[str, Any], residual_to: str) -> InputRow:
        """Transform one row of plain Python values, whose numbers have single precision, into model inputs."""
        lookup = self.lookup.compute_row_features(row)
        delay = lookup[0]
        ahead = row["scheduled_seconds_ahead"]
        numeric, codes = self.encoder.encode_row(row)
        numeric += (*lookup, delay + ahead)
        slowdown = self.pace.compute_row_slowdown(row)
        if slowdown > 1:
            for index in self._current_run_times:
                numeric[index] /= slowdown
        base = delay + max(delay + ahead, 0.0) * (slowdown - 1) if residual_to == "lookup" else -ahead
        return InputRow(numeric, codes, base, self.scales.evaluate_one(row["stops_ahead"]), slowdown)

    def drop_columns(self, names: Collection[str]) -> Self:
        """Return a preprocessor without the features of these names."""
        return replace(self, encoder=self.encoder.drop_columns(names))

    @property
    def feature_names(self) -> list[str]:
        """Return the names of the columns of `Arrays.numeric`, then those of `Arrays.codes`."""
        return [*self.encoder.numeric, *LOOKUP_FEATURES, "lookup_seconds_ahead", *self.encoder.vocabularies]

    @cached_property
    def _current_run_times(self) -> list[int]:
        return [index for index, name in enumerate(self.encoder.numeric) if name in CURRENT_RUN_TIMES]

    def to_files(self) -> dict[str, bytes]:
        """Serialize the preprocessor as files of a bundle, by name."""
        return {
            ENCODER_FILE: self.encoder.to_bytes(),
            LOOKUP_FILE: self.lookup.to_bytes(),
            SCALES_FILE: json.dumps(self.scales.to_list()).encode(),
            PACE_FILE: json.dumps(self.pace.highest_ratios).encode(),
        }

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        """Read the preprocessor of a stored model.

        Raises BundleError if a file is missing or damaged, or if an earlier version of this package wrote it.
        """
        lookup = MedianRunTime.from_bundle(bundle)
        encoder = Encoder.from_bytes(bundle.file(ENCODER_FILE))
        scales = DistanceCurve.from_list(json.loads(bundle.file(SCALES_FILE)))
        # Models of earlier releases have none.
        pace = json.loads(bundle.file(PACE_FILE)) if PACE_FILE in bundle.manifest["files"] else None
        return cls(encoder, lookup, scales, LearnedPace.from_json(pace))


def _compute_residual_base(
    columns: Columns, residual_to: str, lookup_delay: np.ndarray, slowdown: np.ndarray
) -> np.ndarray:
    """Return the delay (n,) float32 in seconds that the residual is relative to; `residual_to` as in `transform`."""
    ahead = np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
    if residual_to == "lookup":
        return (lookup_delay + np.maximum(lookup_delay + ahead, 0.0) * (slowdown - 1)).astype(np.float32)
    return -ahead.astype(np.float32)


def _compute_scale(absolute_errors: np.ndarray) -> float:
    """Return the median of absolute errors in seconds, or `MIN_SCALE_SECONDS` if that is more."""
    return max(MIN_SCALE_SECONDS, float(np.median(absolute_errors)))
