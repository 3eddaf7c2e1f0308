"""The health check of runs: run monitoring notices that the process of a run is gone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.defs.commands import PROCESS_TAG, describe_process
from mbta_assets.defs.dagster_internals import GRPC_INFO_TAG, EngineEventData, WorkerStatus
from mbta_assets.defs.run_launchers.local import LocalRunLauncher, is_running
from mbta_assets_tests.support.dagster_dev import ROOT

pytestmark = pytest.mark.integration


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Create an instance with the project's dagster.yaml."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def start_and_end_process() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def check_health(instance: dg.DagsterInstance, pid: int | None, *, launched: bool = True) -> WorkerStatus:
    """Create a run, executed by a process if one is given, and return the result of its health check."""
    tags = {GRPC_INFO_TAG: "{}"} if launched else {}
    run = instance.create_run_for_job(dg.GraphDefinition("nothing").to_job(), tags=tags)
    if pid:
        instance.report_engine_event("Started.", run, EngineEventData.in_process(pid))
    stored = instance.get_run_by_id(run.run_id)
    assert stored
    return instance.run_launcher.check_run_worker_health(stored).status


def test_the_projects_dagster_yaml_uses_the_launcher(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_launcher, LocalRunLauncher)


def test_a_run_is_lost_when_its_process_is_gone(instance: dg.DagsterInstance) -> None:
    assert check_health(instance, os.getpid()) == WorkerStatus.RUNNING
    assert check_health(instance, start_and_end_process()) == WorkerStatus.NOT_FOUND


def test_a_run_whose_process_has_not_logged_anything_yet_is_left_to_the_start_timeout(
    instance: dg.DagsterInstance,
) -> None:
    assert check_health(instance, None) == WorkerStatus.RUNNING


def test_a_run_that_a_command_executes_is_not_judged_without_a_tag_of_its_process(
    instance: dg.DagsterInstance,
) -> None:
    assert check_health(instance, start_and_end_process(), launched=False) == WorkerStatus.RUNNING


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc describes processes")
def test_a_run_of_a_command_is_lost_when_the_process_it_is_tagged_with_is_gone(instance: dg.DagsterInstance) -> None:
    own = describe_process(os.getpid())
    assert own
    gone = f"{own.rpartition(' ')[0]} 1"  # another process that had the id of this one
    for process, status in ((own, WorkerStatus.RUNNING), (gone, WorkerStatus.NOT_FOUND)):
        run = instance.create_run_for_job(dg.GraphDefinition("nothing").to_job(), tags={PROCESS_TAG: process})
        assert instance.run_launcher.check_run_worker_health(run).status == status


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc has the start of a process")
def test_a_younger_process_with_the_same_id_is_not_the_one_of_the_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid, time.time())
        assert not is_running(process.pid, time.time() - 60)
        process.communicate(b"\n")
