"""Step of a pipeline: materializes one asset, wherever it runs, and stores a record of its events."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mbta_assets.defs.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from mbta_assets.defs.io_managers.pins import INPUTS_LAUNCH
from mbta_assets.launch import LaunchError
from mbta_assets.launch.record import StepRecord, parse_version_tokens, read_with_ancestors

RANGE_SEPARATOR = "..."
"""Separates the first and the last partition of a range."""


def run_step(asset: str, partition: str, upstream: str, environment: Mapping[str, str], launch: str = "") -> str:
    """Materialize an asset with the settings of an environment, and return its version token.

    `upstream` holds the version tokens of its inputs, as `format_version_tokens` writes them. The partition is ignored
    for an asset without partitions. With `launch`, the version token is also stored under that name. Raise LaunchError
    with the cause if the run fails.
    """
    os.environ.update(environment)
    from mbta_assets.definitions import build_defs  # reads the environment when it is imported

    definitions = build_defs()
    reports = get_resource(definitions, "reports")
    version_tokens = parse_version_tokens(upstream)
    partitioned = definitions.resolve_asset_graph().get(dg.AssetKey(asset)).is_partitioned
    partition = partition if partitioned else ""
    with dg.DagsterInstance.ephemeral() as instance:
        for record in read_with_ancestors(reports, version_tokens):
            record.report(instance, INPUTS_LAUNCH)
        events = _materialize(definitions, instance, asset, partition)
        record = StepRecord.from_events(asset, partition, version_tokens, events)
    record.write(reports)
    if launch:
        reports.write(version_token_name(launch), record.version_token.encode())
    return record.version_token


def get_resource(definitions: dg.Definitions, name: str) -> Any:
    """Return the object that a deployment's resource gives to assets. Raise KeyError if there is no such resource."""
    with dg.build_resources({name: (definitions.resources or {})[name]}) as resources:
        return getattr(resources, name)


def version_token_name(launch: str) -> str:
    """Return the name of the report that holds the version token of a launched job."""
    return f"launches/{launch}"


def _materialize(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: str, partition: str
) -> Sequence[dg.DagsterEvent]:
    """Run one asset in this process and return the events. Raise LaunchError with the cause of a failure."""
    first, _, last = partition.partition(RANGE_SEPARATOR)
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset)],
        partition_key=first if first and not last else None,
        tags={ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last} if last else {},
        raise_on_error=False,
    )
    if not result.success:
        raise LaunchError(f"{asset} {partition} could not be materialized: {_failure_cause(result)}")
    return result.all_events


def _failure_cause(result: dg.ExecuteInProcessResult) -> str:
    """Return the message of the first failed step's original error."""
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        if error:
            return (error.cause or error).message.strip()
    return "see the log"
