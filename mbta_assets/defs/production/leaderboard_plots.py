"""The plots of the leaderboard, and those that each model gets beside its own: what they show is in its rows."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

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

Drawing: TypeAlias = tuple[Callable[..., None], int]
"""A function that draws on axes, and the number of axes."""
MIN_ROWS = 100
"""Minimum number of test rows of a group whose error is drawn: that of fewer is mostly chance."""
SERVED, RIVAL = "quantized_student", "runtime_lookup"
"""The model that may go into production, and what it has to beat on each route."""


def plot_leaderboard(leaderboard: list[LeaderboardRow], models: list[LeaderboardRow]) -> dict[str, Any]:
    """Return the plots of a leaderboard; `models` are its rows without baselines."""
    drawings = make_leaderboard_drawings(leaderboard, models)
    return {name: plot_metadata(*drawing) for name, drawing in drawings.items()}


def plot_model(row: LeaderboardRow, delay: np.ndarray, test: pd.DataFrame) -> dict[str, Any]:
    """Return the error and the plots of one model on n labelled rows, whose delay (n,) in seconds it predicts."""
    drawings = make_model_drawings(row, delay, test)
    return {"mae_seconds": row["mae"], **{name: plot_metadata(*drawing) for name, drawing in drawings.items()}}


def make_leaderboard_drawings(leaderboard: list[LeaderboardRow], models: list[LeaderboardRow]) -> dict[str, Drawing]:
    """Return what draws each plot of a leaderboard; `models` are its rows without baselines."""
    by_name = {row["model"]: row for row in leaderboard}
    compared = [by_name[name] for name in (SERVED, RIVAL) if name in by_name]

    def draw(grouping: str, label: str, title: str, groups: Sequence[str] | None = None) -> Drawing:
        errors = _errors(leaderboard, grouping, groups)
        return (lambda axes: draw_errors(axes, errors, label, title, SERVED)), 1

    change = "change from the last observed delay"
    drawings: dict[str, Drawing] = {
        "error_by_stops_ahead": draw("by_stops_ahead", "stops ahead", "Error by distance"),
        "error_against_size": (lambda axes: _draw_pareto_front(axes, models), 1),
        "error_by_change": draw("by_change", change, "Error by how much the delay changed", CHANGE_BINS),
        "error_by_day": draw("by_day", "service day", "Error by day"),
    }
    rows = {route: errors["n"] for route, errors in compared[0]["by_route"].items()} if compared else {}
    if rows:
        by_route = {row["model"]: {name: errors["mae"] for name, errors in row["by_route"].items()} for row in compared}
        drawings["error_by_route"] = (lambda axes: draw_errors_by_route(axes, by_route, rows)), 1
    return drawings


def make_model_drawings(row: LeaderboardRow, delay: np.ndarray, test: pd.DataFrame) -> dict[str, Drawing]:
    """Return what draws the residuals of a model on n labelled rows, and the calibration of its intervals."""
    residual = test["delay_seconds"].to_numpy(dtype=np.float64) - delay
    drawings: dict[str, Drawing] = {
        "residuals": (lambda hour, distance, route: draw_residuals(hour, distance, route, test, residual), 3),
    }
    interval = row["interval"]
    if interval:
        parts = {int(stops): part for stops, part in interval["by_stops_ahead"].items()}
        coverage = {stops: part["coverage"] for stops, part in sorted(parts.items())}
        widths = {stops: part["mean_width_seconds"] for stops, part in parts.items()}
        level = interval["confidence_level"]
        drawings["calibration"] = (lambda axes: draw_calibration(axes, coverage, widths, level)), 1
    return drawings


def _errors(
    leaderboard: list[LeaderboardRow], grouping: str, groups: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Return the MAE in seconds of each model by group, in the order of the groups if given.

    Groups with few rows are left out, but where there are no larger ones.
    """
    largest = max((errors["n"] for row in leaderboard for errors in row[grouping].values()), default=0)
    return {
        row["model"]: {
            name: row[grouping][name]["mae"]
            for name in groups or row[grouping]
            if name in row[grouping] and row[grouping][name]["n"] >= min(MIN_ROWS, largest)
        }
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
