"""The accuracy of the served model, as the page shows it: what the leaderboard says of its version and of baselines."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbta_assets.serving.refreshing_cache import LoadError
from mbta_assets.storage.materialize import materialize_command
from mbta_assets.storage.reports import LEADERBOARD

SHOWN_BASELINES = ("runtime_lookup", "persistence", "schedule")
"""Baselines of the leaderboard whose errors are shown beside the model's."""


@dataclass(frozen=True)
class ModelAccuracy:
    """The leaderboard's figures of the served model, on the test part of the training set."""

    test_rows: int
    mae_seconds: float
    mae_by_stops_ahead: dict[str, float]
    confidence_level: float | None
    coverage: float | None
    baselines: dict[str, float]
    """Mean absolute error of each baseline in seconds."""


def parse_leaderboard(content: bytes) -> dict[str, ModelAccuracy]:
    """Return the figures of each version of the stored leaderboard, by digest. Raises LoadError."""
    try:
        leaderboard = json.loads(content)
        baselines = {row["model"]: _read_number(row["mae"]) for row in leaderboard if row["model"] in SHOWN_BASELINES}
        return {row["version"]: _parse_accuracy(row, baselines) for row in leaderboard if row.get("version")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"The report {LEADERBOARD} is damaged ({type(error).__name__}: {error}). "
            f"Make it again with: {materialize_command('model_leaderboard')}"
        ) from error


def _parse_accuracy(row: Mapping[str, Any], baselines: dict[str, float]) -> ModelAccuracy:
    """Return the figures of a row of the leaderboard. Raises ValueError, KeyError or TypeError if it has others."""
    interval = row.get("interval") or {}
    level, coverage = interval.get("confidence_level"), interval.get("coverage")
    return ModelAccuracy(
        test_rows=int(row["n"]),
        mae_seconds=_read_number(row["mae"]),
        mae_by_stops_ahead={stops: _read_number(metrics["mae"]) for stops, metrics in row["by_stops_ahead"].items()},
        confidence_level=None if level is None else _read_number(level),
        coverage=None if coverage is None else _read_number(coverage),
        baselines=baselines,
    )


def _read_number(value: Any) -> float:
    """Return a number as a float. Raises ValueError or TypeError unless it is one and finite."""
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number
