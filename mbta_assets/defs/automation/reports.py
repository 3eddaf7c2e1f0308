"""Reported versions of upstream tables: observations that others post through Dagster's HTTP interface.

The event function posts one for each upstream event it receives, and names the event in the observation's metadata.
Observations without one are made by the sensors here, and are no reports.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dagster as dg

from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG, find_last_event_id
from mbta_assets.serving.formats import EVENT_ID_KEY

PAGE_SIZE = 1_000


class Report(NamedTuple):
    """The version that a table of a service day is reported to have."""

    storage_id: int
    """Position in Dagster's event log."""
    day: str
    table: str
    version: str


def fetch_reports(
    instance: dg.DagsterInstance, tables: Iterable[str], after_storage_id: int
) -> tuple[list[Report], int]:
    """Return the reports of tables that the event log has after a position, those of each table in order.

    Also return the position up to which observations were read, reports or not, from which the next reading goes on.
    What is added while one table after the other is read is left to it.
    """
    reports, read_until, end = [], after_storage_id, find_last_event_id(instance) + 1
    for table in tables:
        for record in _fetch_observations(instance, table, after_storage_id, end):
            read_until = max(read_until, record.storage_id)
            observation = record.asset_observation
            if observation and observation.partition and EVENT_ID_KEY in observation.metadata:
                version = (observation.tags or {}).get(DATA_VERSION_TAG, "")
                reports.append(Report(record.storage_id, observation.partition, table, version))
    return reports, read_until


def is_materialized_since(instance: dg.DagsterInstance, report: Report, asset: str) -> bool:
    """Return whether an asset's partition of the reported service day was made after the report."""
    records_filter = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(asset), asset_partitions=[report.day], after_storage_id=report.storage_id
    )
    return bool(instance.fetch_materializations(records_filter, limit=1).records)


def _fetch_observations(
    instance: dg.DagsterInstance, table: str, after_storage_id: int, before_storage_id: int
) -> Iterator[dg.EventLogRecord]:
    records_filter = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(table), after_storage_id=after_storage_id, before_storage_id=before_storage_id
    )
    cursor, has_more = None, True
    while has_more:
        page = instance.fetch_observations(records_filter, PAGE_SIZE, cursor, ascending=True)
        cursor, has_more = page.cursor, page.has_more
        yield from page.records
