"""How Dagster assets get to the lake and to the bundle store."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import pandas as pd
import pyarrow as arrow

from mbta_assets.bundle import Bundle, Draft
from mbta_assets.storage.bundles import BundleStore
from mbta_assets.storage.lake import Lake, MissingPartition
from mbta_assets.transit import schema

Frame: TypeAlias = pd.DataFrame | arrow.Table


@dataclass(frozen=True)
class DayByDay:
    """What an asset returns for many service days: an iterable, so that one day at a time is in memory."""

    days: Iterable[tuple[date, Frame]]


@dataclass(frozen=True)
class StoredTable:
    """What an asset receives: the service days of a table that are its input, read when asked for."""

    lake: Lake
    table: str
    days: Sequence[date]
    columns: Sequence[str] | None = None

    def read(self, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of a service day; all columns of the input or some. Raises MissingPartition."""
        return schema.to_frame(self.lake.read(self.table, [day], columns or self.columns))

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of all service days, in order. Raises MissingPartition."""
        return schema.to_frame(self.lake.read(self.table, self.days, columns or self.columns))


class ParquetTableIOManager(dg.ConfigurableIOManager):
    """Tables partitioned by service day, in a Parquet lake.

    An asset returns DayByDay, or a frame where it makes one partition; it must make every partition that the
    run asks of it, each once. A consumer receives a StoredTable, or the rows themselves where it is annotated
    with `pd.DataFrame`: of the partitions mapped to it, or, when it is not partitioned, of all stored days.
    `AssetIn(metadata={"columns": [...], "last_days": n})` asks for less.
    """

    root: str

    def handle_output(self, context: dg.OutputContext, obj: DayByDay | Frame) -> None:
        """Store each service day as it comes; what comes before an error stays stored."""
        table = context.asset_key.path[-1]
        lake = Lake(Path(self.root))
        versions: dict[date, str] = {}
        for day, frame in each_asked(table, days_of(context.asset_partition_keys), obj):
            rows = to_arrow(table, frame)
            versions[day] = lake.write(table, day, rows)
            described = describe_partition(rows, versions[day], lake.path(table, day))
            context.step_context.add_asset_metadata(described, context.asset_key, str(day))
        set_data_version(context, versions)

    def load_input(self, context: dg.InputContext) -> StoredTable | pd.DataFrame:
        """The service days that the consumer needs. Raises MissingPartition."""
        table = context.asset_key.path[-1]
        lake = Lake(Path(self.root))
        asked = context.definition_metadata
        if context.step_context.entity_partitions_def:
            days = days_of(context.asset_partition_keys)
        else:
            days = lake.days(table)[-asked.get("last_days", 0) :]
            if not days:
                command = f"dagster asset materialize --select {table} --partition YYYY-MM-DD"
                raise MissingPartition(f"No service day of {table} is in {self.root}. Make one with: {command}")
        stored = StoredTable(lake, table, days, asked.get("columns"))
        return stored.frame() if context.dagster_type.typing_type is pd.DataFrame else stored


class BundleIOManager(dg.ConfigurableIOManager):
    """Models as bundles: an asset returns a Draft or a Bundle, which becomes its current version."""

    root: str

    def handle_output(self, context: dg.OutputContext, obj: Draft | Bundle) -> None:
        """Store a version and point to it."""
        asset = context.asset_key.path[-1]
        store = BundleStore(Path(self.root))
        expected = store.current_digest(asset)
        stored = store.put(asset, obj)
        store.point(asset, stored.digest, expected)
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(stored.digest))
        context.add_output_metadata(
            {
                "digest": stored.digest,
                "size_bytes": stored.size_bytes,
                "path": dg.MetadataValue.path(str(stored.path)),
                "manifest": dg.MetadataValue.json(stored.manifest),
            }
        )

    def load_input(self, context: dg.InputContext) -> Bundle:
        """The current version, verified. Raises BundleError."""
        return BundleStore(Path(self.root)).current(context.asset_key.path[-1])


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


def to_arrow(table: str, frame: Frame) -> arrow.Table:
    """A frame with the columns and types of the table's model; a table without a model keeps its own.

    Raises ValueError naming the columns that do not fit.
    """
    if table not in schema.TABLES:
        return frame if isinstance(frame, arrow.Table) else arrow.Table.from_pandas(frame, preserve_index=False)
    wanted = schema.arrow_schema(schema.TABLES[table])
    found = frame.column_names if isinstance(frame, arrow.Table) else list(frame.columns)
    if set(found) != set(wanted.names):
        lacking, unknown = (
            sorted(set(wanted.names) - set(found)),
            sorted(set(found) - set(wanted.names)),
        )
        raise ValueError(f"{table}: columns lacking: {lacking}; columns not in its model: {unknown}.")
    try:
        if isinstance(frame, arrow.Table):
            return frame.select(wanted.names).cast(wanted)
        return arrow.Table.from_pandas(frame, wanted, preserve_index=False)
    except arrow.ArrowException as error:
        raise ValueError(f"{table}: a column is not of the type in its model: {' '.join(error.args)}.") from error


def describe_partition(rows: arrow.Table, version: str, path: Path) -> dict[str, Any]:
    """The metadata of one stored partition."""
    return {
        "dagster/row_count": len(rows),
        "content_version": version,
        "size_bytes": path.stat().st_size,
        "path": dg.MetadataValue.path(str(path)),
    }


def set_data_version(context: dg.OutputContext, versions: dict[date, str]) -> None:
    """Give what a run stored its content as Dagster's data version.

    Dagster keeps one data version for an asset in a run: of a single partition it is its content version, of
    several a digest over theirs. Each partition's own is in its metadata.
    """
    digests = [versions[day] for day in sorted(versions)]
    version = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    context.step_context.set_data_version(context.asset_key, dg.DataVersion(version))
