"""Queries of the runs that a Dagster instance knows: unfinished ones, what they make, the latest training."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from mbta_assets.defs.automation.jobs import daily_predictions, daily_tables, judge_candidate, service_day, training
from mbta_assets.defs.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    NOT_FINISHED_STATUSES,
    PARTITION_NAME_TAG,
)
from mbta_assets.defs.production import promotion

TRAINING_SET = dg.AssetKey("training_set")
FEATURES = dg.AssetKey("transit_features")
PREDICTIONS = dg.AssetKey("delay_predictions")
MAX_ATTEMPTS = 3
"""Runs that a sensor requests for the same change, until something else changes."""
RETRY_DELAY = timedelta(minutes=5)
"""Time between the first failure and the second attempt; it doubles with each further one."""


def is_retry_due(failed: dg.RunRecord, attempt: int, now: float) -> bool:
    """Return whether enough time has passed, at `now` in epoch seconds, since the attempt of that number failed."""
    return now >= (failed.end_time or 0) + RETRY_DELAY.total_seconds() * 2 ** (attempt - 1)


def list_unfinished_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs that are queued, starting or running."""
    return list(instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)))


def partition_ranges(run: dg.DagsterRun) -> Iterator[tuple[str, str]]:
    """Yield the first and the last partition of each range of service days that a run makes."""
    tags = run.tags
    if PARTITION_NAME_TAG in tags:
        yield tags[PARTITION_NAME_TAG], tags[PARTITION_NAME_TAG]
    if ASSET_PARTITION_RANGE_START_TAG in tags:
        yield tags[ASSET_PARTITION_RANGE_START_TAG], tags[ASSET_PARTITION_RANGE_END_TAG]


def is_training_run(run: dg.DagsterRun) -> bool:
    """Return whether a run makes the training set, and so the models trained on it."""
    return run.job_name == training.name or TRAINING_SET in (run.asset_selection or ())


def makes_features(run: dg.DagsterRun) -> bool:
    """Return whether a run makes features of any service day."""
    if run.asset_selection:
        return FEATURES in run.asset_selection
    return run.job_name in (daily_tables.name, service_day.name)


def makes_predictions(run: dg.DagsterRun) -> bool:
    """Return whether a run makes predictions of any service day."""
    if run.asset_selection:
        return PREDICTIONS in run.asset_selection
    return run.job_name in (daily_predictions.name, service_day.name)


def judges_candidate(run: dg.DagsterRun) -> bool:
    """Return whether a run judges a candidate without training one."""
    return run.job_name == judge_candidate.name or dg.AssetKey(promotion.ASSET) in (run.asset_selection or ())


def is_training_canceled(instance: dg.DagsterInstance) -> bool:
    """Return whether somebody has cancelled a training since features were last made."""
    event = instance.get_latest_materialization_event(FEATURES)
    made_at = datetime.fromtimestamp(event.timestamp, UTC) if event else None
    canceled = dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED], updated_after=made_at)
    return any(is_training_run(run) for run in instance.get_runs(canceled))


def get_last_training_time(instance: dg.DagsterInstance) -> datetime | None:
    """Return the time at which the training set was last made, None if it never was."""
    event = instance.get_latest_materialization_event(TRAINING_SET)
    return datetime.fromtimestamp(event.timestamp, UTC) if event else None
