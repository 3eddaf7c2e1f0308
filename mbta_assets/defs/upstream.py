"""Group `upstream`: the tables of a service day, read from the source, or observed where they stay in place."""

import inspect
from collections.abc import Sequence
from datetime import date

import dagster as dg

from mbta_assets.defs.daily_tables import DailyOutput, ServiceDay, daily_table
from mbta_assets.defs.labels import GROUPS
from mbta_assets.defs.metadata import daily_table_metadata
from mbta_assets.defs.partitions import DailyAsset, DailyDefinition, ServiceDays
from mbta_assets.defs.retries import READ_RETRY_POLICY
from mbta_assets.settings import Settings
from mbta_assets.sources import Source, find_source
from mbta_assets.transit import schema


def upstream_assets(settings: Settings) -> Sequence[DailyAsset]:
    """Return the upstream tables of a deployment: observed where they are read in place, else stored."""
    build_asset = _observed_table if reads_in_place(settings) else _stored_table
    return [build_asset(table) for table in list_upstream_tables(settings)]


def list_upstream_tables(settings: Settings) -> list[str]:
    """Return the names of the upstream tables of a deployment: the required ones, and the source's optional ones."""
    optional_tables = find_source(settings.source).optional_tables
    return [table for table in schema.SOURCE_TABLES if table in schema.UPSTREAM or table in optional_tables]


def reads_in_place(settings: Settings) -> bool:
    """Return whether upstream tables stay where others load them, and are read there without a copy."""
    return find_source(settings.source).reads_in_place


def _stored_table(table: str) -> DailyAsset:
    @daily_table(
        name=table,
        group_name="upstream",
        description=inspect.getdoc(schema.SOURCE_TABLES[table]),
        retry_policy=READ_RETRY_POLICY,
    )
    def upstream(source: dg.ResourceParam[Source]) -> DailyOutput:
        def make(day: date) -> ServiceDay:
            read = source.read(table, day)
            return ServiceDay(read.rows, rejected=read.rejected, metadata={"rejected_rows": len(read.rejected)})

        return DailyOutput(make)

    return upstream


def _observed_table(table: str) -> DailyAsset:
    def build(days: ServiceDays, backfill_policy: dg.BackfillPolicy, tables: object = ()) -> list[DailyDefinition]:
        @dg.observable_source_asset(
            name=table,
            group_name="upstream",
            description=f"{inspect.getdoc(schema.SOURCE_TABLES[table])} It is loaded by others and read where it is.",
            metadata=daily_table_metadata(table),
            tags={**GROUPS["upstream"].tags, "dagster/kind/bigquery": ""},
            partitions_def=days,
            io_manager_key="upstream_tables",
        )
        def observe(source: dg.ResourceParam[Source]) -> dg.DataVersionsByPartition:
            ended = set(days.get_partition_keys())
            versions = {str(day): version for day, version in source.poll(table, {}).items()}
            return dg.DataVersionsByPartition({day: version for day, version in versions.items() if day in ended})

        return [observe]

    return DailyAsset(table, build)
