"""Runs that a command executes itself, as `dagster asset materialize` does, and what becomes of them if it is killed.

No launcher watches such a run. If its process is killed, the run would stay "started" for ever: it would keep its place
in the pool of trainings, so that the next training waits for it, and its service days would count as being made. A run
is therefore tagged with its process, and whoever next runs something on the same machine reports it as failed.
"""

import os
import socket
from pathlib import Path

import dagster as dg

from mbta_assets.defs.dagster_internals import NOT_FINISHED_STATUSES

PROCESS_TAG = "mbta_assets/process"
"""Process that executes a run, as `describe_process` describes it."""
LOST_MESSAGE = "The process of the command that executed this run is gone."
MACHINE_ID, BOOT_ID = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
UNKNOWN = "unknown"


def tag_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tag a run that a command executes with this process, where the system describes processes in `/proc`.

    Runs that were launched have an origin, and a launcher that watches them.
    """
    process = describe_process(os.getpid())
    if process and run.remote_job_origin is None:
        instance.add_run_tags(run.run_id, {PROCESS_TAG: process})


def fail_lost_commands(instance: dg.DagsterInstance) -> None:
    """Report the unfinished runs of commands whose process is gone as failed, and release their places in pools."""
    for run in instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)):
        if is_lost(run):
            instance.report_run_failed(run, LOST_MESSAGE)
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def is_lost(run: dg.DagsterRun) -> bool:
    """Return True if a command executed a run on this machine and its process is gone.

    A process on another machine or in another container cannot be seen from here, and is not judged.
    """
    tagged, own = run.tags.get(PROCESS_TAG), describe_process(os.getpid())
    if tagged is None or own is None:
        return False
    machine, boot, namespace, pid, _ = tagged.split()
    this_machine, this_boot, this_namespace, *_ = own.split()
    if machine != this_machine:
        return False
    if boot != this_boot:
        return not machine.endswith(UNKNOWN)
    return namespace == this_namespace and describe_process(int(pid)) != tagged


def describe_process(pid: int) -> str | None:
    """Return machine, boot, PID namespace, id and start of a process; None if it is gone or there is no `/proc`."""
    try:
        machine = MACHINE_ID.read_text().strip() if MACHINE_ID.exists() else ""
        namespace = os.readlink("/proc/self/ns/pid")
        # The first field after the name, which may contain anything, is the state; the 20th is the start (proc(5)).
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state in "ZX":
            return None
        machine = f"{socket.gethostname()}/{machine or UNKNOWN}"  # images of containers may come with an id
        return f"{machine} {BOOT_ID.read_text().strip()} {namespace} {pid} {fields[18]}"
    except OSError:
        return None
