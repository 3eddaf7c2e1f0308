"""Tables as Parquet files, one for each service day: `tables/<table>/service_date=YYYY-MM-DD/data.parquet`.

Readers take no lock: they open the old file or the new one. The layout is one that the `files` source reads.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.storage.atomic import locked, sync
from mbta_assets.storage.tables import Written, content_version, missing_partition, must_be_of

PARTITION_PREFIX = "service_date="
_VERSION_KEY = b"content_version"


class ParquetTables:
    """The tables below a root directory; see `tables.Tables`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self) -> None:
        """Make the directory of the tables. Raises OSError where it cannot be."""
        (self.root / "tables").mkdir(parents=True, exist_ok=True)

    def path(self, table: str, day: date) -> Path:
        """Where a service day of a table is, or will be."""
        return self.root / "tables" / table / f"{PARTITION_PREFIX}{day}" / "data.parquet"

    def days(self, table: str) -> list[date]:
        """The stored service days of a table, in order."""
        files = (self.root / "tables" / table).glob(f"{PARTITION_PREFIX}*/data.parquet")
        return sorted(date.fromisoformat(file.parent.name.removeprefix(PARTITION_PREFIX)) for file in files)

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> Written:
        """Replace a service day of a table. Raises ValueError where a row is of another one."""
        must_be_of(table, day, rows)
        version = content_version(rows)
        path = self.path(table, day)
        incoming = path.with_name(".incoming")
        with locked(path.parent):
            try:
                labelled = rows.replace_schema_metadata({_VERSION_KEY: version})
                parquet.write_table(labelled, incoming, compression="zstd")
                sync(incoming)
                size_bytes = incoming.stat().st_size
                os.replace(incoming, path)
            finally:
                incoming.unlink(missing_ok=True)
        sync(path.parent.parent)  # the partition's directory may be new
        return Written(version, {"size_bytes": size_bytes, "path": path})

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Rows of some service days, one day after the other; all columns or some. Raises MissingPartition.

        A column that only some of the days have is missing on the others; KeyError for one that none has.
        """
        # With the service date, a day that has none of the columns still has its rows.
        needed = [*columns, "service_date"] if columns else None
        parts = []
        for day in days:
            with self._open(table, day) as file:
                parts.append(file.read(needed).replace_schema_metadata(None))
        rows = arrow.concat_tables(parts, promote_options="default")
        return rows.select(columns or rows.column_names)

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """The content version of each of some stored service days. Raises MissingPartition."""
        versions = {}
        for day in days:
            with self._open(table, day) as file:
                versions[day] = file.metadata.metadata[_VERSION_KEY].decode()
        return versions

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """How many rows each of the latest stored service days before a day has, read from the footers."""
        counts = {}
        for day in [stored for stored in self.days(table) if stored < before][-days:]:
            with self._open(table, day) as file:
                counts[day] = file.metadata.num_rows
        return counts

    def _open(self, table: str, day: date) -> parquet.ParquetFile:
        try:
            return parquet.ParquetFile(self.path(table, day))
        except FileNotFoundError:
            raise missing_partition(table, day, str(self.root), self.days(table)) from None
