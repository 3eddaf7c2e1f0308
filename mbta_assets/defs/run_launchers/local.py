"""How runs are started on one machine, and how one is noticed whose process is gone."""

import os
import time
from pathlib import Path

from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's launcher for runs as processes of this machine, with a health check for run monitoring.

    Without one, a run that was killed together with its code server (a reboot, the out-of-memory killer) would stay
    "started" for ever and hold its place among the concurrent runs. Runs that others started are not judged.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for the health of each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process that executes a run is still there."""
        if GRPC_INFO_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "A command executes it, in a process of its own.")
        worker = self._process_of(run)
        if worker is None or is_there(*worker):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"its process {worker[0]} is gone")

    def _process_of(self, run: DagsterRun) -> tuple[int, float] | None:
        """The id of a run's process, and when the process said so."""
        for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
            event = entry.get_dagster_event()
            if "pid" in event.engine_event_data.metadata:
                return int(str(event.engine_event_data.metadata["pid"].value)), entry.timestamp
        return None


def is_there(process: int, since: float) -> bool:
    """Whether a process is running that is no younger than a moment: ids are given out again."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # After the name, which may hold anything, the 20th field is the start in ticks since boot (man 5 proc).
        ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:  # there is no /proc, or it has ended just now: the next look will tell
        return True
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    return started <= since + 1
