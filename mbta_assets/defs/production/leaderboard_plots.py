"""The plots of the leaderboard, and those that each model gets beside its own: what they show is in its rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.defs.metadata import plot_metadata
from mbta_assets.ml.evaluation.grouping import CHANGE_BINS
from mbta_assets.ml.evaluation.metrics import LeaderboardRow
from mbta_assets.plots.models import (
    draw_calibration,
    draw_error_against_size,
    draw_errors,
    draw_errors_by_route,
    draw_residuals,
)

SERVED, RIVAL = "quantized_student", "runtime_lookup"
"""The model that may go into production, and what it has to beat on each route."""


def plot_leaderboard(leaderboard: list[LeaderboardRow], models: list[LeaderboardRow]) -> dict[str, Any]:
    """Return the plots of a leaderboard; `models` are its rows without baselines."""
    by_name = {row["model"]: row for row in leaderboard}
    compared = {name: by_name[name] for name in (SERVED, RIVAL) if name in by_name}
    plots = {
        "error_by_stops_ahead": plot_metadata(
            lambda axes: draw_errors(axes, _errors(leaderboard, "by_stops_ahead"), "stops ahead", "Error by distance")
        ),
        "error_against_size": plot_metadata(lambda axes: _draw_pareto_front(axes, models)),
        "error_by_change": plot_metadata(
            lambda axes: draw_errors(
                axes,
                _errors(leaderboard, "by_change", CHANGE_BINS),
                "change from the last observed delay",
                "Error by how much the delay changed",
            )
        ),
        "error_by_day": plot_metadata(
            lambda axes: draw_errors(axes, _errors(leaderboard, "by_day"), "service day", "Error by day")
        ),
    }
    if SERVED in compared and compared[SERVED]["by_route"]:
        by_route = _errors(list(compared.values()), "by_route")
        rows = {route: errors["n"] for route, errors in compared[SERVED]["by_route"].items()}
        plots["error_by_route"] = plot_metadata(lambda axes: draw_errors_by_route(axes, by_route, rows))
    return plots


def plot_model(row: LeaderboardRow, delay: np.ndarray, test: pd.DataFrame) -> dict[str, Any]:
    """Return the plots of one model's errors on n labelled rows, whose delay (n,) in seconds it predicts."""
    residual = test["delay_seconds"].to_numpy(dtype=np.float64) - delay
    plots = {
        "residuals": plot_metadata(
            lambda by_hour, by_distance, by_route: draw_residuals(by_hour, by_distance, by_route, test, residual), 3
        )
    }
    interval = row["interval"]
    if interval:
        parts = {int(stops): part for stops, part in interval["by_stops_ahead"].items()}
        coverage = {stops: part["coverage"] for stops, part in sorted(parts.items())}
        widths = {stops: part["mean_width_seconds"] for stops, part in parts.items()}
        level = interval["confidence_level"]
        plots["calibration"] = plot_metadata(lambda axes: draw_calibration(axes, coverage, widths, level))
    return {"mae_seconds": row["mae"], **plots}


def _errors(
    leaderboard: list[LeaderboardRow], grouping: str, groups: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Return the MAE in seconds of each model by group, in the order of the groups if given."""
    return {
        row["model"]: {name: row[grouping][name]["mae"] for name in groups or row[grouping] if name in row[grouping]}
        for row in leaderboard
    }


def _draw_pareto_front(axes: Any, models: list[LeaderboardRow]) -> None:
    """Draw MAE against size, and mark the Pareto front: models that no other beats in both."""
    by_size = sorted(models, key=lambda row: row["size_bytes"])
    labels = [f"{row['model']}, {row['latency_us_p50']:.0f} µs per row" for row in by_size]
    points = {label: (row["size_bytes"], row["mae"]) for label, row in zip(labels, by_size, strict=True)}
    best_so_far = np.minimum.accumulate([mae for _, mae in points.values()])
    front = [label for (label, (_, mae)), best in zip(points.items(), best_so_far, strict=True) if mae == best]
    draw_error_against_size(axes, points, front, "MAE (seconds); diamonds: Pareto front")
