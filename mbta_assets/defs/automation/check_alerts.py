"""Alerts of asset checks: one when a check begins not to pass, and one when it passes again.

Blocking checks are left out: where one fails, its run fails, which is an alert of its own. The state of a check of
service days is that of the newest day that it was evaluated on, so that a backfill of earlier days changes nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import dagster as dg

from mbta_assets.defs.automation.webhooks import INTERVAL_SECONDS, WebhookError, post
from mbta_assets.defs.dagster_internals import (
    AssetCheckExecutionRecordStatus,
    BaseAssetGraph,
    find_last_event_id,
    latest_check_outcomes,
    latest_check_records_by_partition,
)
from mbta_assets.settings import Settings

MAX_RECORDS = 200
"""Latest results of a check among which the description of its newest service day is looked for."""
STATUSES = {AssetCheckExecutionRecordStatus.SUCCEEDED: True, AssetCheckExecutionRecordStatus.FAILED: False}
"""Statuses of an evaluation that has ended, and whether the check passed."""


@dataclass(frozen=True)
class CheckState:
    """Whether a check passed, and the newest service day that it was evaluated on."""

    passed: bool = True
    partition: str | None = None


@dataclass
class CheckStates:
    """State of the sensor, which is its cursor."""

    read_until: int = -1
    """Position in Dagster's event log up to which evaluations were read."""
    states: dict[str, CheckState] = field(default_factory=dict)
    """By asset and check, as Dagster writes them."""

    def to_text(self) -> str:
        """Return the cursor as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a cursor from the text that `to_text` returned."""
        stored = json.loads(text)
        return cls(stored["read_until"], {name: CheckState(**state) for name, state in stored["states"].items()})


def checks_changed(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that posts each change of a check until it is accepted."""

    @dg.sensor(
        name="checks_changed",
        description="Post to MBTA_ALERT_WEBHOOK when a check that stops no run begins not to pass, and when it passes "
        "again, until it is accepted. The first tick posts nothing.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not settings.alert_webhook:
            return dg.SkipReason("MBTA_ALERT_WEBHOOK is not set.")
        earlier = CheckStates.from_text(context.cursor) if context.cursor else CheckStates()
        keys = list_warning_checks(context)
        current = read_states(context.instance, keys, earlier)
        changed = [key for key in keys if _is_changed(key.to_user_string(), earlier, current)] if context.cursor else []
        if changed:
            message = build_check_message(context.instance, changed, current)
            try:
                post(settings.alert_webhook, message)
            except WebhookError as error:
                context.log.warning(f"MBTA_ALERT_WEBHOOK was not notified: {error}.")
                return dg.SkipReason(f"The webhook was not notified: {error}. The next tick tries again.")
        reason = message["text"] if changed else "No check has changed."
        return dg.SensorResult(skip_reason=reason, cursor=current.to_text())

    return sensor


def list_warning_checks(context: dg.SensorEvaluationContext) -> list[dg.AssetCheckKey]:
    """Return the checks of the code location that stop no run. Raises ValueError if the context has none."""
    if context.repository_def is None:
        raise ValueError("Sensors need the definitions of their code location; there are none.")
    graph: BaseAssetGraph = context.repository_def.asset_graph
    return sorted(key for key in graph.asset_check_keys if not graph.get(key).blocking)


def read_states(instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey], earlier: CheckStates) -> CheckStates:
    """Return the states of checks, given the earlier ones, by the evaluations since."""
    end, position = find_last_event_id(instance), earlier.read_until
    states = {name: state for name, state in earlier.states.items() if name in {key.to_user_string() for key in keys}}
    for outcome in latest_check_outcomes(instance, keys, earlier.read_until):
        if outcome.latest_check_event_storage_id <= end:
            # What is added while one check after the other is read is read again.
            position = max(position, outcome.latest_check_event_storage_id)
        name, partition = outcome.check_key.to_user_string(), outcome.partition_key
        newest = states.get(name, CheckState()).partition
        if outcome.latest_execution_status in STATUSES and (newest is None or (partition or newest) >= newest):
            states[name] = CheckState(STATUSES[outcome.latest_execution_status], partition)
    return CheckStates(position, states)


def build_check_message(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey], current: CheckStates
) -> dict[str, Any]:
    """Return the message about checks that have changed; `text` is a summary that chat services show."""
    checks = []
    for key in keys:
        state = current.states[key.to_user_string()]
        record = latest_check_records_by_partition(instance, key, MAX_RECORDS).get(state.partition)
        description = record.evaluation.description if record and record.evaluation else None
        checks.append(
            {
                "asset": key.asset_key.to_user_string(),
                "check": key.name,
                "partition": state.partition,
                "passed": state.passed,
                "description": description,
            }
        )
    return {"event": "checks_changed", "text": "\n".join(map(_describe_check, checks)), "checks": checks}


def _describe_check(check: dict[str, Any]) -> str:
    """Return a check that has changed as a line of text."""
    verb = "passes again" if check["passed"] else "does not pass any more"
    partition = f" on service day {check['partition']}" if check["partition"] else ""
    reason = f": {check['description']}" if check["description"] and not check["passed"] else "."
    return f"{check['check']} of {check['asset']} {verb}{partition}{reason}"


def _is_changed(name: str, earlier: CheckStates, current: CheckStates) -> bool:
    """Return whether a check passes and did not before, or the other way round; before its first evaluation it does."""
    before, now = (states.states.get(name, CheckState()).passed for states in (earlier, current))
    return before != now
