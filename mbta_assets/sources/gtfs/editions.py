"""Editions of a static feed in the archive: each content once, and when it was first and last seen.

An edition is a zip as it was fetched, `static/<digest>.zip`; the digest is of the files in it, so that a zip that was
only packed again is the same edition. `static/sightings.json` says in order which edition was seen from when to when.
What is in a static feed is up to `static_feed`.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mbta_assets.realtime.feed import describe_bytes
from mbta_assets.realtime.places import MAX_REPLACE_ATTEMPTS, ArchiveError, Place
from mbta_assets.sources.gtfs.archive import DAMAGED_ZIP, EDITIONS

SIGHTINGS = f"{EDITIONS}sightings.json"
REQUIRED_FILES = ("stop_times.txt", "stops.txt", "trips.txt")
DIGEST_DIGITS = 16
BLOCK_BYTES = 2**20


class StaticFeedError(ValueError):
    """Content that is no static feed, or a static feed that cannot be used; the message says what, where, and why."""


@dataclass(frozen=True)
class Sighting:
    """A span of time in which a static feed was one edition, in epoch seconds."""

    digest: str
    first_seen: float
    last_seen: float


class Editions:
    """The editions of one static feed in a place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def add(self, content: bytes, seen_at: float, origin: str) -> tuple[str, bool]:
        """Keep the content of a static feed that was fetched from `origin`; return its digest, and whether it is new.

        Raises StaticFeedError if it is none, ArchiveError or CloudError if it cannot be kept.
        """
        digest = digest_static_feed(content, origin)
        is_new = not self.place.list_files(self.path(digest))
        self.place.add(self.path(digest), content)
        self.confirm(digest, seen_at)
        return digest, is_new

    def confirm(self, digest: str, seen_at: float) -> None:
        """Record that an edition that is kept was seen at a time. Raises ArchiveError or CloudError."""
        for _ in range(MAX_REPLACE_ATTEMPTS):
            stored = self.place.read(SIGHTINGS)
            sightings = _extend(self._parse(stored), digest, seen_at)
            content = json.dumps([asdict(sighting) for sighting in sightings], indent=1).encode()
            if self.place.replace(SIGHTINGS, stored, content):
                return
        raise ArchiveError(f"{SIGHTINGS} of {self.place.name} is written by others too. Run one collector at a time.")

    def sightings(self) -> list[Sighting]:
        """Return when each edition was seen, in order. Raises ArchiveError or CloudError."""
        return self._parse(self.place.read(SIGHTINGS))

    def read(self, digest: str) -> bytes:
        """Return the content of an edition. Raises ArchiveError or CloudError."""
        content = self.place.read(self.path(digest))
        if content is None:
            raise ArchiveError(
                f"{self.path(digest)} is missing in {self.place.name}, and {SIGHTINGS} names it. Restore it."
            )
        return content

    def path(self, digest: str) -> str:
        """Return the path of an edition in the archive."""
        return f"{EDITIONS}{digest}.zip"

    def _parse(self, stored: bytes | None) -> list[Sighting]:
        try:
            return [Sighting(**entry) for entry in json.loads(stored or b"[]")]
        except (ValueError, TypeError) as error:
            raise ArchiveError(
                f"{SIGHTINGS} of {self.place.name} is damaged: {error}. Restore it, or remove it: the collector then "
                "begins it anew."
            ) from error


def digest_static_feed(content: bytes, origin: str) -> str:
    """Return the digest of the files in a static feed, whose checksums are compared. Raises StaticFeedError."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            for name in names:
                content_digest = hashlib.sha256()
                with archive.open(name) as file:
                    while block := file.read(BLOCK_BYTES):
                        content_digest.update(block)
                digest.update(f"{name}\n{content_digest.hexdigest()}\n".encode())
    except DAMAGED_ZIP as error:
        raise StaticFeedError(
            f"{origin}: {describe_bytes(content)} is no zip file, or was cut short ({error}). Fetch it again; check "
            "that MBTA_GTFS_STATIC is the address of a GTFS schedule."
        ) from None
    missing = [name for name in REQUIRED_FILES if name not in {path.rpartition("/")[2] for path in names}]
    if missing:
        raise StaticFeedError(
            f"{origin}: the zip has no {', '.join(missing)}, but {', '.join(names[:10]) or 'nothing'}. Check that "
            "MBTA_GTFS_STATIC is the address of a GTFS schedule."
        )
    return digest.hexdigest()[:DIGEST_DIGITS]


def _extend(sightings: Sequence[Sighting], digest: str, seen_at: float) -> list[Sighting]:
    """Return sightings with one more; the clock may have gone back."""
    if sightings and sightings[-1].digest == digest:
        latest = sightings[-1]
        return [*sightings[:-1], replace(latest, last_seen=max(latest.last_seen, seen_at))]
    return [*sightings, Sighting(digest, seen_at, seen_at)]
