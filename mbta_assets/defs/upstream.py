"""Group `upstream`: the four tables of a service day, as their source hands them over."""

import dagster as dg

from mbta_assets.defs.io_managers import DayByDay
from mbta_assets.defs.metadata import OWNERS, daily
from mbta_assets.defs.partitions import days_asked, service_days
from mbta_assets.defs.retries import RETRIED, what_can_be_read
from mbta_assets.sources import Source
from mbta_assets.sources.bigquery import BigQuerySource
from mbta_assets.transit import schema


def _upstream(table: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=table,
        group_name="upstream",
        description=schema.UPSTREAM[table].__doc__,
        owners=OWNERS,
        kinds={"parquet"},
        metadata=daily(table),
        partitions_def=service_days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRIED,
        io_manager_key="tables",
    )
    def upstream(context: dg.AssetExecutionContext, source: dg.ResourceParam[Source]) -> DayByDay:
        return DayByDay(what_can_be_read((day, source.read(table, day)) for day in days_asked(context)))

    return upstream


def _observed(table: str) -> dg.SourceAsset:
    @dg.observable_source_asset(
        name=table,
        group_name="upstream",
        description=f"{schema.UPSTREAM[table].__doc__} It is loaded by others and read where it is.",
        metadata=daily(table),
        tags={"dagster/kind/bigquery": ""},
        partitions_def=service_days,
        io_manager_key="upstream_tables",
    )
    def observe(source: dg.ResourceParam[BigQuerySource]) -> dg.DataVersionsByPartition:
        known = set(service_days.get_partition_keys())
        versions = {str(day): version for day, version in source.partitions(table).items()}
        return dg.DataVersionsByPartition({day: version for day, version in versions.items() if day in known})

    return observe


STORED = [_upstream(table) for table in schema.UPSTREAM]
"""The tables as a source hands them over, stored here."""


def observed() -> list[dg.SourceAsset]:
    """The tables where others load them into BigQuery: Dagster sees what changes and makes nothing."""
    return [_observed(table) for table in schema.UPSTREAM]
