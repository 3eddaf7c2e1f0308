"""The Parquet lake: a file for each table and service day, replaced whole or not at all."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet

VERSION_KEY = b"content_sha256"
FILE_NAME = "data.parquet"
ABANDONED_SECONDS = 24 * 3600


class MissingPartition(Exception):
    """A table has nothing stored for a service day that was asked for; the message says how to make it."""


class Lake:
    """Tables under one directory, `<root>/tables/<table>/service_date=YYYY-MM-DD/data.parquet`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, table: str, day: date) -> Path:
        """Where a partition is kept."""
        return self.root / "tables" / table / f"service_date={day.isoformat()}" / FILE_NAME

    def write(self, table: str, day: date, rows: arrow.Table) -> str:
        """Replace a partition and return its content version.

        Written aside, flushed, then renamed: a reader, or a process killed at any instant, leaves the old rows or
        the new ones.
        """
        version = content_version(rows)
        rows = rows.replace_schema_metadata({VERSION_KEY: version.encode()})
        replace_file(self.path(table, day), lambda aside: parquet.write_table(rows, aside, compression="zstd"))
        return version

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """The rows of some service days, one after the other. Raises MissingPartition."""
        parts = [
            parquet.ParquetFile(self._stored(table, day)).read(columns=list(columns) if columns else None)
            for day in days
        ]
        return arrow.concat_tables([part.replace_schema_metadata(None) for part in parts])

    def days(self, table: str) -> list[date]:
        """The service days stored, in order."""
        found = (self.root / "tables" / table).glob(f"service_date=*/{FILE_NAME}")
        return sorted(date.fromisoformat(path.parent.name.removeprefix("service_date=")) for path in found)

    def version(self, table: str, day: date) -> str:
        """The content version of a partition: equal where the rows, their order and their types are."""
        return parquet.read_schema(self._stored(table, day)).metadata[VERSION_KEY].decode()

    def rows(self, table: str, day: date) -> int:
        """How many rows a partition has."""
        return parquet.read_metadata(self._stored(table, day)).num_rows

    def _stored(self, table: str, day: date) -> Path:
        path = self.path(table, day)
        if not path.exists():
            days = self.days(table)
            held = f"{len(days)} service days, {days[0]} to {days[-1]}" if days else "no service day"
            raise MissingPartition(
                f"table {table} has nothing for service day {day}; the lake in {self.root} holds {held} of it. "
                f"Make it with: dagster asset materialize --select {table} --partition {day}"
            )
        return path


def content_version(rows: arrow.Table) -> str:
    """SHA-256 of a table's schema and rows, whatever file they lie in."""
    digest = hashlib.sha256(json.dumps([[field.name, str(field.type)] for field in rows.schema]).encode())
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, rows.schema.remove_metadata()) as stream:
        for batch in rows.replace_schema_metadata(None).combine_chunks().to_batches():
            stream.write_batch(batch)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def replace_file(path: Path, write) -> None:
    """Replace a file by what `write(aside)` makes of a path beside it, at once and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".{path.name}.*"):
        if time.time() - abandoned.stat().st_mtime > ABANDONED_SECONDS:
            abandoned.unlink(missing_ok=True)
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        write(aside)
        flush(aside)
        os.replace(aside, path)
        flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
