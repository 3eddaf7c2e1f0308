"""Runs that a command executes itself: one whose process is gone is reported as failed and releases its pools."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.defs.commands import PROCESS_TAG, UNKNOWN, describe_process, fail_lost_commands, is_lost, tag_process
from mbta_assets_tests.support.dagster_dev import ROOT, eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc describes processes"),
]

DEFINITIONS = """
import sys, time
from pathlib import Path

import dagster as dg
from mbta_assets.defs.executor import step_executor


@dg.asset(pool="cores")
def model() -> None:
    begun = Path(__file__).with_name("begun")
    if not begun.exists():
        begun.touch()
        time.sleep(600)


defs = dg.Definitions([model], executor=step_executor)
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Create an instance with the project's dagster.yaml."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def create_run(instance: dg.DagsterInstance, process: str | None) -> dg.DagsterRun:
    """Create a run that has started and is tagged with a process."""
    tags = {PROCESS_TAG: process} if process else {}
    job = dg.GraphDefinition("nothing").to_job()
    return instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)


def describe_ended_process() -> str:
    """Return the description of a process that has ended since."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        described = describe_process(process.pid)
        process.communicate(b"\n")
    assert described
    return described


def test_a_run_is_lost_when_the_process_it_is_tagged_with_is_gone(instance: dg.DagsterInstance) -> None:
    ended = describe_ended_process()
    lost = create_run(instance, ended)
    alive = [create_run(instance, process) for process in (describe_process(os.getpid()), None)]
    assert is_lost(lost) and not any(map(is_lost, alive))
    fail_lost_commands(instance)
    statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses.pop(lost.run_id) == dg.DagsterRunStatus.FAILURE
    assert set(statuses.values()) == {dg.DagsterRunStatus.STARTED}


def test_a_process_that_cannot_be_seen_from_here_is_not_judged(instance: dg.DagsterInstance) -> None:
    machine, boot, namespace, pid, start = describe_ended_process().split()

    def judge(*parts: str) -> bool:
        return is_lost(create_run(instance, " ".join(parts)))

    assert not judge("another/machine", boot, namespace, pid, start)
    assert not judge(machine, boot, "pid:[1]", pid, start)
    before_reboot = judge(machine, "an-earlier-boot", namespace, pid, start)
    assert before_reboot == (not machine.endswith(UNKNOWN))
    own = describe_process(os.getpid())
    assert own
    younger = [*own.split()[:4], "1"]  # another process that had the id of this one
    assert judge(*younger)


def test_a_run_is_tagged_with_its_process(instance: dg.DagsterInstance) -> None:
    run = create_run(instance, None)
    tag_process(instance, run)
    stored = instance.get_run_by_id(run.run_id)
    assert stored and stored.tags[PROCESS_TAG] == describe_process(os.getpid())


def test_a_training_does_not_wait_for_one_whose_command_was_killed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", str(tmp_path / "definitions.py")]
    variables = {**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(
        [*command, "--select", "*"], env=variables, start_new_session=True, stderr=subprocess.DEVNULL
    )
    eventually("the step has begun", 120, (tmp_path / "begun").exists)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    again = subprocess.run([*command, "--select", "*"], env=variables, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-4000:]
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
