"""How runs are started on Google Cloud: each is an execution of one Cloud Run job, as deploy/google-cloud.yaml says."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from dagster import DagsterRun, Field, IntSource, StringSource
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

EXECUTION = "cloud_run/execution"
"""The tag of a run that names its execution."""
TIMEOUT_SECONDS = 60


class CloudRunError(RuntimeError):
    """Cloud Run has refused; the message says what it answered."""

    def __init__(self, what: str, status: int, said: str) -> None:
        super().__init__(f"Cloud Run answered {status} to {what}: {said[:500]}")
        self.status = status


class CloudRunLauncher(RunLauncher[Any], ConfigurableClass):
    """A launcher that executes a Cloud Run job for each run, with the run's command as its arguments.

    The job's command has to run what it is given, as `env` does, in an image with the code of whoever launches. The
    arguments hold the instance's configuration, with the names of environment variables and not with what they hold.
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
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """What the instance's configuration says of it."""
        return {
            "project": StringSource,
            "region": StringSource,
            "job": StringSource,
            "timeout_seconds": Field(IntSource, description="After this an execution is ended."),
            "endpoint": Field(StringSource, default_value="https://run.googleapis.com"),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Execute the job for a run. Raises CloudRunError."""
        run, origin = context.dagster_run, context.job_code_origin
        assert origin is not None, "what is launched comes from a code location"
        command = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref())
        overrides = {
            "containerOverrides": [{"args": list(command.get_command_args())}],
            "timeout": f"{self.timeout_seconds}s",
        }
        execution = self._ask("POST", f"{self.job}:run", {"overrides": overrides})["metadata"]["name"]
        self._instance.add_run_tags(run.run_id, {EXECUTION: execution})
        self._instance.report_engine_event(f"Execution {execution} of Cloud Run.", run, cls=type(self))

    def terminate(self, run_id: str) -> bool:
        """Cancel the execution of a run. Returns whether there is one. Raises CloudRunError."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or EXECUTION not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        self._ask("POST", f"{run.tags[EXECUTION]}:cancel", {})
        self._instance.report_run_canceled(run)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for the health of each started run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the execution of a run is under way. Raises CloudRunError, and the next look will tell."""
        if EXECUTION not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "A command executes it, in a process of its own.")
        try:
            execution = self._ask("GET", run.tags[EXECUTION])
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
        """Made when it is first needed: who only looks at runs needs no credentials for it."""
        # Google's libraries take a second to import, and a webserver or daemon may never launch a run.
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        from mbta_assets.gcp.account import Account

        session = Account().session()
        # Too many at once is no error. Anything else might have begun an execution, or the next look will tell.
        session.mount(self.endpoint, HTTPAdapter(max_retries=Retry(5, status_forcelist=[429], allowed_methods=None)))
        return session

    def _ask(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = self._session.request(method, f"{self.endpoint}/v2/{name}", json=body, timeout=TIMEOUT_SECONDS)
        if not answer.ok:
            raise CloudRunError(f"{method} {name}", answer.status_code, answer.text)
        return answer.json()
