"""Vertex AI: submits a pipeline or one asset as a job, follows it, and tells Dagster what its steps have made."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import dagster as dg

from mbta_assets.gcp import Account, CloudError
from mbta_assets.launch import LaunchError, pipeline
from mbta_assets.launch.lineage import Step
from mbta_assets.launch.record import Record
from mbta_assets.launch.step import receipt_of
from mbta_assets.settings import Settings
from mbta_assets.storage.reports import ReportStore

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

RECEIPT = "output:Output"
"""What Vertex AI calls a task's only output in the metadata of its execution."""
MOST_ATTEMPTS = 20
Told = Callable[[str], None]
"""Is told what happens, for people."""


@dataclass(frozen=True)
class Vertex:
    """Vertex AI, for somebody, in one region."""

    account: Account
    location: str
    root: str
    """Where pipelines keep what they hand on, a `gs://` address."""
    image: str
    """What steps run in; see deploy/Dockerfile.training."""
    service_account: str | None = None
    """Whom steps act as; unset, the project's default."""
    endpoint: str | None = None
    """An address that is asked in place of Google's, without credentials."""
    poll_seconds: float = 20

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the environment says. Raises LaunchError naming what it lacks."""
        needed = {"GCP_PROJECT": settings.gcp_project, "VERTEX_IMAGE": settings.vertex_image}
        root = settings.vertex_pipeline_root or (settings.gcs_bucket and f"gs://{settings.gcs_bucket}/pipelines")
        needed["VERTEX_PIPELINE_ROOT (or GCS_BUCKET)"] = root
        lacking = [name for name, value in needed.items() if not value]
        if lacking:
            raise LaunchError(f"Vertex AI needs {', '.join(lacking)} to be set.")
        return cls(
            Account.of(settings),
            settings.vertex_location,
            str(root),
            str(settings.vertex_image),
            settings.vertex_service_account,
            settings.vertex_endpoint,
        )

    def submit(self, steps: Sequence[Step], partition: str, environment: Mapping[str, str], outside: str) -> str:
        """Submit a pipeline of steps; its name. Asked again for the same it submits nothing, unless that has failed.

        Raises CloudError.
        """
        job = {
            "display_name": f"{pipeline.NAME} {partition}".strip(),
            "pipeline_spec": pipeline.specification(steps, self.image),
            "runtime_config": {
                "gcs_output_directory": self.root,
                "parameter_values": {"partition": partition, "environment": dict(environment), "outside": outside},
            },
            **({"service_account": self.service_account} if self.service_account else {}),
        }

        def create(job_id: str) -> str:
            wanted = {"parent": self._parent, "pipeline_job": job, "pipeline_job_id": job_id}
            return self._pipelines.create_pipeline_job(wanted, timeout=60).name

        return self._submitted("pipeline", job, create, self._pipeline_state, f"{self._parent}/pipelineJobs")

    def submit_one(self, step: Step, partition: str, environment: Mapping[str, str], launch: str) -> str:
        """Submit one asset as a custom job; its name. Its receipt is kept under `launch`. Raises CloudError."""
        machine: dict[str, Any] = {"machine_type": step.machine.machine_type}
        if step.machine.accelerator:
            machine |= {"accelerator_type": step.machine.accelerator, "accelerator_count": step.machine.accelerators}
        arguments = ["step", step.asset, "--launch", launch]
        arguments += ["--partition", partition] if step.partitioned else []
        container = {
            "image_uri": self.image,
            "command": ["python", "-m", "mbta_assets.launch"],
            "args": arguments,
            "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        }
        work: dict[str, Any] = {
            "worker_pool_specs": [{"machine_spec": machine, "replica_count": 1, "container_spec": container}]
        }
        work |= {"service_account": self.service_account} if self.service_account else {}
        job = {"display_name": f"{step.asset} {partition}".strip(), "job_spec": work}

        def create() -> str:
            return self._jobs.create_custom_job({"parent": self._parent, "custom_job": job}, timeout=60).name

        with self.account.explained(f"Submit {step.asset} to Vertex AI"):
            return create()  # not tried again: there is no telling whether a lost answer was a job

    def follow(
        self, name: str, steps: Sequence[Step], reports: ReportStore, instance: dg.DagsterInstance, told: Told
    ) -> None:
        """Wait for a pipeline, and tell an instance of each step as soon as it has succeeded.

        It may be asked again at any time: what was told is not told twice. Raises LaunchError where a step has failed,
        and CloudError where Vertex AI cannot be asked for long.
        """
        launch, asset_of = _launch(name), _assets(pipeline.specification(steps, self.image))
        known: set[str] = set()
        while True:
            job = self._pipeline(name)
            for task in job.job_detail.task_details:
                asset, state = asset_of.get(task.task_name), task.state.name
                if asset and asset not in known and state in ("SUCCEEDED", "SKIPPED"):
                    known.add(asset)
                    receipt = str(dict(task.execution.metadata or {}).get(RECEIPT, ""))
                    if not receipt:
                        raise LaunchError(f"{asset} has succeeded in {name}, but Vertex AI does not tell its output.")
                    new = Record.find(reports, asset, receipt).report(instance, launch)
                    told(f"{asset} {receipt}" + ("" if new else " (known)"))
            state = job.state.name.removeprefix("PIPELINE_STATE_")
            if state == "SUCCEEDED":
                return
            if state in ("FAILED", "CANCELLED"):
                raise LaunchError(_failure(name, state, job, asset_of))
            time.sleep(self.poll_seconds)

    def follow_one(self, name: str, step: Step, reports: ReportStore, instance: dg.DagsterInstance, launch: str) -> str:
        """Wait for a custom job, tell an instance what it made; the receipt. Raises LaunchError or CloudError."""
        while True:
            job = self._asked(name, lambda: self._jobs.get_custom_job({"name": name}, timeout=60))
            state = job.state.name.removeprefix("JOB_STATE_")
            if state == "SUCCEEDED":
                receipt = reports.read(receipt_of(launch)).decode()
                Record.find(reports, step.asset, receipt).report(instance, launch)
                return receipt
            if state in ("FAILED", "CANCELLED", "EXPIRED"):
                raise LaunchError(f"{step.asset} has {state.lower()} in {name}: {job.error.message or 'see its log'}")
            time.sleep(self.poll_seconds)

    def _submitted(
        self, what: str, job: Mapping[str, Any], create: Callable[[str], str], state: Callable[[str], str], parent: str
    ) -> str:
        """Create a job by a name that says what it is; of those that have failed, the next one."""
        from google.api_core.exceptions import Conflict

        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        for attempt in range(1, MOST_ATTEMPTS + 1):
            job_id = f"{pipeline.NAME}-{digest}-{attempt}"
            try:
                return self.account.call(f"Submit a {what} to Vertex AI", partial(create, job_id))
            except CloudError as error:
                if not isinstance(error.__cause__, Conflict):
                    raise
            name = f"{parent}/{job_id}"
            if state(name) not in ("FAILED", "CANCELLED"):
                return name
        raise LaunchError(f"The same {what} has failed {MOST_ATTEMPTS} times; see {parent}.")

    def _pipeline(self, name: str) -> "aiplatform_v1.PipelineJob":
        return self._asked(name, lambda: self._pipelines.get_pipeline_job({"name": name}, timeout=60))

    def _pipeline_state(self, name: str) -> str:
        return self._pipeline(name).state.name.removeprefix("PIPELINE_STATE_")

    def _asked(self, name: str, ask: Callable[[], Any]) -> Any:
        return self.account.call(f"Ask Vertex AI about {name} (the same command again goes on from here)", ask)

    @property
    def _parent(self) -> str:
        return f"projects/{self.account.project}/locations/{self.location}"

    @cached_property
    def _pipelines(self) -> "aiplatform_v1.PipelineServiceClient":
        from google.cloud import aiplatform_v1

        return aiplatform_v1.PipelineServiceClient(**self._client)

    @cached_property
    def _jobs(self) -> "aiplatform_v1.JobServiceClient":
        from google.cloud import aiplatform_v1

        return aiplatform_v1.JobServiceClient(**self._client)

    @property
    def _client(self) -> dict[str, Any]:
        from google.auth.credentials import AnonymousCredentials

        google = f"{self.location}-aiplatform.googleapis.com"
        return {
            "transport": "rest",
            "credentials": AnonymousCredentials() if self.endpoint else self.account.identity.credentials(),
            "client_options": {"api_endpoint": self.endpoint or google},
        }


def _launch(name: str) -> str:
    return name.rpartition("/")[2]


def _assets(specification: Mapping[str, Any]) -> dict[str, str]:
    """By what Vertex AI may call a task, the asset that it makes."""
    names = pipeline.asset_of_each_task(specification)
    return names | {name: name for name in names.values()}


def _failure(name: str, state: str, job: Any, asset_of: Mapping[str, str]) -> str:
    failed = [
        task for task in job.job_detail.task_details if task.state.name == "FAILED" and task.task_name in asset_of
    ]
    causes = "; ".join(f"{asset_of[task.task_name]}: {task.error.message or 'see its log'}" for task in failed)
    said = causes or job.error.message or "see its log"
    return f"{name} has {state.lower()}. {said}. Submit it again: what has succeeded is taken from the cache."
