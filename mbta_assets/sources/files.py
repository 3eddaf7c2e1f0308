"""The `files` source: upstream tables in Parquet or CSV, as exported by another system or stored by this one.

It finds the rows of a service day in one file of many days or in a directory with a partition for each day, and tells
from status and content whether they have changed. Validating columns is up to `contract.conform`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import csv, dataset, parquet

from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources.contract import (
    Fault,
    Source,
    absent_day_fault,
    cast_column,
    conform,
    is_text,
    translate_faults,
)
from mbta_assets.transit import schema

PARTITION_PREFIX = "service_date="
DIGEST_DIGITS = 10
"""Digits of a digest in a version: enough to detect a change, and short because thousands of versions are kept."""


class FilesSource(Source):
    """Source of `<table>.parquet` or `<table>.csv`, or of `<table>/service_date=YYYY-MM-DD/*.parquet`.

    A single file holds many days, distinguished by its column `service_date`; only the rows of the requested day are
    read. In a partition the path has the day, and Parquet without rows is a day on which nothing happened. In CSV an
    empty field is a missing value, a time is ISO 8601 with its offset, and a date is YYYY-MM-DD.
    """

    name = "files"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source of the directory in the settings. Raises SettingsError."""
        if settings.files_dir is None:
            raise SettingsError("MBTA_FILES_DIR is not set; name the directory of the upstream tables.")
        return cls(settings.files_dir)

    def read(self, table: str, service_date: date) -> pd.DataFrame:
        """Read all rows of a table on a service day, typed as `schema.UPSTREAM[table]`. Raises SourceError."""
        with translate_faults(self.name, table, service_date):
            path = self._find(table)
            read = _read_partition if path.is_dir() else _read_day
            return conform(table, read(path, table, service_date), service_date, self.name)

    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day that there are files of. Raises SourceError.

        A version has a digest of the files' status and one of their content. Files whose status is in `known_versions`
        are not read, and files that were touched without a change of content keep their known version. In a file of
        many days each day's content is the digest of its rows.
        """
        with translate_faults(self.name, table, None):
            path = self._find(table)
            if path.is_dir():
                return _poll_partitions(path, known_versions)
            return _poll_file(path, table, known_versions)

    def _find(self, table: str) -> Path:
        """Return the one file or directory that holds a table. Raises Fault."""
        names = [f"{table}.parquet", f"{table}.csv", table]
        paths = [self.directory / name for name in names if (self.directory / name).exists()]
        if not paths:
            raise Fault(f"there is no such table in {self.directory}", f"Add one of {', '.join(names)}")
        if len(paths) > 1:
            existing = " and ".join(path.name for path in paths)
            raise Fault(f"{existing} are both in {self.directory}", "Keep one of them")
        return paths[0]


def _poll_file(path: Path, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
    status = _digest_status([path])
    with _translate_read_errors(path):
        digests = _digest_days(path, table, status)
    return {day: _make_version(status, digest, known_versions.get(day)) for day, digest in digests.items()}


def _poll_partitions(directory: Path, known_versions: Mapping[date, str]) -> dict[date, str]:
    versions = {}
    for partition in directory.glob(f"{PARTITION_PREFIX}*"):
        with suppress(FileNotFoundError):  # a file that is being replaced is seen by the next call
            files = sorted(partition.glob("*.parquet"))
            if not files:
                continue
            day, status = date.fromisoformat(partition.name.removeprefix(PARTITION_PREFIX)), _digest_status(files)
            known_version = known_versions.get(day)
            if known_version and known_version.startswith(f"{status}-"):
                versions[day] = known_version
            else:
                content = hashlib.sha256(b"".join(_digest_file(file, _digest_status([file])) for file in files))
                versions[day] = _make_version(status, content.hexdigest(), known_version)
    return versions


def _read_partition(directory: Path, table: str, service_date: date) -> arrow.Table:
    parts = []
    for path in _list_partition(directory, service_date):
        with _translate_read_errors(path), parquet.ParquetFile(path) as file:
            parts.append(file.read(_contract_columns(table, file.schema_arrow)))
    try:
        return arrow.concat_tables(parts, promote_options="permissive")
    except arrow.ArrowInvalid as error:
        raise Fault(f"the files of the day differ in their columns: {error}", "Write them with one schema") from error


def _list_partition(directory: Path, service_date: date) -> list[Path]:
    files = sorted((directory / f"{PARTITION_PREFIX}{service_date}").glob("*.parquet"))
    if not files:
        partitions = directory.glob(f"{PARTITION_PREFIX}*/*.parquet")
        raise _absent_day({path.parent.name.removeprefix(PARTITION_PREFIX) for path in partitions})
    return files


def _read_day(path: Path, table: str, service_date: date) -> arrow.Table:
    """Read the rows of a day in a file of many days; Parquet row groups without the day are skipped."""
    with _translate_read_errors(path):
        file = _open_dataset(path)
        if "service_date" not in file.schema.names:
            raise _no_service_date()
        is_of_day = _day_filter(file.schema.field("service_date").type, service_date)
        rows = file.to_table(columns=_contract_columns(table, file.schema), filter=is_of_day)
        if not len(rows):
            days = file.to_table(columns=["service_date"])["service_date"]
            dates = _cast("service_date", days, arrow.date32()).drop_null()
            raise _absent_day(set(map(str, dates.to_pylist())))
    return _parse_text(rows, table) if path.suffix == ".csv" else rows


def _parse_text(text: arrow.Table, table: str) -> arrow.Table:
    """Parse the text columns of a CSV file to the types of the contract. Raises Fault."""
    contract = schema.arrow_schema(schema.UPSTREAM[table])
    columns = {}
    for name in text.column_names:
        target = contract.field(name).type
        if arrow.types.is_timestamp(target):
            target = arrow.timestamp("ns", tz="UTC")
        elif arrow.types.is_integer(target):
            target = arrow.float64()  # where values are missing, pandas writes 1 as 1.0
        try:
            columns[name] = text[name].cast(target)
        except arrow.ArrowInvalid as error:
            remedy = "Write numbers plainly, days as YYYY-MM-DD, times as 2023-10-03T08:10:36-04:00"
            raise Fault(f"wrong type: {error}", remedy, name) from error
    return arrow.table(columns)


def _day_filter(dtype: arrow.DataType, service_date: date) -> pc.Expression:
    """Return a filter for the rows of a day, in the type that the file has for days. Raises Fault."""
    _cast("service_date", arrow.chunked_array([], dtype), arrow.date32())  # raises if the type cannot hold days
    column = pc.field("service_date")
    if arrow.types.is_timestamp(dtype):
        # A range, so that a time other than midnight fails validation instead of being left out.
        midnights = arrow.array([service_date, service_date + timedelta(days=1)]).cast(dtype)
        return (column >= midnights[0]) & (column < midnights[1])
    if arrow.types.is_dictionary(dtype):
        column = column.cast(dtype.value_type)
        dtype = dtype.value_type
    return column == (service_date.isoformat() if is_text(dtype) else service_date)


def _cast(name: str, column: arrow.ChunkedArray, target: arrow.DataType) -> arrow.ChunkedArray:
    try:
        return cast_column(column, target)
    except arrow.ArrowInvalid as error:
        raise Fault(str(error), "Correct the column", name) from error


def _contract_columns(table: str, stored: arrow.Schema) -> list[str]:
    return [name for name in schema.arrow_schema(schema.UPSTREAM[table]).names if name in stored.names]


def _absent_day(days: set[str]) -> Fault:
    return absent_day_fault(days, "the day is not there", "Add that day to the files, or ask for another")


def _no_service_date() -> Fault:
    return Fault("the required column is missing", "A file of many days must have it", "service_date")


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading a file that is empty, truncated or damaged into Faults."""
    if path.stat().st_size == 0:
        raise Fault(f"{path} is empty (0 bytes)", "Export it again")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        raise Fault(f"{path} is cut short or damaged: {error}", "Export it again") from error


def _open_dataset(path: Path) -> dataset.Dataset:
    return dataset.dataset(path, format=_CSV if path.suffix == ".csv" else "parquet")


def _digest_status(files: Sequence[Path]) -> str:
    """Return a digest of the files' names, sizes, times and inodes.

    The change time and the inode reveal a write whose modification time was restored.
    """
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(repr((file.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)).encode())
    return digest.hexdigest()[:DIGEST_DIGITS]


def _make_version(status: str, digest: str, known_version: str | None) -> str:
    """Return the version of a status and a content digest: the known version if the content is the same."""
    content = digest[:DIGEST_DIGITS]
    if known_version and known_version.endswith(f"-{content}"):
        return known_version
    return f"{status}-{content}"


@lru_cache(maxsize=100_000)
def _digest_file(path: Path, status: str) -> bytes:
    """Return the SHA-256 of a file; `status` is part of the cache key only."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(maxsize=16)
def _digest_days(path: Path, table: str, status: str) -> dict[date, str]:
    """Return a digest of the rows of each day in a file of many days; `status` is part of the cache key only."""
    file = _open_dataset(path)
    digests: dict[date, Any] = {}
    for batch in file.to_batches(columns=_contract_columns(table, file.schema)):
        rows = arrow.Table.from_batches([batch])
        if "service_date" not in rows.column_names:
            raise _no_service_date()
        days = _cast("service_date", rows["service_date"], arrow.date32())
        values = _to_hashable_frame(rows.drop_columns("service_date"))
        hashes = pd.util.hash_pandas_object(values, index=False).to_numpy()
        for day in pc.unique(days.drop_null()).to_pylist():
            of_day = pc.fill_null(pc.equal(days, day), False).to_numpy()
            digests.setdefault(day, hashlib.sha256()).update(hashes[of_day].tobytes())
    return {day: digest.hexdigest() for day, digest in digests.items()}


def _to_hashable_frame(rows: arrow.Table) -> pd.DataFrame:
    """Convert rows to pandas with column types that do not depend on whether a batch has missing values."""
    for index, column in enumerate(rows.schema):
        if arrow.types.is_integer(column.type) or arrow.types.is_boolean(column.type):
            rows = rows.set_column(index, column.name, rows[column.name].cast(arrow.int64()).cast(arrow.float64()))
    return rows.to_pandas()


_CSV = dataset.CsvFileFormat(
    convert_options=csv.ConvertOptions(
        # All columns are read as text and parsed afterwards, so that an error names the column of the wrong value.
        column_types={
            name: arrow.string() for model in schema.UPSTREAM.values() for name in schema.arrow_schema(model).names
        },
        null_values=[""],
        strings_can_be_null=True,
    )
)


SOURCE = FilesSource
