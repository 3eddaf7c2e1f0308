"""Copies of what a Dagster instance has stored, so that tests start from the same state and run it once."""

import dagster as dg


def copy_runs(source: dg.DagsterInstance, target: dg.DagsterInstance) -> None:
    """Copy the runs of an instance and their events to one that has none."""
    for run in reversed(source.get_runs()):
        assert run.job_snapshot_id
        target.run_storage.add_job_snapshot(source.get_job_snapshot(run.job_snapshot_id))
        target.add_run(run)
        for entry in source.all_logs(run.run_id):
            target.event_log_storage.store_event(entry)
