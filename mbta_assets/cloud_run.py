"""How runs are started on Google Cloud: each as an execution of a Cloud Run job, as deploy/google-cloud.yaml says."""

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_contrib_gcp.cloud_run.run_launcher import CloudRunRunLauncher
from google.api_core.exceptions import NotFound


class CloudRunLauncher(CloudRunRunLauncher):
    """The launcher of Dagster's community, for run monitoring that takes a run of unknown health for a dead one.

    It does not know while Google's API has a passing error, nor of a run that a command executes; neither is dead.
    """

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the execution of a run is still there."""
        try:
            health = super().check_run_worker_health(run)
        except NotFound:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its execution is gone")
        if health.status == WorkerStatus.UNKNOWN:
            return CheckRunHealthResult(WorkerStatus.RUNNING, health.msg)
        return health
