"""Compare the models over several seeds of the demo, at the next stop and on the same rows.

Run by `make seeds`. A seed is another simulated world and another training. The stores are kept in
`.local/seeds/<seed>`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mbta_assets.settings import Settings

SEEDS = (0, 1, 2)
STOPS_AHEAD = "1"
MIN_ROWS_OF_COVERAGE = 0.01
"""Distances of a smaller share of the rows are left out where coverage is printed."""
COMPARISONS = (
    ("dnn_teacher", "xgboost_model"),
    ("pruned_teacher", "unpruned_teacher"),
    ("distilled_student", "dnn_teacher"),
    ("distilled_student", "untaught_student"),
    ("quantized_student", "distilled_student"),
    ("quantized_student", "runtime_lookup"),
    ("xgboost_model", "oracle"),
)
"""Pairs of models; a ratio of their errors below 1 means that the first is better."""

Leaderboard = dict[str, dict[str, Any]]
"""Rows of a leaderboard by model."""


def main() -> None:
    """Run the demo for each seed and print errors, coverage of intervals and ratios of errors."""
    leaderboards = [run_demo(seed) for seed in SEEDS]
    print_errors(leaderboards)
    print_coverage(leaderboards)
    print_corrections(leaderboards)
    print_ratios(leaderboards)


def run_demo(seed: int) -> Leaderboard:
    """Run the demo in a store and a Dagster home of its own and return its leaderboard."""
    store = Settings.from_environment().store / "seeds" / str(seed)
    home = store / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_bytes((Path(__file__).parents[1] / "dagster.yaml").read_bytes())
    variables = {"MBTA_SEED": str(seed), "MBTA_STORE": str(store), "DAGSTER_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "mbta_assets", "demo"], env={**os.environ, **variables}, check=True)
    return {row["model"]: row for row in json.loads((store / "reports/model_leaderboard.json").read_text())}


def print_errors(leaderboards: Sequence[Leaderboard]) -> None:
    """Print the mean absolute error of each model by seed, the best model first, and its maximum size."""
    print(f"\nMAE in seconds, {STOPS_AHEAD} stop ahead, test days\n")
    print(f"{'model':20}" + "".join(f"{f'seed {seed}':>10}" for seed in SEEDS) + f"{'mean':>10}{'bytes':>12}")
    errors = {model: get_errors(leaderboards, model) for model in leaderboards[0]}
    for model in sorted(errors, key=lambda model: fmean(errors[model])):
        size = max((leaderboard[model]["size_bytes"] or 0) for leaderboard in leaderboards)
        columns = "".join(f"{error:10.2f}" for error in [*errors[model], fmean(errors[model])])
        print(f"{model:20}{columns}{size or '–':>12}")


def print_coverage(leaderboards: Sequence[Leaderboard]) -> None:
    """Print the fraction of arrivals within the interval of the quantized student by seed."""
    print("\nCoverage of the interval of quantized_student, overall and by stops ahead\n")
    for seed, leaderboard in zip(SEEDS, leaderboards, strict=True):
        interval = leaderboard["quantized_student"]["interval"]
        parts = {"all": interval, **interval["by_stops_ahead"]}
        smallest = MIN_ROWS_OF_COVERAGE * interval["n"]
        parts = {name: part for name, part in parts.items() if part["n"] >= smallest}
        coverage = "".join(f"   {name}: {part['coverage']:.3f}" for name, part in parts.items())
        print(f"seed {seed}   confidence level {interval['confidence_level']:.2f}{coverage}")


def print_corrections(leaderboards: Sequence[Leaderboard]) -> None:
    """Print for each model how many trips ran backwards before they were corrected, and how the error has changed."""
    print("\nShare of trips that needed a correction, and MAE after it over MAE before it, means over the seeds\n")
    for model, row in leaderboards[0].items():
        if row["corrected_trips"] is not None:
            rows = [leaderboard[model] for leaderboard in leaderboards]
            ratio = fmean(row["mae"] / row["mae_uncorrected"] for row in rows)
            print(f"{model:20}{fmean(row['corrected_trips'] for row in rows):10.2%}{ratio:10.4f}")


def print_ratios(leaderboards: Sequence[Leaderboard]) -> None:
    """Print the mean and range of the ratios of errors of each comparison, paired by seed."""
    print("\nRatios of those errors, paired by seed\n")
    for model, other in COMPARISONS:
        pairs = zip(get_errors(leaderboards, model), get_errors(leaderboards, other), strict=True)
        ratios = [error / other_error for error, other_error in pairs]
        print(f"{model:18} / {other:18}{fmean(ratios):10.4f}   ({min(ratios):.4f} to {max(ratios):.4f})")


def get_errors(leaderboards: Sequence[Leaderboard], model: str) -> list[float]:
    """Return the mean absolute error of a model in seconds on each leaderboard."""
    return [leaderboard[model]["by_stops_ahead"][STOPS_AHEAD]["mae"] for leaderboard in leaderboards]


if __name__ == "__main__":
    main()
