"""What the instance knows of runs: which are not finished, what they are about, when models were last trained."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, RunRecord
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from mbta_assets.defs.automation.jobs import daily_tables, service_day, training

TRAINING_SET = dg.AssetKey("training_set")
FEATURES = dg.AssetKey("transit_features")
ATTEMPTS = 3
"""So often what a sensor asks for is tried, until something else is to be done."""
RETRY_AFTER = timedelta(minutes=5)
"""Before the second attempt; before the third it is twice that."""


def may_be_tried_again(failed: RunRecord, attempt: int, now: float) -> bool:
    """Whether the time has come, in epoch seconds, to try again what failed at so many attempts."""
    return now >= (failed.end_time or 0) + RETRY_AFTER.total_seconds() * 2 ** (attempt - 1)


def unfinished(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs that are queued, starting or running."""
    return list(instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)))


def days_of(run: dg.DagsterRun) -> Iterator[tuple[str, str]]:
    """The service days that a run makes, from the first to the last."""
    tags = run.tags
    if PARTITION_NAME_TAG in tags:
        yield tags[PARTITION_NAME_TAG], tags[PARTITION_NAME_TAG]
    if ASSET_PARTITION_RANGE_START_TAG in tags:
        yield tags[ASSET_PARTITION_RANGE_START_TAG], tags[ASSET_PARTITION_RANGE_END_TAG]


def is_training(run: dg.DagsterRun) -> bool:
    """Whether a run makes a training set, and so what is learned from it."""
    return run.job_name == training.name or TRAINING_SET in (run.asset_selection or ())


def makes_features(run: dg.DagsterRun) -> bool:
    """Whether a run makes features of some service day."""
    selected = run.asset_selection
    return FEATURES in selected if selected else run.job_name in (daily_tables.name, service_day.name)


def last_training(instance: dg.DagsterInstance) -> datetime | None:
    """When the training set was last made."""
    event = instance.get_latest_materialization_event(TRAINING_SET)
    return datetime.fromtimestamp(event.timestamp, UTC) if event else None
