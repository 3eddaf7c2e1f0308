"""google-cloud.yaml as Dagster loads it, on PostgreSQL and a bucket; its launcher on a server in Cloud Run's place."""

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
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.test_utils import create_run_for_test
from dagster_gcp.gcs import GCSComputeLogManager
from dagster_postgres import PostgresEventLogStorage
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from mbta_assets.defs.run_launchers.cloud_run import EXECUTION, CloudRunError, CloudRunLauncher
from mbta_assets_tests.conftest import PASSWORD
from mbta_assets_tests.deploy.hello import hello
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image
from mbta_assets_tests.support.storage_emulator import storage_server

JOB = "projects/transit-1/locations/us-central1/jobs/mbta-run"
BEGUN = f"{JOB}/executions/mbta-run-abcde"
BUCKET = "delay-models"


class CloudRun:
    """Answers as Cloud Run's API does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.execution: dict[str, Any] = {"name": BEGUN}
        self.refusals: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, json.loads(body) if body else None))
                status = outer.refusals.pop(0) if outer.refusals else 200
                answer = {"metadata": {"name": BEGUN}} if self.path.endswith(":run") else outer.execution
                said = json.dumps(answer if status == 200 else {"error": {"message": "not now"}}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def cloud_run() -> Iterator[CloudRun]:
    answering = CloudRun()
    yield answering
    answering.stop()


@pytest.fixture
def variables(dagster_image: Image, postgres: dict[str, str]) -> Iterator[dict[str, str]]:
    """Those of an instance on Google Cloud, whose bucket is here."""
    with storage_server(BUCKET) as server:
        yield {
            **postgres,
            "DAGSTER_HOME": dagster_image.here("/home/mbta/on-google-cloud"),
            "GCP_PROJECT": "transit-1",
            "CLOUD_RUN_REGION": "us-central1",
            "GCS_BUCKET": BUCKET,
            "STORAGE_EMULATOR_HOST": server.url,
        }


@pytest.fixture
def instance(
    variables: dict[str, str], cloud_run: CloudRun, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """The instance that the image's commands have configured."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "transit-1"))
    with dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as loaded:
        launcher = loaded.run_launcher
        assert isinstance(launcher, CloudRunLauncher)
        launcher.endpoint = cloud_run.address
        yield loaded


def launched(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run of the job hello that the instance's launcher has launched."""
    origin = dg.reconstructable(hello).get_python_origin()
    run = create_run_for_test(instance, job_name="hello", job_code_origin=origin, status=dg.DagsterRunStatus.STARTING)
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return again(instance, run)


def again(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found


def test_both_instances_keep_to_the_same_rules() -> None:
    ours, local = (yaml.safe_load((ROOT / path).read_text()) for path in ("deploy/google-cloud.yaml", "dagster.yaml"))
    for same in ("telemetry", "nux", "run_retries", "code_servers"):
        assert ours[same] == local[same], same
    assert ours["run_monitoring"]["enabled"]


def test_a_run_is_a_cloud_run_execution_whose_arguments_make_it_and_hold_no_secret(
    instance: dg.DagsterInstance, variables: dict[str, str], cloud_run: CloudRun
) -> None:
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert isinstance(instance.compute_log_manager, GCSComputeLogManager)
    run = launched(instance)
    assert run.tags[EXECUTION] == BEGUN
    [(method, path, body)] = cloud_run.asked
    assert (method, path) == ("POST", f"/v2/{JOB}:run")
    [container] = body["overrides"]["containerOverrides"]
    assert body["overrides"]["timeout"] == "21600s"
    assert "DAGSTER_POSTGRES_URL" in json.dumps(container)
    assert PASSWORD not in json.dumps(container)

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in the image
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "PATH": path}
    ran = subprocess.run(["/usr/bin/env", *container["args"]], env=environment, capture_output=True, text=True)
    assert again(instance, run).status == dg.DagsterRunStatus.SUCCESS, ran.stderr[-3000:]
    client = storage.Client(
        "test", AnonymousCredentials(), client_options={"api_endpoint": variables["STORAGE_EMULATOR_HOST"]}
    )
    kept = {blob.name: blob.download_as_bytes() for blob in client.list_blobs(BUCKET)}
    assert any(b"good morning" in content for content in kept.values()), list(kept)
    assert all(name.startswith("logs/") and run.run_id in name for name in kept)


def test_health_is_what_cloud_run_says_of_the_execution(instance: dg.DagsterInstance, cloud_run: CloudRun) -> None:
    run = launched(instance)

    def health(**execution: Any) -> WorkerStatus:
        cloud_run.execution = {"name": BEGUN, **execution}
        return instance.run_launcher.check_run_worker_health(run).status

    over = {"completionTime": "2026-11-25T09:00:00Z"}
    assert health() == health(runningCount=1) == health(reconciling=True) == WorkerStatus.RUNNING
    assert health(**over, succeededCount=1) == WorkerStatus.SUCCESS
    assert health(**over, failedCount=1) == health(**over, cancelledCount=1) == WorkerStatus.FAILED
    assert cloud_run.asked[-1] == ("GET", f"/v2/{BEGUN}", None)
    cloud_run.refusals = [404]
    assert health() == WorkerStatus.NOT_FOUND


def test_a_passing_error_says_nothing_of_a_run_and_too_many_at_once_are_tried_again(
    instance: dg.DagsterInstance, cloud_run: CloudRun
) -> None:
    cloud_run.refusals = [429, 429]
    run = launched(instance)
    assert len(cloud_run.asked) == 3
    cloud_run.refusals = [503]
    with pytest.raises(CloudRunError, match="503"):
        instance.run_launcher.check_run_worker_health(run)
    cloud_run.refusals = [403]
    with pytest.raises(CloudRunError, match="403 to POST .*not now"):
        launched(instance)


def test_a_run_that_a_command_executes_is_not_judged(instance: dg.DagsterInstance, cloud_run: CloudRun) -> None:
    run = create_run_for_test(instance, job_name="hello", status=dg.DagsterRunStatus.STARTED)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)
    assert cloud_run.asked == []


def test_to_end_a_run_is_to_cancel_its_execution(instance: dg.DagsterInstance, cloud_run: CloudRun) -> None:
    run = launched(instance)
    assert instance.run_launcher.terminate(run.run_id)
    assert cloud_run.asked[-1] == ("POST", f"/v2/{BEGUN}:cancel", {})
    assert again(instance, run).status == dg.DagsterRunStatus.CANCELED
