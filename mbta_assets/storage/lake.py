"""Tables as Parquet files, one for each service day: `tables/<table>/service_date=YYYY-MM-DD/data.parquet`.

Readers take no lock: they open the old file or the new one. The layout is one that the `files` source reads.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import parquet

from mbta_assets.storage.atomic import locked, sync

PARTITION_PREFIX = "service_date="
_VERSION_KEY = b"content_version"


class MissingPartition(Exception):
    """A service day of a table that was never stored; the message says how to make it."""


class Lake:
    """The tables below a root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, table: str, day: date) -> Path:
        """Where a service day of a table is, or will be."""
        return self.root / "tables" / table / f"{PARTITION_PREFIX}{day}" / "data.parquet"

    def days(self, table: str) -> list[date]:
        """The stored service days of a table, in order."""
        files = (self.root / "tables" / table).glob(f"{PARTITION_PREFIX}*/data.parquet")
        return sorted(date.fromisoformat(file.parent.name.removeprefix(PARTITION_PREFIX)) for file in files)

    def has(self, table: str, day: date) -> bool:
        """Whether a service day of a table is stored."""
        return self.path(table, day).exists()

    def write(self, table: str, day: date, rows: arrow.Table) -> str:
        """Replace a service day of a table and return its content version.

        Raises ValueError where a row is of another service day; what was stored then stays.
        """
        if "service_date" in rows.column_names:
            others = set(pc.unique(rows["service_date"]).to_pylist()) - {day}
            if others:
                raise ValueError(f"{table}: rows of service day {day} hold service_date {sorted(map(str, others))}.")
        version = content_version(rows)
        path = self.path(table, day)
        incoming = path.with_name(".incoming")
        with locked(path.parent):
            try:
                labelled = rows.replace_schema_metadata({_VERSION_KEY: version})
                parquet.write_table(labelled, incoming, compression="zstd")
                sync(incoming)
                os.replace(incoming, path)
            finally:
                incoming.unlink(missing_ok=True)
        sync(path.parent.parent)  # the partition's directory may be new
        return version

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

    def version(self, table: str, day: date) -> str:
        """The content version that `write` returned. Raises MissingPartition."""
        with self._open(table, day) as file:
            return file.metadata.metadata[_VERSION_KEY].decode()

    def rows(self, table: str, day: date) -> int:
        """How many rows a service day has, read from the footer. Raises MissingPartition."""
        with self._open(table, day) as file:
            return file.metadata.num_rows

    def _open(self, table: str, day: date) -> parquet.ParquetFile:
        try:
            return parquet.ParquetFile(self.path(table, day))
        except FileNotFoundError:
            days = self.days(table)
            before = [stored for stored in days if stored < day][-1:]
            nearest = before + [stored for stored in days if stored > day][:1]
            held = f"The nearest stored are {' and '.join(map(str, nearest))}." if days else "No day of it is stored."
            raise MissingPartition(
                f"{table} of service day {day} is not in {self.root}. {held} Make it with: "
                f"dagster asset materialize --select {table} --partition {day}"
            ) from None


def content_version(rows: arrow.Table) -> str:
    """SHA-256 over names, types and values in row order, whatever the chunks and encoding they are kept in."""
    digest = hashlib.sha256()
    for field, column in zip(rows.schema, rows.columns, strict=True):
        digest.update(f"{field.name}:{field.type}:{len(column)};".encode())
        values = column.combine_chunks()
        digest.update(np.packbits(values.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if arrow.types.is_string(field.type):
            text = pc.fill_null(values, "")
            digest.update(pc.binary_length(text).to_numpy().tobytes())
            joined = pc.binary_join(arrow.ListArray.from_arrays([0, len(text)], text), "")
            digest.update(joined[0].as_buffer())
        elif not arrow.types.is_null(field.type):
            if arrow.types.is_temporal(field.type):
                values = values.view(f"int{field.type.bit_width}")
            filled = pc.fill_null(values, arrow.scalar(0).cast(values.type))  # what lies below a null is undefined
            digest.update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()
