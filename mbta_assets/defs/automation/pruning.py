"""Pruning: a job removes versions, files and plots that nothing needs any more.

Which versions and files are needed is in `storage.retention`. Plots are metadata of materializations, which Dagster
keeps until their run is deleted: those of old trainings are deleted here.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from mbta_assets.counts import format_count
from mbta_assets.defs.dagster_internals import ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG
from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.resources.settings import TrainingLogs
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.retention import Retention, apply_plan, make_plan

TRAINING_JOB = "training"
FINAL_STATUSES = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class PruneConfig(dg.Config):
    """Whether anything is removed."""

    dry_run: bool = Field(default=False, description="List what would be removed, and remove nothing.")


@dg.op(description="Remove versions, refused service days and plots of old trainings that nothing needs any more.")
def prune(
    context: dg.OpExecutionContext,
    config: PruneConfig,
    model_registry: dg.ResourceParam[ModelRegistry],
    retention: dg.ResourceParam[Retention],
    training_logs: TrainingLogs,
) -> None:
    now = datetime.now(UTC)
    plan = make_plan(model_registry, retention, now)
    if not config.dry_run:
        plan = apply_plan(model_registry, plan)
    trainings = prune_plots(context.instance, training_logs.keep_plots, dry_run=config.dry_run)
    rows = plan.to_table(now) + describe_runs(trainings, now)
    removed = f"{format_count(len(rows), 'item')}, {format_count(plan.size_bytes, 'byte')}"
    context.log.info(f"{'Would remove' if config.dry_run else 'Removed'} {removed}.")
    context.add_output_metadata({"items": table_metadata(rows), "size_bytes": plan.size_bytes, "count": len(rows)})


def prune_plots_of_home(keep: int, *, dry_run: bool) -> list[dg.RunRecord]:
    """Prune the plots in the instance of DAGSTER_HOME; there are none where that is no directory."""
    home = os.environ.get("DAGSTER_HOME")
    if not home or not Path(home).is_dir():
        return []
    with dg.DagsterInstance.get() as instance:
        return prune_plots(instance, keep, dry_run=dry_run)


def prune_plots(instance: dg.DagsterInstance, keep: int, *, dry_run: bool) -> list[dg.RunRecord]:
    """Delete the runs of old trainings with their events and plots, but for a dry run, and return them."""
    trainings = list_old_trainings(instance, keep)
    if not dry_run:
        for record in trainings:
            instance.delete_run(record.dagster_run.run_id)
    return trainings


def list_old_trainings(instance: dg.DagsterInstance, keep: int) -> list[dg.RunRecord]:
    """Return the runs that have ended and may have drawn plots, without the latest `keep`, the latest first."""
    ended = dg.RunsFilter(statuses=FINAL_STATUSES)
    return [record for record in instance.get_run_records(ended) if may_have_plots(record.dagster_run)][keep:]


def may_have_plots(run: dg.DagsterRun) -> bool:
    """Return whether a run made assets without partitions, whose next run makes all of their plots again.

    Runs of service days have plots too, and stay: with a run goes what Dagster knows of the days that it made.
    """
    is_partitioned = {PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG} & set(run.tags)
    return not is_partitioned and (bool(run.asset_selection) or run.job_name == TRAINING_JOB)


def describe_runs(records: Sequence[dg.RunRecord], now: datetime) -> list[dict[str, Any]]:
    """Return a row of each run, as `Plan.to_table` does of versions and files; its size is not known."""
    return [
        {
            "name": f"plots of run {record.dagster_run.run_id[:8]}",
            "size_bytes": 0,
            "age_days": round((now - record.create_timestamp).total_seconds() / 86_400, 1),
        }
        for record in records
    ]
