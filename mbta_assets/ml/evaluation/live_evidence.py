"""Live evidence: what a candidate predicted beside the production model, held to what came true.

Both models are compared on the same stop visits and minutes. Where predictions and arrivals are read, and what a
decision makes of them, belongs to the caller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.promotion_gate import Rule

VISIT = ["service_date", "trip_id", "vehicle_id", "stop_sequence", "event"]
"""Columns that tell stop visits apart."""


@dataclass(frozen=True)
class LiveEvidence:
    """Errors of two models on the same live predictions."""

    arrivals: int = 0
    """Number of stop visits that both models predicted and that came true."""
    predictions: int = 0
    """Number of stop visits and minutes compared."""
    days: int = 0
    candidate_mae: float = math.nan
    """Mean absolute error in seconds."""
    production_mae: float = math.nan
    standard_error: float = math.nan
    """Standard error of the difference of both, clustered by trip; infinite for a single trip."""

    @property
    def difference(self) -> float:
        """Return the MAE of the candidate minus that of the production model in seconds."""
        return self.candidate_mae - self.production_mae

    def is_worse(self, standard_errors: float) -> bool:
        """Return whether the candidate's error is larger by more than so many standard errors, or not a number."""
        return self.arrivals > 0 and not self.difference <= standard_errors * self.standard_error

    def __str__(self) -> str:
        """Return the comparison in words."""
        if not self.arrivals:
            return "no arrivals predicted live by both models"
        return (
            f"MAE {self.candidate_mae:.2f} s against {self.production_mae:.2f} s in production on "
            f"{self.predictions:,} live predictions of {self.arrivals:,} arrivals on {self.days:,} days"
        )


def compare_live(predictions: pd.DataFrame, arrivals: pd.DataFrame, candidate: str, production: str) -> LiveEvidence:
    """Compare a candidate in the shadow with the production model, given the digests of both.

    `predictions` are rows of `delay_predictions` with `service_date`, of any models and roles; `arrivals` has the
    `delay_seconds` of each stop visit (a row for each or several equal ones), NaN where it is unknown. Of several
    predictions of a model for a visit in one minute the latest counts.
    """
    sides = [
        _select_latest(predictions, role, version)
        for role, version in (("shadow", candidate), ("production", production))
    ]
    outcomes = arrivals[[*VISIT, "delay_seconds"]].dropna(subset=["delay_seconds"]).drop_duplicates(VISIT)
    pairs = sides[0].merge(sides[1], on=[*VISIT, "minute"], suffixes=("_shadow", "_production"))
    pairs = pairs.merge(outcomes, on=VISIT)
    if pairs.empty:
        return LiveEvidence()
    label = pairs["delay_seconds"].to_numpy(np.float64)
    errors = [
        np.abs(pairs[f"predicted_delay_seconds_{role}"].to_numpy(np.float64) - label)
        for role in ("shadow", "production")
    ]
    return LiveEvidence(
        arrivals=len(pairs[VISIT].drop_duplicates()),
        predictions=len(pairs),
        days=pairs["service_date"].nunique(),
        candidate_mae=float(errors[0].mean()),
        production_mae=float(errors[1].mean()),
        standard_error=_compute_standard_error(
            errors[0] - errors[1], pairs.groupby(["service_date", "trip_id"], dropna=False).ngroup().to_numpy()
        ),
    )


def require_live_evidence(evidence: LiveEvidence, min_arrivals: int, standard_errors: float) -> Rule:
    """Require enough arrivals predicted live, and on them no larger error than production's beyond the noise."""
    if evidence.arrivals < min_arrivals:
        progress = f"{evidence.arrivals:,} of {min_arrivals:,} arrivals"
        return Rule(False, f"Waits for live evidence ({progress}).", waits=True)
    noise = f"the noise is {standard_errors * evidence.standard_error:.2f} s"
    outcome = "Worse live" if evidence.is_worse(standard_errors) else "Not worse live"
    return Rule(not evidence.is_worse(standard_errors), f"{outcome}: {evidence}; {noise}.")


def _select_latest(predictions: pd.DataFrame, role: str, version: str) -> pd.DataFrame:
    """Return the latest prediction of a model in a role for each stop visit and minute."""
    rows = predictions[(predictions["role"] == role) & (predictions["model_version"] == version)]
    rows = rows.sort_values("published_at", kind="stable").assign(minute=rows["published_at"].dt.floor("min"))
    return rows.drop_duplicates([*VISIT, "minute"], keep="last")[[*VISIT, "minute", "predicted_delay_seconds"]]


def _compute_standard_error(values: np.ndarray, clusters: Sequence[int] | np.ndarray) -> float:
    """Return the standard error of the mean of values (n,) that are independent between clusters (n,) only."""
    sums = np.bincount(clusters, weights=values - values.mean())
    n = len(sums)
    return float(np.sqrt((sums**2).sum() * n / (n - 1)) / len(values)) if n > 1 else math.inf
