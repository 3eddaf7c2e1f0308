"""Train the lineage on a real day and compare its errors at the next stop with the targets of the project.

Run by `make bench`. The day is the one that the tests use, 2023-10-03 on the Red Line; each search has four trials.
Exit with status 1 if a target is not met.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SEED_UPSTREAM = ROOT / "mbta_assets_tests/data/seed_upstream"
DAY = "2023-10-03"
TRIALS = 4
STOPS_AHEAD = "1"
SELECTIONS = (
    ["group:upstream or group:transit", "--partition", DAY],
    ["group:training or group:models or group:production"],
)
MAX_ERROR_SECONDS = {"runtime_lookup": 11.0, "xgboost_model": 10.0}
MAX_SHARE_OF_PERSISTENCE = 1 / 3
"""Maximum error of every model as a share of that of persistence."""


def main() -> None:
    """Print the error of each model beside its target."""
    with tempfile.TemporaryDirectory() as store:
        leaderboard = train(Path(store))
    errors = {row["model"]: row["by_stops_ahead"][STOPS_AHEAD]["mae"] for row in leaderboard}
    models = [row["model"] for row in leaderboard if row["parameters"] is not None]
    targets = make_targets(models, errors["persistence"])
    print(f"MAE in seconds, {STOPS_AHEAD} stop ahead, test rows of {DAY}\n\n{'model':20}{'MAE':>8}{'target':>9}")
    for model, error in errors.items():
        print(f"{model:20}{error:8.2f}{describe_target(error, targets.get(model))}")
    if any(errors[model] > target for model, target in targets.items()):
        sys.exit(1)


def train(store: Path) -> list[dict[str, Any]]:
    """Materialize the lineage in a store and a Dagster home of its own and return its leaderboard."""
    home = store / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    variables = {
        "DAGSTER_HOME": str(home),
        "MBTA_STORE": str(store),
        "MBTA_SOURCE": "files",
        "MBTA_FILES_DIR": str(SEED_UPSTREAM),
        "MBTA_START_DATE": DAY,
        "MBTA_TUNE_TRIALS": str(TRIALS),
    }
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    for selection in SELECTIONS:
        environment = {**os.environ, **variables}
        run = subprocess.run([*command, *selection], cwd=ROOT, env=environment, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{run.stdout}\n{run.stderr}")
    return json.loads((store / "reports/model_leaderboard.json").read_text())


def make_targets(models: Iterable[str], persistence: float) -> dict[str, float]:
    """Return the maximum error in seconds of each model and baseline that has one."""
    relative = MAX_SHARE_OF_PERSISTENCE * persistence
    targets = {model: min(relative, MAX_ERROR_SECONDS.get(model, relative)) for model in models}
    return {**MAX_ERROR_SECONDS, **targets}


def describe_target(error: float, target: float | None) -> str:
    """Return the target of an error in seconds, and whether it is met; an empty text without a target."""
    if target is None:
        return ""
    return f"{target:9.2f}  {'met' if error <= target else 'NOT met'}"


if __name__ == "__main__":
    main()
