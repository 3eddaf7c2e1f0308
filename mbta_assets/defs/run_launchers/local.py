"""The run launcher of one machine: Dagster's own, with a health check that notices a run whose process is gone."""

import os
import time
from pathlib import Path

from dagster import DagsterEventType, DagsterRun

from mbta_assets.defs.commands import LOST_MESSAGE, is_lost
from mbta_assets.defs.dagster_internals import GRPC_INFO_TAG, CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

CLOCK_TOLERANCE_SECONDS = 1.0


class LocalRunLauncher(DefaultRunLauncher):
    """Launcher of runs as processes of this machine, with a health check for run monitoring.

    Without a health check, a run that was killed together with its code server (by a reboot or the out-of-memory
    killer) would stay "started" forever and keep its place among the concurrent runs. Runs that a command executes
    itself are judged by the process that they are tagged with (`defs.commands`).
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return True: run monitoring calls `check_run_worker_health` for each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether the process that executes a run still exists."""
        if GRPC_INFO_TAG not in run.tags:
            if is_lost(run):
                return CheckRunHealthResult(WorkerStatus.NOT_FOUND, LOST_MESSAGE)
            return CheckRunHealthResult(WorkerStatus.RUNNING, "A command executes it, in a process of its own.")
        worker = self._find_worker(run)
        if worker is None or is_running(*worker):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"its process {worker[0]} is gone")

    def _find_worker(self, run: DagsterRun) -> tuple[int, float] | None:
        """Return the process id that a run's log has, and the time of that entry in epoch seconds."""
        for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
            event = entry.get_dagster_event()
            if "pid" in event.engine_event_data.metadata:
                return int(str(event.engine_event_data.metadata["pid"].value)), entry.timestamp
        return None


def is_running(pid: int, started_before: float) -> bool:
    """Return whether a process with this id runs that started before a time in epoch seconds.

    A younger process has the id of one that has ended. Where `/proc` does not exist, any process with the id counts.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # The 20th field after the name, which may contain anything, is the start in clock ticks since boot (proc(5)).
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:  # no /proc, or the process has just ended, which the next health check finds
        return True
    boot_time = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_time + ticks / os.sysconf("SC_CLK_TCK") <= started_before + CLOCK_TOLERANCE_SECONDS
