"""Who is told: of a failed run, and of a change of the production model."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from mbta_assets.defs.automation.jobs import JOBS
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry

PRODUCTION = "production_model"
TIMEOUT_SECONDS = 10
LONGEST_ERROR = 2_000
INTERVAL_SECONDS = 30


def post(url: str, message: Mapping[str, Any]) -> str | None:
    """Send JSON; what went wrong, in words that do not hold the address; None where it was accepted."""
    body = json.dumps(message).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"it did not answer ({type(reason).__name__})"


def run_failure(settings: Settings) -> dg.SensorDefinition:
    """The sensor that tells of failed runs, each once; an alert that is not taken is only logged."""

    @dg.run_failure_sensor(
        name="run_failure",
        description="Posts each failed run to MBTA_ALERT_WEBHOOK; where that is not set, or does not answer, it logs.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        message = failure_message(settings, context)
        context.log.error(message["text"])
        if settings.alert_webhook and (wrong := post(settings.alert_webhook, message)):
            context.log.warning(f"MBTA_ALERT_WEBHOOK was not told: {wrong}.")

    return sensor


def failure_message(settings: Settings, context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """What is posted of a failed run; `text` is the whole in one line, which chat services show."""
    run = context.dagster_run
    steps = [event.step_key for event in context.get_step_failure_events()]
    errors = [event.step_failure_data.error_display_string for event in context.get_step_failure_events()]
    error = "\n".join(errors)[:LONGEST_ERROR] or str(context.failure_event.message)
    for secret in settings.secrets:
        error = error.replace(secret, "***")
    partition = run.tags.get(PARTITION_NAME_TAG)
    of = f" of service day {partition}" if partition else ""
    at = f" at {', '.join(filter(None, steps))}" if steps else ""
    return {
        "event": "run_failure",
        "text": f"Run {run.run_id[:8]} of {run.job_name}{of} failed{at}.",
        "run_id": run.run_id,
        "job": run.job_name,
        "partition": partition,
        "steps": steps,
        "error": error,
    }


def production_model_changed(settings: Settings) -> dg.SensorDefinition:
    """The sensor that tells serving to load the production model again; it repeats that until it is accepted."""

    @dg.sensor(
        name="production_model_changed",
        jobs=JOBS,
        description="Posts the version in production to MBTA_PROMOTION_WEBHOOK after each change, until it is "
        "accepted; a rollback is a change. When it is first asked, it posts what is in production then.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
    )
    def sensor(
        context: dg.SensorEvaluationContext, bundle_store: dg.ResourceParam[ModelRegistry]
    ) -> dg.SensorResult | dg.SkipReason:
        if not settings.promotion_webhook:
            return dg.SkipReason("MBTA_PROMOTION_WEBHOOK is not set.")
        moves = bundle_store.moves(PRODUCTION)
        # A version may be current more than once: what tells one change from another is how many there were.
        change = f"{len(moves)} {moves[0].digest}" if moves else ""
        if change == (context.cursor or ""):
            return dg.SkipReason("The production model has not changed.")
        latest = moves[0]
        message = {
            "event": "production_model_changed",
            "text": f"The production model is now {latest.digest[:16]}: {latest.why}.",
            "version": latest.digest,
            "previous_version": moves[1].digest if moves[1:] else None,
            "at": latest.at,
            "why": latest.why,
        }
        if wrong := post(settings.promotion_webhook, message):
            context.log.warning(f"MBTA_PROMOTION_WEBHOOK was not told of {latest.digest[:16]}: {wrong}.")
            return dg.SkipReason(f"The webhook was not told: {wrong}. It will be tried again.")
        context.log.info(f"Told of {latest.digest[:16]}.")
        return dg.SensorResult(skip_reason=dg.SkipReason(f"Told of {latest.digest[:16]}."), cursor=change)

    return sensor
