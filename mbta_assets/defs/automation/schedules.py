"""What runs at set times: every night the service days that have just ended, every week a training."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from mbta_assets.defs.automation.jobs import schedule_status, service_day, training
from mbta_assets.defs.automation.runs import is_training, last_training, unfinished
from mbta_assets.defs.partitions import service_days
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import TIME_ZONE

NIGHTS = 2
"""So often a service day is made: the night after it, and once more when what was still in disorder then is mended."""
WEEK = timedelta(days=6)
"""A little less, so that a training a week ago to the hour is none of this week."""
TABLES = ("raw_transit_data", "transit_features")
MONITORING = ("delay_predictions", "prediction_accuracy")


def nightly(settings: Settings) -> dg.ScheduleDefinition:
    """The schedule that makes the service days which have just ended, a run each."""
    copied = () if settings.source == "bigquery" else tuple(schema.UPSTREAM)

    @dg.schedule(
        name="nightly",
        job=service_day,
        cron_schedule=f"0 {settings.nightly_hour} * * *",
        execution_timezone=TIME_ZONE,
        default_status=schedule_status(settings),
        description="Makes the service day that has ended, and the one before once more; predictions and their "
        "accuracy too, once there is a production model.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, bundle_store: dg.ResourceParam[ModelRegistry]
    ) -> Iterator[dg.RunRequest]:
        at = context.scheduled_execution_time
        monitoring = MONITORING if bundle_store.current_digest("production_model") else ()
        for day in service_days.get_partition_keys(current_time=at)[-NIGHTS:]:
            yield dg.RunRequest(
                run_key=f"{day} at {at:%Y-%m-%d}",
                partition_key=day,
                asset_selection=[dg.AssetKey(name) for name in (*copied, *TABLES, *monitoring)],
            )

    return schedule


def weekly_training(settings: Settings) -> dg.ScheduleDefinition:
    """The schedule that sees to it that models are trained once a week."""

    @dg.schedule(
        name="weekly_training",
        job=training,
        cron_schedule="0 12 * * 0",
        execution_timezone=TIME_ZONE,
        default_status=schedule_status(settings),
        description="Trains, scores and perhaps promotes on Sundays, unless that was done in the week before.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        at, last = context.scheduled_execution_time, last_training(context.instance)
        if any(map(is_training, unfinished(context.instance))):
            return dg.SkipReason("Models are being trained.")
        if last and at - last < WEEK:
            return dg.SkipReason(f"Models were trained at {last:%Y-%m-%d %H:%M} UTC.")
        return dg.RunRequest(run_key=f"{at:%Y-%m-%d}")

    return schedule
