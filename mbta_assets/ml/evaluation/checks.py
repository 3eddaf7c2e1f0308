"""Rules that the table `prediction_accuracy` and the stored models should satisfy.

Each rule returns a sentence that says what is out of bounds, or None. How rules become Dagster asset checks is decided
in `mbta_assets.defs`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.accuracy import PUBLISHED, SHADOW_PREFIX
from mbta_assets.ml.evaluation.accuracy_bounds import BOUNDS, AccuracyBounds
from mbta_assets.ml.evaluation.drift import SHARED_FEATURES
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE
from mbta_assets.transit import schema
from mbta_assets.transit.checks import Problem

MIN_PREDICTIONS = 200
"""Measures of fewer predictions are too noisy to warn about."""
MAX_DRIFT = {"feature_drift": 0.35, "unknown_share": 0.01, "error_drift": 1.5}
"""Bounds by measure. In the simulator a Sunday reaches 0.23, a day on which everything is 5 minutes later 0.47."""
MIN_ETA_BENCHMARK = 0.80
"""Bound of the benchmark's score: what the MBTA's own predictions reached in a week of June 2026."""


def predictions_unique(rows: pd.DataFrame) -> Problem:
    """Require every prediction to have a key of its own: that of the features' row, model, role and time."""
    key = [*schema.ROW_KEY, "model_version", "role", "published_at"]
    repeated = int(rows.duplicated(key).sum())
    return f"{repeated} rows repeat the key of another ({', '.join(key)})" if repeated else None


def drift_within_bounds(rows: pd.DataFrame) -> Problem:
    """Require features, categories and errors to stay near those of the days that the model was trained on."""
    rows = _select_models(rows)
    if rows["model_version"].notna().any() and "feature_drift" not in set(rows["measure"]):
        return "drift was not measured: the training set of the model is no longer stored"
    bounded = rows.assign(bound=rows["measure"].map(MAX_DRIFT).astype(float))
    judged = (rows["n"] >= MIN_PREDICTIONS) & ~rows["member"].isin(SHARED_FEATURES)
    return _describe_crossed(bounded[judged & (bounded["value"] > bounded["bound"])], "over")


def accuracy_within_bounds(rows: pd.DataFrame, bounds: AccuracyBounds = BOUNDS) -> Problem:
    """Require predictions of each route and mode to be as accurate as the agency has published that its own are."""
    rows = _select_models(rows)
    min_values = {("within_mbta_window", *member): share for member, share in bounds.shares.items()}
    min_values["eta_benchmark", "all", "all"] = MIN_ETA_BENCHMARK
    keys = zip(rows["measure"], rows["dimension"], rows["member"], strict=True)
    bounded = rows.assign(bound=[min_values.get(key, np.nan) for key in keys])
    judged = rows["n"] >= MIN_PREDICTIONS
    return _describe_crossed(bounded[judged & (bounded["value"] < bounded["bound"])], "under")


def models_losing_to_lookup(leaderboard: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the MAE in seconds of each leaderboard row that does not beat the run-time lookup, by model."""
    return {row["model"]: row["mae"] for row in leaderboard if not row["beats_runtime_lookup"]}


def _select_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of models in production, without those of the agency."""
    version = rows["model_version"]
    return rows[~version.isin([AGENCY_BASELINE, PUBLISHED]) & ~version.str.startswith(SHADOW_PREFIX, na=False)]


def _describe_crossed(rows: pd.DataFrame, side: str) -> Problem:
    """Describe rows whose value is on the wrong side of its bound, the farthest first; None without rows."""
    distances = rows.assign(distance=(rows["value"] - rows["bound"]).abs()).sort_values("distance", ascending=False)
    columns = ["measure", "member", "value", "bound", "distance"]
    sentences = [
        f"{measure} of {member} is {value:.2f}, {side} {bound:.2f} by {distance:.2f}"
        for measure, member, value, bound, distance in distances[columns].to_numpy()
    ]
    return "; ".join(sentences) or None
