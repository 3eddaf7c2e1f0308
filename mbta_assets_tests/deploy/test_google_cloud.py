"""deploy/google-cloud.yaml as Dagster loads it, on PostgreSQL, an emulated bucket, and a fake of Cloud Run's API."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from mbta_assets.defs.run_launchers.cloud_run import EXECUTION_TAG, CloudRunError, CloudRunLauncher
from mbta_assets_tests.conftest import PASSWORD
from mbta_assets_tests.deploy.hello import hello
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image
from mbta_assets_tests.support.storage_emulator import storage_server

JOB = "projects/transit-1/locations/us-central1/jobs/mbta-run"
EXECUTION = f"{JOB}/executions/mbta-run-abcde"
BUCKET = "delay-models"


class FakeCloudRun:
    """Responds as Cloud Run's API does, and records the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.execution: dict[str, Any] = {"name": EXECUTION}
        self.failures: list[int] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.requests.append((self.command, self.path, json.loads(body) if body else None))
                status = fake.failures.pop(0) if fake.failures else 200
                content = {"metadata": {"name": EXECUTION}} if self.path.endswith(":run") else fake.execution
                response = json.dumps(content if status == 200 else {"error": {"message": "not now"}}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            do_GET = do_POST = respond

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def cloud_run() -> Iterator[FakeCloudRun]:
    fake = FakeCloudRun()
    yield fake
    fake.stop()


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
    variables: dict[str, str], cloud_run: FakeCloudRun, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Yield the instance that the image's commands have configured."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "transit-1"))
    with dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as loaded:
        launcher = loaded.run_launcher
        assert isinstance(launcher, CloudRunLauncher)
        launcher.endpoint = cloud_run.address
        yield loaded


def launch(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Launch a run of the job `hello` with the instance's launcher, and return it."""
    origin = dg.reconstructable(hello).get_python_origin()
    run = instance.create_run_for_job(hello, job_code_origin=origin, status=dg.DagsterRunStatus.STARTING)
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return reload(instance, run)


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
    instance: dg.DagsterInstance, variables: dict[str, str], cloud_run: FakeCloudRun
) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert isinstance(instance.compute_log_manager, GCSComputeLogManager)
    run = launch(instance)
    assert run.tags[EXECUTION_TAG] == EXECUTION
    [(method, path, body)] = cloud_run.requests
    assert (method, path) == ("POST", f"/v2/{JOB}:run")
    [container] = body["overrides"]["containerOverrides"]
    assert body["overrides"]["timeout"] == "21600s"
    assert "DAGSTER_POSTGRES_URL" in json.dumps(container)
    assert PASSWORD not in json.dumps(container)

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in the image
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "PATH": path}
    process = subprocess.run(["/usr/bin/env", *container["args"]], env=environment, capture_output=True, text=True)
    assert reload(instance, run).status == dg.DagsterRunStatus.SUCCESS, process.stderr[-3000:]
    client = storage.Client(
        "test", AnonymousCredentials(), client_options={"api_endpoint": variables["STORAGE_EMULATOR_HOST"]}
    )
    logs = {blob.name: blob.download_as_bytes() for blob in client.list_blobs(BUCKET)}
    assert any(b"good morning" in content for content in logs.values()), list(logs)
    assert all(name.startswith("logs/") and run.run_id in name for name in logs)


def test_the_health_of_a_run_is_the_state_of_its_execution(
    instance: dg.DagsterInstance, cloud_run: FakeCloudRun
) -> None:
    run = launch(instance)

    def health(**execution: Any) -> WorkerStatus:
        cloud_run.execution = {"name": EXECUTION, **execution}
        return instance.run_launcher.check_run_worker_health(run).status

    completed = {"completionTime": "2026-11-25T09:00:00Z"}
    assert health() == health(runningCount=1) == health(reconciling=True) == WorkerStatus.RUNNING
    assert health(**completed, succeededCount=1) == WorkerStatus.SUCCESS
    assert health(**completed, failedCount=1) == health(**completed, cancelledCount=1) == WorkerStatus.FAILED
    assert cloud_run.requests[-1] == ("GET", f"/v2/{EXECUTION}", None)
    cloud_run.failures = [404]
    assert health() == WorkerStatus.NOT_FOUND


def test_a_failed_health_check_does_not_judge_the_run_and_too_many_requests_are_retried(
    instance: dg.DagsterInstance, cloud_run: FakeCloudRun
) -> None:
    cloud_run.failures = [429, 429]
    run = launch(instance)
    assert len(cloud_run.requests) == 3
    cloud_run.failures = [503]
    with pytest.raises(CloudRunError, match="503"):
        instance.run_launcher.check_run_worker_health(run)
    cloud_run.failures = [403]
    with pytest.raises(CloudRunError, match="403 to POST .*not now"):
        launch(instance)


def test_a_run_that_a_command_executes_itself_is_not_judged(
    instance: dg.DagsterInstance, cloud_run: FakeCloudRun
) -> None:
    run = instance.create_run_for_job(hello, status=dg.DagsterRunStatus.STARTED)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)
    assert cloud_run.requests == []


def test_terminating_a_run_cancels_its_execution(instance: dg.DagsterInstance, cloud_run: FakeCloudRun) -> None:
    run = launch(instance)
    assert instance.run_launcher.terminate(run.run_id)
    assert cloud_run.requests[-1] == ("POST", f"/v2/{EXECUTION}:cancel", {})
    assert reload(instance, run).status == dg.DagsterRunStatus.CANCELED
