"""Vertex AI as a place to run steps: submits a pipeline or a custom job, follows it, and reports its assets."""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import dagster as dg

from mbta_assets.gcp import AlreadyExistsError
from mbta_assets.gcp.account import Account
from mbta_assets.gcp.vertex import create_job_client, create_pipeline_client
from mbta_assets.launch import LaunchError
from mbta_assets.launch.lineage import Step
from mbta_assets.launch.pipeline import PIPELINE_NAME, pipeline_spec, task_assets
from mbta_assets.launch.record import StepRecord
from mbta_assets.launch.step import version_token_name
from mbta_assets.settings import Settings
from mbta_assets.storage.reports import ReportStore

TASK_OUTPUT = "output:Output"
"""Name of a task's only output in the metadata of its execution."""
PIPELINE_LABEL = "mbta-assets-pipeline"
"""Label of a job with the digest of its pipeline and parameters."""
SUBMISSION_LABEL = "mbta-assets-submission"
"""Label of a job that tells an own submission whose response was lost from one of somebody else."""
MAX_SUBMISSION_ATTEMPTS = 20
"""Job ids that are tried; each was taken by another submission of the same pipeline that has ended meanwhile."""
REQUEST_TIMEOUT_SECONDS = 60
FAILED_STATES = ("FAILED", "CANCELLED", "EXPIRED")
ENDED_STATES = ("SUCCEEDED", *FAILED_STATES)
ProgressCallback = Callable[[str], None]
"""Function that is called with a line of text for people about each materialized asset."""


@dataclass(frozen=True)
class Submission:
    """A pipeline job that is a new one, or the same one that was submitted before and has not ended."""

    name: str
    state: str
    """State when it was submitted, such as PENDING or RUNNING."""
    is_new: bool


@dataclass(frozen=True)
class VertexAI:
    """Vertex AI in one region, called as one account."""

    account: Account
    location: str
    pipeline_root: str
    """`gs://` address below which pipelines store their outputs."""
    image: str
    """Container image that steps run in, built from deploy/Dockerfile.training."""
    service_account: str | None = None
    """Service account that steps run as; None for the project's default."""
    endpoint: str | None = None
    """URL of a server to use as Vertex AI, without credentials."""
    poll_seconds: float = 20
    """Interval at which the state of a job is polled."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return Vertex AI as the settings describe it. Raise LaunchError with the variables that are missing."""
        pipeline_root = settings.vertex_pipeline_root
        if pipeline_root is None and settings.gcs_bucket:
            pipeline_root = f"gs://{settings.gcs_bucket}/pipelines"
        if not (settings.gcp_project and settings.vertex_image and pipeline_root):
            required = {
                "GCP_PROJECT": settings.gcp_project,
                "VERTEX_IMAGE": settings.vertex_image,
                "VERTEX_PIPELINE_ROOT (or GCS_BUCKET)": pipeline_root,
            }
            missing = ", ".join(name for name, value in required.items() if not value)
            raise LaunchError(f"Vertex AI needs {missing} to be set.")
        return cls(
            Account.from_settings(settings),
            settings.vertex_location,
            pipeline_root,
            settings.vertex_image,
            settings.vertex_service_account,
            settings.vertex_endpoint,
        )

    def submit(
        self,
        steps: Sequence[Step],
        partition: str,
        environment: Mapping[str, str],
        external_inputs: str,
        *,
        use_cache: bool = True,
    ) -> Submission:
        """Submit a pipeline, unless the same one with the same parameters has not ended: then return that one.

        One that has ended, in whatever way, is submitted again. Raise CloudError if Vertex AI cannot be called, and
        LaunchError if others submit it at the same time again and again.
        """
        job = {
            "display_name": f"{PIPELINE_NAME} {partition}".strip(),
            "pipeline_spec": pipeline_spec(steps, self.image, use_cache=use_cache),
            "runtime_config": {
                "gcs_output_directory": self.pipeline_root,
                "parameter_values": {
                    "partition": partition,
                    "environment": dict(environment),
                    "external_inputs": external_inputs,
                },
            },
            **self._run_as,
        }
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        labels = {PIPELINE_LABEL: digest, SUBMISSION_LABEL: uuid.uuid4().hex}
        latest = self._find_latest_number(digest)
        # The id of a job has a number, so that of two who submit at once one gets the job of the other.
        for number in range(max(latest, 1), latest + MAX_SUBMISSION_ATTEMPTS):
            job_id = f"{PIPELINE_NAME}-{digest}-{number}"
            if number > latest:
                created = self._create_pipeline({**job, "labels": labels}, job_id)
                if created:
                    return Submission(created.name, pipeline_state(created), is_new=True)
            existing = self._get_pipeline(f"{self._parent}/pipelineJobs/{job_id}")
            is_own = existing.labels.get(SUBMISSION_LABEL) == labels[SUBMISSION_LABEL]
            if is_own or pipeline_state(existing) not in ENDED_STATES:
                return Submission(existing.name, pipeline_state(existing), is_new=is_own)
        raise LaunchError(
            f"Others have submitted the same pipeline {MAX_SUBMISSION_ATTEMPTS} times meanwhile; see the jobs with the "
            f"label {PIPELINE_LABEL}={digest} in {self._parent}/pipelineJobs, and submit it again."
        )

    def submit_job(self, step: Step, partition: str, environment: Mapping[str, str], launch: str) -> str:
        """Submit one asset as a custom job and return the job's name. Raise CloudError.

        The job stores the asset's version token under the name of the launch.
        """
        machine: dict[str, Any] = {"machine_type": step.machine.machine_type}
        if step.machine.accelerator:
            machine |= {"accelerator_type": step.machine.accelerator, "accelerator_count": step.machine.accelerators}
        container = {
            "image_uri": self.image,
            "command": ["mbta-assets", "launch", "step"],
            "args": [step.asset, "--launch", launch, *(["--partition", partition] if step.partitioned else [])],
            "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        }
        pool = {"machine_spec": machine, "replica_count": 1, "container_spec": container}
        job = {
            "display_name": f"{step.asset} {partition}".strip(),
            "job_spec": {"worker_pool_specs": [pool], **self._run_as},
        }
        request = {"parent": self._parent, "custom_job": job}
        # The call is not retried: after a lost response there is no telling whether the job exists.
        with self.account.translate_errors(f"Submit {step.asset} to Vertex AI"):
            return self._jobs.create_custom_job(request, timeout=REQUEST_TIMEOUT_SECONDS).name

    def follow(
        self,
        name: str,
        steps: Sequence[Step],
        reports: ReportStore,
        instance: dg.DagsterInstance,
        on_progress: ProgressCallback,
    ) -> None:
        """Wait for a pipeline, and report each step to an instance as soon as it has succeeded.

        Following the same pipeline again reports nothing twice. Raise LaunchError if a step fails, and CloudError if
        Vertex AI cannot be called.
        """
        launch = name.rpartition("/")[2]
        assets = assets_by_task_name(pipeline_spec(steps, self.image))
        reported: set[str] = set()
        while True:
            job = self._get_pipeline(name)
            for asset, task in succeeded_tasks(job, assets).items():
                if asset not in reported:
                    reported.add(asset)
                    is_new = StepRecord.read(reports, asset, task.version_token).report(instance, launch)
                    notes = (" (from the cache)" * task.is_cached, "" if is_new else " (already recorded)")
                    on_progress(f"{asset} {task.version_token}{''.join(notes)}")
            if pipeline_state(job) == "SUCCEEDED":
                return
            if pipeline_state(job) in FAILED_STATES:
                raise LaunchError(describe_failure(name, job, assets))
            time.sleep(self.poll_seconds)

    def follow_job(self, name: str, step: Step, reports: ReportStore, instance: dg.DagsterInstance, launch: str) -> str:
        """Wait for a custom job, report its asset to an instance, and return the asset's version token.

        Raise LaunchError if the job fails, and CloudError if Vertex AI cannot be called.
        """
        while True:
            job = self._get(name, partial(self._jobs.get_custom_job, {"name": name}, timeout=REQUEST_TIMEOUT_SECONDS))
            state = job.state.name.removeprefix("JOB_STATE_")
            if state == "SUCCEEDED":
                version_token = reports.read(version_token_name(launch)).decode()
                StepRecord.read(reports, step.asset, version_token).report(instance, launch)
                return version_token
            if state in FAILED_STATES:
                raise LaunchError(f"{step.asset} has {state.lower()} in {name}: {job.error.message or 'see its log'}")
            time.sleep(self.poll_seconds)

    def _create_pipeline(self, job: Mapping[str, Any], job_id: str) -> Any:
        """Create a pipeline job and return it, or return None if there is one with this id."""
        request = {"parent": self._parent, "pipeline_job": job, "pipeline_job_id": job_id}
        create = partial(self._pipelines.create_pipeline_job, request, timeout=REQUEST_TIMEOUT_SECONDS)
        try:
            return self.account.call("Submit a pipeline to Vertex AI", create)
        except AlreadyExistsError:
            return None

    def _find_latest_number(self, digest: str) -> int:
        """Return the number of the latest job of a pipeline with some parameters, 0 if none is listed."""
        request = {
            "parent": self._parent,
            "filter": f'labels.{PIPELINE_LABEL}="{digest}"',
            "order_by": "create_time desc",
            "page_size": 1,
            "read_mask": "name",
        }

        def find() -> int:
            jobs = self._pipelines.list_pipeline_jobs(request, timeout=REQUEST_TIMEOUT_SECONDS).pipeline_jobs
            return int(jobs[0].name.rpartition("-")[2]) if jobs else 0

        return self.account.call("List the pipelines of Vertex AI", find)

    def _get_pipeline(self, name: str) -> Any:
        """Return a pipeline job with its state and the states of its tasks."""
        return self._get(
            name, partial(self._pipelines.get_pipeline_job, {"name": name}, timeout=REQUEST_TIMEOUT_SECONDS)
        )

    def _get(self, name: str, request: Callable[[], Any]) -> Any:
        """Request a job, and retry while the failure is transient."""
        return self.account.call(f"Poll Vertex AI for {name} (the same command continues from here)", request)

    @property
    def _parent(self) -> str:
        """Return the resource name of the region."""
        return f"projects/{self.account.project}/locations/{self.location}"

    @property
    def _run_as(self) -> dict[str, str]:
        """Return the field of a job that names its service account, if one is set."""
        return {"service_account": self.service_account} if self.service_account else {}

    @cached_property
    def _pipelines(self) -> Any:
        """Return the client of pipeline jobs."""
        return create_pipeline_client(self.account, self.location, self.endpoint)

    @cached_property
    def _jobs(self) -> Any:
        """Return the client of custom jobs."""
        return create_job_client(self.account, self.location, self.endpoint)


def pipeline_state(job: Any) -> str:
    """Return the state of a pipeline job, such as RUNNING or SUCCEEDED."""
    return job.state.name.removeprefix("PIPELINE_STATE_")


def assets_by_task_name(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the asset of each task, by both names that Vertex AI may give a task: its key and its asset."""
    assets = task_assets(spec)
    return assets | {asset: asset for asset in assets.values()}


class SucceededTask(NamedTuple):
    """The output of a task, and whether it comes from Kubeflow's cache."""

    version_token: str
    is_cached: bool


def succeeded_tasks(job: Any, assets: Mapping[str, str]) -> dict[str, SucceededTask]:
    """Return the output of each asset whose task has succeeded or was cached.

    Raise LaunchError if such a task has none.
    """
    tasks = {}
    for task in job.job_detail.task_details:
        if task.task_name in assets and task.state.name in ("SUCCEEDED", "SKIPPED"):
            asset = assets[task.task_name]
            version_token = str(dict(task.execution.metadata or {}).get(TASK_OUTPUT, ""))
            if not version_token:
                raise LaunchError(f"{asset} has succeeded in {job.name}, but Vertex AI has no output of its task.")
            tasks[asset] = SucceededTask(version_token, task.state.name == "SKIPPED")
    return tasks


def describe_failure(name: str, job: Any, assets: Mapping[str, str]) -> str:
    """Return an error message with the cause of each failed task."""
    failed = [task for task in job.job_detail.task_details if task.state.name == "FAILED" and task.task_name in assets]
    causes = "; ".join(f"{assets[task.task_name]}: {task.error.message or 'see its log'}" for task in failed)
    cause = causes or job.error.message or "see its log"
    state = pipeline_state(job).lower()
    return f"{name} has {state}. {cause}. Submit it again: what has succeeded is taken from the cache."
