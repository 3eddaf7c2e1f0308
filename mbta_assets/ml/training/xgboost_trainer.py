"""The training of gradient-boosted trees with XGBoost, in one process or on the shard of a data-parallel worker.

The asset's search and bundle belong to `xgboost_model`, stored trees are opened by `model_loading`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.encoder import UNKNOWN_CODE
from mbta_assets.ml.inference.run_time import OutdatedModel
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.hyperparameters import HUBER, BoostingConfig
from mbta_assets.ml.training.tuning import Configuration, Report
from mbta_assets.progress.lines import ProgressLog
from mbta_assets.storage.bundle import Bundle
from mbta_assets.transit import schema

MAIN_BASE = "lookup"
"""Residual base that the predictions of stored trees are relative to."""
Trees: TypeAlias = Mapping[str, Any]
"""Boosters by the residual base that each was trained with; their mean is what they predict."""
CATEGORIES = schema.columns_with_role(schema.TransitFeatures, "category")
STOP_CODES = [CATEGORIES.index(name) for name in ("stop_id", "current_stop_id")]
"""Columns of `Arrays.codes` with stops."""
NOT_FOR_XGBOOST = ("residual_to", "unit")
"""Keys of a configuration that are no parameters of XGBoost."""
SAMPLED_ROWS = 3_000
"""Number of rows that the importance of inputs and learning curves are measured on."""
CURVE_STEPS = 12
"""Number of points of a learning curve."""
SCALE, SECONDS = "scale", "seconds"
"""Values of `unit` in a configuration, and of the attribute of a booster: what its targets and predictions are in."""
HUBER_SECONDS = 120.0
"""Error in seconds up to which a Huber loss is about quadratic, unless a configuration sets `huber_slope`; in units of
the scale it is 1."""
MAX_HUBER_STEP_ON_GPU = 12.0
"""Maximum value of a leaf before the learning rate, as a multiple of `huber_slope`, for a Huber loss on a GPU.

Far from its minimum a Huber loss has nearly no second derivative, so that few rows there make splits of enormous gain.
On a GPU, unlike on the CPU, XGBoost looks at `min_child_weight` only after it has taken the best split of each 32 bins
of a feature, and drops all 32 if that one has too little weight. Where leaves are bounded, so is the gain.
"""


@dataclass(frozen=True)
class XGBoostTrainer:
    """Trains trees with one configuration."""

    configuration: Configuration
    """Parameters of XGBoost, `residual_to` (the residual base) and `unit` (of the target: `SCALE` or `SECONDS`)."""
    boosting: BoostingConfig
    """Rounds and early stopping; without validation rows, exactly `max_rounds` rounds are trained."""
    seed: int
    resources: Resources = ONE_CORE

    @property
    def unit(self) -> str:
        """Return the unit of targets and predictions."""
        return self.configuration.get("unit", SCALE)

    def target(self, rows: Arrays) -> np.ndarray:
        """Return the training targets (n,) float32: residuals in the unit of the configuration."""
        return (rows.label - rows.base) / rows.slowdown if self.unit == SECONDS else rows.target

    def train(self, matrix: Any, validation: Arrays | None, base_score: float, report: Report | None = None) -> Any:
        """Train on an XGBoost matrix and return the booster, cut after its best round.

        Early stopping is by the mean absolute error on `validation`, if given, in the unit of the loss: in seconds the
        noise of far stops ends a loss in units of the scale too early. `base_score` is the median target: a Huber loss
        is flat far from its minimum. `report` gets the smallest error so far in seconds, for which XGBoost weights the
        errors by the scale, after every `boosting.rounds_per_step` rounds.
        """
        import xgboost  # takes most of a second to import; the code location imports this module and must load fast

        boosting, progress = self.boosting, ProgressLog("trees", "boosting rounds")

        class ReportSteps(xgboost.callback.TrainingCallback):
            """Reports the steps of the learning curve, and the progress."""

            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                progress.update(epoch + 1, boosting.max_rounds)
                if report is not None and (epoch + 1) % boosting.rounds_per_step == 0:
                    report(mean_unit * min(evals_log["seconds"]["mae"]))
                return False

        parameters = self._make_parameters(base_score)
        if validation is None:
            booster = xgboost.train(parameters, matrix, num_boost_round=boosting.max_rounds, callbacks=[ReportSteps()])
        else:
            features, target = stack_features(validation), self.target(validation)
            unit = validation.slowdown if self.unit == SECONDS else validation.unit
            mean_unit = float(unit.mean(dtype=np.float64))
            weights = {"seconds": unit, "validation": None} if report else {"validation": None}
            # Each round predicts these rows: from a matrix of quantiles that takes several times as long.
            evals = [
                (xgboost.DMatrix(features, target, weight=weight, nthread=self.resources.threads), name)
                for name, weight in weights.items()
            ]
            early_stopping = xgboost.callback.EarlyStopping(
                rounds=boosting.patience_rounds, data_name="validation", save_best=True
            )
            booster = xgboost.train(
                parameters,
                matrix,
                num_boost_round=boosting.max_rounds,
                evals=evals,
                callbacks=[ReportSteps(), early_stopping],
                verbose_eval=False,
            )
        progress.end(booster.num_boosted_rounds())
        booster.set_attr(unit=self.unit)
        if "device" in parameters:
            booster.set_param({"device": "cpu"})  # predictions are made on arrays in main memory
        return booster

    def _make_parameters(self, base_score: float) -> dict[str, Any]:
        """Return the parameters of XGBoost."""
        parameters = {
            **{name: value for name, value in self.configuration.items() if name not in NOT_FOR_XGBOOST},
            "tree_method": "hist",
            "eval_metric": "mae",
            "base_score": base_score,
            "seed": self.seed,
            "nthread": self.resources.threads,
        }
        if parameters.get("objective") == HUBER:
            slope = parameters.setdefault("huber_slope", HUBER_SECONDS if self.unit == SECONDS else 1.0)
            if self.resources.device == "cuda":
                parameters.setdefault("max_delta_step", MAX_HUBER_STEP_ON_GPU * slope)
        if self.resources.device == "cuda":
            parameters["device"] = "cuda"
        return parameters


def fit(trainer: XGBoostTrainer, train: Arrays, validation: Arrays | None = None, report: Report | None = None) -> Any:
    """Train trees in this process on labelled rows and return the booster; see `XGBoostTrainer.train`."""
    import xgboost  # see `XGBoostTrainer.train`

    target = trainer.target(train)
    matrix = xgboost.QuantileDMatrix(stack_features(train), target, nthread=trainer.resources.threads)
    return trainer.train(matrix, validation, float(np.median(target)), report)


def stack_features(rows: Arrays) -> np.ndarray:
    """Return the features of trees (n, d + c) float32: numeric columns, then category codes."""
    return np.hstack([rows.numeric, rows.codes.astype(np.float32)])


def file_name(base: str) -> str:
    """Return the name of the file of a bundle with the booster of a residual base."""
    return f"trees_{base}.ubj"


def predict_residual(trees: Trees, residual_to: str, rows: Arrays) -> np.ndarray:
    """Return the mean residual (n,) that boosters predict, in units of the scale, relative to a residual base.

    The bases differ by the time that the lookup predicts to the event, the last numeric input. Boosters relative to now
    have learned that time by place: where a stop is unknown, the others predict, or the lookup if there are none.
    """
    features = stack_features(rows)
    ahead = rows.numeric[:, -1] / rows.scale  # both without the slowdown
    shift = {("lookup", "now"): ahead, ("now", "lookup"): -ahead}

    def predict(base: str, booster: Any) -> np.ndarray:
        residual = booster.inplace_predict(features)
        in_scale = residual / rows.scale if booster.attr("unit") == SECONDS else residual
        return in_scale + shift.get((base, residual_to), 0.0)

    residuals = {base: predict(base, booster) for base, booster in trees.items()}
    mean = np.mean(list(residuals.values()), axis=0)
    if "now" not in trees:
        return mean
    at_unknown_stop = (rows.codes[:, STOP_CODES] == UNKNOWN_CODE).any(axis=1)
    return np.where(at_unknown_stop, residuals.get("lookup", shift.get(("lookup", residual_to), 0.0)), mean)


def load_trees(bundle: Bundle, residual_to: str) -> Callable[[Arrays], np.ndarray]:
    """Return a function that predicts residuals (n,) with stored trees, relative to a residual base.

    Raises OutdatedModel if an earlier version of this package stored them.
    """
    import xgboost  # see `XGBoostTrainer.train`

    if "trees" not in bundle.manifest:
        raise OutdatedModel(
            "The trees were made by an earlier version of mbta_assets. Make them again: materialize xgboost_model."
        )
    trees = {
        base: xgboost.Booster(model_file=bytearray(bundle.file(name)))
        for name, base in bundle.manifest["trees"].items()
    }
    return lambda rows: predict_residual(trees, residual_to, rows)


def gain_importance(booster: Any, feature_names: Sequence[str]) -> dict[str, float]:
    """Return each used feature's fraction of the total gain, the largest first."""
    gains = booster.get_score(importance_type="total_gain")
    total = sum(gains.values())
    fractions = {feature_names[int(key[1:])]: gain / total for key, gain in gains.items()}
    return dict(sorted(fractions.items(), key=lambda item: -item[1]))


def permutation_importance(trees: Trees, rows: Arrays, feature_names: Sequence[str], seed: int) -> dict[str, float]:
    """Return by how many seconds the error of trees grows where an input is permuted, the largest first.

    `rows` are labelled ones relative to `MAIN_BASE`, of which a sample is taken. Inputs without any gain are left out.
    """
    random, sample = np.random.default_rng(seed), _sample(rows, seed)
    error = sample.mean_absolute_error(predict_residual(trees, MAIN_BASE, sample))
    used = {name for booster in trees.values() for name in gain_importance(booster, feature_names)}
    growth, n_numeric = {}, sample.numeric.shape[1]
    for index, name in enumerate(feature_names):
        if name in used:
            numeric, codes, order = sample.numeric.copy(), sample.codes.copy(), random.permutation(len(sample))
            values = numeric[:, index] if index < n_numeric else codes[:, index - n_numeric]
            values[:] = values[order]
            permuted = replace(sample, numeric=numeric, codes=codes)
            growth[name] = permuted.mean_absolute_error(predict_residual(trees, MAIN_BASE, permuted)) - error
    return dict(sorted(growth.items(), key=lambda item: -item[1]))


def measure_learning_curve(booster: Any, rows: Arrays, seed: int) -> list[tuple[int, float]]:
    """Return the mean absolute error in seconds after some numbers of boosting rounds, the last one all of them.

    `rows` are labelled ones relative to the residual base of the booster, of which a sample is taken.
    """
    sample, total = _sample(rows, seed), booster.num_boosted_rounds()
    features = stack_features(sample)
    unit = sample.scale if booster.attr("unit") == SECONDS else 1.0
    steps = np.unique(np.linspace(1, total, CURVE_STEPS).astype(int)).tolist()
    return [
        (step, sample.mean_absolute_error(booster.inplace_predict(features, iteration_range=(0, step)) / unit))
        for step in steps
    ]


def _sample(rows: Arrays, seed: int) -> Arrays:
    """Return at most `SAMPLED_ROWS`, drawn by the seed."""
    return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[:SAMPLED_ROWS]))


def count_leaves(booster: Any) -> int:
    """Return the number of leaves of all trees, which stands for their number of parameters."""
    return sum(tree.count("leaf=") for tree in booster.get_dump())
