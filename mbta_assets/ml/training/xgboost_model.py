"""The XGBoost model: hyperparameter search, training with early stopping, and a final training on more rows.

The trees that validation selects are stored too, as `xgboost_held_out`: they were not trained on the validation part,
so that validation can tell what they are worth as teachers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE, LOOKUP_FILE, Preprocessor
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.ml.training.compute import Resources
from mbta_assets.ml.training.cross_fitting import FIT_COLUMNS, CrossFittedPreprocessor, compute_residual_bases
from mbta_assets.ml.training.dataset import LEARNED_PARTS, iterate_rows, make_provenance, read_rows
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import BoostingConfig, SearchBudget
from mbta_assets.ml.training.search_spaces import SearchSpace
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows, subsample_mask
from mbta_assets.ml.training.tuning import Configuration, Report
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer
from mbta_assets.storage.bundle import Bundle, Draft, library_versions

HELD_OUT = "xgboost_held_out"
"""Name of the trees that were not trained on the validation part, in the registry."""


@dataclass(frozen=True)
class XGBoostTraining:
    """Hyperparameters of the search and of the final training."""

    space: SearchSpace
    budget: SearchBudget
    trial_boosting: BoostingConfig
    boosting: BoostingConfig
    seed: int


@dataclass(frozen=True)
class TrialData:
    """Rows and boosting rounds of the trials."""

    data: TrainingData
    boosting: BoostingConfig


@dataclass(frozen=True)
class TrainedXGBoost:
    """The selected trees before and after the final training, with the results of the search."""

    trials: list[tuning.Result]
    held_out: Any
    """Booster trained on the training part."""
    held_out_preprocessor: Preprocessor
    booster: Any
    """Booster trained on the training and validation parts."""
    preprocessor: Preprocessor
    validation_mae: float
    """Mean absolute error of `held_out` in seconds."""
    training_set: Bundle
    runtime_lookup: Bundle
    fields: dict[str, Any]
    """Manifest fields of both bundles, without their provenance."""

    @property
    def configuration(self) -> Configuration:
        """Return the selected configuration."""
        return tuning.best_result(self.trials).configuration

    @property
    def importance(self) -> dict[str, float]:
        """Return each used feature's fraction of the total gain, the largest first."""
        return xgboost_trainer.gain_importance(self.booster, self.preprocessor.feature_names)

    def held_out_draft(self) -> Draft:
        """Return the bundle of the trees trained without the validation part."""
        provenance = make_provenance(self.training_set, runtime_lookup=self.runtime_lookup)
        return _make_draft(self.held_out, self.held_out_preprocessor, {**provenance, **self.fields})

    def draft(self, held_out: Bundle) -> Draft:
        """Return the bundle of the model, whose number of boosting rounds is that of the stored `held_out_draft`."""
        inputs = {"runtime_lookup": self.runtime_lookup, HELD_OUT: held_out}
        provenance = make_provenance(self.training_set, **inputs)
        return _make_draft(self.booster, self.preprocessor, {**provenance, **self.fields})


@dataclass(frozen=True)
class _Rows:
    """A stored training set, read as far as its masks and lookup delays need; features are read in batches."""

    training_set: Bundle
    rows: pd.DataFrame
    """All rows of `LEARNED_PARTS`, with `FIT_COLUMNS`."""
    encoder: Encoder
    train: np.ndarray
    """(n,) mask of the labelled training rows."""
    validation: np.ndarray
    """(n,) mask of the labelled validation rows."""

    @classmethod
    def from_bundle(cls, training_set: Bundle) -> "_Rows":
        rows = read_rows(training_set, FIT_COLUMNS, LEARNED_PARTS)
        labelled = rows["delay_seconds"].notna().to_numpy()
        train, validation = (labelled & (rows["part"] == part).to_numpy() for part in ("train", "validation"))
        return cls(training_set, rows, Encoder.from_json(training_set.file(ENCODER_FILE)), train, validation)

    def arrays(self, fitted: CrossFittedPreprocessor, mask: np.ndarray, residual_to: str) -> Iterator[Arrays]:
        """Yield the model inputs of masked rows in blocks, as they need not fit into this process together."""
        return fitted.transform_blocks(iterate_rows(self.training_set, LEARNED_PARTS), mask, residual_to)

    def subsample(self, fitted: CrossFittedPreprocessor, mask: np.ndarray, max_rows: int, seed: int) -> TrainingRows:
        """Return at most `max_rows` of the masked rows with all residual bases, drawn by the seed."""
        subsample = subsample_mask(mask, max_rows, seed)
        arrays = Arrays.concat(self.arrays(fitted, subsample, "lookup"))
        return TrainingRows.from_arrays(
            arrays, compute_residual_bases(self.rows[subsample], fitted.lookup_delay[subsample])
        )


def train_xgboost(
    training_set: Bundle, runtime_lookup: Bundle, training: XGBoostTraining, executor: TrainingExecutor
) -> TrainedXGBoost:
    """Search for a configuration, train it with early stopping, and train it again with the validation part added.

    The test part stays unseen.
    """
    rows = _Rows.from_bundle(training_set)
    fitted = CrossFittedPreprocessor.fit(rows.encoder, rows.rows, rows.train)
    feature_names = fitted.preprocessor.feature_names
    trials = _search(rows, fitted, training, executor)
    configuration = tuning.best_result(trials).configuration
    residual_to = configuration["residual_to"]

    trainer = XGBoostTrainer(configuration, feature_names, training.boosting, training.seed)
    validation = Arrays.concat(rows.arrays(fitted, rows.validation, residual_to))
    held_out = executor.train_trees(trainer, rows.arrays(fitted, rows.train, residual_to), validation)
    mae = validation.mean_absolute_error(held_out.inplace_predict(xgboost_trainer.stack_features(validation)))

    final_rows = rows.train | rows.validation
    lookup = MedianRunTime.from_bytes(runtime_lookup.file(LOOKUP_FILE))
    final_fitted = CrossFittedPreprocessor.fit(rows.encoder, rows.rows, final_rows, lookup)
    rounds = replace(training.boosting, max_rounds=held_out.num_boosted_rounds())
    booster = executor.train_trees(
        replace(trainer, boosting=rounds), rows.arrays(final_fitted, final_rows, residual_to)
    )
    fields = {
        "residual_to": residual_to,
        "configuration": configuration,
        "features": feature_names,
        "seed": training.seed,
        "workers": executor.xgboost_workers,
        "validation": {"mae": mae, "n": len(validation)},
        "libraries": {"xgboost": _get_xgboost_version(), **library_versions("numpy")},
    }
    return TrainedXGBoost(
        trials,
        held_out,
        fitted.preprocessor,
        booster,
        final_fitted.preprocessor,
        mae,
        training_set,
        runtime_lookup,
        fields,
    )


def run_trial(configuration: Configuration, data: TrialData, report: Report, resources: Resources) -> None:
    """Train one configuration of the search and report its learning curve."""
    rows, residual_to = data.data, configuration["residual_to"]
    trainer = XGBoostTrainer(configuration, rows.feature_names, data.boosting, rows.seed, resources)
    xgboost_trainer.fit(trainer, rows.train.relative_to(residual_to), rows.validation.relative_to(residual_to), report)


def _search(
    rows: _Rows, fitted: CrossFittedPreprocessor, training: XGBoostTraining, executor: TrainingExecutor
) -> list[tuning.Result]:
    """Run the hyperparameter search on a subsample of the training and validation parts."""
    budget, seed = training.budget, training.seed
    data = TrainingData(
        rows.subsample(fitted, rows.train, budget.rows, seed),
        rows.subsample(fitted, rows.validation, budget.rows, seed),
        fitted.preprocessor.feature_names,
        seed,
    )
    return executor.search(
        run_trial,
        training.space.draw_configurations(budget.trials, seed)[: budget.trials],
        TrialData(data, training.trial_boosting),
        budget.build_halving(training.trial_boosting.steps),
    )


def _make_draft(booster: Any, preprocessor: Preprocessor, fields: dict[str, Any]) -> Draft:
    """Return the bundle of some trees."""
    files = {xgboost_trainer.WEIGHTS_FILE: bytes(booster.save_raw("ubj")), **preprocessor.to_files()}
    return Draft("xgboost", files, {**fields, "parameters": xgboost_trainer.count_leaves(booster)})


def _get_xgboost_version() -> str:
    """Return the version of the module: its distribution is called xgboost or xgboost-cpu."""
    import xgboost  # see `XGBoostTrainer.train`

    return xgboost.__version__
