"""The XGBoost model: hyperparameter search, training with early stopping, and a final training on more rows.

A residual relative to the lookup and one relative to an arrival right now are better on different days. So the best
configuration of each is trained, and the model is the mean of both if validation says so, otherwise the better one.

The trees that validation selects are stored too, as `xgboost_held_out`: they were not trained on the validation part,
so that validation can tell what they are worth as teachers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.preprocessing import RESIDUAL_BASES, Preprocessor
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.ml.training.compute import Resources
from mbta_assets.ml.training.cross_fitting import FIT_COLUMNS, CrossFittedPreprocessor, fit_once
from mbta_assets.ml.training.dataset import LEARNED_PARTS, iterate_rows, make_provenance, read_rows, walk_forward
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import ABSOLUTE, HUBER, BoostingConfig, SearchBudget
from mbta_assets.ml.training.search_spaces import SearchSpace
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows, subsample_mask
from mbta_assets.ml.training.tuning import Configuration, Report
from mbta_assets.ml.training.xgboost_trainer import MAIN_BASE, Trees, XGBoostTrainer, file_name
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
    held_out: Trees
    """Trees trained on the training part, by residual base."""
    held_out_preprocessor: Preprocessor
    trees: Trees
    """Trees trained on the training and validation parts, by residual base."""
    preprocessor: Preprocessor
    validation_mae: dict[str, float]
    """Mean absolute error in seconds of the trees of each residual base that was tried, and of their mean."""
    curves: dict[str, list[tuple[int, float]]]
    """Errors in seconds on validation rows after some numbers of boosting rounds, by residual base that was tried."""
    permutation: dict[str, float]
    """By how many seconds the error of `held_out` on validation rows grows where an input is permuted among them."""
    training_set: Bundle
    runtime_lookup: Bundle
    fields: dict[str, Any]
    """Manifest fields of both bundles, without their provenance."""

    @property
    def importance(self) -> dict[str, float]:
        """Return each used feature's fraction of the total gain, the mean over the boosters, the largest first."""
        names = self.preprocessor.feature_names
        gains = [xgboost_trainer.gain_importance(booster, names) for booster in self.trees.values()]
        mean = {name: sum(gain.get(name, 0.0) for gain in gains) / len(gains) for name in names}
        return dict(sorted(((name, gain) for name, gain in mean.items() if gain), key=lambda item: -item[1]))

    def held_out_draft(self) -> Draft:
        """Return the bundle of the trees trained without the validation part."""
        provenance = make_provenance(self.training_set, runtime_lookup=self.runtime_lookup)
        return _make_draft(self.held_out, self.held_out_preprocessor, {**provenance, **self.fields})

    def draft(self, held_out: Bundle) -> Draft:
        """Return the bundle of the model, whose numbers of boosting rounds are those of the stored `held_out_draft`."""
        inputs = {"runtime_lookup": self.runtime_lookup, HELD_OUT: held_out}
        provenance = make_provenance(self.training_set, **inputs)
        return _make_draft(self.trees, self.preprocessor, {**provenance, **self.fields})


@dataclass(frozen=True)
class LabelledRows:
    """A stored training set, read as far as its masks and lookup delays need; features are read in batches."""

    training_set: Bundle
    rows: pd.DataFrame
    """All rows of `LEARNED_PARTS`, with `FIT_COLUMNS`."""
    labelled: np.ndarray
    """(n,) mask."""
    train: np.ndarray
    """(n,) mask of the labelled training rows."""
    validation: np.ndarray
    """(n,) mask of the labelled validation rows."""

    @classmethod
    def from_bundle(cls, training_set: Bundle) -> "LabelledRows":
        rows = read_rows(training_set, FIT_COLUMNS, LEARNED_PARTS)
        labelled = rows["delay_seconds"].notna().to_numpy()
        train, validation = (labelled & (rows["part"] == part).to_numpy() for part in ("train", "validation"))
        return cls(training_set, rows, labelled, train, validation)

    def fit(self, mask: np.ndarray, runtime_lookup: Bundle | None = None) -> CrossFittedPreprocessor:
        """Fit a preprocessor on masked rows; see `cross_fitting.fit_once`."""
        return fit_once(self.training_set, self.rows, mask, runtime_lookup)

    def arrays(self, fitted: CrossFittedPreprocessor, mask: np.ndarray, residual_to: str) -> Iterator[Arrays]:
        """Yield the model inputs of masked rows in blocks, as they need not fit into this process together."""
        return fitted.transform_blocks(iterate_rows(self.training_set, LEARNED_PARTS), mask, residual_to)

    def with_bases(self, fitted: CrossFittedPreprocessor, mask: np.ndarray) -> TrainingRows:
        """Return the model inputs of masked rows with all residual bases."""
        arrays = Arrays.concat(self.arrays(fitted, mask, MAIN_BASE))
        bases = fitted.preprocessor.compute_residual_bases(self.rows[mask], fitted.lookup[mask, 0])
        return TrainingRows.from_arrays(arrays, bases)


def train_xgboost(
    training_set: Bundle, runtime_lookup: Bundle, training: XGBoostTraining, executor: TrainingExecutor
) -> TrainedXGBoost:
    """Search for configurations, train them with early stopping, and again with validation added, but not test."""
    rows = LabelledRows.from_bundle(training_set)
    fitted = rows.fit(rows.train)
    feature_names = fitted.preprocessor.feature_names
    trials = search_trees(rows, training, executor)
    trainers = {
        base: XGBoostTrainer(configuration, training.boosting, training.seed)
        for base, configuration in select_configurations(trials).items()
    }
    validation = rows.with_bases(fitted, rows.validation)
    tried = {
        base: executor.train_trees(trainer, rows.arrays(fitted, rows.train, base), validation.relative_to(base))
        for base, trainer in trainers.items()
    }
    to_main_base = validation.relative_to(MAIN_BASE)
    residuals = {
        base: xgboost_trainer.predict_residual({base: booster}, MAIN_BASE, to_main_base)
        for base, booster in tried.items()
    }
    curves = {
        base: xgboost_trainer.measure_learning_curve(booster, validation.relative_to(base), training.seed)
        for base, booster in tried.items()
    }
    selected, errors = select_bases(to_main_base, residuals)
    held_out = {base: tried[base] for base in selected}
    final_trainers = {base: _fix_rounds(trainers[base], booster) for base, booster in held_out.items()}
    trees, final_preprocessor = _train_finally(rows, runtime_lookup, final_trainers, executor)
    fields = {
        "configurations": {base: trainer.configuration for base, trainer in final_trainers.items()},
        "features": feature_names,
        "seed": training.seed,
        "workers": executor.xgboost_workers,
        "validation": {"mae": min(errors.values()), "n": len(validation), "tried": errors},
    }
    return TrainedXGBoost(
        trials,
        held_out,
        fitted.preprocessor,
        trees,
        final_preprocessor,
        errors,
        curves,
        xgboost_trainer.permutation_importance(held_out, to_main_base, feature_names, training.seed),
        training_set,
        runtime_lookup,
        fields,
    )


def _train_finally(
    rows: LabelledRows, runtime_lookup: Bundle, trainers: Mapping[str, XGBoostTrainer], executor: TrainingExecutor
) -> tuple[Trees, Preprocessor]:
    """Train trees of each residual base on the training and validation parts."""
    learned = rows.train | rows.validation
    fitted = rows.fit(learned, runtime_lookup)
    trees = {
        base: executor.train_trees(trainer, rows.arrays(fitted, learned, base)) for base, trainer in trainers.items()
    }
    return trees, fitted.preprocessor


def select_configurations(trials: Sequence[tuning.Result]) -> dict[str, Configuration]:
    """Return the configuration with the smallest error of each residual base that was tried."""
    return {
        base: tuning.best_result(of_base).configuration
        for base in RESIDUAL_BASES
        if (of_base := [trial for trial in trials if trial.configuration["residual_to"] == base])
    }


def select_bases(validation: Arrays, residuals: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the residual bases with the smallest error: one of them or all, and the error in seconds of each choice.

    `residuals` has the residuals (n,) that the trees of each base predict, all relative to the base of `validation`.
    """
    choices: dict[str, tuple[str, ...]] = {base: (base,) for base in residuals}
    if len(residuals) > 1:
        choices["mean"] = tuple(residuals)
    errors = {
        name: validation.mean_absolute_error(np.mean([residuals[base] for base in bases], axis=0))
        for name, bases in choices.items()
    }
    return choices[min(errors, key=errors.__getitem__)], errors


def run_trial(configuration: Configuration, data: TrialData, report: Report, resources: Resources) -> None:
    """Train one configuration of the search and report its learning curve."""
    rows, residual_to = data.data, configuration["residual_to"]
    trainer = XGBoostTrainer(configuration, data.boosting, rows.seed, resources)
    xgboost_trainer.fit(trainer, rows.train.relative_to(residual_to), rows.validation.relative_to(residual_to), report)


def search_trees(rows: LabelledRows, training: XGBoostTraining, executor: TrainingExecutor) -> list[tuning.Result]:
    """Run the hyperparameter search on subsamples of walk-forward folds.

    Configurations are compared with those of the same residual base: after a few rounds trees relative to now are as
    many seconds behind as the arrival is ahead, and the best of each base are trained.
    """
    budget, seed = training.budget, training.seed
    folds: list[TrialData] = []
    for part in walk_forward(rows.rows, budget.search_folds):
        masks = [rows.labelled & (part == name) for name in LEARNED_PARTS]
        of_fold = rows.fit(masks[0])
        train, validation = (rows.with_bases(of_fold, subsample_mask(mask, budget.rows, seed)) for mask in masks)
        data = TrainingData(train, validation, of_fold.preprocessor.feature_names, seed)
        folds.append(TrialData(data, training.trial_boosting))
    return executor.search(
        run_trial,
        draw_configurations(training.space, budget.trials, seed),
        folds,
        budget.build_halving(training.trial_boosting.steps, within="residual_to"),
    )


def draw_configurations(space: SearchSpace, trials: int, seed: int) -> list[Configuration]:
    """Return the configurations of a search, none of which has a Huber loss relative to now."""
    return list(map(use_absolute_loss_to_now, space.draw_configurations(trials, seed)[:trials]))


def use_absolute_loss_to_now(configuration: Configuration) -> Configuration:
    """Return a configuration of trees, with the absolute loss if it is a Huber loss relative to now.

    Residuals relative to now are as large as the time to an arrival, minutes from the median, where a Huber loss is
    flat: nearly without second derivatives, few rows there make all splits, and 200 rounds may learn less than 20.
    """
    is_flat = configuration["residual_to"] == "now" and configuration.get("objective") == HUBER
    return {**configuration, "objective": ABSOLUTE} if is_flat else configuration


def _make_draft(trees: Trees, preprocessor: Preprocessor, fields: dict[str, Any]) -> Draft:
    """Return the bundle of some trees."""
    weights = {file_name(base): bytes(booster.save_raw("ubj")) for base, booster in trees.items()}
    leaves = sum(map(xgboost_trainer.count_leaves, trees.values()))
    of_trees = {
        "residual_to": MAIN_BASE,
        "trees": {file_name(base): base for base in trees},
        "parameters": leaves,
        "libraries": {"xgboost": _get_xgboost_version(), **library_versions("numpy")},
    }
    return Draft("xgboost", {**weights, **preprocessor.to_files()}, {**fields, **of_trees})


def _fix_rounds(trainer: XGBoostTrainer, booster: Any) -> XGBoostTrainer:
    """Return a trainer of as many boosting rounds as a booster has."""
    return replace(trainer, boosting=replace(trainer.boosting, max_rounds=booster.num_boosted_rounds()))


def _get_xgboost_version() -> str:
    """Return the version of the module: its distribution is called xgboost or xgboost-cpu."""
    import xgboost  # see `XGBoostTrainer.train`

    return xgboost.__version__
