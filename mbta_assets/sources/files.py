"""Upstream tables as files: what another team exported, or what a lake of this project stored."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import csv, dataset, parquet

from mbta_assets.sources.contract import Fault, cast_column, conform, is_text, reading
from mbta_assets.transit import schema

PARTITION_PREFIX = "service_date="
DIGITS = 10
"""Of a digest, in a version: enough to tell a day's files from those before, and short where thousands are noted."""


class FilesSource:
    """Reads a table from `<table>.parquet` or `<table>.csv`, or from `<table>/service_date=YYYY-MM-DD/*.parquet`.

    A single file holds many days and says in `service_date` which; only the rows of the day asked for are
    read. In a partition the path says the day, and Parquet without rows is a day on which nothing happened.
    In CSV an empty field is a missing value, a time is ISO 8601 with its offset, a date is YYYY-MM-DD.
    """

    name = "files"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, table: str, service_date: date) -> pd.DataFrame:
        """All rows of a table on a service day, as `schema.UPSTREAM[table]` says. Raises SourceError."""
        with reading(self.name, table, service_date):
            path = self._path(table)
            rows = (_read_partition if path.is_dir() else _read_day)(path, table, service_date)
            return conform(table, rows, service_date, self.name)

    def poll(self, table: str, known: Mapping[date, str]) -> dict[date, str]:
        """The service days that there are files of, and of each a version. Raises SourceError.

        A version is a digest of the files' status and one of their content. Files whose status is known are not read;
        where the content is known, files that were only touched have the version they had. In a file of many days each
        has the digest of its rows.
        """
        with reading(self.name, table, None):
            path = self._path(table)
            if not path.is_dir():
                status = _status([path])
                with _readable(path):
                    digests = _digest_of_each_day(path, table, status)
                return {day: _version(status, digest, known.get(day)) for day, digest in digests.items()}
            versions = {}
            for partition in path.glob(f"{PARTITION_PREFIX}*"):
                with suppress(FileNotFoundError):  # a file that is being replaced is looked at next time
                    files = sorted(partition.glob("*.parquet"))
                    day, status = date.fromisoformat(partition.name.removeprefix(PARTITION_PREFIX)), _status(files)
                    if not files:
                        continue
                    seen = known.get(day)
                    if seen and seen.startswith(f"{status}-"):
                        versions[day] = seen
                    else:
                        digest = hashlib.sha256(b"".join(map(_sha256, files))).hexdigest()
                        versions[day] = _version(status, digest, seen)
            return versions

    def _path(self, table: str) -> Path:
        """The one file or directory that holds a table."""
        names = [f"{table}.parquet", f"{table}.csv", table]
        paths = [self.directory / name for name in names if (self.directory / name).exists()]
        if not paths:
            raise Fault(f"there is no such table in {self.directory}", f"Add one of {', '.join(names)}")
        if len(paths) > 1:
            found = " and ".join(path.name for path in paths)
            raise Fault(f"{found} are both in {self.directory}", "Keep one of them")
        return paths[0]


def _read_partition(directory: Path, table: str, service_date: date) -> arrow.Table:
    parts = []
    for path in _partition_files(directory, service_date):
        with _readable(path), parquet.ParquetFile(path) as file:
            parts.append(file.read(_known_columns(table, file.schema_arrow)))
    try:
        return arrow.concat_tables(parts, promote_options="permissive")
    except arrow.ArrowInvalid as error:
        raise Fault(f"the files of the day differ in their columns: {error}", "Write them with one schema") from error


def _partition_files(directory: Path, service_date: date) -> list[Path]:
    files = sorted((directory / f"{PARTITION_PREFIX}{service_date}").glob("*.parquet"))
    if not files:
        partitions = directory.glob(f"{PARTITION_PREFIX}*/*.parquet")
        raise _absent({path.parent.name.removeprefix(PARTITION_PREFIX) for path in partitions})
    return files


def _read_day(path: Path, table: str, service_date: date) -> arrow.Table:
    """The rows of a day in a file of many days; in Parquet, row groups without the day are not read."""
    with _readable(path):
        file = dataset.dataset(path, format=_CSV if path.suffix == ".csv" else "parquet")
        if "service_date" not in file.schema.names:
            raise Fault("the required column is missing", "A file of many days must say which", "service_date")
        is_day = _is_day(file.schema.field("service_date").type, service_date)
        rows = file.to_table(columns=_known_columns(table, file.schema), filter=is_day)
        if not len(rows):
            days = file.to_table(columns=["service_date"])["service_date"]
            raise _absent({str(day) for day in _cast("service_date", days, arrow.date32()).drop_null().to_pylist()})
    return _parsed(rows, table) if path.suffix == ".csv" else rows


def _parsed(text: arrow.Table, table: str) -> arrow.Table:
    """The text of a CSV file as values."""
    columns = {}
    for name in text.column_names:
        wanted = schema.arrow_schema(schema.UPSTREAM[table]).field(name).type
        if arrow.types.is_timestamp(wanted):
            wanted = arrow.timestamp("ns", tz="UTC")
        elif arrow.types.is_integer(wanted):
            wanted = arrow.float64()  # where values are missing, pandas writes 1 as 1.0
        try:
            columns[name] = text[name].cast(wanted)
        except arrow.ArrowInvalid as error:
            remedy = "Write numbers plainly, days as YYYY-MM-DD, times as 2023-10-03T08:10:36-04:00"
            raise Fault(f"wrong type: {error}", remedy, name) from error
    return arrow.table(columns)


def _is_day(found: arrow.DataType, service_date: date) -> pc.Expression:
    """Whether a row is of a day, asked in the type that the file has for days."""
    _cast("service_date", arrow.chunked_array([], found), arrow.date32())
    column = pc.field("service_date")
    if arrow.types.is_timestamp(found):
        # A range, so that a time other than midnight is met by the type check and not passed over.
        midnights = arrow.array([service_date, service_date + timedelta(days=1)]).cast(found)
        return (column >= midnights[0]) & (column < midnights[1])
    if arrow.types.is_dictionary(found):
        column = column.cast(found.value_type)
        found = found.value_type
    return column == (service_date.isoformat() if is_text(found) else service_date)


def _cast(name: str, column: arrow.ChunkedArray, wanted: arrow.DataType) -> arrow.ChunkedArray:
    try:
        return cast_column(column, wanted)
    except arrow.ArrowInvalid as error:
        raise Fault(str(error), "Correct the column", name) from error


def _known_columns(table: str, found: arrow.Schema) -> list[str]:
    return [name for name in schema.arrow_schema(schema.UPSTREAM[table]).names if name in found.names]


def _absent(days: set[str]) -> Fault:
    held = f"it holds {min(days)} to {max(days)}, {len(days)} in all" if days else "it holds no rows at all"
    return Fault(f"the day is not there; {held}", "Add that day to the files, or ask for another")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell a file that is empty, cut short or damaged from one whose content is wrong."""
    if path.stat().st_size == 0:
        raise Fault(f"{path} is empty (0 bytes)", "Export it again")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        raise Fault(f"{path} is cut short or damaged: {error}", "Export it again") from error


def _status(files: Sequence[Path]) -> str:
    """A digest of what changes in the file system when a file does: not only its size and the time it may be given."""
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        described = (file.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(repr(described).encode())
    return digest.hexdigest()[:DIGITS]


def _version(status: str, digest: str, known: str | None) -> str:
    """The version of files, which is the known one where their content is."""
    content = digest[:DIGITS]
    return known if known and known.endswith(f"-{content}") else f"{status}-{content}"


def _sha256(path: Path) -> bytes:
    return _digest_of(path, _status([path]))


@lru_cache(maxsize=100_000)
def _digest_of(path: Path, status: str) -> bytes:
    """The SHA-256 of a file as it was when it had this status."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(maxsize=16)
def _digest_of_each_day(path: Path, table: str, status: str) -> dict[date, str]:
    """A digest of the rows of each day in a file of many, as it was when it had this status."""
    file = dataset.dataset(path, format=_CSV if path.suffix == ".csv" else "parquet")
    digests: dict[date, Any] = {}
    for batch in file.to_batches(columns=_known_columns(table, file.schema)):
        rows = arrow.Table.from_batches([batch])
        if "service_date" not in rows.column_names:
            raise Fault("the required column is missing", "A file of many days must say which", "service_date")
        days = _cast("service_date", rows["service_date"], arrow.date32())
        hashes = pd.util.hash_pandas_object(_hashable(rows.drop_columns("service_date")), index=False).to_numpy()
        for day in pc.unique(days.drop_null()).to_pylist():
            of_day = pc.fill_null(pc.equal(days, day), False).to_numpy()
            digests.setdefault(day, hashlib.sha256()).update(hashes[of_day].tobytes())
    return {day: digest.hexdigest() for day, digest in digests.items()}


def _hashable(rows: arrow.Table) -> pd.DataFrame:
    """The same with a type for each column that does not depend on whether values are missing among these rows."""
    for index, column in enumerate(rows.schema):
        if arrow.types.is_integer(column.type) or arrow.types.is_boolean(column.type):
            rows = rows.set_column(index, column.name, rows[column.name].cast(arrow.int64()).cast(arrow.float64()))
    return rows.to_pandas()


_CSV = dataset.CsvFileFormat(
    convert_options=csv.ConvertOptions(
        # Everything is read as text and given its type afterwards, where a wrong value's column is known.
        column_types={
            name: arrow.string() for model in schema.UPSTREAM.values() for name in schema.arrow_schema(model).names
        },
        null_values=[""],
        strings_can_be_null=True,
    )
)
