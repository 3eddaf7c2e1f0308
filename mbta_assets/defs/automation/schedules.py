"""Schedules: every night the service days that have just ended, every week a training and a removal of versions."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from mbta_assets.defs.automation.jobs import (
    default_schedule_status,
    freshness,
    prune_versions,
    select_downstream_assets,
    service_day,
    training,
)
from mbta_assets.defs.automation.runs import get_last_training_time, is_training_run, list_unfinished_runs
from mbta_assets.defs.freshness import HOURS_AFTER_NIGHTLY
from mbta_assets.defs.partitions import service_days
from mbta_assets.defs.upstream import list_upstream_tables, reads_in_place
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.transit.service_day import TIME_ZONE

NIGHTS_PER_DAY = 2
"""Nights on which a service day is made: the one after it, and the next, when late data has been corrected."""
MIN_TRAINING_AGE = timedelta(days=6)
"""A little less than a week, so that a training one week ago to the hour does not count as this week's."""


def nightly(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule that makes the latest service days that have ended, one run for each."""
    copied = [] if reads_in_place(settings) else list_upstream_tables(settings)

    @dg.schedule(
        name="nightly",
        job=service_day,
        cron_schedule=f"0 {settings.nightly_hour} * * *",
        execution_timezone=TIME_ZONE,
        default_status=default_schedule_status(settings),
        description="Make the service day that has ended, and the previous one again; once there is a production "
        "model, predictions, their accuracy and the snapshot too.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, model_registry: dg.ResourceParam[ModelRegistry]
    ) -> Iterator[dg.RunRequest]:
        time = context.scheduled_execution_time
        assets = [*copied, *select_downstream_assets(context, model_registry)]
        for day in service_days(settings).get_partition_keys(current_time=time)[-NIGHTS_PER_DAY:]:
            yield dg.RunRequest(
                run_key=f"{day} at {time:%Y-%m-%d}",
                partition_key=day,
                asset_selection=[dg.AssetKey(name) for name in assets],
            )

    return schedule


def nightly_freshness(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule that checks whether the nightly run has published the latest service day."""
    return dg.ScheduleDefinition(
        name="freshness",
        job=freshness,
        cron_schedule=f"0 {(settings.nightly_hour + HOURS_AFTER_NIGHTLY) % 24} * * *",
        execution_timezone=TIME_ZONE,
        default_status=default_schedule_status(settings),
        description="Check that the service day that ended last is published.",
    )


def weekly_training(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule that trains models on Sundays unless they were trained in the week before."""

    @dg.schedule(
        name="weekly_training",
        job=training,
        cron_schedule="0 12 * * 0",
        execution_timezone=TIME_ZONE,
        default_status=default_schedule_status(settings),
        description="Train on Sundays, score, and promote a candidate that passes the gate, unless models were "
        "trained in the week before.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        time, last_training = context.scheduled_execution_time, get_last_training_time(context.instance)
        if any(map(is_training_run, list_unfinished_runs(context.instance))):
            return dg.SkipReason("Models are being trained.")
        if last_training and time - last_training < MIN_TRAINING_AGE:
            return dg.SkipReason(f"Models were trained at {last_training:%Y-%m-%d %H:%M} UTC.")
        return dg.RunRequest(run_key=f"{time:%Y-%m-%d}")

    return schedule


def weekly_pruning(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule that removes what nothing needs any more."""
    return dg.ScheduleDefinition(
        name="weekly_pruning",
        job=prune_versions,
        cron_schedule="0 15 * * 0",
        execution_timezone=TIME_ZONE,
        default_status=default_schedule_status(settings),
        description="Remove on Sundays the versions and refused service days that nothing needs any more.",
    )
