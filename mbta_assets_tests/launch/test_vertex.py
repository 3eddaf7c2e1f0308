"""Submission to Vertex AI, against a fake of its REST API: what is sent, what is reported to Dagster, and failures."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.gcp import CloudError
from mbta_assets.gcp.account import Account
from mbta_assets.launch import LaunchError
from mbta_assets.launch.lineage import Machine, Step
from mbta_assets.launch.record import LAUNCH_TAG, StepRecord
from mbta_assets.launch.step import version_token_name
from mbta_assets.launch.vertex import Submission, VertexAI
from mbta_assets.settings import Settings
from mbta_assets.storage.reports import ReportStore
from mbta_assets_tests.launch.conftest import VERSION_TOKENS, FakeVertexAI
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR

PARENT = "projects/transit-1/locations/us-east4"
SMALL = Machine.from_type("e2-standard-4")
STEPS = [
    Step("trip", (), (), True, SMALL),
    Step("training_set", ("trip",), ("transit_features",), False, SMALL),
    Step("dnn_teacher", ("training_set",), (), False, Machine.from_type("n1-standard-8", "NVIDIA_TESLA_T4", 1)),
]
DAY = "2024-04-01"


@pytest.fixture
def vertex(server: FakeVertexAI) -> VertexAI:
    account = Account(project="transit-1", retry_seconds=5 * BUSY_FACTOR)
    runner = "runner@transit-1.iam.gserviceaccount.com"
    return VertexAI(account, "us-east4", "gs://b/pipelines", "an/image:1", runner, server.address, poll_seconds=0.05)


@pytest.fixture
def reports(tmp_path: Path) -> ReportStore:
    """Return the store of the steps, with the record that each has written."""
    reports, upstream = ReportStore(tmp_path), dict[str, str]()
    for asset, version_token in VERSION_TOKENS.items():
        partition, _, version = version_token.partition("@")
        materialization = dg.AssetMaterialization(
            asset,
            partition=partition or None,
            metadata={"rows": 7, "table": dg.MetadataValue.md("| a |")},
            tags={"dagster/data_version": version, "dagster/input_event_pointer/trip": "99"},
        )
        check = dg.AssetCheckEvaluation(dg.AssetKey(asset), "schema_holds", True, {})
        StepRecord(asset, version_token, upstream, (materialization, check)).write(reports)
        upstream = {asset: version_token}
    return reports


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def fetch_materializations(instance: dg.DagsterInstance, asset: str) -> list[dg.AssetMaterialization]:
    """Return the materializations of an asset that an instance has, latest first."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=10).records
    return [record.asset_materialization for record in records if record.asset_materialization]


def submit(vertex: VertexAI, external_inputs: str = "transit_features=v0") -> Submission:
    """Submit the pipeline of all steps."""
    return vertex.submit(STEPS, DAY, {"MBTA_STORE": "/tmp/mbta"}, external_inputs)


def test_what_is_submitted_is_the_pipeline_with_its_parameters(vertex: VertexAI, server: FakeVertexAI) -> None:
    name = submit(vertex).name
    [(job_id, job)] = server.created
    assert name == f"{PARENT}/pipelineJobs/{job_id}"
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://b/pipelines"
    assert job["runtimeConfig"]["parameterValues"] == {
        "partition": DAY,
        "environment": {"MBTA_STORE": "/tmp/mbta"},
        "external_inputs": "transit_features=v0",
    }
    assert job["serviceAccount"] == "runner@transit-1.iam.gserviceaccount.com"
    names = {task["taskInfo"]["name"] for task in job["pipelineSpec"]["root"]["dag"]["tasks"].values()}
    assert names == set(VERSION_TOKENS)


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_pipeline_that_is_submitted_again_after_it_has_ended_is_a_new_job(
    vertex: VertexAI, server: FakeVertexAI, state: str
) -> None:
    first = submit(vertex)
    server.states = [(f"PIPELINE_STATE_{state}", {})]
    again = [submit(vertex) for _ in range(3)]
    assert all(job.is_new for job in (first, *again))
    assert len({job.name for job in (first, *again)}) == len(server.created) == 4


@pytest.mark.parametrize("lists_jobs", [True, False], ids=["listed", "not listed yet"])
@pytest.mark.parametrize("state", ["QUEUED", "PENDING", "RUNNING", "CANCELLING", "PAUSED"])
def test_a_pipeline_that_is_submitted_again_before_it_has_ended_is_the_same_job(
    vertex: VertexAI, server: FakeVertexAI, state: str, lists_jobs: bool
) -> None:
    server.lists_jobs = lists_jobs
    first = submit(vertex)
    server.states = [(f"PIPELINE_STATE_{state}", {})]
    assert submit(vertex) == Submission(first.name, state, is_new=False)
    assert len(server.created) == 1
    assert submit(vertex, "transit_features=v9").is_new, "another pipeline"
    assert vertex.submit(STEPS, DAY, {}, "transit_features=v0", use_cache=False).is_new


@pytest.mark.parametrize("state", ["PENDING", "SUCCEEDED", "FAILED"])
def test_a_lost_response_does_not_lead_to_a_second_job(vertex: VertexAI, server: FakeVertexAI, state: str) -> None:
    server.states = [(f"PIPELINE_STATE_{state}", {})]  # the job may have ended before its existence is noticed
    server.failures = [200, 503, 0]
    server.loses_response = True
    assert submit(vertex).is_new
    assert len(server.created) == 1


def test_each_step_is_reported_to_dagster_as_soon_as_it_has_succeeded(
    vertex: VertexAI, server: FakeVertexAI, reports: ReportStore, instance: dg.DagsterInstance
) -> None:
    server.states = [
        ("PIPELINE_STATE_RUNNING", {"trip": "RUNNING"}),
        ("PIPELINE_STATE_RUNNING", {"trip": "SUCCEEDED", "training_set": "RUNNING"}),
        ("PIPELINE_STATE_RUNNING", {"trip": "SUCCEEDED", "training_set": "SKIPPED", "dnn_teacher": "RUNNING"}),
        ("PIPELINE_STATE_SUCCEEDED", dict.fromkeys(VERSION_TOKENS, "SUCCEEDED")),
    ]
    progress: list[str] = []
    name = submit(vertex).name
    vertex.follow(name, STEPS, reports, instance, progress.append)
    assert progress == ["trip 2024-04-01@v1", "training_set @v2 (from the cache)", "dnn_teacher @v3"]
    [materialization] = fetch_materializations(instance, "trip")
    assert (materialization.partition, materialization.metadata["rows"].value) == (DAY, 7)
    assert materialization.tags == {"dagster/data_version": "v1", LAUNCH_TAG: name.rpartition("/")[2]}
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("trip"), "schema_holds")]
    )
    assert [check.status.value for check in checks.values()] == ["SUCCEEDED"]
    vertex.follow(name, STEPS, reports, instance, progress.append)
    assert len(fetch_materializations(instance, "trip")) == 1
    assert progress[-1] == "dnn_teacher @v3 (already recorded)"


def test_a_failed_step_is_named_with_its_cause_and_the_steps_before_it_are_reported(
    vertex: VertexAI, server: FakeVertexAI, reports: ReportStore, instance: dg.DagsterInstance
) -> None:
    server.states = [("PIPELINE_STATE_FAILED", {"trip": "SUCCEEDED", "training_set": "FAILED"})]
    server.created.append(("earlier", {}))
    with pytest.raises(LaunchError, match=r"training_set: .* ran out of memory.*Submit it again"):
        vertex.follow(f"{PARENT}/pipelineJobs/earlier", STEPS, reports, instance, print)
    assert len(fetch_materializations(instance, "trip")) == 1
    assert fetch_materializations(instance, "training_set") == []


def test_a_connection_that_is_lost_while_following_is_opened_again(
    vertex: VertexAI, server: FakeVertexAI, reports: ReportStore, instance: dg.DagsterInstance
) -> None:
    name = submit(vertex).name
    server.states = [("PIPELINE_STATE_SUCCEEDED", dict.fromkeys(VERSION_TOKENS, "SUCCEEDED"))]
    server.failures = [0, 503, 0]
    vertex.follow(name, STEPS, reports, instance, print)
    assert all(len(fetch_materializations(instance, asset)) == 1 for asset in VERSION_TOKENS)


@pytest.mark.parametrize("status", [429, 503, 0])
def test_a_lasting_failure_is_reported_with_how_to_continue(
    vertex: VertexAI, server: FakeVertexAI, reports: ReportStore, instance: dg.DagsterInstance, status: int
) -> None:
    name = submit(vertex).name
    impatient = replace(vertex, account=replace(vertex.account, retry_seconds=2))
    server.failures = [status] * 100
    with pytest.raises(CloudError, match=rf"{name} .the same command continues.*did not work within 2 s"):
        impatient.follow(name, STEPS, reports, instance, print)


def test_an_exceeded_quota_and_a_missing_permission_are_reported_at_submission(
    vertex: VertexAI, server: FakeVertexAI
) -> None:
    server.failures = [200, 403]
    with pytest.raises(CloudError, match=r"Submit a pipeline to Vertex AI: .*403"):
        submit(vertex)
    server.failures = [200, *[429] * 100]
    impatient = replace(vertex, account=replace(vertex.account, retry_seconds=2))
    with pytest.raises(CloudError, match=r"Submit a pipeline to Vertex AI: .*within 2 s.*429"):
        submit(impatient)
    server.failures = []
    assert submit(vertex)
    assert len(server.created) == 1


def test_a_store_without_the_records_of_the_steps_is_refused(
    vertex: VertexAI, server: FakeVertexAI, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    server.states = [("PIPELINE_STATE_RUNNING", {"trip": "SUCCEEDED"})]
    with pytest.raises(LaunchError, match="no record of trip .*MBTA_STORE"):
        vertex.follow(submit(vertex).name, STEPS, ReportStore(tmp_path / "elsewhere"), instance, print)


def test_one_asset_runs_as_a_custom_job_on_the_machine_of_its_tags(
    vertex: VertexAI, server: FakeVertexAI, reports: ReportStore, instance: dg.DagsterInstance
) -> None:
    server.states = [("JOB_STATE_RUNNING", {}), ("JOB_STATE_SUCCEEDED", {})]
    name = vertex.submit_job(STEPS[2], DAY, {"MBTA_DEPLOYMENT": "gcp"}, "job-1")
    [pool] = server.created[0][1]["jobSpec"]["workerPoolSpecs"]
    assert pool["machineSpec"]["machineType"] == "n1-standard-8"
    assert pool["machineSpec"]["acceleratorCount"] == 1
    assert pool["containerSpec"]["imageUri"] == "an/image:1"
    command = [*pool["containerSpec"]["command"], *pool["containerSpec"]["args"]]
    assert command == ["mbta-assets", "launch", "step", "dnn_teacher", "--launch", "job-1"]
    assert pool["containerSpec"]["env"] == [{"name": "MBTA_DEPLOYMENT", "value": "gcp"}]
    reports.write(version_token_name("job-1"), b"@v3")
    assert vertex.follow_job(name, STEPS[2], reports, instance, "job-1") == "@v3"
    assert len(fetch_materializations(instance, "dnn_teacher")) == 1


def test_a_failed_custom_job_is_reported_with_its_cause(
    vertex: VertexAI, server: FakeVertexAI, reports: ReportStore, instance: dg.DagsterInstance
) -> None:
    server.states = [("JOB_STATE_FAILED", {})]
    name = vertex.submit_job(STEPS[0], DAY, {}, "job-2")
    with pytest.raises(LaunchError, match=r"trip has failed in .*customJobs/\d+: The replica exited with 1"):
        vertex.follow_job(name, STEPS[0], reports, instance, "job-2")


def test_missing_settings_are_named_before_anything_is_sent() -> None:
    with pytest.raises(LaunchError, match=r"GCP_PROJECT, VERTEX_IMAGE, VERTEX_PIPELINE_ROOT \(or GCS_BUCKET\)"):
        VertexAI.from_settings(Settings())
    settings = Settings(gcp_project="transit-1", vertex_image="an/image:1", gcs_bucket="models")
    assert VertexAI.from_settings(settings).pipeline_root == "gs://models/pipelines"
