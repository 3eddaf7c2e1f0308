"""Daily tables as Parquet files: `tables/<table>/service_date=YYYY-MM-DD/data.parquet`.

Readers take no lock: they open the old file or the new one. The `files` source reads the same layout. A service day
that was refused is `staged/<table>/service_date=YYYY-MM-DD/data.parquet`, with the reasons beside it.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.storage.atomic import lock_directory, sync
from mbta_assets.storage.tables import WriteResult, content_version, missing_partition, validate_service_date

PARTITION_PREFIX = "service_date="
INCOMING = ".incoming"
"""Name of a file that is being written, in the directory of its service day."""
_VERSION_KEY = b"content_version"


class ParquetTables:
    """The tables below a root directory; implements `tables.TableStore`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the directory of the tables. Raises OSError."""
        (self.root / "tables").mkdir(parents=True, exist_ok=True)

    def path(self, table: str, day: date, part: str = "") -> Path:
        """Return the file of a service day of a table, or of a part of that day, stored or not."""
        return self._partition("tables", table, day) / f"{part or 'data'}.parquet"

    def days(self, table: str) -> list[date]:
        """Return the published service days of a table in order; a published day may have no rows."""
        files = (self.root / "tables" / table).glob(f"{PARTITION_PREFIX}*/[!.]*.parquet")
        return _list_days({file.parent for file in files})

    def write_part(self, table: str, day: date, part: str, rows: arrow.Table) -> None:
        """Replace the rows of a part of a service day, a file of its own; without rows there is none."""
        validate_service_date(table, day, rows)
        path = self.path(table, day, part)
        if len(rows):
            _replace_file(path, rows)
            sync(path.parent.parent)
        elif path.parent.exists():
            with lock_directory(path.parent):
                for file in (path, path.with_name(INCOMING)):  # the latter left by a writer that was killed
                    file.unlink(missing_ok=True)

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> WriteResult:
        """Publish a service day of a table. Raises ValueError where a row is of another service day."""
        validate_service_date(table, day, rows)
        version = content_version(rows)
        path = self.path(table, day)
        size_bytes = _replace_file(path, rows.replace_schema_metadata({_VERSION_KEY: version}))
        sync(path.parent.parent)  # the partition's directory may be new
        refused = self._partition("staged", table, day)
        if refused.exists():  # an earlier version, which this one corrects
            shutil.rmtree(refused, ignore_errors=True)
        return WriteResult(version, {"size_bytes": size_bytes, "path": path})

    def refuse(self, table: str, day: date, rows: arrow.Table | None, reasons: Sequence[str]) -> str:
        """Keep a service day that is not published for inspection, and return its directory."""
        directory = self._partition("staged", table, day)
        directory.mkdir(parents=True, exist_ok=True)
        if rows is None:
            (directory / "data.parquet").unlink(missing_ok=True)  # of an earlier refusal, for other reasons
        else:
            _replace_file(directory / "data.parquet", rows)
        (directory / "reasons.txt").write_text("\n".join(reasons) + "\n")
        return str(directory)

    def refused_days(self, table: str) -> list[date]:
        """Return the service days that were refused and have not been published since, in order."""
        return _list_days((self.root / "staged" / table).glob(f"{PARTITION_PREFIX}*"))

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Return the rows of service days, in the order of `days`; None means all columns.

        A column that only some days have is null on the others. Raises KeyError for a column that no day has,
        MissingPartition for a day that is not published.
        """
        # With the service date, a day that has none of the columns still has its rows.
        selection = [*columns, "service_date"] if columns else None
        parts = []
        for day in days:
            for path in self._files(table, day):
                with self._open(table, day, path) as file:
                    parts.append(file.read(selection).replace_schema_metadata(None))
        rows = arrow.concat_tables(parts, promote_options="default")
        return rows.select(columns or rows.column_names)

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return the content version of each service day. Raises MissingPartition."""
        versions = {}
        for day in days:
            with self._open(table, day, self.path(table, day)) as file:
                versions[day] = file.metadata.metadata[_VERSION_KEY].decode()
        return versions

    def row_counts(self, table: str, before: date, days: int, column: str | None = None) -> dict[date, int]:
        """Return the number of rows, or of values in a column, of the latest published service days before a day.

        Both are read from the footers of the files.
        """
        counts = {}
        for day in [stored for stored in self.days(table) if stored < before][-days:]:
            counts[day] = 0
            for path in self._files(table, day):
                with self._open(table, day, path) as file:
                    counts[day] += file.metadata.num_rows - (_count_nulls(file.metadata, column) if column else 0)
        return counts

    def _partition(self, place: str, table: str, day: date) -> Path:
        """Return the directory of a service day."""
        return self.root / place / table / f"{PARTITION_PREFIX}{day}"

    def _files(self, table: str, day: date) -> list[Path]:
        """Return the files of a service day: one, or one for each part."""
        parts = sorted(self._partition("tables", table, day).glob("[!.]*.parquet"))
        return parts or [self.path(table, day)]

    def _open(self, table: str, day: date, path: Path) -> parquet.ParquetFile:
        """Open a file of a service day. Raises MissingPartition."""
        try:
            return parquet.ParquetFile(path)
        except FileNotFoundError:
            raise missing_partition(table, day, str(self.root), self.days(table)) from None


def _replace_file(path: Path, rows: arrow.Table) -> int:
    """Replace a file atomically and durably, and return its size in bytes."""
    incoming = path.with_name(INCOMING)
    with lock_directory(path.parent):
        try:
            # Measured values rarely repeat: a dictionary of them takes time, and no less space.
            repeating = [column.name for column in rows.schema if not arrow.types.is_floating(column.type)]
            parquet.write_table(rows, incoming, compression="zstd", use_dictionary=repeating)
            sync(incoming)
            size_bytes = incoming.stat().st_size
            os.replace(incoming, path)
        finally:
            incoming.unlink(missing_ok=True)
    return size_bytes


def _list_days(partitions: Iterable[Path]) -> list[date]:
    """Return the service days of directories, in order, without those that are no service days."""
    days = (_parse_day(partition.name.removeprefix(PARTITION_PREFIX)) for partition in partitions)
    return sorted(day for day in days if day)


def _parse_day(text: str) -> date | None:
    """Return a date written YYYY-MM-DD, None for anything else: a directory that is no service day."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if str(day) == text else None


def _count_nulls(metadata: parquet.FileMetaData, column: str) -> int:
    """Return the number of missing values of a column from a file's statistics."""
    index = metadata.schema.names.index(column)
    groups = (metadata.row_group(group).column(index).statistics for group in range(metadata.num_row_groups))
    return sum(statistics.null_count for statistics in groups if statistics)
