"""The archive's index and files, and the copies of them that are kept in the store.

A copy is named by the SHA-256 of its content, and a pin says which copy is which file, and of which edition: the files
of recent days are revised. Requests are up to `client`, what is in the files to `archive_rows` and `stops`.
"""

import csv
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.sources.lamp.client import ArchiveClient, DownloadError, Validators

DAYS = "subway-on-time-performance-v1"
"""Folder of the service days and their index."""
REQUIRED_COLUMNS = ("service_date", "file_url")
"""Columns that the index must have; without `size_bytes` and `last_modified` a revised day is not noticed."""

logger = logging.getLogger(__name__)


class IndexEntry(NamedTuple):
    """File of a service day, as the index has it."""

    name: str
    last_modified: str
    size_bytes: int | None

    @property
    def edition(self) -> str:
        """Return what changes when the file is revised."""
        return f"{self.last_modified} {self.size_bytes}"


@dataclass(frozen=True)
class Pin:
    """Copy that is kept of a file."""

    sha256: str
    edition: str
    """Edition as the index has it; empty for a file that the index does not have."""
    etag: str
    last_modified: str


class CachedFile(NamedTuple):
    """Copy of a file, and whether it was downloaded for this call."""

    path: Path
    sha256: str
    downloaded: bool


class LampArchive:
    """The archive at an address, with copies in a directory that several processes may use at a time.

    An instance has one view of the index until it is told to refresh it, so that what is read for one service day is
    read from one file.
    """

    def __init__(self, url: str, directory: Path, client: ArchiveClient | None = None) -> None:
        self.url, self.directory, self.client = url.rstrip("/"), directory, client or ArchiveClient()
        self._index: dict[date, IndexEntry] | None = None
        self._refreshed_at = 0.0
        self._days: dict[IndexEntry, CachedFile] = {}
        self._stops: dict[int, CachedFile] = {}

    def read_index(self) -> Mapping[date, IndexEntry]:
        """Return the file of each service day that the archive has, in order of the days. Raises DownloadError.

        While the archive cannot be reached, the index of an earlier time stands in.
        """
        if self._index is None:
            try:
                self._index = self._load_index()
            except DownloadError as error:
                content = self._copy("index.csv")
                if content is None:
                    raise
                logger.warning("The index of an earlier time is used: %s.", error)
                self._index = _parse_index(content.path.read_text(), self.url)
        return self._index

    def refresh(self, max_age_seconds: float) -> Mapping[date, IndexEntry]:
        """Return the index, which is asked for again unless it was within `max_age_seconds`. Raises DownloadError."""
        if self._index is None or time.monotonic() - self._refreshed_at > max_age_seconds:
            self._index = self._load_index()
            self._stops.clear()
        return self._index

    def fetch_day(self, day: date) -> CachedFile:
        """Return the copy of the file of a service day in the index. Raises DownloadError, KeyError."""
        entry = self.read_index()[day]
        try:
            return self._fetch_day(entry)
        except DownloadError:
            revised = self._load_index().get(day)  # the day may have been revised since the index was read
            if revised is None or revised == entry:
                raise
            self._index = {**self.read_index(), day: revised}
            return self._fetch_day(revised)

    def fetch_stops(self, year: int) -> CachedFile:
        """Return the copy of the stops of a year, as the archive has them now. Raises DownloadError.

        While the archive cannot be reached, a copy of an earlier time stands in.
        """
        if year not in self._stops:
            name = f"gtfs_archive-{year}-stops.parquet"
            try:
                self._stops[year] = self._fetch(f"gtfs_archive/{year}/stops.parquet", name, None)
            except DownloadError as error:
                copy = self._copy(name)
                if copy is None:
                    raise
                logger.warning("The stops of an earlier time are used: %s.", error)
                self._stops[year] = copy
        return self._stops[year]

    def _fetch_day(self, entry: IndexEntry) -> CachedFile:
        if entry not in self._days:  # what was read once stays, though another process may pin a later edition
            self._days[entry] = self._fetch(f"{DAYS}/{entry.name}", entry.name, entry)
        return self._days[entry]

    def _load_index(self) -> dict[date, IndexEntry]:
        pin, copy = self._pin("index.csv"), self._copy("index.csv")
        cached = Validators(pin.etag, pin.last_modified) if pin and copy else Validators()
        answer = self.client.fetch(f"{self.url}/{DAYS}/index.csv", cached)
        if answer:
            content, validators = answer
            index = _parse_index(content.decode("utf-8", "replace"), self.url)  # not kept where it cannot be read
            with self._lock("index.csv") as part:
                part.write_bytes(content)
                self._keep("index.csv", part, "", validators)
        elif copy:
            index = _parse_index(copy.path.read_text(), self.url)
        else:
            raise DownloadError(f"{self.url}/{DAYS}/index.csv: the server says that it has not changed, unasked")
        self._refreshed_at = time.monotonic()
        return index

    def _fetch(self, path: str, name: str, entry: IndexEntry | None) -> CachedFile:
        """Download a file unless there is a copy of this edition of it."""
        url = f"{self.url}/{path}"
        with self._lock(name) as part:
            pin, copy = self._pin(name), self._copy(name)
            if entry and copy and pin and pin.edition == entry.edition:
                return copy  # downloaded by another process while this one waited
            cached = Validators(pin.etag, pin.last_modified) if pin and copy and not entry else Validators()
            validators = self.client.download(url, part, entry.size_bytes if entry else None, cached)
            if validators is None and copy:
                return copy
            if part.stat().st_size or not (entry and entry.size_bytes == 0):
                _require_parquet(part, url)
            return self._keep(name, part, entry.edition if entry else "", validators or Validators())

    def _keep(self, name: str, part: Path, edition: str, validators: Validators) -> CachedFile:
        """Move a downloaded file to its place, and pin it."""
        with part.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        path = self.directory / "content" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        pin = self.directory / "pins" / f"{name}.json"
        pin.parent.mkdir(parents=True, exist_ok=True)
        incoming = pin.with_name(f".{name}.{os.getpid()}")
        incoming.write_text(json.dumps(asdict(Pin(digest, edition, *validators))))
        incoming.replace(pin)
        return CachedFile(path, digest, downloaded=True)

    def _pin(self, name: str) -> Pin | None:
        try:
            return Pin(**json.loads((self.directory / "pins" / f"{name}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _copy(self, name: str) -> CachedFile | None:
        """Return the copy of a file if there is one whose content is what was downloaded."""
        pin = self._pin(name)
        path = self.directory / "content" / (pin.sha256 if pin else "-")
        if pin is None or not path.exists():
            return None
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != pin.sha256:
                logger.warning("%s is damaged; %s is downloaded again.", path, name)
                return None
        return CachedFile(path, pin.sha256, downloaded=False)

    @contextmanager
    def _lock(self, name: str) -> Iterator[Path]:
        """Yield where a file is downloaded to; other processes that download the same file wait."""
        parts = self.directory / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        with (parts / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield parts / name


def _require_parquet(part: Path, url: str) -> None:
    try:
        parquet.ParquetFile(part).close()
    except (arrow.ArrowException, OSError) as error:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} is no Parquet file: {error}") from error


def _parse_index(text: str, url: str) -> dict[date, IndexEntry]:
    """Return the file of each service day, in order. Raises DownloadError where it is not an index."""
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in REQUIRED_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        columns = ", ".join(rows.fieldnames or ()) or "nothing"
        raise DownloadError(
            f"{url}/{DAYS}/index.csv has no column {' and no '.join(missing)}; it has {columns}. "
            "Check that MBTA_LAMP_URL is the address of the archive"
        )
    entries: dict[date, IndexEntry] = {}
    for row in rows:
        try:
            day = date.fromisoformat(row["service_date"].strip()[:10])
            size = row.get("size_bytes") or ""
            # The file is looked for below the address in the settings, which may be that of a mirror.
            name = Path(row["file_url"].strip()).name
            entry = IndexEntry(name, row.get("last_modified") or "", int(size) if size else None)
        except (ValueError, AttributeError):
            logger.warning("A line of the archive's index cannot be read: %s", row)
            continue
        if day not in entries or entries[day].last_modified <= entry.last_modified:
            entries[day] = entry
    return dict(sorted(entries.items()))
