"""Gradient-boosted trees: the search space, one trial, the final fit, and the bundle they end in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays, Parts
from mbta_assets.ml.training.tuning import Configuration, Report

WEIGHTS = "model.ubj"
ROUNDS_PER_STEP = 20
PATIENCE_ROUNDS = 60
UNSTEADY = frozenset({
    "month", "day_of_week", "day_of_year", "season", "sin_time", "cos_time", "last_delay_seconds",
    "leader_delay_seconds", "route_delay_seconds", "route_change_seconds", "stop_id", "current_stop_id",
    "lookup_delay_seconds",
})  # fmt: skip
"""Inputs that say when and where rather than how the trip goes: on few days, trees learn them by heart."""
ABSOLUTE, HUBER = "reg:absoluteerror", "reg:pseudohubererror"
STEADY: Configuration = {
    "residual_to": "lookup", "inputs": "steady", "objective": ABSOLUTE, "eta": 0.05, "max_depth": 10,
    "min_child_weight": 1.0, "subsample": 0.7, "colsample_bynode": 0.4, "reg_lambda": 1.0, "reg_alpha": 0.0,
    "gamma": 0.0,
}  # fmt: skip
EVERYTHING: Configuration = {
    **STEADY, "inputs": "all", "objective": HUBER, "eta": 0.1, "max_depth": 8, "min_child_weight": 20.0,
    "subsample": 0.8, "colsample_bynode": 0.7,
}  # fmt: skip


@dataclass(frozen=True)
class Space:
    """What the search draws from, each range (low, high); log-uniform where marked."""

    max_depth: tuple[int, int] = (4, 11)
    min_child_weight: tuple[float, float] = (1.0, 60.0)  # log
    subsample: tuple[float, float] = (0.5, 1.0)
    colsample_bynode: tuple[float, float] = (0.3, 1.0)
    eta: tuple[float, float] = (0.05, 0.2)  # log
    reg_lambda: tuple[float, float] = (0.1, 30.0)  # log
    reg_alpha: tuple[float, float] = (0.01, 10.0)  # log
    gamma: tuple[float, float] = (0.0, 1.0)

    def configurations(self, n: int, seed: int) -> list[Configuration]:
        """The first `n` configurations of a seeded search: three that have served well, then random ones."""
        random = np.random.default_rng(seed)

        def log(bounds: tuple[float, float]) -> float:
            return float(np.exp(random.uniform(*np.log(bounds))))

        drawn: list[Configuration] = [
            {
                "residual_to": str(random.choice(["lookup", "now"], p=[0.8, 0.2])),
                "inputs": str(random.choice(["all", "steady"])),
                "objective": str(random.choice([HUBER, ABSOLUTE])),
                "eta": log(self.eta),
                "max_depth": int(random.integers(self.max_depth[0], self.max_depth[1] + 1)),
                "min_child_weight": log(self.min_child_weight),
                "subsample": float(random.uniform(*self.subsample)),
                "colsample_bynode": float(random.uniform(*self.colsample_bynode)),
                "reg_lambda": log(self.reg_lambda),
                "reg_alpha": log(self.reg_alpha),
                "gamma": float(random.uniform(*self.gamma)),
            }
            for _ in range(n)
        ]
        return [EVERYTHING, STEADY, {**EVERYTHING, "residual_to": "now", "objective": ABSOLUTE}, *drawn][:n]


@dataclass(frozen=True)
class Growth:
    """How trees are grown, whoever holds the rows."""

    configuration: Configuration
    names: list[str]
    """Of the inputs: those of `numeric`, then those of `codes`."""
    rounds: int
    """At most so many; all of them where there is no validation part."""
    seed: int
    threads: int = 1

    def columns(self, rows: Arrays) -> np.ndarray:
        """What the trees learn from; inputs the configuration leaves out are missing, so no tree uses them."""
        columns = inputs(rows)
        if self.configuration["inputs"] == "steady":
            columns[:, [index for index, name in enumerate(self.names) if name in UNSTEADY]] = np.nan
        return columns

    def grow(self, matrix: Any, validation: Arrays | None, center: float, report: Report | None = None) -> Any:
        """The booster of a matrix of XGBoost's, stopped early by the mean absolute error on `validation`, if any.

        `center` is the median target: a Huber loss is flat far from its minimum. Calls `report` every
        `ROUNDS_PER_STEP` rounds with the smallest error so far. Returns the booster up to its best round.
        """
        import xgboost

        class Watch(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                if report is not None and (epoch + 1) % ROUNDS_PER_STEP == 0:
                    report(min(evals_log["validation"]["mae"]))
                return False

        settings = {
            **{name: value for name, value in self.configuration.items() if name not in ("residual_to", "inputs")},
            "tree_method": "hist",
            "eval_metric": "mae",
            "base_score": center,
            "seed": self.seed,
            "nthread": self.threads,
        }
        if validation is None:
            return xgboost.train(settings, matrix, num_boost_round=self.rounds)
        held_out = xgboost.QuantileDMatrix(inputs(validation), validation.target, ref=matrix, nthread=self.threads)
        return xgboost.train(
            settings,
            matrix,
            num_boost_round=self.rounds,
            evals=[(held_out, "validation")],
            callbacks=[Watch(), xgboost.callback.EarlyStopping(rounds=PATIENCE_ROUNDS, save_best=True)],
            verbose_eval=False,
        )


def fit(growth: Growth, train: Arrays, validation: Arrays | None = None, report: Report | None = None) -> Any:
    """Grow trees in this process; see `Growth.grow`.

    Errors are in units of the rows' scale, so that near destinations count as much as far ones.
    """
    import xgboost

    matrix = xgboost.QuantileDMatrix(growth.columns(train), train.target, nthread=growth.threads)
    return growth.grow(matrix, validation, float(np.median(train.target)), report)


def trial(configuration: Configuration, data: tuple[Parts, int], report: Report) -> None:
    """One trial of the search on its parts, for at most so many rounds, on one core."""
    parts, rounds = data
    to = configuration["residual_to"]
    fit(Growth(configuration, parts.names, rounds, parts.seed, 1), parts.train[to], parts.validation[to], report)


def inputs(arrays: Arrays) -> np.ndarray:
    """What the trees see: numbers, then codes, (n, d + c) float32."""
    return np.hstack([arrays.numeric, arrays.codes.astype(np.float32)])


def open_weights(weights: bytes) -> Callable[[Arrays], np.ndarray]:
    """What predicts residuals (n,) in units of the scale from model inputs of n rows, for stored trees."""
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(weights))
    return lambda arrays: booster.inplace_predict(inputs(arrays))


def importance(booster: Any, names: Sequence[str]) -> dict[str, float]:
    """Share of the total gain of each input that any tree uses, the largest first."""
    gains = booster.get_score(importance_type="total_gain")
    total = sum(gains.values())
    shares = {names[int(key[1:])]: gain / total for key, gain in gains.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def leaf_count(booster: Any) -> int:
    """How many leaves the trees have: their parameters, beside the splits that lead there."""
    return sum(tree.count("leaf=") for tree in booster.get_dump())
