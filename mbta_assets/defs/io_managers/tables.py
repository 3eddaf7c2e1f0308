"""Dagster IO managers of daily tables.

Where tables are stored is up to `storage`; the resources in `defs.resources` choose it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import dagster as dg
import pandas as pd

from mbta_assets.defs.partitions import to_days
from mbta_assets.storage.tables import DailyTables, Frame, MissingPartition, TableStore, to_arrow
from mbta_assets.transit import schema


@dataclass(frozen=True)
class DailyOutput:
    """Output of an asset for many service days: an iterable, so that one day at a time is in memory."""

    days: Iterable[tuple[date, Frame]]


@dataclass(frozen=True)
class StoredTable:
    """Input of an asset: the service days of a table that it consumes, read when they are needed."""

    tables: DailyTables
    table: str
    days: Sequence[date]
    columns: Sequence[str] | None = None

    def read(self, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows of a service day; all columns of the input or some. Raises MissingPartition."""
        return schema.to_frame(self.tables.read(self.table, [day], columns or self.columns))

    def read_all(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows of all service days, in order. Raises MissingPartition."""
        return schema.to_frame(self.tables.read(self.table, self.days, columns or self.columns))

    def versions(self, days: Iterable[date]) -> dict[date, str]:
        """Return the content version of each of some service days. Raises MissingPartition."""
        return self.tables.versions(self.table, days)


TableInput: TypeAlias = StoredTable | pd.DataFrame


class TablesIOManager(dg.ConfigurableIOManager):
    """Daily tables, partitioned by service day.

    An asset returns a DailyOutput, or a frame if it makes one partition; it must make every partition that the run
    requests, each once. A consumer receives a StoredTable, or the rows themselves if it is annotated with
    `pd.DataFrame`: of the partitions mapped to it, or, if it is not partitioned, of all stored service days.
    `AssetIn(metadata={"columns": [...], "last_days": n})` narrows its input.
    """

    tables: dg.ResourceDependency[TableStore]

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Check, before any asset of the run is made, that tables can be stored."""
        self.tables.prepare()

    def handle_output(self, context: dg.OutputContext, obj: DailyOutput | Frame) -> None:
        """Store service days one after the other. Those before an error stay stored."""
        table = context.asset_key.path[-1]
        versions: dict[date, str] = {}
        for day, frame in iterate_days(table, to_days(context.asset_partition_keys), obj):
            rows = to_arrow(table, frame)
            written = self.tables.write(table, day, rows, context.run_id)
            versions[day] = written.version
            metadata = {"dagster/row_count": len(rows), "content_version": written.version, **written.metadata}
            context.step_context.add_asset_metadata(metadata, context.asset_key, str(day))
        context.step_context.set_data_version(context.asset_key, combine_versions(versions))

    def load_input(self, context: dg.InputContext) -> TableInput:
        """Return the service days that the consumer needs. Raises MissingPartition."""
        return load_table(self.tables, context)


class UpstreamIOManager(dg.ConfigurableIOManager):
    """Tables that others write. A consumer receives them as from `TablesIOManager`."""

    tables: dg.ResourceDependency[DailyTables]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Raise NotImplementedError: these tables are never written here."""
        raise NotImplementedError(f"{context.asset_key.to_user_string()} is loaded by others and not written here.")

    def load_input(self, context: dg.InputContext) -> TableInput:
        """Return the service days that the consumer needs. Raises SourceError."""
        return load_table(self.tables, context)


def load_table(tables: DailyTables, context: dg.InputContext) -> TableInput:
    """Return what a consumer of a table receives, as `TablesIOManager` describes. Raises MissingPartition."""
    table = context.asset_key.path[-1]
    narrowing: Mapping[str, Any] = context.definition_metadata
    if context.step_context.entity_partitions_def:
        days = to_days(context.asset_partition_keys)
    else:
        days = tables.days(table)[-narrowing["last_days"] :] if "last_days" in narrowing else tables.days(table)
        if not days:
            command = f"dagster asset materialize --select {table} --partition YYYY-MM-DD"
            raise MissingPartition(f"No service day of {table} is stored yet. Make one with: {command}")
    stored = StoredTable(tables, table, days, narrowing.get("columns"))
    return stored.read_all() if context.dagster_type.typing_type is pd.DataFrame else stored


def iterate_days(table: str, requested: Sequence[date], output: DailyOutput | Frame) -> Iterator[tuple[date, Frame]]:
    """Yield an asset's output service day by service day.

    Raises ValueError unless it is each requested day, once.
    """
    if not isinstance(output, DailyOutput):
        if len(requested) != 1:
            raise ValueError(f"{table}: one frame for {len(requested)} service days; return DailyOutput.")
        output = DailyOutput([(requested[0], output)])
    missing = set(requested)
    for day, frame in output.days:
        if day not in missing:
            problem = "made twice" if day in requested else "made but not requested"
            raise ValueError(f"{table}: service day {day} was {problem}.")
        missing.remove(day)
        yield day, frame
    if missing:
        raise ValueError(
            f"{table}: {len(missing)} of {len(requested)} service days were not made, first {min(missing)}."
        )


def combine_versions(versions: Mapping[date, str]) -> dg.DataVersion:
    """Return the data version of a run's output, of which Dagster keeps one for all partitions.

    A single partition has its content version, several have a digest of theirs. Each one's own is in its metadata.
    """
    digests = [versions[day] for day in sorted(versions)]
    version = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return dg.DataVersion(version)
