"""The run launcher of Google Cloud: each run is an execution of the Cloud Run job in deploy/google-cloud.yaml."""

from collections.abc import Mapping
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

EXECUTION_TAG = "cloud_run/execution"
"""Tag of a run that names its execution."""
TIMEOUT_SECONDS = 60
MAX_RETRIES = 5
MAX_ERROR_CHARACTERS = 500


class CloudRunError(RuntimeError):
    """An error response of Cloud Run."""

    def __init__(self, request: str, status: int, response: str) -> None:
        super().__init__(f"Cloud Run answered {status} to {request}: {response[:MAX_ERROR_CHARACTERS]}")
        self.status = status


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
        """Execute the job for a run. Raises CloudRunError."""
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise ValueError(f"Run {run.run_id} of {run.job_name} has no code location, so Cloud Run cannot load it.")
        command = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref())
        overrides = {
            "containerOverrides": [{"args": list(command.get_command_args())}],
            "timeout": f"{self.timeout_seconds}s",
        }
        execution = self._request("POST", f"{self.job}:run", {"overrides": overrides})["metadata"]["name"]
        self._instance.add_run_tags(run.run_id, {EXECUTION_TAG: execution})
        self._instance.report_engine_event(f"Execution {execution} of Cloud Run.", run, cls=type(self))

    def terminate(self, run_id: str) -> bool:
        """Cancel the execution of a run, and return whether there is one. Raises CloudRunError."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or EXECUTION_TAG not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        self._request("POST", f"{run.tags[EXECUTION_TAG]}:cancel", {})
        self._instance.report_run_canceled(run)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return True: run monitoring calls `check_run_worker_health` for each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return the state of a run's execution.

        Raises CloudRunError if Cloud Run does not say; run monitoring then asks again.
        """
        if EXECUTION_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "A command executes it, in a process of its own.")
        try:
            execution = self._request("GET", run.tags[EXECUTION_TAG])
        except CloudRunError as error:
            if error.status != 404:
                raise
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its execution is gone")
        if "completionTime" not in execution:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if execution.get("succeededCount"):
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its execution has failed or was cancelled")

    @cached_property
    def _session(self) -> Any:
        """Return an HTTP session with the default credentials; none are needed to create a launcher."""
        # Google's libraries take seconds to import, and webserver and daemon load the launcher when they start.
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        from mbta_assets.gcp.account import Account

        session = Account().session()
        # Retried are connections that failed and 429. After any other failure an execution may have begun, and a second
        # one must not.
        retry = Retry(MAX_RETRIES, read=0, other=0, status_forcelist=[429], allowed_methods=None)
        session.mount(self.endpoint, HTTPAdapter(max_retries=retry))
        return session

    def _request(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON response of Cloud Run. Raises CloudRunError."""
        response = self._session.request(method, f"{self.endpoint}/v2/{name}", json=body, timeout=TIMEOUT_SECONDS)
        if not response.ok:
            raise CloudRunError(f"{method} {name}", response.status_code, response.text)
        return response.json()
