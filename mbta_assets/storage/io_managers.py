"""Dagster's way in and out: tables to the Parquet lake, bundles to their store."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as arrow

from mbta_assets.bundle import Bundle, Draft
from mbta_assets.storage.bundles import BundleStore
from mbta_assets.storage.lake import Lake, content_version
from mbta_assets.transit import schema


@dataclass(frozen=True)
class DayByDay:
    """What a daily asset returns: its service days one at a time, so that a long backfill holds only one of them."""

    days: Iterable[tuple[date, pd.DataFrame]]


@dataclass(frozen=True)
class StoredTable:
    """What an asset that reads a daily table receives: a handle that reads a service day when asked."""

    lake: Lake
    table: str
    days: list[date]
    columns: Sequence[str] | None = None

    def read(self, day: date) -> pd.DataFrame:
        """The rows of a service day. Raises MissingPartition."""
        return schema.to_frame(self.lake.read(self.table, [day], self.columns))

    def versions(self) -> dict[str, str]:
        """The content version of each service day."""
        return {day.isoformat(): self.lake.version(self.table, day) for day in self.days}

    def __iter__(self) -> Iterator[tuple[date, pd.DataFrame]]:
        return ((day, self.read(day)) for day in self.days)


class TableIOManager(dg.ConfigurableIOManager):
    """Daily tables in the Parquet lake. One run may write any number of partitions."""

    root: str

    def handle_output(self, context: dg.OutputContext, obj: DayByDay) -> None:
        lake, table = Lake(self.root), context.asset_key.path[-1]
        asked = set(context.asset_partition_keys)
        rows, versions = 0, {}
        for day, frame in obj.days:
            key = day.isoformat()
            if key not in asked - set(versions):
                raise ValueError(f"{table} made service day {key}, which this run did not ask for or already has")
            stored = as_table(table, frame)
            versions[key] = lake.write(table, day, stored)
            rows += stored.num_rows
            metadata = {
                "dagster/partition_row_count": stored.num_rows,
                "content_version": versions[key],
                "path": dg.MetadataValue.path(lake.path(table, day)),
                "size_bytes": lake.path(table, day).stat().st_size,
            }
            context.step_context.add_asset_metadata(metadata, context.asset_key, partition_key=key)
        if missing := sorted(asked - set(versions)):
            raise ValueError(f"{table} did not make the service days {missing}")
        # One run has one data version for all its partitions: their own lies in each one's metadata.
        version = versions.popitem()[1] if len(versions) == 1 else content_version(arrow.table({"v": [*versions.values()]}))
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(version))

    def load_input(self, context: dg.InputContext) -> StoredTable:
        lake, table = Lake(self.root), context.asset_key.path[-1]
        metadata = context.definition_metadata or {}
        if context.has_asset_partitions and context.has_partition_key or context.step_context.has_partition_key_range:
            days = [date.fromisoformat(key) for key in context.asset_partition_keys]
        else:
            days = lake.days(table)[-metadata.get("last_days", 0) :]
        return StoredTable(lake, table, days, metadata.get("columns"))


def as_table(name: str, frame: pd.DataFrame) -> arrow.Table:
    """A frame as the table's schema has it. Raises ValueError naming the column that does not fit."""
    expected = schema.arrow_schema(schema.TABLES[name])
    if missing := [column for column in expected.names if column not in frame]:
        raise ValueError(f"table {name} lacks the columns {missing}")
    if unknown := [column for column in frame if column not in expected.names]:
        raise ValueError(f"table {name} has the columns {unknown}, which its schema does not know")
    try:
        return arrow.Table.from_pandas(frame, expected, preserve_index=False).replace_schema_metadata(None)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
        raise ValueError(f"table {name} does not fit its schema: {error}") from error


class BundleIOManager(dg.ConfigurableIOManager):
    """Bundles in a directory; an asset's newest is its current one."""

    root: str

    def handle_output(self, context: dg.OutputContext, obj: Draft) -> None:
        store, asset = BundleStore(self.root), context.asset_key.path[-1]
        history = store.history(asset)
        stored = store.put(asset, obj)
        store.point(asset, stored.digest, history[-1] if history else None)
        context.add_output_metadata(bundle_metadata(stored))
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(stored.digest))

    def load_input(self, context: dg.InputContext) -> Bundle:
        return BundleStore(self.root).current(context.asset_key.path[-1])


def bundle_metadata(stored: Bundle) -> dict[str, Any]:
    """What Dagster shows of a stored bundle."""
    return {
        "digest": stored.digest,
        "size_bytes": stored.size_bytes,
        "path": dg.MetadataValue.path(stored.path),
        "manifest": dg.MetadataValue.json(stored.manifest),
    }
