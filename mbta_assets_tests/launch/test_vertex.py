"""Submission to Vertex AI, against a server that plays its REST API: what is sent, what Dagster is told, failures."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from mbta_assets.gcp import Account, CloudError, Identity
from mbta_assets.launch import LaunchError
from mbta_assets.launch.lineage import Machine, Step
from mbta_assets.launch.record import LAUNCH_TAG, Record
from mbta_assets.launch.step import receipt_of
from mbta_assets.launch.vertex import Vertex
from mbta_assets.settings import Settings
from mbta_assets.storage.reports import Reports

PARENT = "projects/transit-1/locations/us-east4"
STEPS = [
    Step("trip", (), (), True, Machine()),
    Step("training_set", ("trip",), ("transit_features",), False, Machine()),
    Step("dnn_teacher", ("training_set",), (), False, Machine("n1-standard-8", "NVIDIA_TESLA_T4", 1)),
]
RECEIPTS = {"trip": "2024-04-01@v1", "training_set": "@v2", "dnn_teacher": "@v3"}
DAY = "2024-04-01"
REASONS = {
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


@dataclass
class Google:
    """Vertex AI's REST API as far as it is asked here, in the shapes in which it answers."""

    address: str = ""
    created: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Jobs by id, as they were sent."""
    states: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """What each question finds: the state of the job and of each task. The last one stays."""
    wrong: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with; 0 cuts the connection."""
    asked: int = 0

    def post(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        kind = path.rpartition("/")[2]
        job_id = query["pipelineJobId"][0] if kind == "pipelineJobs" else str(1000 + len(self.created))
        if any(job_id == known for known, _ in self.created):
            return error(409, f"The PipelineJob {job_id} already exists.")
        self.created.append((job_id, body))
        return 200, {**body, "name": f"{path.removeprefix('/v1/')}/{job_id}", "state": "PIPELINE_STATE_PENDING"}

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        name = path.removeprefix("/v1/")
        job_id = name.rpartition("/")[2]
        if all(job_id != known for known, _ in self.created):
            return error(404, f"{name} is not found.")
        state, tasks = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if "customJobs" in name:
            failure = {"error": {"code": 3, "message": "The replica exited with 1."}} if "FAILED" in state else {}
            return 200, {"name": name, "state": state, **failure}
        details = [task(index, asset, of) for index, (asset, of) in enumerate(tasks.items())]
        return 200, {"name": name, "state": state, "jobDetail": {"taskDetails": details}}


def task(index: int, asset: str, state: str) -> dict[str, Any]:
    """What Vertex AI tells of a task, with the metadata of its execution once it is over."""
    detail: dict[str, Any] = {"taskId": str(index), "taskName": asset, "state": state}
    if state in ("SUCCEEDED", "SKIPPED"):
        detail["execution"] = {"metadata": {"input:asset": asset, "output:Output": RECEIPTS.get(asset, "")}}
    if state == "FAILED":
        detail["error"] = {"code": 9, "message": f"The replica workerpool0-0 of {asset} ran out of memory."}
    return detail


def error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": status, "message": message, "status": REASONS[status]}}


@pytest.fixture
def google() -> Iterator[Google]:
    played = Google(states=[("PIPELINE_STATE_RUNNING", {})])

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, method: str) -> None:
            url = urlsplit(self.path)
            played.asked += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            wrong = played.wrong.pop(0) if played.wrong else None
            if wrong == 0:
                self.connection.close()
                return
            if wrong:
                status, content = error(wrong, f"No luck: {wrong}.")
            elif method == "POST":
                status, content = played.post(url.path, parse_qs(url.query), json.loads(body))
            else:
                status, content = played.get(url.path)
            said = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    played.address = f"http://127.0.0.1:{server.server_port}"
    yield played
    server.shutdown()
    server.server_close()


@pytest.fixture
def vertex(google: Google) -> Vertex:
    account = Account("transit-1", Identity(), "US", 5)
    runner = "runner@transit-1.iam.gserviceaccount.com"
    return Vertex(account, "us-east4", "gs://b/pipelines", "an/image:1", runner, google.address, poll_seconds=0.05)


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    """The store of the steps, with the record that each has kept."""
    reports, upstream = Reports(tmp_path), dict[str, str]()
    for asset, receipt in RECEIPTS.items():
        partition, _, version = receipt.partition("@")
        made = dg.AssetMaterialization(
            asset,
            partition=partition or None,
            metadata={"rows": 7, "table": dg.MetadataValue.md("| a |")},
            tags={"dagster/data_version": version, "dagster/input_event_pointer/trip": "99"},
        )
        check = dg.AssetCheckEvaluation(dg.AssetKey(asset), "schema_holds", True, {})
        Record(asset, receipt, upstream, (made, check)).keep(reports)
        upstream = {asset: receipt}
    return reports


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def known(instance: dg.DagsterInstance, asset: str) -> list[dg.AssetMaterialization]:
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=10).records
    return [record.asset_materialization for record in records if record.asset_materialization]


def submit(vertex: Vertex) -> str:
    return vertex.submit(STEPS, DAY, {"MBTA_STORE": "/tmp/mbta"}, "transit_features=v0")


def test_what_is_submitted_is_the_pipeline_with_its_parameters(vertex: Vertex, google: Google) -> None:
    name = submit(vertex)
    [(job_id, job)] = google.created
    assert name == f"{PARENT}/pipelineJobs/{job_id}"
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://b/pipelines"
    assert job["runtimeConfig"]["parameterValues"] == {
        "partition": DAY,
        "environment": {"MBTA_STORE": "/tmp/mbta"},
        "outside": "transit_features=v0",
    }
    assert job["serviceAccount"] == "runner@transit-1.iam.gserviceaccount.com"
    names = {task["taskInfo"]["name"] for task in job["pipelineSpec"]["root"]["dag"]["tasks"].values()}
    assert names == set(RECEIPTS)


def test_submitted_again_it_is_the_same_job_unless_that_has_failed_or_something_has_changed(
    vertex: Vertex, google: Google
) -> None:
    name = submit(vertex)
    assert submit(vertex) == name
    google.states = [("PIPELINE_STATE_FAILED", {})]
    again = submit(vertex)
    assert again != name
    assert len(google.created) == 2
    google.states = [("PIPELINE_STATE_RUNNING", {})]
    assert vertex.submit(STEPS, DAY, {}, "transit_features=v9") not in (name, again)


def test_an_answer_that_is_lost_does_not_lead_to_a_second_job(vertex: Vertex, google: Google) -> None:
    google.wrong = [503, 0]
    submit(vertex)
    assert len(google.created) == 1


def test_each_step_is_told_to_dagster_as_soon_as_it_has_succeeded(
    vertex: Vertex, google: Google, reports: Reports, instance: dg.DagsterInstance
) -> None:
    google.states = [
        ("PIPELINE_STATE_RUNNING", {"trip": "RUNNING"}),
        ("PIPELINE_STATE_RUNNING", {"trip": "SUCCEEDED", "training_set": "RUNNING"}),
        ("PIPELINE_STATE_RUNNING", {"trip": "SUCCEEDED", "training_set": "SKIPPED", "dnn_teacher": "RUNNING"}),
        ("PIPELINE_STATE_SUCCEEDED", dict.fromkeys(RECEIPTS, "SUCCEEDED")),
    ]
    said: list[str] = []
    name = submit(vertex)
    vertex.follow(name, STEPS, reports, instance, said.append)
    assert said == [f"{asset} {receipt}" for asset, receipt in RECEIPTS.items()]
    [made] = known(instance, "trip")
    assert (made.partition, made.metadata["rows"].value) == (DAY, 7)
    assert made.tags == {"dagster/data_version": "v1", LAUNCH_TAG: name.rpartition("/")[2]}
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("trip"), "schema_holds")]
    )
    assert [check.status.value for check in checks.values()] == ["SUCCEEDED"]
    vertex.follow(name, STEPS, reports, instance, said.append)
    assert len(known(instance, "trip")) == 1
    assert said[-1] == "dnn_teacher @v3 (known)"


def test_a_step_that_has_failed_is_named_with_its_reason_and_what_came_before_is_told(
    vertex: Vertex, google: Google, reports: Reports, instance: dg.DagsterInstance
) -> None:
    google.states = [("PIPELINE_STATE_FAILED", {"trip": "SUCCEEDED", "training_set": "FAILED"})]
    google.created.append(("earlier", {}))
    with pytest.raises(LaunchError, match=r"training_set: .* ran out of memory.*Submit it again"):
        vertex.follow(f"{PARENT}/pipelineJobs/earlier", STEPS, reports, instance, print)
    assert len(known(instance, "trip")) == 1
    assert known(instance, "training_set") == []


def test_a_connection_that_is_lost_while_following_is_found_again(
    vertex: Vertex, google: Google, reports: Reports, instance: dg.DagsterInstance
) -> None:
    name = submit(vertex)
    google.states = [("PIPELINE_STATE_SUCCEEDED", dict.fromkeys(RECEIPTS, "SUCCEEDED"))]
    google.wrong = [0, 503, 0]
    vertex.follow(name, STEPS, reports, instance, print)
    assert all(len(known(instance, asset)) == 1 for asset in RECEIPTS)


@pytest.mark.parametrize("status", [429, 503, 0])
def test_what_stays_wrong_is_told_with_how_to_go_on(
    vertex: Vertex, google: Google, reports: Reports, instance: dg.DagsterInstance, status: int
) -> None:
    name = submit(vertex)
    short = replace(vertex, account=replace(vertex.account, retry_seconds=2))
    google.wrong = [status] * 100
    with pytest.raises(CloudError, match=rf"{name} .the same command again.*did not work within 2 s"):
        short.follow(name, STEPS, reports, instance, print)


def test_a_quota_that_is_used_up_and_a_missing_permission_are_said_when_it_is_submitted(
    vertex: Vertex, google: Google
) -> None:
    google.wrong = [403]
    with pytest.raises(CloudError, match=r"Submit a pipeline to Vertex AI: .*403"):
        submit(vertex)
    google.wrong = [429] * 100
    short = replace(vertex, account=replace(vertex.account, retry_seconds=2))
    with pytest.raises(CloudError, match=r"Submit a pipeline to Vertex AI: .*within 2 s.*429"):
        submit(short)
    google.wrong = []
    assert submit(vertex)
    assert len(google.created) == 1


def test_where_the_store_of_the_steps_is_another_one_it_says_so(
    vertex: Vertex, google: Google, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    google.states = [("PIPELINE_STATE_RUNNING", {"trip": "SUCCEEDED"})]
    with pytest.raises(LaunchError, match="no record of trip .*MBTA_STORE"):
        vertex.follow(submit(vertex), STEPS, Reports(tmp_path / "elsewhere"), instance, print)


def test_one_asset_runs_as_a_custom_job_on_the_machine_of_its_tags(
    vertex: Vertex, google: Google, reports: Reports, instance: dg.DagsterInstance
) -> None:
    google.states = [("JOB_STATE_RUNNING", {}), ("JOB_STATE_SUCCEEDED", {})]
    name = vertex.submit_one(STEPS[2], DAY, {"MBTA_DEPLOYMENT": "gcp"}, "job-1")
    [pool] = google.created[0][1]["jobSpec"]["workerPoolSpecs"]
    assert pool["machineSpec"]["machineType"] == "n1-standard-8"
    assert pool["machineSpec"]["acceleratorCount"] == 1
    assert pool["containerSpec"]["imageUri"] == "an/image:1"
    command = [*pool["containerSpec"]["command"], *pool["containerSpec"]["args"]]
    assert command == ["python", "-m", "mbta_assets.launch", "step", "dnn_teacher", "--launch", "job-1"]
    assert pool["containerSpec"]["env"] == [{"name": "MBTA_DEPLOYMENT", "value": "gcp"}]
    reports.write(receipt_of("job-1"), b"@v3")
    assert vertex.follow_one(name, STEPS[2], reports, instance, "job-1") == "@v3"
    assert len(known(instance, "dnn_teacher")) == 1


def test_a_custom_job_that_has_failed_says_why(
    vertex: Vertex, google: Google, reports: Reports, instance: dg.DagsterInstance
) -> None:
    google.states = [("JOB_STATE_FAILED", {})]
    name = vertex.submit_one(STEPS[0], DAY, {}, "job-2")
    with pytest.raises(LaunchError, match=r"trip has failed in .*customJobs/\d+: The replica exited with 1"):
        vertex.follow_one(name, STEPS[0], reports, instance, "job-2")


def test_what_vertex_ai_needs_is_said_before_anything_is_sent() -> None:
    with pytest.raises(LaunchError, match=r"GCP_PROJECT, VERTEX_IMAGE, VERTEX_PIPELINE_ROOT \(or GCS_BUCKET\)"):
        Vertex.of(Settings())
    whole = Settings(gcp_project="transit-1", vertex_image="an/image:1", gcs_bucket="models")
    assert Vertex.of(whole).root == "gs://models/pipelines"
