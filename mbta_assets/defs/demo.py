"""The command `mbta-assets demo`: materializes the whole lineage and prints the leaderboard.

Two runs materialize the daily tables in parallel, as a backfill would. One run trains, evaluates and promotes. One run
predicts the last service date, which no model has learned from, and evaluates the predictions.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import IO, Any

import dagster as dg
from rich.console import Console

from mbta_assets.defs.run_progress import follow_runs, format_duration_of_step
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE
from mbta_assets.settings import Settings
from mbta_assets.transit.formulas import STOPS_AHEAD

FIRST_DAY = date(2024, 9, 9)
DAYS = 10
PARALLEL_RUNS = 2
DEFAULT_TUNE_TRIALS = 4
"""Number of trials of each search without MBTA_TUNE_TRIALS: fewer than the platform's default, to take less time."""
ROWS_PER_DAY = 40_000
"""Number of rows of a service day that models are trained on: a third of what the platform takes of so few."""


def run_demo() -> None:
    """Materialize the lineage and print the leaderboard. Exit with the log of a run that fails."""
    os.environ.setdefault("MBTA_TUNE_TRIALS", str(DEFAULT_TUNE_TRIALS))
    settings = Settings.from_environment()
    days = [FIRST_DAY + timedelta(days=n) for n in range(DAYS)]
    print(
        f"{DAYS} service days from {days[0]} to {days[-1]}, source {settings.source}, seed {settings.seed}", flush=True
    )
    started = time.monotonic()
    dg.DagsterInstance.get().dispose()  # creates the storage of a new DAGSTER_HOME, which parallel runs must not do
    ranges = [f"{first}...{last}" for first, last in split_days(days, PARALLEL_RUNS)]
    materialize("tables", [["group:upstream or group:transit", "--partition-range", day_range] for day_range in ranges])
    fewer_rows = {"ops": {"training_set": {"config": {"rows_per_day": ROWS_PER_DAY}}}}
    models = ["group:training or group:models or group:production", "--config-json", json.dumps(fewer_rows)]
    materialize("models", [models])
    materialize("predictions", [["group:monitoring", "--partition", str(days[-1])]])
    print_results(settings.store)
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Next: make dev")


def print_results(store: Path) -> list[dict[str, Any]]:
    """Print the leaderboard of a store, and where everything is. Return the leaderboard."""
    reports = store / "reports"
    leaderboard: list[dict[str, Any]] = json.loads((reports / "model_leaderboard.json").read_text())
    print("\nErrors on the test days, in seconds of delay; every model is evaluated on the same arrivals.\n")
    print(format_leaderboard(leaderboard))
    print("\n" + "\n".join(describe_intervals(leaderboard)))
    print(f"\ntables   {store / 'tables'}\nbundles  {store / 'bundles'}\nreports  {reports}")
    return leaderboard


def split_days(days: Sequence[date], parts: int) -> list[tuple[date, date]]:
    """Return the first and last day of each of several contiguous parts, of equal length except for the last."""
    length = -(-len(days) // parts)
    return [(days[i], days[min(i + length, len(days)) - 1]) for i in range(0, len(days), length)]


def materialize(name: str, selections: Sequence[Sequence[str]]) -> None:
    """Materialize selections as `run_selections` does. Exit with the logs of the runs that fail."""
    if logs := run_selections(name, selections):
        sys.exit("\n".join([*logs, f"Failed while materializing the {name}."]))


def run_selections(name: str, selections: Sequence[Sequence[str]]) -> list[str]:
    """Materialize selections in parallel processes, show their progress, and return the logs of failed runs.

    A selection is the arguments that follow `dagster asset materialize --select`.
    """
    began, started = time.time(), time.monotonic()
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    with ExitStack() as files:
        logs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in selections]
        runs = [
            subprocess.Popen([*command, *selection], stdout=log, stderr=subprocess.STDOUT)
            for selection, log in zip(selections, logs, strict=True)
        ]
        follow_runs(name, len(runs), lambda: all(run.poll() is not None for run in runs), Console(), began)
        print(format_duration_of_step("in all", time.monotonic() - started), flush=True)
        return [_read_log(log) for run, log in zip(runs, logs, strict=True) if run.returncode]


def _read_log(log: IO[str]) -> str:
    """Return all that was written to a file."""
    log.seek(0)
    return log.read()


def format_leaderboard(leaderboard: Sequence[dict[str, Any]]) -> str:
    """Return the leaderboard as a table for the terminal: MAE at some distances and overall, size and latency."""
    scored = {stops for row in leaderboard for stops in row["by_stops_ahead"]}
    stops_ahead = [str(stops) for stops in STOPS_AHEAD if str(stops) in scored]
    header = "".join(f"{f'{stops} ahead':>9}" for stops in stops_ahead)
    lines = [f"{'model':18}{header}{'MAE':>7}{'bytes':>10}{'µs':>7}"]
    for row in leaderboard:
        errors = "".join(_format_error(row["by_stops_ahead"].get(stops)) for stops in stops_ahead)
        size = f"{row['size_bytes']:10,}" if row["size_bytes"] else f"{'–':>10}"
        latency = f"{row['latency_us_p50']:7,.0f}" if row["latency_us_p50"] else f"{'–':>7}"
        lines.append(f"{row['model']:18}{errors}{row['mae']:7.1f}{size}{latency}")
    return "\n".join([*lines, *_compare_with_agency(leaderboard)])


def _format_error(errors: dict[str, Any] | None) -> str:
    """Return the MAE of errors at some distance, a dash where there are none."""
    return f"{errors['mae']:9.1f}" if errors else f"{'–':>9}"


def _compare_with_agency(leaderboard: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence on how many arrivals the agency has predicted, and each row's MAE on those; none without it."""
    agency = next((row for row in leaderboard if row["model"] == AGENCY_BASELINE), None)
    if agency is None:
        return []
    n = max(row["n"] for row in leaderboard)
    errors = ", ".join(f"{row['model']} {row['mae_beside_agency']:.1f}" for row in leaderboard)
    return [f"\nThe agency has predicted {agency['n']:,} of the {n:,} arrivals. MAE on these: {errors}."]


def describe_intervals(leaderboard: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence about the coverage of each model's prediction interval, for the models that have one."""
    return [
        f"{interval['coverage']:.1%} of arrivals are within the interval of {model}, whose confidence level is "
        f"{interval['confidence_level']:.0%}; its mean width is {interval['mean_width_seconds']:.0f} s."
        for model, interval in ((row["model"], row["interval"]) for row in leaderboard)
        if interval
    ]
