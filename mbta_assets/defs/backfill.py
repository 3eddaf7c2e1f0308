"""The command `mbta-assets backfill`: from the service days of a source to a leaderboard.

It fetches the days, materializes them as ranges of partitions, trains on them, and compares the models with a baseline
day by day. What it has in common with the demo is in `demo`.
"""

import os
import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from rich.console import Console

from mbta_assets.counts import format_count
from mbta_assets.defs.demo import PARALLEL_RUNS, materialize, print_results, run_selections, split_days
from mbta_assets.defs.partitions import service_days, to_days
from mbta_assets.ml.evaluation.paired_days import CONFIDENCE_LEVEL, compare_by_day
from mbta_assets.progress.bar import Bar
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources import Source, SourceError, open_source
from mbta_assets.sources.contract import FetchedDay
from mbta_assets.storage.parquet_tables import ParquetTables

BASELINE = "runtime_lookup"
"""Baseline that the models are compared with day by day: the best of those that need no training."""
FEATURES = "transit_features"
UNPUBLISHED = " was not published: "
"""Words of a line in a run's log that has the reason for which a service day was refused."""


class DayRange(NamedTuple):
    """Service days that are asked for: those from `first` to `last`, or the `latest` ones up to `last`."""

    latest: int | None = None
    first: date | None = None
    last: date | None = None
    """None is the latest day that the source has."""


def run_backfill(day_range: DayRange, source_name: str | None) -> None:
    """Fetch service days, materialize them, train, and print the results. Exit with 1 if a day could not be had.

    Days that the source does not have are left out. Raises SettingsError.
    """
    if source_name:
        os.environ["MBTA_SOURCE"] = source_name
    settings = Settings.from_environment()
    if settings.deployment != "local":
        raise SettingsError(
            "MBTA_DEPLOYMENT is 'gcp', and a backfill by this command is of a store on this machine. Unset it, or use "
            "dg launch --partition-range."
        )
    started = time.monotonic()
    try:
        source = open_source(settings)
        days = list_days(day_range, source, settings)
        fetched = fetch_days(source, days)
    except SourceError as error:
        sys.exit(str(error))
    print_fetched(fetched)
    usable = [day.service_date for day in fetched if day.state in ("fetched", "cached")]
    if not usable:
        sys.exit(f"No service day is left of the {len(days)} from {days[0]} to {days[-1]}.")
    require_own_store(settings.store, usable)
    os.environ["MBTA_START_DATE"] = str(min(settings.start_date, usable[0]))
    os.environ.setdefault("MBTA_TRAINING_DAYS", str(len(usable)))
    published = materialize_days(settings.store, usable)
    materialize("models", [["group:training or group:models or group:production"]])
    materialize("predictions", [["group:monitoring", "--partition", str(published[-1])]])
    print_comparison(print_results(settings.store))
    print(f"\nThe backfill took {time.monotonic() - started:.0f} s. Next: make dev")
    failed = [day for day in fetched if day.state == "failed"]
    if failed or len(published) < len(usable):
        sys.exit("Not every service day is among these results; see above. The same command makes up for what failed.")


def list_days(day_range: DayRange, source: Source, settings: Settings) -> list[date]:
    """Return the service days that are asked for, in order. Exit if they have not ended. Raises SourceError."""
    ended = to_days(service_days(settings).get_partition_keys())[-1:]
    if not ended or (day_range.last and day_range.last > ended[0]):
        sys.exit(f"Service day {day_range.last or settings.start_date} has not ended. Ask for earlier days.")
    # A source that knows no versions has every day.
    versioned = [day for day in source.poll("schedule", {}) if day <= ended[0]]
    last = day_range.last or max(versioned, default=ended[0])
    first = day_range.first or last - timedelta(days=(day_range.latest or 1) - 1)
    if first > last:
        sys.exit(f"Source {source.name} has no service day from {first}; its latest is {last}.")
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def fetch_days(source: Source, days: Sequence[date]) -> list[FetchedDay]:
    """Fetch service days, with a progress bar in a terminal. Raises SourceError."""
    console = Console()
    print(f"{format_count(len(days), 'service day')} from {days[0]} to {days[-1]}, source {source.name}", flush=True)
    fetched: list[FetchedDay] = []
    with Bar(console, "fetching", "days") as bar:
        for day in source.fetch(days):
            fetched.append(day)
            bar.move(len(fetched), len(days), f"fetching {day.service_date}")
    return fetched


def print_fetched(fetched: Sequence[FetchedDay]) -> None:
    """Print how many days are there, and each one that is not."""
    counts = {state: sum(day.state == state for day in fetched) for state in ("fetched", "cached")}
    print(f"{counts['fetched']} fetched, {counts['cached']} there before")
    for day in fetched:
        if day.state not in counts:
            print(f"  {day.service_date} {day.state}: {day.detail}", flush=True)


def require_own_store(store: Path, days: Sequence[date]) -> None:
    """Exit if models would be trained on other service days of a store than those of the backfill."""
    others = [day for day in ParquetTables(store).days(FEATURES) if day >= days[0] and day not in set(days)]
    if others:
        sys.exit(
            f"The store {store} has {format_count(len(others), 'service day')} from {others[0]} to {others[-1]} "
            "outside this backfill, and models are trained on the latest. Set MBTA_STORE to another directory."
        )


def materialize_days(store: Path, days: Sequence[date]) -> list[date]:
    """Materialize the daily tables, and return the service days that are published. Exit if there are none.

    A day that is refused is left out, and printed with the reason.
    """
    dg.DagsterInstance.get().dispose()  # creates the storage of a new DAGSTER_HOME, which parallel runs must not do
    logs = []
    for batch in plan_ranges(days, PARALLEL_RUNS):
        selections = [
            ["group:upstream or group:transit", "--partition-range", f"{first}...{last}"] for first, last in batch
        ]
        logs += run_selections("tables", selections)
    reasons = {line.strip() for log in logs for line in log.splitlines() if UNPUBLISHED in line}
    refused = set(ParquetTables(store).refused_days(FEATURES))
    published = [day for day in ParquetTables(store).days(FEATURES) if day in set(days) - refused]
    if not published or (logs and not reasons):
        sys.exit("\n".join([*logs, "Failed while materializing the tables."]))
    print("\n".join(sorted(reasons)))
    return published


def plan_ranges(days: Sequence[date], parallel: int) -> list[list[tuple[date, date]]]:
    """Return batches of up to `parallel` ranges of service days without gaps, each of its share of the days at most."""
    stretches: list[list[date]] = []
    for day in days:
        if stretches and day - stretches[-1][-1] == timedelta(days=1):
            stretches[-1].append(day)
        else:
            stretches.append([day])
    share = -(-len(days) // parallel)
    ranges = [part for stretch in stretches for part in split_days(stretch, -(-len(stretch) // share))]
    return [ranges[begin : begin + parallel] for begin in range(0, len(ranges), parallel)]


def print_comparison(leaderboard: Sequence[dict[str, Any]]) -> None:
    """Print the difference of each row of a leaderboard to the baseline, with its confidence interval by day."""
    print(f"\nMAE minus that of {BASELINE}, mean over the test days, {CONFIDENCE_LEVEL:.0%} confidence interval\n")
    for difference in compare_by_day(leaderboard, BASELINE):
        print(difference)
