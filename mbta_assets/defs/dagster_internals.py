"""Names of Dagster that its public module `dagster` does not export: the only imports of `dagster._…` in the project.

Each import says why the public interface does not do. Look here first when Dagster is upgraded.
"""

from collections.abc import Mapping, Sequence

import dagster as dg

# `context.repository_def` raises it where a job runs without a code location, as in `execute_in_process`.
from dagster._check import CheckError

# The type of `repository_def.asset_graph`, which resolves ancestors and the checks of assets.
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

# The tag of a materialization or observation that holds its data version, needed to report one from outside a run.
from dagster._core.definitions.data_version import DATA_VERSION_TAG

# The interface of run launchers: Dagster documents how to configure one, and not how to write one.
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, RunLauncher, WorkerStatus

# `AssetCheckEvaluation` says whether a check passed, only the stored record that it was planned and never ran.
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

# The statuses of runs that are queued, starting, running or being canceled, kept complete by Dagster.
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

# Outside a run there is no context with `partition_keys`: sensors read partitions from the tags of runs.
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    # Present on runs that were launched by a code server, absent on those that a command executes itself.
    GRPC_INFO_TAG,
    PARTITION_NAME_TAG,
)

# The arguments of the command that executes a run in another process, for a launcher on another machine.
from dagster._grpc.types import ExecuteRunArgs

# The base class of everything that dagster.yaml names by module and class.
from dagster._serdes import ConfigurableClass, ConfigurableClassData

# Dagster's clock, which its tests can freeze and its daemon uses.
from dagster._time import get_current_datetime, get_current_timestamp

# Cron expressions as the daemon reads them, daylight saving time included.
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string

# Used by the tests alone, which do what the daemon and the webserver do.
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor  # isort: skip
from dagster._core.definitions.automation_tick_evaluation_context import AutomationTickEvaluationContext  # isort: skip
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus  # isort: skip
from dagster._core.definitions.observe import observe  # isort: skip
from dagster._core.events import EngineEventData  # isort: skip
from dagster._core.loader import LoadingContextForTest  # isort: skip
from dagster._core.remote_representation.external_data import RepositorySnap, ResourceSnap  # isort: skip
from dagster._core.storage.tags import RUN_KEY_TAG  # isort: skip
from dagster._serdes import serialize_value  # isort: skip

__all__ = [
    "ASSET_PARTITION_RANGE_END_TAG",
    "ASSET_PARTITION_RANGE_START_TAG",
    "DATA_VERSION_TAG",
    "GRPC_INFO_TAG",
    "NOT_FINISHED_STATUSES",
    "PARTITION_NAME_TAG",
    "RUN_KEY_TAG",
    "AssetCheckExecutionRecord",
    "AssetCheckExecutionRecordStatus",
    "AssetDaemonCursor",
    "AutomationTickEvaluationContext",
    "BaseAssetGraph",
    "CachingStaleStatusResolver",
    "CheckError",
    "CheckRunHealthResult",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DefaultRunLauncher",
    "EngineEventData",
    "ExecuteRunArgs",
    "LaunchRunContext",
    "LoadingContextForTest",
    "RepositorySnap",
    "ResourceSnap",
    "RunLauncher",
    "StaleStatus",
    "WorkerStatus",
    "cron_string_iterator",
    "get_current_datetime",
    "get_current_timestamp",
    "is_valid_cron_string",
    "latest_check_records",
    "observe",
    "serialize_value",
]


def latest_check_records(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]
) -> Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]:
    """Return the latest record of each check that was ever planned, by key.

    `DagsterInstance` has no public method for the records of several checks.
    """
    return instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
