"""Compare the errors by stops ahead of two versions of the platform, paired by seed, and look for kinks between them.

    python benchmarks/distances.py BEFORE AFTER

BEFORE and AFTER are directories in which `make seeds` has left its stores, `.local/seeds`. Exit with status 1 if the
mean error of a model at one of the benchmark distances has grown by more than 1%, or if that at another distance up to
10 is not between those of its neighbours.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

BENCHMARK_DISTANCES = ("1", "3", "5", "10")
MAX_RATIO = 1.01
BASELINES = ("schedule", "persistence")
"""Rows of a leaderboard that learn nothing."""

Leaderboard = dict[str, dict[str, Any]]
"""Rows by model."""


def main() -> None:
    """Print the ratios of each model and its errors at every distance."""
    before, after = (read_leaderboards(Path(directory)) for directory in sys.argv[1:])
    seeds = sorted(before.keys() & after.keys())
    models = [model for model in after[seeds[0]] if model in before[seeds[0]] and model not in BASELINES]
    worse = print_ratios(models, [before[seed] for seed in seeds], [after[seed] for seed in seeds])
    kinks = print_distances(models, [after[seed] for seed in seeds])
    if worse or kinks:
        sys.exit("\n" + "\n".join([*worse, *kinks]))


def read_leaderboards(directory: Path) -> dict[str, Leaderboard]:
    """Return the leaderboard of each seed."""
    paths = sorted(directory.glob("*/reports/model_leaderboard.json"))
    return {path.parts[-3]: {row["model"]: row for row in json.loads(path.read_text())} for path in paths}


def print_ratios(models: Sequence[str], before: Sequence[Leaderboard], after: Sequence[Leaderboard]) -> list[str]:
    """Print the ratios of the errors after and before at the benchmark distances; return those that are too large."""
    print("MAE after over MAE before, paired by seed: mean (range)\n")
    print(f"{'model':20}" + "".join(f"{f'{distance} ahead':>26}" for distance in BENCHMARK_DISTANCES))
    worse = []
    for model in models:
        columns = ""
        for distance in BENCHMARK_DISTANCES:
            pairs = zip(get_errors(after, model, distance), get_errors(before, model, distance), strict=True)
            ratios = [error / earlier for error, earlier in pairs]
            columns += f"{f'{fmean(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})':>26}"
            if fmean(ratios) > MAX_RATIO:
                worse.append(f"{model} is worse at {distance} stops ahead: {fmean(ratios):.4f}")
        print(f"{model:20}{columns}")
    return worse


def print_distances(models: Sequence[str], leaderboards: Sequence[Leaderboard]) -> list[str]:
    """Print the mean error of each model at every distance; return where it is not between its neighbours'."""
    print("\nMAE in seconds by stops ahead, mean over the seeds\n")
    distances = sorted({int(key) for row in leaderboards[0].values() for key in row["by_stops_ahead"]})
    print(f"{'model':20}" + "".join(f"{distance:>7}" for distance in distances))
    kinks = []
    for model in models:
        errors = {distance: get_mean_error(leaderboards, model, str(distance)) for distance in distances}
        print(f"{model:20}" + "".join(f"{error:7.1f}" for error in errors.values()))
        kinks += [f"{model} has a kink at {distance} stops ahead" for distance in find_kinks(errors)]
    return kinks


def find_kinks(errors: Mapping[int, float]) -> list[int]:
    """Return the distances from 2 to 9 whose error is not between those of the next nearer and farther one."""
    inner = [distance for distance in range(2, 10) if {distance - 1, distance, distance + 1} <= errors.keys()]
    return [
        distance
        for distance in inner
        if not min(errors[distance - 1], errors[distance + 1])
        <= errors[distance]
        <= max(errors[distance - 1], errors[distance + 1])
    ]


def get_errors(leaderboards: Sequence[Leaderboard], model: str, distance: str) -> list[float]:
    """Return the mean absolute error of a model in seconds at a distance, on each leaderboard that has it."""
    rows = [leaderboard[model]["by_stops_ahead"] for leaderboard in leaderboards]
    return [row[distance]["mae"] for row in rows if distance in row]


def get_mean_error(leaderboards: Sequence[Leaderboard], model: str, distance: str) -> float:
    """Return the mean of `get_errors`; NaN if no leaderboard has the distance."""
    return fmean(get_errors(leaderboards, model, distance) or [float("nan")])


if __name__ == "__main__":
    main()
