"""What a step of the pipeline does, wherever it runs: makes one asset as Dagster would, and keeps a record of it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mbta_assets.launch import LaunchError
from mbta_assets.launch.record import Receipts, Record, with_ancestors

RANGE = "..."
"""Between the first and the last of several partitions."""


def run(asset: str, partition: str, upstream: str, environment: Mapping[str, str], launch: str = "") -> str:
    """Make an asset, for a partition if it has any, in the settings of an environment; its receipt.

    `upstream` has the receipts of what it is made from, as `write_receipts` writes them. With `launch` the receipt is
    kept under that name as well. Raises LaunchError where Dagster's run fails, with the first error.
    """
    os.environ.update(environment)
    from mbta_assets.definitions import build_defs  # reads the environment

    definitions = build_defs()
    reports = resource(definitions, "reports")
    receipts = read_receipts(upstream)
    own = partition if definitions.resolve_asset_graph().get(dg.AssetKey(asset)).is_partitioned else ""
    with dg.DagsterInstance.ephemeral() as instance:
        for record in with_ancestors(reports, receipts):
            record.report(instance, launch="before")
        record = Record.of(asset, own, receipts, _make(definitions, instance, asset, own))
    record.keep(reports)
    if launch:
        reports.write(receipt_of(launch), record.receipt.encode())
    return record.receipt


def resource(definitions: dg.Definitions, name: str) -> Any:
    """A resource of a deployment."""
    assert definitions.resources is not None, "build_defs gives them"
    return definitions.resources[name]


def receipt_of(launch: str) -> str:
    """The report that has the receipt of a launch of one asset."""
    return f"launches/{launch}"


def write_receipts(receipts: Receipts) -> str:
    """Receipts as the one text that a step takes."""
    return ",".join(f"{asset}={receipt}" for asset, receipt in sorted(receipts.items()))


def read_receipts(text: str) -> dict[str, str]:
    """What `write_receipts` wrote."""
    return dict(one.split("=", 1) for one in text.split(",") if one)


def _make(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: str, partition: str
) -> Sequence[dg.DagsterEvent]:
    first, _, last = partition.partition(RANGE)
    span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last} if last else {}
    made = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset)],
        partition_key=first or None if not last else None,
        tags=span,
        raise_on_error=False,
    )
    if not made.success:
        failures = [event for event in made.all_events if event.is_step_failure]
        error = failures[0].step_failure_data.error if failures else None
        cause = error.cause or error if error else None
        raise LaunchError(f"{asset} {partition} could not be made: {cause.message.strip() if cause else 'see the log'}")
    return made.all_events
