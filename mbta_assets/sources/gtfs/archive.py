"""The archive of feeds: snapshots as they were fetched, in compressed batches, and those that others have kept.

A batch of the collector is a Parquet file of the snapshots of about a minute, whose name has their first and last time
and a digest of their content:

    vehicle_positions/2026-02-16/1771257512000-1771257572000-3f9a….parquet

Other archives are read too: `.pb` and `.json` files, compressed or not, in any directories or in zip files, with the
time in their names (`1771257512.pb`, not in the future) or else in their headers. Static feeds are in `editions`, what
snapshots mean in `feed` and `feed_rows`.
"""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import NamedTuple

import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.realtime.feed import FeedError, parse_feed
from mbta_assets.realtime.places import ArchiveError, Place, StoredFile
from mbta_assets.transit.service_day import to_time

FEEDS = ("vehicle_positions", "trip_updates", "published")
DAY_SECONDS, MAX_BATCH_SECONDS = 86_400, 3600
"""Seconds of a day, and those after its end in which a batch that began on it may end."""
MIN_EPOCH_SECONDS = 1e9
"""Epoch seconds, of 2001, from which ten digits in the name of a file may be a time: GTFS-realtime is younger."""
EDITIONS = "static/"
"""Prefix of the files of `editions`."""
TIMESTAMP = arrow.timestamp("us", "UTC")
BATCH_SCHEMA = arrow.schema([("fetched_at", TIMESTAMP), ("made_at", TIMESTAMP), ("content", arrow.large_binary())])
COMPRESSION_LEVEL = 9
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""Errors of reading from a zip that is damaged; the last one is of a password or of an unknown compression."""
PAGE_BYTES = 2**28
"""Snapshots of a batch are compressed as one page, as each repeats most of the one before."""

_BATCH = re.compile(r"(\w+)/[0-9-]{10}/([0-9]+)-([0-9]+)-[0-9a-f]+\.parquet")
_SNAPSHOT = re.compile(r"\.(pb|json|pbf|proto)(\.gz|\.bz2)?$", re.IGNORECASE)
_EPOCH = re.compile(r"(?<![0-9])([0-9]{10})(?:[0-9]{3})?(?![0-9])")


class FetchedSnapshot(NamedTuple):
    """Content of a feed, and when it was fetched."""

    fetched_at: float
    """Epoch seconds."""
    content: bytes
    place: str = ""
    """Where it is in the archive, for messages."""
    made_at: float | None = None
    """When the agency made it, epoch seconds; None if that is not known."""

    @property
    def time(self) -> float:
        """Return the time under which it is kept, epoch seconds: when it was made, or else fetched.

        A feed that is played again later is thus kept under its own time, and so is one that a machine with a wrong
        clock has fetched.
        """
        return self.fetched_at if self.made_at is None else self.made_at


@dataclass(frozen=True)
class Piece:
    """A part of the archive that is read at once: a batch, a snapshot, or a snapshot in a zip."""

    file: StoredFile
    first: float
    last: float
    """Times of its first and last snapshot, epoch seconds."""
    feed: str | None = None
    """Feed of a batch; None where only the content tells."""
    member: str = ""
    """Name in the zip."""

    @property
    def version(self) -> str:
        """Return text that differs if the content does."""
        return f"{self.file.path} {self.member} {self.file.size_bytes} {self.file.version}"


class UnreadablePiece(NamedTuple):
    """A part of the archive that cannot be read, and why."""

    place: str
    problem: str


class FeedArchive:
    """Snapshots of feeds in a place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def append(self, feed: str, snapshots: Sequence[FetchedSnapshot]) -> str:
        """Write snapshots as one batch, durably and as a whole, and return its path.

        Writing the same snapshots again changes nothing. Raises ArchiveError or CloudError.
        """
        first, last = (min(s.time for s in snapshots), max(s.time for s in snapshots))
        digest = hashlib.sha256()
        for snapshot in snapshots:
            digest.update(hashlib.sha256(snapshot.content).digest())
        day = datetime.fromtimestamp(first, UTC).date()
        path = f"{feed}/{day}/{int(first * 1000)}-{int(last * 1000)}-{digest.hexdigest()[:12]}.parquet"
        self.place.add(path, _encode(snapshots))
        return path

    def find_pieces(self, feed: str, begin: float = 0, end: float = float("inf")) -> list[Piece]:
        """Return the parts with snapshots of a feed of [begin, end) epoch seconds, in order of time.

        Raises ArchiveError or CloudError.
        """
        pieces = [piece for file in self._list_files(feed, begin, end) for piece in self._describe(file)]
        found = [piece for piece in pieces if piece.feed in (None, feed) and piece.first < end and piece.last >= begin]
        return sorted(found, key=lambda piece: (piece.first, piece.version))

    def read_snapshots(self, feed: str, begin: float, end: float) -> Iterator[FetchedSnapshot | UnreadablePiece]:
        """Yield the snapshots of a feed in [begin, end) epoch seconds, in order, each content once.

        What cannot be read is yielded as such. In an archive of others there may be snapshots of other feeds among
        them. Raises ArchiveError or CloudError.
        """
        yield from self.read_pieces(self.find_pieces(feed, begin, end), begin, end)

    def read_pieces(
        self, pieces: Iterable[Piece], begin: float, end: float
    ) -> Iterator[FetchedSnapshot | UnreadablePiece]:
        """Yield the snapshots of some parts as `read_snapshots` does."""
        yielded: set[bytes] = set()
        for piece in pieces:
            try:
                snapshots = self.read_piece(piece)
            except ArchiveError as error:
                yield UnreadablePiece(piece.file.path, str(error))
                continue
            for snapshot in snapshots:
                digest = hashlib.sha256(snapshot.content).digest()
                if begin <= snapshot.time < end and digest not in yielded:
                    yielded.add(digest)
                    yield snapshot

    def read_piece(self, piece: Piece) -> list[FetchedSnapshot]:
        """Return the snapshots of a part of the archive, in order. Raises ArchiveError or CloudError."""
        if piece.member:
            try:
                content = _open_zip(self.place, piece.file).read(piece.member)
            except DAMAGED_ZIP as error:
                raise ArchiveError(f"{piece.member} in {piece.file.path} is damaged: {error}. Restore it.") from error
            return [FetchedSnapshot(piece.first, content, f"{piece.file.path}:{piece.member}")]
        stored = self.place.read(piece.file.path)
        if stored is None:
            raise ArchiveError(f"{piece.file.path} of {self.place.name} has been removed while it was read. Try again.")
        if piece.feed is None:
            return [FetchedSnapshot(piece.first, stored, piece.file.path)]
        return _decode(stored, f"{piece.file.path} of {self.place.name}", piece.file.path)

    def list_days(self, feed: str) -> list[date]:
        """Return the days (UTC) that the collector has batches of. Raises ArchiveError or CloudError."""
        names = [folder.removeprefix(f"{feed}/").rstrip("/") for folder in self.place.list_folders(f"{feed}/")]
        return [date.fromisoformat(name) for name in names if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", name)]

    def list_other_files(self) -> list[StoredFile]:
        """Return the files that are neither batches nor static feeds. Raises ArchiveError or CloudError."""
        own = {EDITIONS, *(f"{feed}/" for feed in FEEDS)}
        folders = [folder for folder in self.place.list_folders() if folder not in own]
        return [*self.place.list_files(), *(file for folder in folders for file in self.place.list_files(folder))]

    def _list_files(self, feed: str, begin: float, end: float) -> Iterator[StoredFile]:
        for day in self.list_days(feed):
            midnight = datetime.combine(day, time(), UTC).timestamp()
            if midnight < end and midnight + DAY_SECONDS + MAX_BATCH_SECONDS > begin:
                yield from self.place.list_files(f"{feed}/{day}/")
        yield from self.list_other_files()

    def _describe(self, file: StoredFile) -> list[Piece]:
        """Return the parts of a file; none if it holds no snapshots."""
        batch = _BATCH.fullmatch(file.path)
        if batch:
            return [Piece(file, int(batch[2]) / 1000, int(batch[3]) / 1000, batch[1])]
        if file.path.lower().endswith(".zip"):
            names = _list_zip(self.place, file)
            return [_describe_snapshot(self.place, file, name) for name in names if _SNAPSHOT.search(name)]
        return [_describe_snapshot(self.place, file)] if _SNAPSHOT.search(file.path) else []


def _encode(snapshots: Sequence[FetchedSnapshot]) -> bytes:
    fetched_at = [round(snapshot.fetched_at * 1e6) for snapshot in snapshots]
    made_at = [None if snapshot.made_at is None else round(snapshot.made_at * 1e6) for snapshot in snapshots]
    times = [arrow.array(column, arrow.int64()).cast(TIMESTAMP) for column in (fetched_at, made_at)]
    contents = arrow.array([snapshot.content for snapshot in snapshots], BATCH_SCHEMA.field("content").type)
    rows = arrow.Table.from_arrays([*times, contents], schema=BATCH_SCHEMA)
    buffer = io.BytesIO()
    parquet.write_table(
        rows,
        buffer,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=False,
        write_statistics=False,
        data_page_size=PAGE_BYTES,
    )
    return buffer.getvalue()


def _decode(stored: bytes, name: str, path: str) -> list[FetchedSnapshot]:
    try:
        rows = parquet.read_table(io.BytesIO(stored), schema=BATCH_SCHEMA)
    except (arrow.ArrowException, OSError) as error:
        raise ArchiveError(f"{name} is damaged: {error}. Restore it, or remove it to go on without.") from error
    fetched_at, made_at = (rows[name].cast(arrow.int64()).to_pylist() for name in ("fetched_at", "made_at"))
    return [
        FetchedSnapshot(fetched / 1e6, content, path, None if made is None else made / 1e6)
        for fetched, made, content in zip(fetched_at, made_at, rows["content"].to_pylist(), strict=True)
    ]


def _describe_snapshot(place: Place, file: StoredFile, member: str = "") -> Piece:
    name = (member or file.path).rpartition("/")[2]
    match = _EPOCH.search(name)
    fetched_at = float(match[1]) if match else 0.0
    # Ten digits may also be an hour, 2026010203, or another date, which are epoch seconds of other decades.
    if not MIN_EPOCH_SECONDS <= fetched_at <= datetime.now(UTC).timestamp() + DAY_SECONDS:
        fetched_at = _read_header_time(place, file, member)
    return Piece(file, fetched_at, fetched_at, None, member)


@lru_cache(maxsize=100_000)
def _read_header_time(place: Place, file: StoredFile, member: str) -> float:
    """Return the time in the header of a snapshot, epoch seconds; 0 if it has none, or one that cannot be read."""
    try:
        content = _open_zip(place, file).read(member) if member else place.read(file.path)
        header_time = parse_feed(content or b"", file.path).header_time or 0
    except (FeedError, *DAMAGED_ZIP):
        return 0.0
    return float(header_time) if to_time(header_time) else 0.0


@lru_cache(maxsize=1000)
def _list_zip(place: Place, file: StoredFile) -> list[str]:
    return _open_zip(place, file).namelist()


@lru_cache(maxsize=2)
def _open_zip(place: Place, file: StoredFile) -> zipfile.ZipFile:
    """Return an opened zip of the archive. Raises ArchiveError."""
    content = place.read(file.path)
    try:
        return zipfile.ZipFile(io.BytesIO(content or b""))
    except zipfile.BadZipFile as error:
        raise ArchiveError(
            f"{file.path} of {place.name} is no zip file, or damaged: {error}. Restore it, or remove it."
        ) from error
