"""Daily tables as Parquet files: `tables/<table>/service_date=YYYY-MM-DD/data.parquet`.

Readers take no lock: they open the old file or the new one. The `files` source reads the same layout.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.storage.atomic import lock_directory, sync
from mbta_assets.storage.tables import WriteResult, content_version, missing_partition, validate_service_date

PARTITION_PREFIX = "service_date="
_VERSION_KEY = b"content_version"


class ParquetTables:
    """The tables below a root directory; implements `tables.TableStore`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the directory of the tables. Raises OSError."""
        (self.root / "tables").mkdir(parents=True, exist_ok=True)

    def path(self, table: str, day: date) -> Path:
        """Return the file of a service day of a table, stored or not."""
        return self.root / "tables" / table / f"{PARTITION_PREFIX}{day}" / "data.parquet"

    def days(self, table: str) -> list[date]:
        """Return the stored service days of a table in order; a stored day may have no rows."""
        files = (self.root / "tables" / table).glob(f"{PARTITION_PREFIX}*/data.parquet")
        return sorted(date.fromisoformat(file.parent.name.removeprefix(PARTITION_PREFIX)) for file in files)

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> WriteResult:
        """Replace a service day of a table. Raises ValueError where a row is of another service day."""
        validate_service_date(table, day, rows)
        version = content_version(rows)
        path = self.path(table, day)
        incoming = path.with_name(".incoming")
        with lock_directory(path.parent):
            try:
                labelled = rows.replace_schema_metadata({_VERSION_KEY: version})
                parquet.write_table(labelled, incoming, compression="zstd")
                sync(incoming)
                size_bytes = incoming.stat().st_size
                os.replace(incoming, path)
            finally:
                incoming.unlink(missing_ok=True)
        sync(path.parent.parent)  # the partition's directory may be new
        return WriteResult(version, {"size_bytes": size_bytes, "path": path})

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Return the rows of service days, in the order of `days`; None means all columns.

        A column that only some days have is null on the others. Raises KeyError for a column that no day has,
        MissingPartition for a day that is not stored.
        """
        # With the service date, a day that has none of the columns still has its rows.
        selection = [*columns, "service_date"] if columns else None
        parts = []
        for day in days:
            with self._open(table, day) as file:
                parts.append(file.read(selection).replace_schema_metadata(None))
        rows = arrow.concat_tables(parts, promote_options="default")
        return rows.select(columns or rows.column_names)

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return the content version of each service day. Raises MissingPartition."""
        versions = {}
        for day in days:
            with self._open(table, day) as file:
                versions[day] = file.metadata.metadata[_VERSION_KEY].decode()
        return versions

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """Return the number of rows of each of the latest `days` stored service days before a day, from the footers."""
        counts = {}
        for day in [stored for stored in self.days(table) if stored < before][-days:]:
            with self._open(table, day) as file:
                counts[day] = file.metadata.num_rows
        return counts

    def _open(self, table: str, day: date) -> parquet.ParquetFile:
        """Open the file of a service day. Raises MissingPartition."""
        try:
            return parquet.ParquetFile(self.path(table, day))
        except FileNotFoundError:
            raise missing_partition(table, day, str(self.root), self.days(table)) from None
