"""Sensors that notify others: of failed runs, and of changes of the production model."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import dagster as dg

from mbta_assets.defs.automation.jobs import JOBS
from mbta_assets.defs.dagster_internals import PARTITION_NAME_TAG
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry

PRODUCTION_MODEL = "production_model"
TIMEOUT_SECONDS = 10
MAX_ERROR_CHARACTERS = 2_000
INTERVAL_SECONDS = 30


class WebhookError(Exception):
    """Failure to post to a webhook; the message never has its URL, which may contain a secret."""


def post(url: str, message: Mapping[str, Any]) -> None:
    """Post a message as JSON. Raises WebhookError if it is not accepted."""
    body = json.dumps(message).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return
    except urllib.error.HTTPError as error:
        raise WebhookError(f"it answered {error.code}") from None
    except urllib.error.URLError as error:
        raise WebhookError(f"it did not answer ({type(error.reason).__name__})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WebhookError(f"it did not answer ({type(error).__name__})") from None


def run_failure(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that posts each failed run once; an alert that is not accepted is only logged."""

    @dg.run_failure_sensor(
        name="run_failure",
        description="Post each failed run to MBTA_ALERT_WEBHOOK, and log it.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        message = build_failure_message(settings, context)
        context.log.error(message["text"])
        if settings.alert_webhook:
            try:
                post(settings.alert_webhook, message)
            except WebhookError as error:
                context.log.warning(f"MBTA_ALERT_WEBHOOK was not notified: {error}.")

    return sensor


def build_failure_message(settings: Settings, context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """Return the message about a failed run, without secrets; `text` is a summary that chat services show."""
    run = context.dagster_run
    events = context.get_step_failure_events()
    steps = [event.step_key for event in events]
    errors = [event.step_failure_data.error_display_string for event in events]
    error = "\n".join(errors)[:MAX_ERROR_CHARACTERS] or str(context.failure_event.message)
    for secret in settings.secrets:
        error = error.replace(secret, "***")
    partition = run.tags.get(PARTITION_NAME_TAG)
    service_day = f" of service day {partition}" if partition else ""
    failed_steps = f" at {', '.join(filter(None, steps))}" if steps else ""
    return {
        "event": "run_failure",
        "text": f"Run {run.run_id[:8]} of {run.job_name}{service_day} failed{failed_steps}.",
        "run_id": run.run_id,
        "job": run.job_name,
        "partition": partition,
        "steps": steps,
        "error": error,
    }


def production_model_changed(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that notifies serving of each change of the production model until it is accepted."""

    @dg.sensor(
        name="production_model_changed",
        jobs=JOBS,
        description="Post the version in production to MBTA_PROMOTION_WEBHOOK after each change, rollbacks included, "
        "until it is accepted. The first tick posts the current version.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
    )
    def sensor(
        context: dg.SensorEvaluationContext, model_registry: dg.ResourceParam[ModelRegistry]
    ) -> dg.SensorResult | dg.SkipReason:
        if not settings.promotion_webhook:
            return dg.SkipReason("MBTA_PROMOTION_WEBHOOK is not set.")
        moves = model_registry.moves(PRODUCTION_MODEL)
        # A version may become current more than once, so the number of moves is part of what tells changes apart.
        change = f"{len(moves)} {moves[0].digest}" if moves else ""
        if change == (context.cursor or ""):
            return dg.SkipReason("The production model has not changed.")
        latest = moves[0]
        version = latest.digest[:16]
        message = {
            "event": "production_model_changed",
            "text": f"The production model is now {version}: {latest.why}.",
            "version": latest.digest,
            "previous_version": moves[1].digest if moves[1:] else None,
            "at": latest.at,
            "why": latest.why,
        }
        try:
            post(settings.promotion_webhook, message)
        except WebhookError as error:
            context.log.warning(f"MBTA_PROMOTION_WEBHOOK was not notified of {version}: {error}.")
            return dg.SkipReason(f"The webhook was not notified: {error}. The next tick tries again.")
        context.log.info(f"Notified of {version}.")
        return dg.SensorResult(skip_reason=dg.SkipReason(f"Notified of {version}."), cursor=change)

    return sensor
