"""Sensors that notify others: of failed runs, and of changes of the production model."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mbta_assets.defs.automation.runs import partition_ranges
from mbta_assets.defs.dagster_internals import SerializableErrorInfo, is_reserved_asset_job_name
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry

PRODUCTION_MODEL = "production_model"
TIMEOUT_SECONDS = 10
MAX_ERROR_CHARACTERS = 2_000
MAX_NAMED_ASSETS = 4
"""Assets that the summary of a run names; all of them are in its field `assets`."""
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
    errors = [f"{event.step_key}: {describe_cause(event.step_failure_data.error)}" for event in events]
    error = _limit_errors(settings, errors or [str(context.failure_event.message)])
    failed_steps = f" at {', '.join(filter(None, steps))}" if steps else ""
    url = f"{settings.dagster_url.rstrip('/')}/runs/{run.run_id}" if settings.dagster_url else None
    summary = f"Run {run.run_id[:8]} of {_describe_work(run)} failed{failed_steps}."
    return {
        "event": "run_failure",
        "text": "\n".join(filter(None, [summary, error, url])),
        "run_id": run.run_id,
        "url": url,
        "job": run.job_name,
        "assets": _list_selected(run),
        "partition": ", ".join(_list_partitions(run)) or None,
        "steps": steps,
        "error": error,
    }


def describe_cause(error: SerializableErrorInfo | None) -> str:
    """Return the cause of an error, then each error that it led to, a line for each; Dagster's own wrappers are not."""
    causes: list[str] = []
    while error:
        if error.cause is None or not (error.cls_name or "").startswith("Dagster"):
            causes.append(error.message.strip())
        error = error.cause
    return "\n".join(reversed(causes)) or "unknown"


def _limit_errors(settings: Settings, errors: Sequence[str]) -> str:
    """Return errors without secrets, each with its share of the characters that a message has room for."""
    share = MAX_ERROR_CHARACTERS // len(errors)
    for secret in settings.secrets:
        errors = [error.replace(secret, "***") for error in errors]
    return "\n".join(error[:share] for error in errors)


def _describe_work(run: dg.DagsterRun) -> str:
    """Return what a run makes: its job, or assets that were selected without one, and the service days."""
    selected = _list_selected(run)
    work = run.job_name
    if selected and is_reserved_asset_job_name(run.job_name):
        more = len(selected) - MAX_NAMED_ASSETS
        work = ", ".join(selected[:MAX_NAMED_ASSETS]) + (f" and {more} more" if more > 0 else "")
    days = _list_partitions(run)
    return f"{work} of service day {', '.join(days)}" if days else work


def _list_selected(run: dg.DagsterRun) -> list[str]:
    """Return the selected assets of a run, or its checks if it only evaluates those; none if its job says them."""
    keys = run.asset_selection or run.asset_check_selection or ()
    return sorted(key.to_user_string() for key in keys)


def _list_partitions(run: dg.DagsterRun) -> list[str]:
    """Return the service days of a run, a range as Dagster's commands take it."""
    return [first if first == last else f"{first}...{last}" for first, last in partition_ranges(run)]


def production_model_changed(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that notifies serving of each change of the production model until it is accepted."""

    @dg.sensor(
        name="production_model_changed",
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
