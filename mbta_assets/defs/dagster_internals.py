"""Names of Dagster that its public module `dagster` does not export: the only imports of `dagster._…` in the project.

Each import says why the public interface does not do. Look here first when Dagster is upgraded.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

# `context.repository_def` raises it where a job runs without a code location, as in `execute_in_process`.
from dagster._check import CheckError

# Dagster reports the partitions of an output when all of them are stored; `report_materialization` does one by one.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.assets.definition.asset_spec import AssetExecutionType

# The type of `repository_def.asset_graph`, which resolves ancestors and the checks of assets.
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

# Names of jobs that Dagster gives to selections of assets that belong to none, which say nothing to people.
from dagster._core.definitions.assets.job.asset_job import is_reserved_asset_job_name

# The tag of a materialization or observation that holds its data version, needed to report one from outside a run.
from dagster._core.definitions.data_version import DATA_VERSION_TAG

# What a step runs in. The contexts of IO managers have it as `step_context`; only it knows all inputs of the step.
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.plan.execute_step import _get_output_asset_events

# The interface of run launchers: Dagster documents how to configure one, and not how to write one.
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, RunLauncher, WorkerStatus

# `AssetCheckEvaluation` says whether a check passed, only the stored record that it was planned and never ran.
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
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

# The error of a failed step as the event log has it, with its causes.
from dagster._utils.error import SerializableErrorInfo

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
    "SerializableErrorInfo",
    "StaleStatus",
    "StepExecutionContext",
    "WorkerStatus",
    "cron_string_iterator",
    "find_last_event_id",
    "find_materialization",
    "get_current_datetime",
    "get_current_timestamp",
    "is_reserved_asset_job_name",
    "is_valid_cron_string",
    "latest_check_outcomes",
    "latest_check_records",
    "latest_check_records_by_partition",
    "observe",
    "report_check",
    "report_materialization",
    "serialize_value",
    "suppress_final_report",
]


def find_last_event_id(instance: dg.DagsterInstance) -> int:
    """Return the position of the last event in the event log, -1 if there is none.

    `DagsterInstance` has no public method for it but in the order of one asset's events.
    """
    last = instance.event_log_storage.get_maximum_record_id()
    return -1 if last is None else last


def latest_check_records(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]
) -> Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]:
    """Return the latest record of each check that was ever planned, by key.

    `DagsterInstance` has no public method for the records of several checks.
    """
    return instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)


def latest_check_outcomes(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey], after_event_id: int | None = None
) -> Sequence[AssetCheckPartitionInfo]:
    """Return the latest status of each check on each partition, of those that changed after a position, if given.

    The records of `latest_check_records_by_partition` have descriptions too, and are only the latest ones.
    """
    outcomes = instance.event_log_storage.get_asset_check_partition_info(keys, after_event_id)
    # Dagster's own filter also selects partitions that were materialized since.
    return [item for item in outcomes if after_event_id is None or item.latest_check_event_storage_id > after_event_id]


def latest_check_records_by_partition(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, limit: int
) -> Mapping[str | None, AssetCheckExecutionRecord]:
    """Return the latest of a check's last `limit` records for each partition that they are of."""
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit)
    return {record.partition: record for record in reversed(records)}


def report_materialization(
    context: dg.OutputContext, day: date, version: str, metadata: Mapping[str, Any]
) -> Iterator[dg.DagsterEvent]:
    """Yield the event that a service day of an output is stored, with its data version and provenance.

    Dagster would report all partitions of an output after the last one, also those that were not stored, and with one
    data version; `suppress_final_report` prevents that.
    """
    step = context.step_context
    step.add_asset_metadata(metadata, context.asset_key, str(day))
    step.set_data_version(context.asset_key, dg.DataVersion(version))
    output = dg.Output(None, output_name=context.name)
    output_def = step.op_def.output_def_named(context.name)
    execution_type = AssetExecutionType.MATERIALIZATION
    events = _get_output_asset_events(context.asset_key, [str(day)], output, output_def, {}, step, execution_type)
    for event in events:
        yield dg.DagsterEvent.asset_materialization(step, event)  # type: ignore[arg-type]


def suppress_final_report(context: dg.OutputContext) -> None:
    """Make Dagster report nothing about the partitions of an output at its end."""
    context._asset_key = None


def find_materialization(context: dg.OutputContext, day: date) -> AssetCheckEvaluationTargetMaterializationData | None:
    """Return the latest materialization of a service day of an output, which results of checks refer to."""
    any_result = dg.AssetCheckResult(passed=True)
    return any_result._get_partitioned_target_materialization_data(context.step_context, context.asset_key, str(day))


def report_check(
    context: dg.OutputContext,
    day: date,
    result: dg.AssetCheckResult,
    target: AssetCheckEvaluationTargetMaterializationData | None,
    *,
    blocking: bool,
) -> dg.DagsterEvent:
    """Return the event of a check's result on a service day; Dagster's own results have no partition in a range."""
    evaluation = dg.AssetCheckEvaluation(
        asset_key=context.asset_key,
        check_name=result.check_name or "",
        passed=result.passed,
        metadata=result.metadata,
        target_materialization_data=target,
        severity=result.severity,
        description=result.description,
        blocking=blocking,
        partition=str(day),
    )
    return dg.DagsterEvent.asset_check_evaluation(context.step_context, evaluation)
