"""When models are trained again.

The rule is on the assets: when `MBTA_RETRAIN_AT` comes, and the data of some service day's features is another than it
was at the last training, all that is learned is made again in one run, from the training set to the production model.
While features are being made, or a backfill is under way, it waits. Two sensors see what the rule cannot: features that
changed at the moment of a run, or whose training failed, and drift.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._time import get_current_datetime
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string

from mbta_assets.defs.automation.jobs import sensor_status, training
from mbta_assets.defs.automation.runs import (
    ATTEMPTS,
    FEATURES,
    TRAINING_SET,
    is_training,
    last_training,
    makes_features,
    may_be_tried_again,
    unfinished,
)
from mbta_assets.defs.production.promotion import failed_checks
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit.service_day import TIME_ZONE

LEARNED = ("training", "models", "production")
"""The groups that the rule holds for."""
LAST = "production_model"
FEATURES_TAG = "mbta_assets/features"
"""Of a run that `unnoticed_changes` asks for: the digest of the features it is to learn from."""
GRACE = timedelta(minutes=30)
"""After its time has come, the rule has as long to start a run."""
DRIFT_CHECKS = tuple(
    dg.AssetCheckKey(dg.AssetKey("prediction_accuracy"), name)
    for name in ("drift_within_bounds", "accuracy_within_bounds")
)


def follows_features(settings: Settings) -> dg.AutomationCondition:
    """The condition of everything that is learned. Raises SettingsError where its time is none that there is."""
    if not is_valid_cron_string(settings.retrain_at):
        raise SettingsError(f"MBTA_RETRAIN_AT is {settings.retrain_at!r}; it may be cron, such as 0 6 * * *.")
    condition = dg.AutomationCondition
    time_has_come = condition.cron_tick_passed(settings.retrain_at, TIME_ZONE).with_label("time_has_come")
    changed = condition.any_deps_match(condition.data_version_changed()).since_last_handled()
    due = (time_has_come & changed).since_last_handled().with_label("due")  # type: ignore[misc]
    with_its_inputs = condition.any_deps_match(condition.will_be_requested()).with_label("with_its_inputs")
    # Not `all_deps_blocking_checks_passed`: of runs side by side the check that ends last is often of another run than
    # the latest materialization, and then counts as not made until the next one.
    rejected = condition.any_deps_match(condition.any_checks_match(condition.check_failed(), blocking_only=True))
    # Missing service days are as it should be; a missing model is not.
    missing = condition.any_deps_missing().ignore(dg.AssetSelection.assets(FEATURES))
    return (
        (due | with_its_inputs)
        & ~missing
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & ~condition.asset_matches(LAST, condition.in_progress()).with_label("training_in_progress")
        & (with_its_inputs | ~rejected)
    ).with_label("follows_features")


def with_conditions(settings: Settings, assets: Iterable[Any]) -> list[Any]:
    """Assets, of which those that are learned follow the features."""
    condition = follows_features(settings)

    def follow(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=condition) if spec.group_name in LEARNED else spec

    return [asset.map_asset_specs(follow) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets]


def retraining(settings: Settings) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the condition."""
    return dg.AutomationConditionSensorDefinition(
        "retraining",
        target=dg.AssetSelection.groups(*LEARNED),
        default_status=sensor_status(settings),
        minimum_interval_seconds=30,
        description="Trains again, from the training set to the production model, when MBTA_RETRAIN_AT comes and "
        "features have changed.",
    )


def unnoticed_changes(settings: Settings) -> dg.SensorDefinition:
    """The sensor for what the condition has missed."""

    @dg.sensor(
        name="unnoticed_changes",
        job=training,
        default_status=sensor_status(settings),
        minimum_interval_seconds=300,
        description="Trains where the latest models are not of the stored features though MBTA_RETRAIN_AT has come: "
        "where features changed at the moment of a training, or before anything was watched, or where it has failed.",
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        warehouse: dg.ResourceParam[Warehouse],
        bundle_store: dg.ResourceParam[ModelRegistry],
    ) -> dg.SensorResult | dg.SkipReason:
        assert context.repository_def
        runs = unfinished(context.instance)
        if any(is_training(run) or makes_features(run) for run in runs):
            return dg.SkipReason("Features are being made, or models trained.")
        learned_from, now = stale(settings, warehouse, bundle_store), get_current_datetime()
        if learned_from is None:
            return dg.SensorResult(skip_reason="The models are of the stored features.", cursor="")
        since = datetime.fromisoformat(context.cursor) if context.cursor else now
        earlier = context.instance.get_run_records(dg.RunsFilter(tags={FEATURES_TAG: learned_from}))
        failed = list(takewhile(lambda record: not record.dagster_run.is_success, earlier))
        if earlier and not failed:  # a training that changed nothing is not repeated before the next time has come
            since = max(since, datetime.fromtimestamp(earlier[0].end_time or 0, UTC))
        due = _next_time(settings, since) + GRACE
        if now < due:
            left = f"The rule has until {due:%Y-%m-%d %H:%M %Z} to follow the features."
            return dg.SensorResult(skip_reason=left, cursor=since.isoformat())
        _, rejected = failed_checks(context.instance, context.repository_def.asset_graph, TRAINING_SET)
        if rejected:
            return dg.SkipReason(f"Blocking checks failed when they last ran: {', '.join(rejected)}.")
        if len(failed) >= ATTEMPTS:
            return dg.SkipReason(f"{ATTEMPTS} trainings on these features have failed; it is tried when they change.")
        if failed and not may_be_tried_again(failed[0], len(failed), now.timestamp()):
            return dg.SkipReason("The training has failed; it is tried again in some minutes.")
        request = dg.RunRequest(
            run_key=f"features {learned_from} {len(earlier) + 1}", tags={FEATURES_TAG: learned_from}
        )
        return dg.SensorResult(run_requests=[request], cursor=since.isoformat())

    return sensor


def stale(settings: Settings, warehouse: Warehouse, bundle_store: ModelRegistry) -> str | None:
    """A digest of the features, where the latest student has learned from something else; else None."""
    days = warehouse.tables.days("transit_features")[-settings.training_days :]
    if not days:
        return None
    versions = {str(day): version for day, version in warehouse.tables.versions("transit_features", days).items()}
    training_set, student = (_current_manifest(bundle_store, name) for name in ("training_set", "quantized_student"))
    of_features = training_set.get("data_versions") == versions
    of_training_set = student.get("training_set") == bundle_store.current_digest("training_set")
    if of_features and of_training_set:
        return None
    return hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:16]


def drift(settings: Settings) -> dg.SensorDefinition:
    """The sensor that trains after a warning of drift."""

    @dg.sensor(
        name="drift",
        job=training,
        default_status=sensor_status(settings),
        minimum_interval_seconds=300,
        description="Trains when a check of prediction_accuracy has warned of drift or of lost accuracy since the last "
        "training, and that was MBTA_RETRAIN_HOURS ago.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        last = last_training(context.instance)
        latest = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(DRIFT_CHECKS)
        warned = [
            found.id
            for found in latest.values()
            if found.event and found.evaluation and not found.evaluation.passed
            if not last or found.event.timestamp > last.timestamp()
        ]
        if not warned:
            return dg.SkipReason("There is no warning since the last training.")
        if any(map(is_training, unfinished(context.instance))):
            return dg.SkipReason("Models are being trained.")
        if last and get_current_datetime() - last < timedelta(hours=settings.retrain_hours):
            return dg.SkipReason(f"Models were trained at {last:%Y-%m-%d %H:%M} UTC; MBTA_RETRAIN_HOURS is not over.")
        return dg.RunRequest(run_key=f"drift {max(warned)}")

    return sensor


def _current_manifest(bundle_store: ModelRegistry, asset: str) -> dict[str, Any]:
    return bundle_store.current(asset).manifest if bundle_store.current_digest(asset) else {}


def _next_time(settings: Settings, after: datetime) -> datetime:
    """When the rule next looks at what has changed."""
    boston = after.astimezone(ZoneInfo(TIME_ZONE))
    return next(cron_string_iterator(boston.timestamp(), settings.retrain_at, TIME_ZONE))
