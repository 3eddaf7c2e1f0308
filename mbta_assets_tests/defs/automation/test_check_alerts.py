"""Each change of a check is posted once, to a webhook that really listens or is gone."""

import dagster as dg
import pytest

from mbta_assets_tests.defs.automation.conftest import Deployment, Webhook, day, with_settings

pytestmark = pytest.mark.integration

SENSOR = "checks_changed"
DRIFT = "drift_within_bounds"


@pytest.fixture
def watched(deployment: Deployment, webhook: Webhook) -> Deployment:
    """Return a deployment that posts its alerts, after the sensor's first tick."""
    watched = with_settings(deployment, alert_webhook=webhook.address)
    tick(watched)
    return watched


def tick(deployment: Deployment) -> str:
    """Evaluate the sensor, store its cursor, and return its skip message."""
    result = deployment.evaluate(SENSOR)
    if result.cursor is not None:
        deployment.cursors[SENSOR] = result.cursor
    return result.skip_message or ""


def evaluate(
    deployment: Deployment,
    *,
    passed: bool,
    number: int | None = 0,
    check: str = DRIFT,
    asset: str = "prediction_accuracy",
) -> None:
    """Add the evaluation of a check to the event log, on a service day that is counted from a Monday, or on none."""
    deployment.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            dg.AssetKey(asset),
            check,
            passed=passed,
            metadata={},
            severity=dg.AssetCheckSeverity.WARN,
            description=None if passed else "feature_drift of headway is 0.40",
            partition=None if number is None else str(day(number)),
        )
    )


def test_a_check_that_begins_not_to_pass_is_posted_once_and_again_when_it_passes(
    watched: Deployment, webhook: Webhook
) -> None:
    for number, passed in enumerate((True, False, False, True, True)):
        evaluate(watched, passed=passed, number=number)
        tick(watched)
        tick(watched)
    assert [message["text"] for message in webhook.received] == [
        f"{DRIFT} of prediction_accuracy does not pass any more on service day {day(1)}: "
        "feature_drift of headway is 0.40",
        f"{DRIFT} of prediction_accuracy passes again on service day {day(3)}.",
    ]
    assert webhook.received[0]["checks"][0]["passed"] is False


def test_a_check_whose_first_evaluation_does_not_pass_is_posted(watched: Deployment, webhook: Webhook) -> None:
    evaluate(watched, passed=False, number=None, check="newest_day_published", asset="transit_features")
    tick(watched)
    [message] = webhook.received
    assert message["text"].startswith("newest_day_published of transit_features does not pass any more: ")


def test_earlier_service_days_change_nothing(watched: Deployment, webhook: Webhook) -> None:
    evaluate(watched, passed=True, number=5)
    tick(watched)
    evaluate(watched, passed=False, number=2)
    tick(watched)
    assert webhook.received == []


def test_blocking_checks_are_left_to_the_alert_of_their_run(watched: Deployment, webhook: Webhook) -> None:
    evaluate(watched, passed=False, check="published", asset="transit_features")
    tick(watched)
    assert webhook.received == []


def test_what_did_not_pass_before_the_first_tick_is_not_posted(deployment: Deployment, webhook: Webhook) -> None:
    evaluate(deployment, passed=False)
    deployment = with_settings(deployment, alert_webhook=webhook.address)
    tick(deployment)
    evaluate(deployment, passed=False, number=1)
    tick(deployment)
    assert webhook.received == []


def test_a_change_is_posted_again_until_it_is_accepted(watched: Deployment, webhook: Webhook) -> None:
    webhook.codes = [500, 503, 200]
    evaluate(watched, passed=False)
    messages = [tick(watched) for _ in range(4)]
    assert "answered 500" in messages[0]
    assert len(webhook.received) == 3
    assert messages[3] == "No check has changed."


def test_without_a_webhook_nothing_is_posted(deployment: Deployment) -> None:
    assert tick(deployment) == "MBTA_ALERT_WEBHOOK is not set."
