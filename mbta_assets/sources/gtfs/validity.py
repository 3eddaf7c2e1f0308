"""Which edition of the static feed is valid on a service day.

It is the latest one that had been seen by noon of that day and has a timetable for it: an agency publishes a timetable
ahead of its first day, and corrects it during its last one. Before the first edition was seen, the first one that has a
timetable for the day counts.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

from mbta_assets.realtime.fetching import show_address
from mbta_assets.sources.gtfs.editions import Editions, Sighting, StaticFeedError, digest_static_feed
from mbta_assets.sources.gtfs.static_feed import StaticFeed
from mbta_assets.transit.service_day import start_time

HOURS_TO_NOON = 12
EDITIONS_IN_MEMORY = 2


class StaticFeeds:
    """The editions of a static feed by service day: those in the archive, or the file that the settings name."""

    def __init__(self, editions: Editions, address: str) -> None:
        """Use the editions of an archive; where there are none, and `address` is a path, the feed there."""
        self.editions, self.address = editions, address
        self._open = lru_cache(maxsize=EDITIONS_IN_MEMORY)(self._open_version)
        self._covers = lru_cache(maxsize=10_000)(lambda digest, version, day: self._open(digest, version).covers(day))

    def find(self, day: date) -> tuple[str, StaticFeed]:
        """Return the digest of the edition that is valid on a day, and the edition.

        Raises StaticFeedError if there is none, or if it is of another time zone; ArchiveError or CloudError if it
        cannot be read.
        """
        digest = self.find_digest(day)
        feed = self._read(digest)
        feed.require_time_zone()
        return digest, feed

    def find_digest(self, day: date) -> str:
        """Return the digest of the edition that is valid on a day; see `find`."""
        candidates = self._candidates(day)
        for digest in candidates:
            if self._covers(digest, self._version(digest), day):
                return digest
        for digest in candidates:  # feed_info.txt is often out of date
            if self._read(digest).has_service_around(day):
                return digest
        if not candidates:
            raise StaticFeedError(
                f"There is no static feed in {self.editions.place.name}, and MBTA_GTFS_STATIC, "
                f"{show_address(self.address)}, is no file. Run `mbta-assets collect`, or set MBTA_GTFS_STATIC to the "
                "path of a GTFS schedule."
            )
        held = "; ".join(self._read(digest).bounds for digest in candidates[:3])
        raise StaticFeedError(
            f"No static feed has a timetable for {day}; there are {held}. Set MBTA_GTFS_STATIC to the path of the GTFS "
            f"schedule of that time, and remove static/ from {self.editions.place.name} if that is of another time."
        )

    def describe_version(self, day: date) -> str:
        """Return text that differs if another static feed is valid on a day, or if its file has changed."""
        digest = self.find_digest(day)
        return self._describe_file() if digest == self.address else digest

    def _candidates(self, day: date) -> list[str]:
        """Return the digests of editions, the best one first."""
        noon = (start_time(day) + timedelta(hours=HOURS_TO_NOON)).timestamp()
        candidates = rank_sightings(self.editions.sightings(), noon)
        if not self.address.startswith(("http://", "https://")) and Path(self.address).expanduser().is_file():
            candidates.append(self.address)
        return candidates

    def _read(self, digest: str) -> StaticFeed:
        return self._open(digest, self._version(digest))

    def _version(self, digest: str) -> str:
        """Return text that changes with the content that a digest stands for; that of an edition stays as it is."""
        return self._describe_file() if digest == self.address else ""

    def _describe_file(self) -> str:
        try:
            status = Path(self.address).expanduser().stat()
        except OSError as error:
            raise _cannot_read(self.address, error) from error
        return f"{status.st_size} {status.st_mtime_ns}"

    def _open_version(self, digest: str, version: str) -> StaticFeed:
        """Open an edition, or the file that the settings name; `version` is part of the cache key only."""
        if digest == self.address:
            try:
                content, origin = Path(self.address).expanduser().read_bytes(), self.address
            except OSError as error:
                raise _cannot_read(self.address, error) from error
            digest_static_feed(content, origin)  # raises an error if it is no static feed
            return StaticFeed(content, origin)
        return StaticFeed(self.editions.read(digest), f"{self.editions.path(digest)} of {self.editions.place.name}")


def rank_sightings(sightings: Sequence[Sighting], noon: float) -> list[str]:
    """Return the digests of editions: those seen by noon, the latest first, and then the others, the earliest first."""
    earlier = [sighting.digest for sighting in reversed(sightings) if sighting.first_seen <= noon]
    later = [sighting.digest for sighting in sightings if sighting.first_seen > noon]
    return list(dict.fromkeys([*earlier, *later]))


def _cannot_read(address: str, error: OSError) -> StaticFeedError:
    return StaticFeedError(
        f"The static feed {address} cannot be read: {error.strerror or error}. Check MBTA_GTFS_STATIC, and that this "
        "user may read it."
    )
