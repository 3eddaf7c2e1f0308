"""What others have reported of the upstream tables: observations that came over Dagster's HTTP interface.

The event function posts one for each upstream event that it is sent. It names the event in the observation's metadata,
which is how it is told from the observations that sensors here make.
"""

from collections.abc import Iterator
from typing import NamedTuple

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from mbta_assets.serving.reporting import EVENT_ID
from mbta_assets.transit import schema

AT_ONCE = 1_000


class Report(NamedTuple):
    """That a table of a service day has changed, and into which version."""

    storage_id: int
    day: str
    table: str
    version: str


def reported_after(instance: dg.DagsterInstance, storage_id: int) -> Iterator[Report]:
    """The reports that the event log has after an id, those of a table in order."""
    for table in schema.UPSTREAM:
        for record in _observations(instance, table, storage_id):
            seen = record.asset_observation
            if seen and seen.partition and EVENT_ID in seen.metadata:
                yield Report(record.storage_id, seen.partition, table, (seen.tags or {}).get(DATA_VERSION_TAG, ""))


def _observations(instance: dg.DagsterInstance, table: str, storage_id: int) -> Iterator[dg.EventLogRecord]:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(table), after_storage_id=storage_id)
    found, more = None, True
    while more:
        found = instance.fetch_observations(wanted, AT_ONCE, found.cursor if found else None, ascending=True)
        more = found.has_more
        yield from found.records


def made_since(instance: dg.DagsterInstance, report: Report, asset: str) -> bool:
    """Whether the service day of a report was made after it."""
    wanted = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(asset), asset_partitions=[report.day], after_storage_id=report.storage_id
    )
    return bool(instance.fetch_materializations(wanted, limit=1).records)
