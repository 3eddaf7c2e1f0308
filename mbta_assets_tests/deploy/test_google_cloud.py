"""deploy/google-cloud.yaml as Dagster loads it, on PostgreSQL, an emulated bucket, and a fake of Cloud Run's API."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import google.auth
import pytest
import yaml
from dagster_gcp.gcs import GCSComputeLogManager
from dagster_postgres import PostgresEventLogStorage
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from mbta_assets.defs.dagster_internals import LaunchRunContext, WorkerStatus
from mbta_assets.defs.run_launchers import cloud_run as launchers
from mbta_assets.defs.run_launchers.cloud_run import EXECUTION_TAG, JOB_TAG, RUN_VARIABLE, CloudRunLauncher
from mbta_assets.gcp import CloudError
from mbta_assets.gcp import cloud_run as cloud_run_client
from mbta_assets_tests.conftest import PASSWORD
from mbta_assets_tests.deploy.hello import hello
from mbta_assets_tests.support.cloud_run import CloudRunServer, cloud_run_server
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR, ROOT
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, fault_proxy
from mbta_assets_tests.support.image import Image
from mbta_assets_tests.support.storage_emulator import storage_server

JOB = "projects/transit-1/locations/us-central1/jobs/mbta-run"
EXECUTION = f"{JOB}/executions/mbta-run-00000"
START: dict[str, Any] = {"method": "POST", "path": ":run$"}
LOST_RESPONSE = Rule(**START, cut=True, when="after")
BUCKET = "delay-models"
RETRY_SECONDS = 3.0 * BUSY_FACTOR


@pytest.fixture
def cloud_run() -> Iterator[CloudRunServer]:
    with cloud_run_server(JOB) as server:
        yield server


@pytest.fixture
def proxy(cloud_run: CloudRunServer) -> Iterator[FaultProxy]:
    with fault_proxy(cloud_run.url) as proxy:
        yield proxy


@pytest.fixture
def variables(dagster_image: Image, postgres: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield the variables of an instance on Google Cloud, with an emulated bucket."""
    with storage_server(BUCKET) as server:
        yield {
            **postgres,
            "DAGSTER_HOME": dagster_image.translate_paths("/home/mbta/on-google-cloud"),
            "GCP_PROJECT": "transit-1",
            "CLOUD_RUN_REGION": "us-central1",
            "GCS_BUCKET": BUCKET,
            "STORAGE_EMULATOR_HOST": server.url,
        }


@pytest.fixture
def instance(
    variables: dict[str, str], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Yield the instance that the image's commands have configured."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launchers, "RETRY_SECONDS", RETRY_SECONDS)
    monkeypatch.setattr(cloud_run_client, "SETTLING_SECONDS", 0.01)
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "transit-1"))
    with dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as loaded:
        launcher = loaded.run_launcher
        assert isinstance(launcher, CloudRunLauncher)
        launcher.endpoint = proxy.url
        yield loaded


def launch(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Launch a run of the job `hello` with the instance's launcher, and return it."""
    origin = dg.reconstructable(hello).get_python_origin()
    run = instance.create_run_for_job(hello, job_code_origin=origin, status=dg.DagsterRunStatus.STARTING)
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return reload(instance, run)


def launch_twice(instance: dg.DagsterInstance, cloud_run: CloudRunServer) -> dg.DagsterRun:
    """Launch a run of which a second execution begins, as when a request arrives late, and return it."""
    run = launch(instance)
    [execution] = cloud_run.executions
    cloud_run.add_execution(execution["template"]["containers"][0]["env"])
    return run


def execute(variables: dict[str, str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the arguments of an execution as the container does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in the image
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "PATH": path}
    return subprocess.run(["/usr/bin/env", *arguments], env=environment, capture_output=True, text=True)


def reload(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    """Return a run as the instance has it now."""
    stored = instance.get_run_by_id(run.run_id)
    assert stored
    return stored


def test_both_instances_have_the_same_configuration_of_runs() -> None:
    google_cloud, local = (
        yaml.safe_load((ROOT / path).read_text()) for path in ("deploy/google-cloud.yaml", "dagster.yaml")
    )
    for same in ("telemetry", "nux", "run_retries", "code_servers"):
        assert google_cloud[same] == local[same], same
    assert google_cloud["run_monitoring"]["enabled"]


def test_a_run_is_a_cloud_run_execution_whose_arguments_execute_it_and_contain_no_secret(
    instance: dg.DagsterInstance, variables: dict[str, str], cloud_run: CloudRunServer
) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert isinstance(instance.compute_log_manager, GCSComputeLogManager)
    run = launch(instance)
    assert (run.tags[JOB_TAG], run.tags[EXECUTION_TAG]) == (JOB, EXECUTION)
    [(method, path, body)] = cloud_run.requests
    assert (method, path) == ("POST", f"{JOB}:run")
    [container] = body["overrides"]["containerOverrides"]
    assert container["env"] == [{"name": RUN_VARIABLE, "value": run.run_id}]
    assert body["overrides"]["timeout"] == "21600s"
    assert "DAGSTER_POSTGRES_URL" in json.dumps(container)
    assert PASSWORD not in json.dumps(container)

    process = execute(variables, container["args"])
    assert reload(instance, run).status == dg.DagsterRunStatus.SUCCESS, process.stderr[-3000:]
    client = storage.Client(
        "test", AnonymousCredentials(), client_options={"api_endpoint": variables["STORAGE_EMULATOR_HOST"]}
    )
    logs = {blob.name: blob.download_as_bytes() for blob in client.list_blobs(BUCKET)}
    assert any(b"good morning" in content for content in logs.values()), list(logs)
    assert all(name.startswith("logs/") and run.run_id in name for name in logs)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS])
def test_a_second_execution_of_a_run_executes_nothing(
    instance: dg.DagsterInstance, variables: dict[str, str], cloud_run: CloudRunServer, status: dg.DagsterRunStatus
) -> None:
    run = launch(instance)
    event = {
        dg.DagsterRunStatus.STARTED: dg.DagsterEventType.RUN_START,
        dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
    }[status]
    instance.report_dagster_event(dg.DagsterEvent(event.value, run.job_name), run.run_id)
    [(_, _, body)] = cloud_run.requests
    process = execute(variables, body["overrides"]["containerOverrides"][0]["args"])
    assert process.returncode == 0, process.stderr[-3000:]
    assert reload(instance, run).status == status
    assert not instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)


def test_a_start_whose_response_is_lost_is_one_execution(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer, proxy: FaultProxy
) -> None:
    proxy.inject(LOST_RESPONSE)
    run = launch(instance)
    assert run.tags[EXECUTION_TAG] == EXECUTION
    assert len(cloud_run.executions) == 1


def test_the_health_of_a_run_is_the_state_of_its_execution(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer
) -> None:
    run = launch(instance)
    begun = dict(cloud_run.executions[0])

    def health(outcome: str = "") -> WorkerStatus:
        cloud_run.executions[:] = [dict(begun)]
        if outcome:
            cloud_run.finish(0, outcome)
        return instance.run_launcher.check_run_worker_health(run).status

    assert health() == WorkerStatus.RUNNING
    assert health("succeeded") == WorkerStatus.SUCCESS
    assert health("failed") == health("cancelled") == WorkerStatus.FAILED
    cloud_run.executions.clear()
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("", "succeeded", WorkerStatus.RUNNING),
        ("failed", "", WorkerStatus.RUNNING),
        ("failed", "succeeded", WorkerStatus.FAILED),
        ("succeeded", "succeeded", WorkerStatus.SUCCESS),
    ],
)
def test_the_health_of_a_run_with_two_executions_is_that_of_both(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer, first: str, second: str, status: WorkerStatus
) -> None:
    run = launch_twice(instance, cloud_run)
    for number, outcome in enumerate((first, second)):
        if outcome:
            cloud_run.finish(number, outcome)
    assert instance.run_launcher.check_run_worker_health(run).status == status


def test_a_failed_health_check_does_not_judge_the_run_and_too_many_requests_are_retried(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer, proxy: FaultProxy
) -> None:
    proxy.inject(Rule(**START, status=429, times=2))
    run = launch(instance)
    assert len(cloud_run.executions) == 1
    proxy.inject(Rule(method="GET", status=503, times=None))
    with pytest.raises(CloudError, match="503"):
        instance.run_launcher.check_run_worker_health(run)
    proxy.clear()
    proxy.inject(Rule(**START, status=403, message="not now"))
    with pytest.raises(CloudError, match=r"Execute .*mbta-run for .*: .*not now"):
        launch(instance)


def test_a_run_that_a_command_executes_itself_is_not_judged(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer
) -> None:
    run = instance.create_run_for_job(hello, status=dg.DagsterRunStatus.STARTED)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)
    assert cloud_run.requests == []


def test_a_run_whose_launcher_died_after_the_start_is_watched_and_can_be_terminated(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer
) -> None:
    run = instance.create_run_for_job(hello, status=dg.DagsterRunStatus.STARTED, tags={JOB_TAG: JOB})
    cloud_run.add_execution([{"name": RUN_VARIABLE, "value": run.run_id}])
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert instance.run_launcher.terminate(run.run_id)
    assert cloud_run.has_ended(0)


def test_a_run_of_an_earlier_release_is_watched_and_can_be_terminated(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer
) -> None:
    name = cloud_run.add_execution([])["name"]
    run = instance.create_run_for_job(hello, status=dg.DagsterRunStatus.STARTED, tags={EXECUTION_TAG: name})
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert instance.run_launcher.terminate(run.run_id)
    assert cloud_run.has_ended(0)


def test_terminating_a_run_cancels_every_execution_of_it_and_no_other(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer
) -> None:
    launch(instance)
    run = launch(instance)
    cloud_run.add_execution([{"name": RUN_VARIABLE, "value": run.run_id}])
    assert instance.run_launcher.terminate(run.run_id)
    assert [cloud_run.has_ended(number) for number in range(3)] == [False, True, True]
    assert reload(instance, run).status == dg.DagsterRunStatus.CANCELED


def test_an_execution_that_cannot_be_cancelled_is_an_error_after_the_others_are_cancelled(
    instance: dg.DagsterInstance, cloud_run: CloudRunServer, proxy: FaultProxy
) -> None:
    run = launch_twice(instance, cloud_run)
    proxy.inject(Rule(method="POST", path="00001:cancel", status=403, message="not you"))
    with pytest.raises(CloudError, match=r"Cancel .*00001: .*not you"):
        instance.run_launcher.terminate(run.run_id)
    assert [cloud_run.has_ended(number) for number in range(2)] == [True, False]
    assert reload(instance, run).status == dg.DagsterRunStatus.CANCELING
