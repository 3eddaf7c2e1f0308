"""What commands show of the runs that they wait for, read from the event log of real runs."""

import io
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from mbta_assets.defs import run_progress
from mbta_assets.defs.run_progress import RunState, follow_runs
from mbta_assets.progress.lines import ProgressLog
from mbta_assets_tests.support.dagster_dev import ROOT

pytestmark = pytest.mark.integration

DAYS = dg.DailyPartitionsDefinition("2024-03-04", end_date="2024-03-08")
SINGLE_RUN = dg.BackfillPolicy.single_run()


@dg.asset(partitions_def=DAYS, backfill_policy=SINGLE_RUN)
def slow_table(context: dg.AssetExecutionContext) -> None:
    for day in context.partition_keys:
        context.log_event(dg.AssetMaterialization("slow_table", partition=day))
        context.log.info(f"search: 2 of 9 trials on {day}")
        time.sleep(0.2)


@dg.asset(partitions_def=DAYS, backfill_policy=SINGLE_RUN, deps=[slow_table])
def broken_table() -> None:
    raise RuntimeError("it cannot be made")


@dg.asset_check(asset=slow_table)
def is_old() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="no day [of] this year")


@dg.asset_check(asset=slow_table)
def is_whole() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(run_progress, "POLL_SECONDS", 0.05)
    with dg.DagsterInstance.get():  # creates the storage, which two runs at once must not do
        return tmp_path


def follow(console: Console, *ranges: tuple[str, str], assets: Callable[[], list[dg.AssetsDefinition]]) -> list[str]:
    """Materialize assets in a thread for each range of days, follow the runs, and return their ids."""
    began = time.time()
    ran: list[str] = []

    def materialize(first: str, last: str) -> None:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        with dg.DagsterInstance.get() as instance:
            ran.append(dg.materialize(assets(), instance=instance, tags=tags, raise_on_error=False).run_id)

    threads = [threading.Thread(target=materialize, args=days) for days in ranges]
    for thread in threads:
        thread.start()
    follow_runs("tables", len(ranges), lambda: not any(thread.is_alive() for thread in threads), console, began)
    return ran


def test_below_the_line_of_a_step_is_why_its_checks_did_not_pass(home: Path) -> None:
    @dg.asset(partitions_def=DAYS, backfill_policy=SINGLE_RUN)
    def checked_table(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
        for day in context.partition_keys:
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("checked_table"), check_name="in_bounds", passed=False, metadata={},
                partition=day, description="too few rows",
            )  # fmt: skip
        yield dg.Output(None)

    output = io.StringIO()
    assets = [slow_table, is_old, is_whole, checked_table]
    days = ("2024-03-04", "2024-03-05"), ("2024-03-06", "2024-03-06")
    follow(Console(file=output, width=60), *days, assets=lambda: assets)
    lines = [re.sub(r" +[0-9.]+ s$", "", line) for line in output.getvalue().splitlines()[2:]]
    below = {name: lines[lines.index(f"  {name}") + 1 :] for name in ("slow_table_is_old", "checked_table")}
    assert below["slow_table_is_old"][0] == "    is_old warns: no day [of] this year"
    assert below["checked_table"][0] == "    in_bounds fails on 2024-03-04: too few rows (and 2 more)"
    assert len(lines) == 6


def test_each_step_is_a_line_once_all_runs_have_ended_it(home: Path) -> None:
    output = io.StringIO()
    ranges = ("2024-03-04", "2024-03-05"), ("2024-03-06", "2024-03-07")
    runs = follow(Console(file=output, width=100), *ranges, assets=lambda: [slow_table])
    _, title, *lines = output.getvalue().splitlines()
    assert title == "tables"
    [line] = lines
    name, seconds, unit = line.split()
    assert (name, unit) == ("slow_table", "s") and 0.4 <= float(seconds) < 60
    with dg.DagsterInstance.get() as instance:
        states = [RunState(run) for run in runs]
        for state in states:
            state.update(instance)
            state.update(instance)  # nothing new
    assert sorted(sorted(state.planned) for state in states) == [
        [("slow_table", "2024-03-04"), ("slow_table", "2024-03-05")],
        [("slow_table", "2024-03-06"), ("slow_table", "2024-03-07")],
    ]
    assert all(state.made == state.planned and not state.underway for state in states)


def test_a_terminal_has_a_bar_of_days_and_time(home: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system=None)
    follow(console, ("2024-03-04", "2024-03-07"), assets=lambda: [slow_table])
    shown = output.getvalue()
    assert all(text in shown for text in ("slow_table", "search: 2 of 9 trials on 2024-03-0", "4/4", " s left"))
    assert re.search(r"\d tables a (second|minute)", shown)
    assert any(f"{days}/4" in shown for days in (1, 2, 3))


def test_what_the_package_logs_is_in_the_event_log_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    @dg.asset
    def trained_model() -> None:
        ProgressLog("network", "epochs").end(12)

    with dg.DagsterInstance.get() as instance:
        run = dg.materialize([trained_model], instance=instance)
        state = RunState(run.run_id)
        state.update(instance)
    assert state.said == {"trained_model": "network: 12 epochs in 0 s"}


def test_a_run_that_fails_ends_what_is_shown(home: Path) -> None:
    output = io.StringIO()
    follow(Console(file=output, width=100), ("2024-03-04", "2024-03-04"), assets=lambda: [slow_table, broken_table])
    assert [line.split()[0] for line in output.getvalue().splitlines()[2:]] == ["slow_table", "broken_table"]
