"""Polling one feed: each answer is counted as what it is, and what is new goes to the archive.

A snapshot waits in memory until its batch is written, a minute by default: that much is lost if the process is killed.
Threads, metrics and the command are in `collector`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from mbta_assets.gcp import CloudError
from mbta_assets.realtime.feed import FeedError, parse_feed
from mbta_assets.realtime.fetching import WORKING, Answer, Fetcher, Outcome, compute_backoff
from mbta_assets.realtime.places import ArchiveError
from mbta_assets.realtime.sequence import SnapshotSequence
from mbta_assets.sources.gtfs.archive import DAY_SECONDS, FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions, StaticFeedError

MAX_BACKOFF_SECONDS = 300.0
CLOCK_JUMP_SECONDS = 5.0
MAX_BATCH_SPAN_SECONDS = 900.0
"""Time that the snapshots of a batch may span, so that a reader of some hours finds it."""
MAX_BATCH_BYTES, MAX_WAITING_BYTES = 64 * 2**20, 256 * 2**20
"""Bytes of snapshots that are written at once, and that are kept while the archive cannot be written."""
WRITE_RETRY_SECONDS, STATIC_RETRY_SECONDS = 10.0, 60.0


@dataclass(frozen=True)
class Clocks:
    """The time of day in epoch seconds, which may jump, and a time that does not."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Recorder(ABC):
    """What a poller tells of its work."""

    @abstractmethod
    def count_answer(self, feed: str, outcome: Outcome, problem: str) -> None:
        """Count an answer."""

    @abstractmethod
    def count_write(self, feed: str, snapshots: int, size_bytes: int) -> None:
        """Count a batch or an edition that was written."""

    @abstractmethod
    def count_failed_write(self, feed: str, problem: str, lost: int) -> None:
        """Count a failure to write, and snapshots that are given up because of it."""

    @abstractmethod
    def count_clock_jump(self, feed: str, seconds: float) -> None:
        """Count a jump of this machine's clock."""

    @abstractmethod
    def set_header_time(self, feed: str, header_time: float) -> None:
        """Record the time in the header of the latest snapshot."""


class Poller(ABC):
    """Polls a feed, at most once in an interval, and less often while it fails."""

    def __init__(self, feed: str, fetcher: Fetcher, interval_seconds: float, recorder: Recorder) -> None:
        self.feed, self.fetcher, self.interval_seconds, self.recorder = feed, fetcher, interval_seconds, recorder
        self.retry_seconds, self.max_retry_seconds = interval_seconds, max(MAX_BACKOFF_SECONDS, interval_seconds)
        self._failures = 0

    def poll(self) -> float:
        """Fetch the feed once, and return the seconds after which to do it again, counted from before."""
        answer = self.fetcher.fetch()
        outcome, problem = self._take(answer) if answer.outcome in WORKING else (answer.outcome, answer.problem)
        self.recorder.count_answer(self.feed, outcome, problem)
        if outcome in WORKING:
            self._failures = 0
            return self.interval_seconds
        self._failures += 1
        backoff = compute_backoff(self.retry_seconds, self.max_retry_seconds, self._failures)
        return max(answer.retry_after, backoff)

    @abstractmethod
    def _take(self, answer: Answer) -> tuple[Outcome, str]:
        """Keep what an answer brings, and return what it is and the problem with it, if there is one."""

    @abstractmethod
    def flush(self) -> None:
        """Write what waits."""


class SnapshotPoller(Poller):
    """Polls a GTFS-realtime feed."""

    def __init__(
        self,
        feed: str,
        fetcher: Fetcher,
        archive: FeedArchive,
        recorder: Recorder,
        *,
        interval_seconds: float,
        batch_seconds: float,
        clocks: Clocks | None = None,
    ) -> None:
        """Continue where the archive ends. Raises ArchiveError or CloudError."""
        super().__init__(feed, fetcher, interval_seconds, recorder)
        self.archive, self.batch_seconds, self.clocks = archive, batch_seconds, clocks or Clocks()
        self._waiting: list[FetchedSnapshot] = []
        self._batch_began = self._no_write_before = 0.0
        self._clock_offset = self.clocks.wall() - self.clocks.monotonic()
        self._sequence = SnapshotSequence()
        self._continue_archive()

    def poll(self) -> float:
        """Fetch the feed once, write the batch if it is complete, and return the seconds until the next time."""
        delay = super().poll()
        age = self.clocks.monotonic() - self._batch_began
        if self._waiting and (age >= self.batch_seconds or self._waiting_bytes() > MAX_BATCH_BYTES):
            self._write(self.clocks.monotonic())
        return delay

    def flush(self) -> None:
        """Write the snapshots that wait."""
        if self._waiting:
            self._write(float("inf"))

    def _take(self, answer: Answer) -> tuple[Outcome, str]:
        fetched_at = self._read_clock()
        if answer.outcome == "not_modified":
            return "not_modified", ""
        try:
            snapshot = parse_feed(answer.content, self.fetcher.shown_address)
        except FeedError as error:
            return ("truncated" if error.is_truncated else "foreign"), str(error)
        self.fetcher.accept(answer)
        classified = self._sequence.classify(answer.content, snapshot, fetched_at)
        if self._sequence.header_time:
            self.recorder.set_header_time(self.feed, self._sequence.header_time)
        if not classified.is_repeated:
            self._add(FetchedSnapshot(fetched_at, answer.content, made_at=classified.made_at))
        return classified.outcome, classified.problem

    def _add(self, snapshot: FetchedSnapshot) -> None:
        """Add a snapshot to the batch; one of another time begins another batch."""
        if self._waiting and abs(snapshot.time - self._waiting[0].time) > MAX_BATCH_SPAN_SECONDS:
            self.flush()
        if not self._waiting:
            self._batch_began = self.clocks.monotonic()
        self._waiting.append(snapshot)

    def _read_clock(self) -> float:
        """Return the time of day, and count where it has jumped."""
        wall = self.clocks.wall()
        offset = wall - self.clocks.monotonic()
        if abs(offset - self._clock_offset) > CLOCK_JUMP_SECONDS:
            self.recorder.count_clock_jump(self.feed, offset - self._clock_offset)
        self._clock_offset = offset
        return wall

    def _write(self, now: float) -> None:
        """Write the snapshots that wait as one batch, unless a write has failed just before."""
        if now < self._no_write_before:
            return
        try:
            self.archive.append(self.feed, self._waiting)
        except (ArchiveError, CloudError) as error:
            self._no_write_before = self.clocks.monotonic() + WRITE_RETRY_SECONDS
            lost = 0
            while self._waiting_bytes() > MAX_WAITING_BYTES:
                del self._waiting[0]
                lost += 1
            self.recorder.count_failed_write(self.feed, str(error), lost)
        else:
            self.recorder.count_write(self.feed, len(self._waiting), self._waiting_bytes())
            self._waiting = []

    def _waiting_bytes(self) -> int:
        return sum(len(snapshot.content) for snapshot in self._waiting)

    def _continue_archive(self) -> None:
        """Learn which snapshots the archive has already, of those that the feed may still answer with."""
        days = sorted(self.archive.list_days(self.feed))[-2:]
        pieces = []
        if days:
            begin = (days[0] - days[0].replace(1970, 1, 1)).total_seconds()
            pieces = self.archive.find_pieces(self.feed, begin, self.clocks.wall() + 10_000 * DAY_SECONDS)
        for piece in reversed([piece for piece in pieces if piece.feed == self.feed]):
            if self._sequence.is_full:
                return
            try:
                for snapshot in reversed(self.archive.read_piece(piece)):
                    parsed = parse_feed(snapshot.content, snapshot.place)
                    self._sequence.remember(snapshot.content, parsed, snapshot.fetched_at)
            except (ArchiveError, FeedError) as error:
                self.recorder.count_failed_write(self.feed, str(error), 0)


class StaticPoller(Poller):
    """Polls a static feed and keeps each of its editions."""

    def __init__(self, fetcher: Fetcher, editions: Editions, recorder: Recorder, *, interval_seconds: float) -> None:
        super().__init__("static", fetcher, interval_seconds, recorder)
        self.retry_seconds, self.max_retry_seconds = min(STATIC_RETRY_SECONDS, interval_seconds), interval_seconds
        self.editions = editions
        self._digest = ""

    def _take(self, answer: Answer) -> tuple[Outcome, str]:
        try:
            if answer.outcome == "not_modified":
                self.editions.confirm(self._digest, time.time())
                return "not_modified", ""
            self._digest, is_new = self.editions.add(answer.content, time.time(), self.fetcher.shown_address)
        except StaticFeedError as error:
            return ("truncated" if answer.content.startswith(b"PK") else "foreign"), str(error)
        except (ArchiveError, CloudError) as error:
            self.recorder.count_failed_write(self.feed, str(error), 0)
            return "not_kept", str(error)
        self.fetcher.accept(answer)
        if is_new:
            self.recorder.count_write(self.feed, 1, len(answer.content))
        return ("new" if is_new else "unchanged"), ""

    def flush(self) -> None:
        """Do nothing: an edition is written when it comes."""
