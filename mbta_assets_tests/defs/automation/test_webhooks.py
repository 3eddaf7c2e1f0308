"""Sensors notify people and serving through webhooks that really listen, refuse or are gone."""

import logging
import socket

import dagster as dg
import pytest

from mbta_assets.defs.automation.webhooks import MAX_ERROR_CHARACTERS, run_failure
from mbta_assets.defs.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from mbta_assets.defs.daily_tables import unpublished_days_failure
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets_tests.defs.automation.conftest import TOKEN, Deployment, Webhook, promote, with_settings

pytestmark = pytest.mark.integration

SENSOR = "production_model_changed"
NOTIFYING = ("run_failure", "checks_changed", SENSOR)


@pytest.fixture
def refused() -> str:
    """Return an address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/hooks/{TOKEN}"


def notify(deployment: Deployment) -> str:
    """Evaluate the sensor of the production model, store its cursor, and return its skip message."""
    result = deployment.evaluate(SENSOR)
    if result.cursor is not None:
        deployment.cursors[SENSOR] = result.cursor
    return result.skip_message or ""


def test_serving_is_notified_once_of_each_change_and_a_rollback_is_one(
    deployment: Deployment, webhook: Webhook
) -> None:
    deployment = with_settings(deployment, promotion_webhook=webhook.address)
    assert "has not changed" in notify(deployment)
    first = promote(deployment, b"1")
    notify(deployment)
    assert "has not changed" in notify(deployment)
    second = promote(deployment, b"2")
    notify(deployment)
    ModelRegistry(deployment.settings.store).set_current("production_model", first, second, "rolled back")
    notify(deployment)
    notify(deployment)
    assert [message["version"] for message in webhook.received] == [first, second, first]
    assert [message["previous_version"] for message in webhook.received] == [None, first, second]
    assert webhook.received[-1]["why"] == "rolled back"


def test_serving_is_notified_again_until_it_accepts(deployment: Deployment, webhook: Webhook) -> None:
    webhook.codes = [500, 503, 200]
    deployment = with_settings(deployment, promotion_webhook=webhook.address)
    version = promote(deployment)
    messages = [notify(deployment) for _ in range(4)]
    assert "answered 500" in messages[0]
    assert [message["version"] for message in webhook.received] == [version] * 3
    assert "has not changed" in messages[3]


def test_after_an_outage_serving_is_notified_once_of_the_current_version(
    deployment: Deployment, webhook: Webhook, refused: str
) -> None:
    gone = with_settings(deployment, promotion_webhook=refused)
    promote(gone, b"1")
    assert "did not answer (ConnectionRefusedError)" in notify(gone)
    second = promote(gone, b"2")
    notify(gone)
    back = with_settings(deployment, promotion_webhook=webhook.address)
    back.cursors = gone.cursors
    notify(back)
    notify(back)
    assert [message["version"] for message in webhook.received] == [second]


def test_without_a_webhook_nobody_is_notified(deployment: Deployment) -> None:
    promote(deployment)
    assert "is not set" in notify(deployment)


def failed_run(deployment: Deployment, error: str = "disk full") -> dg.DagsterRun:
    """Execute a run whose step raises an error."""

    @dg.op
    def fails() -> None:
        raise OSError(error)

    @dg.job
    def breaks() -> None:
        fails()

    result = breaks.execute_in_process(
        instance=deployment.instance, raise_on_error=False, tags={"dagster/partition": "2024-03-04"}
    )
    run = deployment.instance.get_run_by_id(result.run_id)
    assert run
    return run


def alert(deployment: Deployment, run: dg.DagsterRun, caplog: pytest.LogCaptureFixture) -> str:
    """Evaluate the sensor for a failed run, and return its log."""
    [failure] = deployment.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert failure.dagster_event
    context = dg.build_run_status_sensor_context(
        "run_failure", failure.dagster_event, deployment.instance, run
    ).for_run_failure()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run_failure(deployment.settings)(context)
    return caplog.text


def test_a_failed_run_is_posted(deployment: Deployment, webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    deployment = with_settings(deployment, alert_webhook=webhook.address)
    run = failed_run(deployment)
    alert(deployment, run, caplog)
    [message] = webhook.received
    assert message["text"].splitlines() == [
        f"Run {run.run_id[:8]} of breaks of service day 2024-03-04 failed at fails.",
        "fails: OSError: disk full",
    ]
    assert message["url"] is None
    assert (message["event"], message["run_id"], message["partition"]) == ("run_failure", run.run_id, "2024-03-04")
    assert "disk full" in message["error"]


def test_an_alert_says_the_cause_of_each_failed_step_what_was_made_and_where_the_run_is(
    deployment: Deployment, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    @dg.asset
    def unreadable() -> None:
        try:
            raise FileNotFoundError("part.parquet")
        except OSError as error:
            raise ValueError("table vehicle cannot be read: load it again" + " " * 3_000) from error

    @dg.asset
    def unpublished() -> None:
        raise unpublished_days_failure("unpublished", {"2024-03-05": "it has no rows"})

    others = [dg.AssetSpec(f"other_{n}") for n in range(4)]
    definitions = dg.Definitions(assets=[unreadable, unpublished, *others])
    run_id = (
        definitions.resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=deployment.instance,
            raise_on_error=False,
            asset_selection=[dg.AssetKey("unreadable"), dg.AssetKey("unpublished")],
            tags={ASSET_PARTITION_RANGE_START_TAG: "2024-03-04", ASSET_PARTITION_RANGE_END_TAG: "2024-03-06"},
        )
        .run_id
    )
    run = deployment.instance.get_run_by_id(run_id)
    assert run
    deployment = with_settings(deployment, alert_webhook=webhook.address, dagster_url="https://dagster.example/")
    alert(deployment, run, caplog)
    [message] = webhook.received
    lines = message["text"].splitlines()
    assert lines[0].startswith(f"Run {run_id[:8]} of unpublished, unreadable of service day 2024-03-04...2024-03-06 ")
    assert "unreadable: FileNotFoundError: part.parquet" in lines
    assert any(line.startswith("ValueError: table vehicle cannot be read: load it again") for line in lines)
    [reason] = [line for line in lines if line.startswith("unpublished: ")]
    assert reason.endswith("unpublished of service day 2024-03-05 was not published: it has no rows")
    assert "Error occurred while executing" not in message["text"]
    assert "1 service day not published" in message["text"]
    assert lines[-1] == message["url"] == f"https://dagster.example/runs/{run_id}"
    assert message["assets"] == ["unpublished", "unreadable"]


def test_no_part_of_a_secret_is_posted_where_an_error_is_cut(
    deployment: Deployment, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = with_settings(deployment, alert_webhook=webhook.address, wandb_api_key="hunter2")
    beginning = "fails: OSError: "
    run = failed_run(deployment, "x" * (MAX_ERROR_CHARACTERS - len(beginning) - 3) + "hunter2")
    alert(deployment, run, caplog)
    assert "hun" not in webhook.received[0]["error"]


@pytest.mark.parametrize("code", [None, 500])
def test_a_webhook_that_does_not_answer_is_logged_without_its_secret_and_fails_nothing(
    deployment: Deployment,
    webhook: Webhook,
    refused: str,
    code: int | None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    webhook.codes = [code or 200]
    deployment = with_settings(deployment, alert_webhook=webhook.address if code else refused)
    alert(deployment, failed_run(deployment), caplog)
    logged = caplog.text + "".join(capfd.readouterr())
    assert "MBTA_ALERT_WEBHOOK was not notified" in logged
    assert TOKEN not in logged


def test_secrets_in_an_error_are_not_posted(
    deployment: Deployment, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = with_settings(deployment, alert_webhook=webhook.address, wandb_api_key="hunter2")
    alert(deployment, failed_run(deployment, "401 for key hunter2"), caplog)
    assert "401 for key ***" in webhook.received[0]["error"]


def test_without_a_webhook_a_failed_run_is_only_logged(
    deployment: Deployment, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    alert(deployment, failed_run(deployment), caplog)
    assert "of breaks of service day 2024-03-04 failed" in caplog.text + "".join(capfd.readouterr())


def test_sensors_that_only_notify_show_no_job_that_they_would_start(deployment: Deployment) -> None:
    assert [list(deployment.defs.resolve_sensor_def(name).targets) for name in NOTIFYING] == [[], [], []]
