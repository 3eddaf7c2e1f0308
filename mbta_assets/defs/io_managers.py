"""How Dagster assets get to stored tables and to the bundle store, wherever these are."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import dagster as dg
import pandas as pd

from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.tables import DailyTables, Frame, MissingPartition, TableStore, to_arrow
from mbta_assets.transit import schema


@dataclass(frozen=True)
class DayByDay:
    """What an asset returns for many service days: an iterable, so that one day at a time is in memory."""

    days: Iterable[tuple[date, Frame]]


@dataclass(frozen=True)
class StoredTable:
    """What an asset receives: the service days of a table that are its input, read when asked for."""

    tables: DailyTables
    table: str
    days: Sequence[date]
    columns: Sequence[str] | None = None

    def read(self, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of a service day; all columns of the input or some. Raises MissingPartition."""
        return schema.to_frame(self.tables.read(self.table, [day], columns or self.columns))

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of all service days, in order. Raises MissingPartition."""
        return schema.to_frame(self.tables.read(self.table, self.days, columns or self.columns))

    def versions(self, days: Iterable[date]) -> dict[date, str]:
        """The content version of each of some service days. Raises MissingPartition."""
        return self.tables.versions(self.table, days)


class TableIOManager(dg.IOManager):
    """TableStore partitioned by service day.

    An asset returns DayByDay, or a frame where it makes one partition; it must make every partition that the
    run asks of it, each once. A consumer receives a StoredTable, or the rows themselves where it is annotated
    with `pd.DataFrame`: of the partitions mapped to it, or, when it is not partitioned, of all stored days.
    `AssetIn(metadata={"columns": [...], "last_days": n})` asks for less.
    """

    def __init__(self, tables: TableStore) -> None:
        self.tables = tables

    def handle_output(self, context: dg.OutputContext, obj: DayByDay | Frame) -> None:
        """Store each service day as it comes; what comes before an error stays stored."""
        table = context.asset_key.path[-1]
        versions: dict[date, str] = {}
        for day, frame in each_asked(table, days_of(context.asset_partition_keys), obj):
            rows = to_arrow(table, frame)
            written = self.tables.write(table, day, rows, context.run_id)
            versions[day] = written.version
            described = {"dagster/row_count": len(rows), "content_version": written.version, **written.metadata}
            context.step_context.add_asset_metadata(described, context.asset_key, str(day))
        set_data_version(context, versions)

    def load_input(self, context: dg.InputContext) -> StoredTable | pd.DataFrame:
        """The service days that the consumer needs. Raises MissingPartition."""
        return stored_table(self.tables, context)


class UpstreamIOManager(dg.IOManager):
    """Tables that others write: a consumer receives them as from TableIOManager."""

    def __init__(self, tables: DailyTables) -> None:
        self.tables = tables

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuse to write. Raises NotImplementedError."""
        raise NotImplementedError(f"{context.asset_key.to_user_string()} is loaded by others and not written here.")

    def load_input(self, context: dg.InputContext) -> StoredTable | pd.DataFrame:
        """The service days that the consumer needs. Raises SourceError."""
        return stored_table(self.tables, context)


def stored_table(tables: DailyTables, context: dg.InputContext) -> StoredTable | pd.DataFrame:
    """What a consumer of a table receives: see TableIOManager. Raises MissingPartition."""
    table = context.asset_key.path[-1]
    asked = context.definition_metadata
    if context.step_context.entity_partitions_def:
        days = days_of(context.asset_partition_keys)
    else:
        days = tables.days(table)[-asked.get("last_days", 0) :]
        if not days:
            command = f"dagster asset materialize --select {table} --partition YYYY-MM-DD"
            raise MissingPartition(f"No service day of {table} is stored yet. Make one with: {command}")
    stored = StoredTable(tables, table, days, asked.get("columns"))
    return stored.frame() if context.dagster_type.typing_type is pd.DataFrame else stored


class BundleIOManager(dg.IOManager):
    """Models as bundles: an asset returns a Draft or a Bundle, which becomes its current version."""

    def __init__(self, store: ModelRegistry) -> None:
        self.store = store

    def handle_output(self, context: dg.OutputContext, obj: Draft | Bundle) -> None:
        """Store a version and point to it."""
        asset = context.asset_key.path[-1]
        expected = self.store.current_digest(asset)
        stored = self.store.put(asset, obj)
        self.store.point(asset, stored.digest, expected)
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(stored.digest))
        context.add_output_metadata(
            {
                "digest": stored.digest,
                "size_bytes": stored.size_bytes,
                **self.store.describe(asset, stored),
                "manifest": dg.MetadataValue.json(stored.manifest),
            }
        )

    def load_input(self, context: dg.InputContext) -> Bundle:
        """The current version, verified. Raises BundleError."""
        return self.store.current(context.asset_key.path[-1])


def table_io_manager(tables: TableStore) -> dg.IOManagerDefinition:
    """The IO manager of a run, which finds out before any asset is made whether tables can be stored."""

    def begin(_: dg.InitResourceContext) -> TableIOManager:
        tables.begin()
        return TableIOManager(tables)

    return dg.IOManagerDefinition(begin, description=TableIOManager.__doc__)


def bundle_io_manager(store: ModelRegistry) -> dg.IOManagerDefinition:
    """The IO manager of a run, which finds out before any asset is made whether bundles can be stored."""

    def begin(_: dg.InitResourceContext) -> BundleIOManager:
        store.begin()
        return BundleIOManager(store)

    return dg.IOManagerDefinition(begin, description=BundleIOManager.__doc__)


def days_of(partition_keys: Iterable[str]) -> list[date]:
    """The service days that partition keys name."""
    return [date.fromisoformat(key) for key in partition_keys]


def each_asked(table: str, asked: Sequence[date], made: DayByDay | Frame) -> Iterator[tuple[date, Frame]]:
    """What an asset made, day by day. Raises ValueError unless it is each day asked for, once."""
    if not isinstance(made, DayByDay):
        if len(asked) != 1:
            raise ValueError(f"{table}: one frame for {len(asked)} service days; return DayByDay.")
        made = DayByDay([(asked[0], made)])
    missing = set(asked)
    for day, frame in made.days:
        if day not in missing:
            raise ValueError(f"{table}: service day {day} was made {'twice' if day in asked else 'but not asked for'}.")
        missing.remove(day)
        yield day, frame
    if missing:
        raise ValueError(f"{table}: {len(missing)} of {len(asked)} service days were not made, first {min(missing)}.")


def set_data_version(context: dg.OutputContext, versions: dict[date, str]) -> None:
    """Give what a run stored its content as Dagster's data version.

    Dagster keeps one data version for an asset in a run: of a single partition it is its content version, of
    several a digest over theirs. Each partition's own is in its metadata.
    """
    digests = [versions[day] for day in sorted(versions)]
    version = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    context.step_context.set_data_version(context.asset_key, dg.DataVersion(version))
