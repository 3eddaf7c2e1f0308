"""`make seeds`: the demo for three seeds, and how the models compare at the next stop on the same rows.

A seed is another simulated world and another training. Stores are kept in `.local/seeds/<seed>`.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from mbta_assets.settings import Settings

SEEDS = (0, 1, 2)
HORIZON = "1"
COMPARED = (
    ("dnn_teacher", "xgboost_model"),
    ("pruned_teacher", "unpruned_teacher"),
    ("distilled_student", "dnn_teacher"),
    ("distilled_student", "untaught_student"),
    ("quantized_student", "distilled_student"),
    ("quantized_student", "runtime_lookup"),
    ("xgboost_model", "oracle"),
)
"""Which model against which: a ratio of their errors below 1 says that the first is better."""


def main() -> None:
    """Run the demo for each seed and print errors, ratios and sizes."""
    boards = [_leaderboard(seed) for seed in SEEDS]
    print(f"\nMAE in seconds, {HORIZON} stop ahead, test days\n")
    print(f"{'model':20}" + "".join(f"{f'seed {seed}':>10}" for seed in SEEDS) + f"{'mean':>10}{'bytes':>12}")
    for model in sorted(boards[0], key=lambda name: _mean([_error(board, name) for board in boards])):
        errors = [_error(board, model) for board in boards]
        size = max((board[model]["size_bytes"] or 0) for board in boards)
        print(f"{model:20}" + "".join(f"{error:10.2f}" for error in [*errors, _mean(errors)]) + f"{size or '–':>12}")
    print("\nShare of arrivals within the interval of quantized_student, all and by stops ahead\n")
    for seed, board in zip(SEEDS, boards, strict=True):
        interval = board["quantized_student"]["interval"]
        parts = {"all": interval, **interval["by_stops_ahead"]}
        print(f"seed {seed}   confidence level {interval['confidence_level']:.2f}", end="")
        print("".join(f"   {name}: {part['coverage']:.3f}" for name, part in parts.items()))
    print("\nRatios of those errors, paired by seed\n")
    for model, other in COMPARED:
        ratios = [_error(board, model) / _error(board, other) for board in boards]
        spread = f"{min(ratios):.4f} to {max(ratios):.4f}"
        print(f"{model:18} / {other:18}{_mean(ratios):10.4f}   ({spread})")


def _leaderboard(seed: int) -> dict[str, dict]:
    store = Settings.from_environment().store / "seeds" / str(seed)
    home = store / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_bytes((Path(__file__).parents[1] / "dagster.yaml").read_bytes())
    variables = {"MBTA_SEED": str(seed), "MBTA_STORE": str(store), "DAGSTER_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "mbta_assets", "demo"], env={**os.environ, **variables}, check=True)
    return {row["model"]: row for row in json.loads((store / "reports/model_leaderboard.json").read_text())}


def _error(board: dict[str, dict], model: str) -> float:
    return board[model]["by_stops_ahead"][HORIZON]["mae"]


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
