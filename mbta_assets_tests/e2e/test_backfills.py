"""Backfills of many service days over GraphQL, four runs at once, on a daemon that really runs."""

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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.xdist_group("backfills")]

DAYS = small_network.days_from(date(2024, 4, 8), 16)
DAYS_A_RUN = 4
UPSTREAM = ["vehicle", "trip", "stop", "schedule"]
TABLES = [*UPSTREAM, "raw_transit_data", "transit_features"]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service days as files."""
    directory = tmp_path_factory.mktemp("upstream")
    small_network.write(directory, DAYS)
    return directory


@pytest.fixture(scope="module")
def directly(tmp_path_factory: pytest.TempPathFactory, upstream: Path) -> Iterator[Callable[[], ParquetTables]]:
    """The same days made by one command, in a single run over their range; beside the tests until it is asked for."""
    store = tmp_path_factory.mktemp("directly")
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    asked = ["--select", ",".join(TABLES), "--partition-range", f"{DAYS[0]}...{DAYS[-1]}"]
    said = store / "said"
    with said.open("w") as log:
        run = subprocess.Popen(
            [*command, *asked], cwd=ROOT, env=environment(store, upstream), stdout=log, stderr=subprocess.STDOUT
        )

    def made() -> ParquetTables:
        assert run.wait(timeout=300) == 0, said.read_text()[-4000:]
        return ParquetTables(store)

    try:
        yield made
    finally:
        run.kill()
        run.wait()


@contextmanager
def started(store: Path, upstream: Path) -> Iterator[DagsterDev]:
    dev = DagsterDev(environment(store, upstream, MBTA_BACKFILL_DAYS=str(DAYS_A_RUN)))
    try:
        dev.start()
        yield dev
    finally:
        dev.stop()


def complete(dev: DagsterDev, backfill: str, seconds: float) -> None:
    def ended() -> str | None:
        status = dev.backfill_status(backfill)
        return status if status.startswith(("COMPLETED", "FAILED", "CANCELED")) else None

    ended_as = eventually(f"backfill {backfill} has ended", seconds, ended)
    assert ended_as == "COMPLETED_SUCCESS", [(run["status"], run["tags"]) for run in dev.runs()]


def must_be_the_same(made: ParquetTables, directly: ParquetTables, tables: list[str]) -> None:
    for table in tables:
        assert made.versions(table, DAYS) == directly.versions(table, DAYS), table


def at_once(dev: DagsterDev) -> int:
    """The most runs that had a process at the same moment."""
    spans = [(run["stats"]["launchTime"], run["endTime"]) for run in dev.runs()]
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def test_many_days_are_backfilled_in_four_runs_at_once_and_every_partition_is_right(tmp_path, upstream, directly):
    with started(tmp_path, upstream) as dev:
        backfill = dev.backfill(UPSTREAM, DAYS)
        complete(dev, backfill, 180)
        runs = dev.runs()
        assert [run["status"] for run in runs] == ["SUCCESS"] * (len(DAYS) // DAYS_A_RUN)
        assert 2 <= at_once(dev) <= 4  # never more; how many overlap depends on how busy the machine is
    must_be_the_same(ParquetTables(tmp_path), directly(), UPSTREAM)


def test_a_backfill_killed_in_the_middle_completes_once_dagster_is_started_again(tmp_path, upstream, directly):
    with started(tmp_path, upstream) as dev:
        backfill = dev.backfill(TABLES, DAYS)
        lake = ParquetTables(tmp_path)
        eventually("the first features are stored", 120, lambda: lake.days("transit_features"))
        dev.kill()
        stored = len(lake.days("transit_features"))
        assert 0 < stored < len(DAYS)
        dev.start()
        complete(dev, backfill, 240)
        killed = {run["runId"] for run in dev.runs() if run["status"] == "FAILURE"}
        again = {run["parentRunId"] for run in dev.runs() if run["parentRunId"]}
        assert killed and again == killed
    must_be_the_same(lake, directly(), TABLES)
