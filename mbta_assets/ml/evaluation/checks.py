"""Rules that the table `prediction_accuracy` and the stored models should satisfy.

Each rule returns an `Outcome`: a sentence that says what is out of bounds, if anything is, and the numbers that it has
judged by. How rules become Dagster asset checks is decided in `mbta_assets.defs`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.accuracy import PUBLISHED, SHADOW_PREFIX
from mbta_assets.ml.evaluation.accuracy_bounds import BOUNDS, AccuracyBounds
from mbta_assets.ml.evaluation.drift import SHARED_FEATURES
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE
from mbta_assets.transit import schema
from mbta_assets.transit.checks import Outcome

MIN_PREDICTIONS = 200
"""Measures of fewer predictions are too noisy to warn about."""
MAX_DRIFT = {"feature_drift": 0.35, "unknown_share": 0.01, "error_drift": 1.5}
"""Bounds by measure. In the simulator a Sunday reaches 0.23, a day on which everything is 5 minutes later 0.47."""
MIN_ETA_BENCHMARK = 0.80
"""Bound of the benchmark's score: what the MBTA's own predictions reached in a week of June 2026."""


def predictions_unique(rows: pd.DataFrame) -> Outcome:
    """Require every prediction to have a key of its own: that of the features' row, model, role and time."""
    key = [*schema.ROW_KEY, "model_version", "role", "published_at"]
    repeated = int(rows.duplicated(key).sum())
    problem = f"{repeated} rows repeat the key of another ({', '.join(key)})" if repeated else None
    return Outcome(problem, {"rows": len(rows), "repeated_keys": repeated})


def drift_within_bounds(rows: pd.DataFrame) -> Outcome:
    """Require features, categories and errors to stay near those of the days that the model was trained on."""
    rows = _select_models(rows)
    if rows["model_version"].notna().any() and "feature_drift" not in set(rows["measure"]):
        return Outcome("drift was not measured: the training set of the model is no longer stored")
    bounded = rows.assign(bound=rows["measure"].map(MAX_DRIFT).astype(float))
    bounded = bounded[~rows["member"].isin(SHARED_FEATURES)]
    return _judge(bounded, bounded["bound"] - bounded["value"], _describe_drift)


def accuracy_within_bounds(rows: pd.DataFrame, bounds: AccuracyBounds = BOUNDS) -> Outcome:
    """Require predictions of each route and mode to be as accurate as the agency has published that its own are."""
    rows = _select_models(rows)
    min_values = {("within_mbta_window", *member): share for member, share in bounds.shares.items()}
    min_values["eta_benchmark", "all", "all"] = MIN_ETA_BENCHMARK
    keys = zip(rows["measure"], rows["dimension"], rows["member"], strict=True)
    bounded = rows.assign(bound=[min_values.get(key, np.nan) for key in keys])
    return _judge(bounded, bounded["value"] - bounded["bound"], _describe_accuracy)


def models_losing_to_lookup(leaderboard: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the MAE in seconds of each leaderboard row that does not beat the run-time lookup, by model."""
    return {row["model"]: row["mae"] for row in leaderboard if not row["beats_runtime_lookup"]}


def _select_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of models in production, without those of the agency."""
    version = rows["model_version"]
    return rows[~version.isin([AGENCY_BASELINE, PUBLISHED]) & ~version.str.startswith(SHADOW_PREFIX, na=False)]


def _judge(rows: pd.DataFrame, margin: pd.Series, describe: Callable[[Any], str]) -> Outcome:
    """Judge rows of enough predictions by the margin (n,) to their bound, which is negative where they cross it.

    The one that is farthest on the wrong side is described first.
    """
    is_judged = (rows["n"] >= MIN_PREDICTIONS) & margin.notna()
    ordered = rows.assign(margin=margin)[is_judged].sort_values("margin", kind="stable")
    sentences = [describe(row) for row in ordered.itertuples()]
    crossed = int((ordered["margin"] < 0).sum())
    nearest = {"nearest_to_its_bound": sentences[0]} if sentences else {}
    return Outcome(
        "; ".join(sentences[:crossed]) or None,
        {"values_judged": len(sentences), "values_out_of_bounds": crossed, **nearest},
    )


def _describe_drift(row: Any) -> str:
    """Describe a row of drift beside its bound."""
    return f"{row.measure} of {row.member} is {row.value:.2f}; the maximum is {row.bound:.2f}"


def _describe_accuracy(row: Any) -> str:
    """Describe a row of accuracy beside its bound."""
    if row.measure == "eta_benchmark":
        return f"the ETA benchmark score is {row.value:.3f}; the minimum is {row.bound:.3f}"
    horizon, who = row.member.split(", ", 1)
    return (
        f"{row.value:.1%} of the predictions for {who}, {horizon} ahead, were accurate; of the agency's own "
        f"{row.bound:.1%} are"
    )
