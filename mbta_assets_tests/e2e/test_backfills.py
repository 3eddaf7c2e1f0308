"""Backfills of many service days over GraphQL, several runs at once, with the daemon running."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, DagsterDev, environment, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("backfills")]

DAYS = small_network.days_from(date(2024, 4, 8), 16)
FEWER_DAYS = DAYS[:8]
DAYS_PER_RUN = 4
UPSTREAM = ["vehicle", "trip", "stop", "schedule"]
TABLES = [*UPSTREAM, "raw_transit_data", "transit_features"]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the service days as files."""
    directory = tmp_path_factory.mktemp("upstream")
    small_network.write(directory, DAYS)
    return directory


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, upstream: Path) -> Iterator[Callable[[], ParquetTables]]:
    """Materialize the same days by one command, beside the tests until they ask for the tables."""
    store = tmp_path_factory.mktemp("expected")
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    selection = ["--select", ",".join(TABLES), "--partition-range", f"{DAYS[0]}...{DAYS[-1]}"]
    output = store / "output"
    with output.open("w") as log:
        run = subprocess.Popen(
            [*command, *selection], cwd=ROOT, env=environment(store, upstream), stdout=log, stderr=subprocess.STDOUT
        )

    def wait() -> ParquetTables:
        assert run.wait(timeout=1800) == 0, output.read_text()[-4000:]
        return ParquetTables(store)

    try:
        yield wait
    finally:
        run.kill()
        run.wait()


@contextmanager
def start_dagster(store: Path, upstream: Path) -> Iterator[DagsterDev]:
    """Run Dagster on a new store whose backfills are runs of some days each."""
    dev = DagsterDev(environment(store, upstream, MBTA_BACKFILL_DAYS=str(DAYS_PER_RUN)))
    try:
        dev.start()
        yield dev
    finally:
        dev.stop()


def wait_until_complete(dev: DagsterDev, backfill: str, seconds: float) -> None:
    """Wait until a backfill has succeeded. Raise AssertionError with its runs if it has not."""

    def final_status() -> str | None:
        status = dev.backfill_status(backfill)
        return status if status.startswith(("COMPLETED", "FAILED", "CANCELED")) else None

    status = eventually(f"backfill {backfill} has ended", seconds, final_status)
    assert status == "COMPLETED_SUCCESS", [(run["status"], run["tags"]) for run in dev.runs()]


def assert_same_versions(actual: ParquetTables, expected: ParquetTables, tables: list[str], days: list[date]) -> None:
    """Raise AssertionError unless tables have the same content on some days."""
    for table in tables:
        assert actual.versions(table, days) == expected.versions(table, days), table


def max_concurrent_runs(dev: DagsterDev) -> int:
    """Return the largest number of runs that had a process at the same time."""
    spans = [(run["stats"]["launchTime"], run["endTime"]) for run in dev.runs()]
    return max(sum(start <= time < end for start, end in spans) for time, _ in spans)


def test_many_days_are_backfilled_in_four_runs_at_once_and_every_partition_is_right(
    tmp_path: Path, upstream: Path, expected: Callable[[], ParquetTables]
) -> None:
    with start_dagster(tmp_path, upstream) as dev:
        backfill = dev.backfill(UPSTREAM, DAYS)
        wait_until_complete(dev, backfill, 180)
        assert [run["status"] for run in dev.runs()] == ["SUCCESS"] * (len(DAYS) // DAYS_PER_RUN)
        assert 2 <= max_concurrent_runs(dev) <= 4  # never more; how many overlap depends on how busy the machine is
    assert_same_versions(ParquetTables(tmp_path), expected(), UPSTREAM, DAYS)


def test_a_backfill_killed_in_the_middle_completes_once_dagster_is_started_again(
    tmp_path: Path, upstream: Path, expected: Callable[[], ParquetTables]
) -> None:
    tables = ParquetTables(tmp_path)
    with start_dagster(tmp_path, upstream) as dev:
        backfill = dev.backfill(TABLES, FEWER_DAYS)
        eventually("the first features are stored", 120, lambda: tables.days("transit_features"), every=0.05)
        dev.kill()
        assert 0 < len(tables.days("transit_features")) < len(FEWER_DAYS)
        dev.start()
        wait_until_complete(dev, backfill, 480)
        killed = {run["runId"] for run in dev.runs() if run["status"] == "FAILURE"}
        retried = {run["parentRunId"] for run in dev.runs() if run["parentRunId"]}
        assert killed and retried == killed
    assert_same_versions(tables, expected(), TABLES, FEWER_DAYS)
