"""`make demo`: the whole lineage on a window of service days, then the leaderboard, in a terminal.

Two runs fill the days side by side, as a backfill would; one run trains, scores and promotes; one predicts the last
day, which no model has learned from, and tells what came true.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta

import dagster as dg

from mbta_assets.settings import Settings

FIRST_DAY = date(2024, 9, 9)
DAYS = 10
RUNS = 2
TRIALS = "6"
"""Of each search, unless MBTA_TUNE_TRIALS says otherwise: fewer than the default, for those who wait."""


def main() -> None:
    """Materialize the lineage and print what came of it."""
    os.environ.setdefault("MBTA_TUNE_TRIALS", TRIALS)
    settings = Settings.from_environment()
    days = [FIRST_DAY + timedelta(days=n) for n in range(DAYS)]
    share = -(-len(days) // RUNS)
    spans = [(days[i], days[min(i + share, len(days)) - 1]) for i in range(0, len(days), share)]
    print(
        f"{DAYS} service days from {days[0]} to {days[-1]}, source {settings.source}, seed {settings.seed}", flush=True
    )
    begun = time.monotonic()
    dg.DagsterInstance.get().dispose()  # two runs must not both set up a new DAGSTER_HOME
    _together("tables", [["group:upstream or group:transit", "--partition-range", f"{a}...{b}"] for a, b in spans])
    _together("models", [["group:training or group:models or group:production"]])
    _together("predictions", [["group:monitoring", "--partition", str(days[-1])]])
    leaderboard = json.loads((settings.store / "reports/model_leaderboard.json").read_text())
    print("\nErrors on the test days, in seconds of delay; every row is scored on the same arrivals.\n")
    print(_table(leaderboard))
    print("\n" + "\n".join(_intervals(leaderboard)))
    print(f"\ntables   {settings.store / 'tables'}\nbundles  {settings.store / 'bundles'}")
    print(f"reports  {settings.store / 'reports'}\n\nThe whole took {time.monotonic() - begun:.0f} s. Next: make dev")


def _together(name: str, selections: Sequence[Sequence[str]]) -> None:
    """Materialize selections in processes side by side; a failed one ends the demo with what it said."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    runs = [
        subprocess.Popen([*command, *selection], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for selection in selections
    ]
    for run in runs:
        said, _ = run.communicate()
        if run.returncode:
            sys.exit(f"{said}\nThe demo stopped while making the {name}.")
    print(f"\n{name:24}{time.monotonic() - begun:6.1f} s", flush=True)
    for step, seconds in _step_seconds(len(selections)).items():
        print(f"  {step:22}{seconds:6.1f} s", flush=True)


def _step_seconds(runs: int) -> dict[str, float]:
    """How long each step of the latest runs took; of runs side by side the longest."""
    with dg.DagsterInstance.get() as instance:
        stats = [step for run in instance.get_runs(limit=runs) for step in instance.get_run_step_stats(run.run_id)]
    stats.sort(key=lambda step: step.start_time or 0)
    seconds: dict[str, float] = {}
    for step in stats:
        taken = (step.end_time or 0) - (step.start_time or 0)
        seconds[step.step_key] = max(taken, seconds.get(step.step_key, 0))
    return seconds


def _table(leaderboard: list[dict]) -> str:
    horizons = list(leaderboard[0]["by_stops_ahead"])
    lines = [
        f"{'model':18}" + "".join(f"{h + ' ahead':>10}" for h in horizons) + f"{'MAE':>9}{'bytes':>10}{'µs a row':>10}"
    ]
    for row in leaderboard:
        errors = "".join(f"{row['by_stops_ahead'][h]['mae']:10.1f}" for h in horizons)
        size = f"{row['size_bytes']:10,}" if row["size_bytes"] else f"{'–':>10}"
        latency = f"{row['latency_us_p50']:10.0f}" if row["latency_us_p50"] else f"{'–':>10}"
        lines.append(f"{row['model']:18}{errors}{row['mae']:9.1f}{size}{latency}")
    return "\n".join(lines)


def _intervals(leaderboard: list[dict]) -> list[str]:
    """How the promise of each model's interval was kept."""
    return [
        f"{one['coverage']:.1%} of arrivals are within the interval of {row['model']}, which promises "
        f"{one['promise']:.0%}; it is {one['mean_width_seconds']:.0f} s wide on average."
        for row in leaderboard
        for one in [row["interval"]]
        if one
    ]


if __name__ == "__main__":
    main()
