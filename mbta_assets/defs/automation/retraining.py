"""Retraining: when all models are made again, from the training set to the production model.

The rule is an automation condition of the assets: at MBTA_RETRAIN_AT, if the features of any service day have changed
since the last training, all of them are made again in one run. It waits while features are being made or backfilled.

Two sensors see what the condition cannot: `unnoticed_changes` finds features that changed at the moment of a run, or
whose training failed, and `drift` follows the checks of prediction_accuracy.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from mbta_assets.defs.automation.jobs import default_sensor_status, training
from mbta_assets.defs.automation.runs import (
    FEATURES,
    MAX_ATTEMPTS,
    get_last_training_time,
    is_retry_due,
    is_training_canceled,
    is_training_run,
    list_unfinished_runs,
    makes_features,
)
from mbta_assets.defs.dagster_internals import (
    cron_string_iterator,
    get_current_datetime,
    is_valid_cron_string,
    latest_check_records_by_partition,
)
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit.service_day import TIME_ZONE

TRAINED_GROUPS = ("training", "models", "production")
"""Groups whose assets have the condition."""
LAST_ASSET = "production_model"
FEATURES_TAG = "mbta_assets/features"
"""Tag of a run that `unnoticed_changes` requests: the digest of the features to train on."""
CONDITION_GRACE = timedelta(minutes=30)
"""Time after MBTA_RETRAIN_AT in which the condition may still start a run."""
TRAINING_CANCELED = "A training on these features was cancelled; the next one follows when they change."
MAX_CHECKED_DAYS = 200
"""Latest results of a drift check that are looked at."""
DRIFT_CHECKS = tuple(
    dg.AssetCheckKey(dg.AssetKey("prediction_accuracy"), name)
    for name in ("drift_within_bounds", "accuracy_within_bounds")
)


def follows_features(settings: Settings) -> dg.AutomationCondition:
    """Return the condition of all trained assets. Raises SettingsError if MBTA_RETRAIN_AT is not valid cron."""
    if not is_valid_cron_string(settings.retrain_at):
        raise SettingsError(f"MBTA_RETRAIN_AT is {settings.retrain_at!r}; it may be cron, such as 0 6 * * *.")
    condition = dg.AutomationCondition
    time_has_come = condition.cron_tick_passed(settings.retrain_at, TIME_ZONE).with_label("time_has_come")
    changed = condition.any_deps_match(condition.data_version_changed()).since_last_handled()
    due = (time_has_come & changed).since_last_handled().with_label("due")  # type: ignore[misc]
    with_its_inputs = condition.any_deps_match(condition.will_be_requested()).with_label("with_its_inputs")
    # Missing service days are normal, a missing model is not.
    missing = condition.any_deps_missing().ignore(dg.AssetSelection.assets(FEATURES))
    return (
        (due | with_its_inputs)
        & ~missing
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & ~condition.asset_matches(LAST_ASSET, condition.in_progress()).with_label("training_in_progress")
    ).with_label("follows_features")


def with_conditions(settings: Settings, assets: Iterable[Any]) -> list[Any]:
    """Return the assets, the trained ones with the condition. Raises SettingsError."""
    condition = follows_features(settings)

    def add_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        if spec.group_name not in TRAINED_GROUPS:
            return spec
        return spec.replace_attributes(automation_condition=condition)

    return [
        asset.map_asset_specs(add_condition) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets
    ]


def retraining(settings: Settings) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the condition."""
    return dg.AutomationConditionSensorDefinition(
        "retraining",
        target=dg.AssetSelection.groups(*TRAINED_GROUPS),
        default_status=default_sensor_status(settings),
        minimum_interval_seconds=30,
        description="Train again, from the training set to the production model, at MBTA_RETRAIN_AT if features have "
        "changed.",
    )


def unnoticed_changes(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor for changes that the condition has missed."""

    @dg.sensor(
        name="unnoticed_changes",
        job=training,
        default_status=default_sensor_status(settings),
        minimum_interval_seconds=300,
        description="Train if the latest models were not trained on the stored features although MBTA_RETRAIN_AT has "
        "passed: features changed during a training or before this deployment watched them, or the training failed.",
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        model_registry: dg.ResourceParam[ModelRegistry],
    ) -> dg.SensorResult | dg.SkipReason:
        runs = list_unfinished_runs(context.instance)
        if any(is_training_run(run) or makes_features(run) for run in runs):
            return dg.SkipReason("Features are being made, or models trained.")
        features_digest, now = find_untrained_features(settings, warehouse, model_registry), get_current_datetime()
        if features_digest is None:
            return dg.SensorResult(skip_reason="The models were trained on the stored features.", cursor="")
        since = datetime.fromisoformat(context.cursor) if context.cursor else now
        # Dagster returns the latest run first.
        earlier = context.instance.get_run_records(dg.RunsFilter(tags={FEATURES_TAG: features_digest}))
        failed = list(takewhile(lambda record: not record.dagster_run.is_success, earlier))
        if earlier and not failed:  # a training that changed nothing is not repeated before the next scheduled time
            since = max(since, datetime.fromtimestamp(earlier[0].end_time or 0, UTC))
        due = _next_retraining_time(settings, since) + CONDITION_GRACE
        if now < due:
            reason = f"The condition has until {due:%Y-%m-%d %H:%M %Z} to follow the features."
            return dg.SensorResult(skip_reason=reason, cursor=since.isoformat())
        if reason_to_wait := _find_reason_to_wait(context.instance, failed, now):
            return dg.SkipReason(reason_to_wait)
        request = dg.RunRequest(
            run_key=f"features {features_digest} {len(earlier) + 1}", tags={FEATURES_TAG: features_digest}
        )
        return dg.SensorResult(run_requests=[request], cursor=since.isoformat())

    return sensor


def find_untrained_features(settings: Settings, warehouse: Warehouse, model_registry: ModelRegistry) -> str | None:
    """Return a digest of the stored features if the latest student was not trained on them, else None."""
    days = warehouse.tables.days("transit_features")[-settings.training_days :]
    if not days:
        return None
    versions = {str(day): version for day, version in warehouse.tables.versions("transit_features", days).items()}
    student = model_registry.current_digest("quantized_student")
    # A student's manifest has the versions of the features that it comes from, whatever the current training set is.
    if student and model_registry.read_manifest("quantized_student", student).get("data_versions") == versions:
        return None
    return hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:16]


def drift(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that trains after a warning of drift."""

    @dg.sensor(
        name="drift",
        job=training,
        default_status=default_sensor_status(settings),
        minimum_interval_seconds=300,
        description="Train if a check of prediction_accuracy has warned of drift or of lost accuracy since the last "
        "training, and that was at least MBTA_RETRAIN_HOURS ago.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        last_training = get_last_training_time(context.instance)
        warnings = _list_warnings(context.instance, last_training)
        if not warnings:
            return dg.SkipReason("There is no warning since the last training.")
        if any(map(is_training_run, list_unfinished_runs(context.instance))):
            return dg.SkipReason("Models are being trained.")
        if is_training_canceled(context.instance):
            return dg.SkipReason(TRAINING_CANCELED)
        if last_training and get_current_datetime() - last_training < timedelta(hours=settings.retrain_hours):
            return dg.SkipReason(
                f"Models were trained at {last_training:%Y-%m-%d %H:%M} UTC, less than MBTA_RETRAIN_HOURS ago."
            )
        return dg.RunRequest(run_key=f"drift {max(warnings)}")

    return sensor


def _find_reason_to_wait(instance: dg.DagsterInstance, failed: Sequence[dg.RunRecord], now: datetime) -> str | None:
    """Return why no training is requested now, given the failed trainings on the same features, latest first."""
    canceled = any(record.dagster_run.status == dg.DagsterRunStatus.CANCELED for record in failed)
    if canceled or is_training_canceled(instance):
        return TRAINING_CANCELED
    if len(failed) >= MAX_ATTEMPTS:
        return f"{MAX_ATTEMPTS} trainings on these features have failed; the next one follows when they change."
    if failed and not is_retry_due(failed[0], len(failed), now.timestamp()):
        return "The training has failed; it is tried again in some minutes."
    return None


def _list_warnings(instance: dg.DagsterInstance, last_training: datetime | None) -> list[int]:
    """Return the ids of the drift checks that failed since the last training, the latest of each service day."""
    return [
        record.id
        for key in DRIFT_CHECKS
        for record in latest_check_records_by_partition(instance, key, MAX_CHECKED_DAYS).values()
        if record.event and record.evaluation and not record.evaluation.passed
        if not last_training or record.event.timestamp > last_training.timestamp()
    ]


def _next_retraining_time(settings: Settings, after: datetime) -> datetime:
    """Return the next time at which the condition looks for changes."""
    local_time = after.astimezone(ZoneInfo(TIME_ZONE))
    return next(cron_string_iterator(local_time.timestamp(), settings.retrain_at, TIME_ZONE))
