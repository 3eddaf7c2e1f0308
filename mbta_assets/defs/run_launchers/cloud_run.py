"""The run launcher of Google Cloud: each run is an execution of the Cloud Run job in deploy/google-cloud.yaml.

Where two executions of a run begin, because the response to the first start was lost, Dagster lets one execute the run
and ends the other. Here both are watched, and both are cancelled. How a start is repeated is in `gcp.cloud_run`.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from dagster import DagsterRun, Field, IntSource, StringSource

from mbta_assets.defs.dagster_internals import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    ExecuteRunArgs,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from mbta_assets.gcp import CloudError

JOB_TAG = "cloud_run/job"
"""Tag of a run that names the job that executes it, set before an execution begins."""
EXECUTION_TAG = "cloud_run/execution"
"""Tag of a run that names its execution."""
RUN_VARIABLE = "DAGSTER_RUN_ID"
"""Environment variable of an execution that has the id of its run."""
RETRY_SECONDS = 120.0
"""Time for which a call of Cloud Run is retried."""


class CloudRunLauncher(RunLauncher[Any], ConfigurableClass):
    """Launcher that executes a Cloud Run job for each run, with the run's command as its arguments.

    The job's command has to execute its arguments, as `env` does, in an image with the code of the code location. The
    arguments contain the instance's configuration, with the names of environment variables and not their values.
    """

    def __init__(
        self,
        project: str,
        region: str,
        job: str,
        timeout_seconds: int,
        endpoint: str,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        self.job = f"projects/{project}/locations/{region}/jobs/{job}"
        self.timeout_seconds = timeout_seconds
        self.endpoint = endpoint
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return the configuration in dagster.yaml that the launcher was made from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Return the schema of the launcher's configuration in dagster.yaml."""
        return {
            "project": StringSource,
            "region": StringSource,
            "job": StringSource,
            "timeout_seconds": Field(IntSource, description="Time after which an execution is ended."),
            "endpoint": Field(StringSource, default_value="https://run.googleapis.com"),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Return the launcher of a configuration."""
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Execute the job for a run, once. Raises CloudError."""
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise ValueError(f"Run {run.run_id} of {run.job_name} has no code location, so Cloud Run cannot load it.")
        command = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref())
        may_have_begun = _is_launched(run)
        # Set first: if this process dies after the request, the run is still known to be on Cloud Run.
        self._instance.add_run_tags(run.run_id, {JOB_TAG: self.job})
        execution = self._client.start(
            run.run_id,
            command.get_command_args(),
            self.timeout_seconds,
            self._get_creation_time(run),
            may_have_begun=may_have_begun,
        )
        self._instance.add_run_tags(run.run_id, {EXECUTION_TAG: execution})
        self._instance.report_engine_event(f"Execution {execution} of Cloud Run.", run, cls=type(self))

    def terminate(self, run_id: str) -> bool:
        """Cancel every execution of a run, and return whether Cloud Run executes it. Raises CloudError."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not _is_launched(run):
            return False
        self._instance.report_run_canceling(run)
        errors = []
        for execution in self._client.find(run_id, self._get_creation_time(run), run.tags.get(EXECUTION_TAG)):
            try:
                if not execution.has_ended:
                    self._client.cancel(execution.name)
            except CloudError as error:  # the others are cancelled all the same
                errors.append(error)
        if errors:
            raise errors[0]
        # An execution that begins after this finds that its run was cancelled, and ends.
        self._instance.report_run_canceled(run)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return True: run monitoring calls `check_run_worker_health` for each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return the state of a run's executions together.

        Raises CloudError if Cloud Run does not say; run monitoring then asks again.
        """
        if not _is_launched(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "A command executes it, in a process of its own.")
        executions = self._client.find(run.run_id, self._get_creation_time(run), run.tags.get(EXECUTION_TAG))
        if not executions:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its execution is gone")
        if not all(execution.has_ended for execution in executions):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        # Not "any": one that found the run under way in another has succeeded too, whatever became of that one.
        if all(execution.has_succeeded for execution in executions):
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its execution has failed or was cancelled")

    def _get_creation_time(self, run: DagsterRun) -> datetime:
        """Return the time at which a run was created, before any of its executions. Raises ValueError without one."""
        record = self._instance.get_run_record_by_id(run.run_id)
        if record is None:
            raise ValueError(f"Run {run.run_id} of {run.job_name} has been deleted from Dagster's database.")
        return record.create_timestamp

    @cached_property
    def _client(self) -> Any:
        """Return the client of the job; creating it needs no credentials."""
        # Google's libraries take seconds to import, and webserver and daemon load the launcher when they start.
        from mbta_assets.gcp.account import Account
        from mbta_assets.gcp.cloud_run import CloudRunJob

        return CloudRunJob(Account(retry_seconds=RETRY_SECONDS), self.job, self.endpoint, RUN_VARIABLE)


def _is_launched(run: DagsterRun) -> bool:
    """Return whether Cloud Run executes a run; runs of earlier releases have the second tag only."""
    return JOB_TAG in run.tags or EXECUTION_TAG in run.tags
