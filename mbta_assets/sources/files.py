"""The `files` source: upstream tables in Parquet or CSV, as exported by another system or stored by this one.

It finds the rows of a service day in one file of many days or in a directory with a partition for each day, and tells
from status and content whether they have changed. Reading CSV is up to `csv_files`, validating columns to `conform`.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import dataset, parquet

from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources.columns import MAX_WHOLE_NUMBER, convert_column, is_text, without_views
from mbta_assets.sources.conform import Part, conform
from mbta_assets.sources.contract import AbsentData, Fault, Source, SourceRows, absent_day_fault, translate_faults
from mbta_assets.sources.csv_files import CsvTable
from mbta_assets.sources.rejection import describe_rows
from mbta_assets.transit import schema

PARTITION_PREFIX = "service_date="
DIGEST_DIGITS = 10
"""Digits of a digest in a version: enough to detect a change, and short because thousands of versions are kept."""


class FilesSource(Source):
    """Source of `<table>.parquet` or `<table>.csv`, or of `<table>/service_date=YYYY-MM-DD/*.parquet`.

    A single file holds many days, distinguished by its column `service_date`; only the rows of the requested day are
    read, and those without a day are rejected with each day. In a partition the path has the day, and Parquet without
    rows is a day on which nothing happened. Directories that are no days, and files whose names begin with a dot or an
    underscore, are not read. In CSV an empty field is a missing value, a time is ISO 8601 with its offset, and a date
    is YYYY-MM-DD.
    """

    name = "files"
    optional_tables = frozenset({"agency_predictions"})

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source of the directory in the settings. Raises SettingsError."""
        if settings.files_dir is None:
            raise SettingsError("MBTA_FILES_DIR is not set; name the directory of the upstream tables.")
        return cls(settings.files_dir)

    def read(self, table: str, service_date: date) -> SourceRows:
        """Read all rows of a table on a service day: those that can be used, and those that are rejected.

        Of a day that has nothing of an optional table there are no rows. Raises SourceError where the table as a whole
        cannot be used.
        """
        with translate_faults(self.name, table, service_date):
            try:
                return self._read(table, service_date)
            except AbsentData:
                if table in self.optional_tables:
                    return SourceRows.empty(table)
                raise

    def _read(self, table: str, service_date: date) -> SourceRows:
        """Read all rows of a table on a service day. Raises AbsentData, Fault or SourceError."""
        path = self._find(table)
        if path.is_dir():
            return conform(table, _read_partition(path, table, service_date), service_date, self.name)
        if path.suffix == ".csv":
            return self._read_csv(path, table, service_date)
        part = _read_day(path, table, service_date)
        return conform(table, [part], service_date, self.name, fill_service_date=False)

    def _read_csv(self, path: Path, table: str, service_date: date) -> SourceRows:
        with _translate_read_errors(path):
            file = CsvTable(path, table)
            part = _select_day(file, service_date)
        result = conform(table, [part], service_date, self.name, parse=True, fill_service_date=False)
        lines = [("unreadable_row", None, json.dumps(line, ensure_ascii=False)) for line in file.unreadable]
        rejected = pd.concat([result.rejected, describe_rows(table, service_date, lines)], ignore_index=True)
        return SourceRows(result.rows, rejected if lines else result.rejected)

    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day that there are files of. Raises SourceError.

        A version has a digest of the files' status and one of their content. Files whose status is in `known_versions`
        are not read, and files that were touched without a change of content keep their known version. In a file of
        many days each day's content is the digest of its rows.
        """
        with translate_faults(self.name, table, None):
            try:
                path = self._find(table)
            except AbsentData:
                if table in self.optional_tables:
                    return {}
                raise
            if path.is_dir():
                return _poll_partitions(path, known_versions)
            return _poll_file(path, table, known_versions)

    def _find(self, table: str) -> Path:
        """Return the one file or directory that holds a table. Raises AbsentData or Fault."""
        names = [f"{table}.parquet", f"{table}.csv", table]
        paths = [self.directory / name for name in names if (self.directory / name).exists()]
        if not paths:
            raise AbsentData(f"there is no such table in {self.directory}", f"Add one of {', '.join(names)}")
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
    for day, partition in _list_partitions(directory).items():
        with suppress(FileNotFoundError):  # a file that is being replaced is seen by the next call
            files = _list_files(partition)
            if not files:
                continue
            status = _digest_status(files)
            known_version = known_versions.get(day)
            if known_version and known_version.startswith(f"{status}-"):
                versions[day] = known_version
            else:
                content = hashlib.sha256(b"".join(_digest_file(file, _digest_status([file])) for file in files))
                versions[day] = _make_version(status, content.hexdigest(), known_version)
    return versions


def _list_partitions(directory: Path) -> dict[date, Path]:
    """Return the partition of each service day, in order; directories that are not named as a day are no partitions."""
    partitions = {}
    for path in sorted(directory.glob(f"{PARTITION_PREFIX}*")):
        name = path.name.removeprefix(PARTITION_PREFIX)
        with suppress(ValueError):
            day = date.fromisoformat(name)
            if name == day.isoformat():  # not 20240307 or 2024-W10-4, which Python reads as days too
                partitions[day] = path
    return partitions


def _list_files(partition: Path) -> list[Path]:
    """Return the Parquet files of a partition; a name with a dot or an underscore is of a file being written."""
    paths = partition.glob("*.parquet")
    return sorted(path for path in paths if not path.name.startswith((".", "_")) and not path.is_dir())


def _read_partition(directory: Path, table: str, service_date: date) -> list[Part]:
    partitions = _list_partitions(directory)
    files = _list_files(partitions[service_date]) if service_date in partitions else []
    if not files:
        raise _absent_day([day for day, partition in partitions.items() if _list_files(partition)])
    return [_read_file(path, table) for path in files]


def _read_file(path: Path, table: str) -> Part:
    with _translate_read_errors(path):
        stored = parquet.read_schema(path)
    columns = _contract_columns(table, stored.names)
    # Text is read as a dictionary where it is stored as one: each distinct value is converted once.
    texts = [name for name in columns if is_text(stored.field(name).type)]
    with _translate_read_errors(path), parquet.ParquetFile(path, read_dictionary=texts) as file:
        return Part(file.read(columns), stored.names, path.name)


def _read_day(path: Path, table: str, service_date: date) -> Part:
    """Read the rows of a day in a file of many days; row groups without the day are skipped."""
    with _translate_read_errors(path):
        file = dataset.dataset(path, format="parquet")
        columns = _contract_columns(table, file.schema.names)
        _require_service_date(file.schema.names)
        is_of_day = _day_filter(file, service_date) | pc.field("service_date").is_null()
        if any(arrow.types.is_string_view(file.schema.field(name).type) for name in columns):
            rows = without_views(file.to_table(columns=columns)).filter(is_of_day)  # Arrow cannot filter views
        else:
            rows = file.to_table(columns=columns, filter=is_of_day)
        if not pc.any(pc.equal(_convert_days(rows["service_date"]), service_date)).as_py():
            raise _fault_without_day(_find_days(file.to_batches(columns=["service_date"])), rows)
    return Part(rows, file.schema.names)


def _select_day(file: CsvTable, service_date: date) -> Part:
    """Read the rows of a day in a CSV file, and those whose day cannot be read."""
    _require_service_date(file.columns)
    batches, days = [], set()
    for batch in file.batches():
        of_batch = _convert_days(batch["service_date"])
        days.update(pc.unique(of_batch.drop_null()).to_pylist())
        batches.append(batch.filter(pc.fill_null(pc.equal(of_batch, service_date), True)))
    if service_date not in days:
        raise _fault_without_day(days, arrow.concat_tables(batches) if batches else None)
    return Part(arrow.concat_tables(batches), file.columns)


def _day_filter(file: dataset.Dataset, service_date: date) -> pc.Expression:
    """Return a filter for the rows of a day, in the type that the file has for days. Raises Fault.

    Rows whose day is text that cannot be read pass it too, to be rejected.
    """
    dtype, column = file.schema.field("service_date").type, pc.field("service_date")
    _convert_days(arrow.chunked_array([], dtype))  # raises if the type cannot hold days
    if arrow.types.is_timestamp(dtype):
        # A range, so that a time other than midnight fails validation instead of being left out.
        midnights = arrow.array([service_date, service_date + timedelta(days=1)]).cast(arrow.timestamp(dtype.unit))
        if dtype.tz is not None:
            midnights = pc.assume_timezone(midnights, dtype.tz, ambiguous="earliest", nonexistent="earliest")
        return (column >= midnights[0]) & (column < midnights[1])
    if arrow.types.is_dictionary(dtype):
        column = column.cast(dtype.value_type)
        dtype = dtype.value_type
    if is_text(dtype):
        return column.isin(_find_texts_of_day(file, service_date).cast(dtype))
    return column == service_date


def _find_texts_of_day(file: dataset.Dataset, service_date: date) -> arrow.Array:
    """Return the distinct texts in the column `service_date` that mean a day, `2024-3-6`, or that mean none."""
    batches = file.to_batches(columns=["service_date"])
    distinct = [pc.unique(batch["service_date"].cast(arrow.string()).drop_null()) for batch in batches]
    texts = pc.unique(arrow.chunked_array(distinct, arrow.string()))
    days = _convert_days(arrow.chunked_array([texts])).combine_chunks()
    return texts.filter(pc.fill_null(pc.equal(days, service_date), True))


def _convert_days(column: arrow.ChunkedArray) -> arrow.ChunkedArray:
    """Convert the column `service_date` to days, missing where they cannot be read. Raises Fault for other types."""
    try:
        return convert_column(column, "service_date", arrow.date32()).values
    except arrow.ArrowInvalid as error:
        raise Fault(str(error), "Correct the column", "service_date") from error


def _find_days(batches: Iterable[arrow.RecordBatch]) -> set[date]:
    days: set[date] = set()
    for batch in batches:
        column = _convert_days(arrow.chunked_array([batch["service_date"]]))
        days.update(pc.unique(column.drop_null()).to_pylist())
    return days


def _contract_columns(table: str, names: Sequence[str]) -> list[str]:
    """Return the columns of the contract among those of a file. Raises a Fault if one is there twice."""
    columns = [name for name in schema.arrow_schema(schema.SOURCE_TABLES[table]).names if name in names]
    if duplicate := next((name for name in columns if names.count(name) > 1), None):
        raise Fault(f"the column is there {names.count(duplicate)} times", "Keep one of them", duplicate)
    return columns


def _fault_without_day(days: Collection[date], undated: arrow.Table | None) -> Fault:
    """Return the fault of a file that does not have a day, but others, and rows whose day cannot be read."""
    text = next(filter(None, undated["service_date"].to_pylist()), None) if undated else None
    if text is None or days:
        return _absent_day(days)
    return Fault(f"its days cannot be read, such as {text!r}", "Write them as YYYY-MM-DD", "service_date")


def _absent_day(days: Iterable[date]) -> AbsentData:
    return absent_day_fault(days, "the day is not there", "Add that day to the files, or ask for another")


def _require_service_date(names: Sequence[str]) -> None:
    if "service_date" not in names:
        problem = f"the required column is missing; the file has {', '.join(filter(None, names)) or 'no columns'}"
        raise Fault(problem, "A file of many days must have it", "service_date")


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading a file that is empty, truncated or damaged into Faults."""
    if path.stat().st_size == 0:
        raise Fault(f"{path} is empty (0 bytes)", "Export it again")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        raise Fault(f"{path} is cut short or damaged: {error}", "Export it again") from error


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
    digests: dict[date, Any] = {}
    undated = hashlib.sha256()  # rows without a day are rejected with each of them
    unreadable: list[Any] = []
    file = CsvTable(path, table) if path.suffix == ".csv" else dataset.dataset(path, format="parquet")
    names = file.columns if isinstance(file, CsvTable) else file.schema.names
    _require_service_date(names)
    for batch in _iterate_rows(file, _contract_columns(table, names)):
        days = _convert_days(batch["service_date"])
        values = _to_hashable_frame(batch.drop_columns("service_date"))
        hashes = pd.util.hash_pandas_object(values, index=False).to_numpy()
        without_day = days.is_null()
        undated.update(hashes[without_day.to_numpy()].tobytes())
        unreadable = unreadable or batch.filter(without_day)["service_date"].drop_null().slice(0, 1).to_pylist()
        for day in pc.unique(days.drop_null()).to_pylist():
            of_day = pc.fill_null(pc.equal(days, day), False).to_numpy()
            digests.setdefault(day, hashlib.sha256()).update(hashes[of_day].tobytes())
    if unreadable and not digests:
        raise _fault_without_day([], arrow.table({"service_date": unreadable}))
    undated.update(repr(file.unreadable if isinstance(file, CsvTable) else []).encode())
    return {day: hashlib.sha256(digest.digest() + undated.digest()).hexdigest() for day, digest in digests.items()}


def _iterate_rows(file: CsvTable | dataset.Dataset, columns: list[str]) -> Iterator[arrow.Table]:
    if isinstance(file, CsvTable):
        yield from file.batches()
    else:
        yield from (without_views(arrow.Table.from_batches([batch])) for batch in file.to_batches(columns=columns))


def _to_hashable_frame(rows: arrow.Table) -> pd.DataFrame:
    """Convert rows to pandas with column types that do not depend on whether a batch has missing values.

    Raises a Fault for lists and the like, which no column of the contract is read from.
    """
    for index, column in enumerate(rows.schema):
        if arrow.types.is_nested(column.type):
            raise Fault(f"its type is {column.type}, and must be a single value", "Correct the column", column.name)
        if arrow.types.is_boolean(column.type):
            rows = rows.set_column(index, column.name, rows[column.name].cast(arrow.int64()))
        if arrow.types.is_integer(rows.schema.field(index).type) and _are_floats(rows[column.name]):
            rows = rows.set_column(index, column.name, rows[column.name].cast(arrow.float64()))
    return rows.to_pandas(types_mapper={arrow.int64(): pd.Int64Dtype(), arrow.uint64(): pd.UInt64Dtype()}.get)


def _are_floats(numbers: arrow.ChunkedArray) -> bool:
    """Return whether no two whole numbers (n,) are the same float."""
    limits = pc.min_max(numbers).as_py()
    return limits["min"] is None or max(-limits["min"], limits["max"]) <= MAX_WHOLE_NUMBER


SOURCE = FilesSource
