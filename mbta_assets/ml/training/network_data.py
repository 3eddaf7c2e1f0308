"""The rows that networks are trained on, the predictions of teachers on them, and the bundle that networks end in."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.preprocessing import Preprocessor
from mbta_assets.ml.training.cross_fitting import FIT_COLUMNS, fit_once, prepare_training_data, select_learned
from mbta_assets.ml.training.dataset import LEARNED_PARTS, iterate_rows, make_provenance, read_rows, walk_forward
from mbta_assets.ml.training.network import count_parameters
from mbta_assets.ml.training.network_trainer import Fitted
from mbta_assets.ml.training.network_weights import to_files
from mbta_assets.ml.training.synthetic_rows import SyntheticRows, add_synthetic_rows
from mbta_assets.ml.training.training_data import TrainingData
from mbta_assets.ml.training.tuning import Configuration
from mbta_assets.storage.bundle import Bundle, Draft, library_versions

RESIDUAL_TO = "lookup"
"""Residual base of all networks."""


@dataclass(frozen=True)
class NetworkData:
    """Rows of a training set as model inputs, with what the bundle of a network needs."""

    training_set: Bundle
    runtime_lookup: Bundle
    preprocessor: Preprocessor
    data: TrainingData
    validation_places: np.ndarray
    """(v,) places of the validation rows among the rows of `LEARNED_PARTS`."""
    synthetic_rows: int = 0
    """Number of training rows, the last ones, that are mixed from others."""

    @classmethod
    def from_bundles(cls, training_set: Bundle, runtime_lookup: Bundle, seed: int) -> Self:
        """Read the training and validation parts of a stored training set, in batches."""
        return next(cls.iterate_folds(training_set, runtime_lookup, seed, 1))

    @classmethod
    def iterate_folds(cls, training_set: Bundle, runtime_lookup: Bundle, seed: int, max_folds: int) -> Iterator[Self]:
        """Read the walk-forward folds of a stored training set one at a time; see `dataset.walk_forward`."""
        rows = read_rows(training_set, FIT_COLUMNS, LEARNED_PARTS)
        for part in walk_forward(rows, max_folds):
            yield cls._prepare(training_set, runtime_lookup, rows.assign(part=part), seed)

    @classmethod
    def of_learned_parts(cls, training_set: Bundle, runtime_lookup: Bundle, seed: int) -> Self:
        """Read the training and validation parts as training rows, with the stored lookup and no validation rows."""
        rows = read_rows(training_set, FIT_COLUMNS, LEARNED_PARTS).assign(part="train")
        return cls._prepare(training_set, runtime_lookup, rows, seed, has_lookup=True)

    @classmethod
    def _prepare(
        cls, training_set: Bundle, runtime_lookup: Bundle, rows: pd.DataFrame, seed: int, has_lookup: bool = False
    ) -> Self:
        """Transform the rows of `LEARNED_PARTS`, whose `FIT_COLUMNS` are given with the parts that they take.

        `has_lookup` says whether the stored lookup was fitted on the same rows.
        """
        fitted = fit_once(training_set, rows, select_learned(rows), runtime_lookup if has_lookup else None)
        parts = rows[["part", "delay_seconds"]]
        del rows  # the frames have what else is needed
        data = prepare_training_data(fitted, parts, iterate_rows(training_set, LEARNED_PARTS), seed)
        return cls(training_set, runtime_lookup, fitted.preprocessor, *data)

    def drop_columns(self, names: Collection[str]) -> Self:
        """Drop the columns with these names."""
        return replace(self, preprocessor=self.preprocessor.drop_columns(names), data=self.data.drop_columns(names))

    def select_columns_of(self, model: Bundle) -> Self:
        """Drop the columns that a stored model does not read."""
        return self.drop_columns(set(self.preprocessor.feature_names) - set(model.manifest["features"]))

    def drop_training_rows(self) -> Self:
        """Drop the training rows, which take most of the memory."""
        return replace(self, data=replace(self.data, train=self.data.train.take(np.arange(0))))

    def with_synthetic_rows(self, config: SyntheticRows) -> Self:
        """Add rows without a label where the training rows are few; see `add_synthetic_rows`."""
        data = add_synthetic_rows(self.data, config)
        return replace(self, data=data, synthetic_rows=len(data.train) - len(self.data.train))

    @property
    def train(self) -> Arrays:
        """Return the training rows; those without a label come last."""
        return self.data.train.relative_to(RESIDUAL_TO)

    @property
    def validation(self) -> Arrays:
        """Return the validation rows, all of which have a label; none where the validation part is learned from too."""
        return self.data.validation.relative_to(RESIDUAL_TO)

    def make_provenance(self, teachers: Mapping[str, Bundle]) -> dict[str, Any]:
        """Return the manifest fields of a network that say what it was made from. Raises MixedVersions."""
        return make_provenance(self.training_set, runtime_lookup=self.runtime_lookup, **teachers)

    def describe(self, fitted: Fitted) -> dict[str, Any]:
        """Return the error and sizes of a trained network."""
        return {
            "validation_mae_seconds": fitted.validation_error,
            "epochs": fitted.best_epoch,
            **count_parameters(fitted.network),
            "layers": str(fitted.network.architecture()["layers"]),
        }

    def draft(
        self,
        fitted: Fitted,
        configuration: Configuration,
        workers: int,
        teachers: Mapping[str, Bundle] | None = None,
        **fields: Any,
    ) -> Draft:
        """Return the bundle of a trained network, with further manifest fields.

        `teachers` are the models that it was made from, by asset.
        """
        validation = {"validation": {"mae": fitted.validation_error, "n": fitted.validation_rows}}
        return Draft(
            "network",
            {**to_files(fitted.network), **self.preprocessor.to_files()},
            {
                **self.make_provenance(teachers or {}),
                "residual_to": RESIDUAL_TO,
                "configuration": configuration,
                "features": self.preprocessor.feature_names,
                "layers": fitted.network.architecture()["layers"],
                **count_parameters(fitted.network),
                "seed": self.data.seed,
                "workers": workers,
                "epochs": fitted.best_epoch,
                **(validation if fitted.validation_rows else {}),
                "libraries": library_versions("numpy", "torch"),
                **fields,
            },
        )
