"""Where the snapshots of live predictions come from: an address, an archive that others fill, or a replay.

Each of these runs until it is told to stop, and calls the service: it takes in what comes, then publishes. What a
snapshot is, and what it changes, is up to `service`.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TypeAlias

from mbta_assets.gcp import CloudError
from mbta_assets.live.service import Keep, LiveService
from mbta_assets.realtime.fetching import WORKING, Fetcher, compute_backoff
from mbta_assets.realtime.places import ArchiveError
from mbta_assets.serving import VehicleUpdate, logs
from mbta_assets.serving.live.engine import list_running_days
from mbta_assets.serving.live.state import LiveState
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot, UnreadablePiece
from mbta_assets.sources.gtfs.polling import MAX_BACKOFF_SECONDS
from mbta_assets.transit.plausibility import SERVICE_DAY_HOURS
from mbta_assets.transit.service_day import start_time

FEED = "vehicle_positions"
REPUBLISH_SECONDS = 15.0
"""Time after which predictions are published again, if no snapshot has come: readers expect a feed that is renewed."""
OVERLAP_SECONDS = 3600.0
"""Time before the latest snapshot in which an archive is searched for further ones."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ReplayStep: TypeAlias = tuple[datetime, Callable[[], object]]
"""A time, and the function that takes in what came then."""


def archive_keeper(archive: FeedArchive) -> Keep:
    """Return a function that writes each snapshot to an archive at once; a failure is logged."""

    def keep(content: bytes, fetched_at: float, made_at: float | None) -> None:
        try:
            archive.append(FEED, [FetchedSnapshot(fetched_at, content, made_at=made_at)])
        except (ArchiveError, CloudError) as error:
            logs.write("ERROR", "snapshot not kept", error=str(error))

    return keep


def rebuild(service: LiveService, archive: FeedArchive, now: datetime) -> int:
    """Take in the snapshots of the running service days from an archive, in the order in which they were fetched.

    Returns their number. Raises ArchiveError or CloudError.
    """
    begin = find_begin(now)
    snapshots = [s for s in archive.read_snapshots(FEED, begin, float("inf")) if not isinstance(s, UnreadablePiece)]
    for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.fetched_at):
        service.take(snapshot.content, snapshot.fetched_at, snapshot.place)
    return len(snapshots)


def find_begin(now: datetime) -> float:
    """Return the time, in epoch seconds, at which the first of the running service days began."""
    return min(start_time(day) for day in list_running_days(now)).timestamp()


@dataclass
class AddressFollower:
    """Polls the address of a feed, at most once in an interval, and less often while it fails."""

    fetcher: Fetcher
    service: LiveService
    state: LiveState
    interval_seconds: float
    keep: Keep | None
    _failures: int = 0
    _published_at: float = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Poll until `stop` is set."""
        while not stop.is_set():
            began = time.monotonic()
            next_poll = began + self.poll()
            while not stop.wait(max(0.0, min(next_poll - time.monotonic(), REPUBLISH_SECONDS))):
                self._publish_again()
                if time.monotonic() >= next_poll:
                    break

    def poll(self) -> float:
        """Fetch the feed once, publish what is new, and return the seconds after which to do it again."""
        answer = self.fetcher.fetch()
        began = time.perf_counter()
        outcome = answer.outcome
        if outcome == "new":
            outcome, _ = self.service.take(answer.content, time.time(), self.fetcher.address, keep=self.keep)
            if outcome in WORKING:
                self.fetcher.accept(answer)
            if outcome in ("new", "empty"):
                self._publish(began)
        else:
            self.state.count_outcome(outcome)
        if outcome in WORKING:
            self._failures = 0
            self.state.report_problem("feed", None)
            return self.interval_seconds
        self._failures += 1
        self.state.report_problem("feed", f"{self.fetcher.address}: {outcome}. {answer.problem}".strip())
        longest = max(MAX_BACKOFF_SECONDS, self.interval_seconds)
        return max(answer.retry_after, compute_backoff(self.interval_seconds, longest, self._failures))

    def _publish_again(self) -> None:
        if time.monotonic() - self._published_at >= REPUBLISH_SECONDS:
            self._publish(time.perf_counter())

    def _publish(self, began: float) -> None:
        self.service.publish(self.state.clock(), began)
        self._published_at = time.monotonic()


def follow_archive(
    archive: FeedArchive, service: LiveService, state: LiveState, interval_seconds: float, stop: threading.Event
) -> None:
    """Take in what others have added to an archive or a directory of snapshots, and add to it, until `stop` is set.

    It begins with the snapshots of the running service days.
    """
    read: set[str] = set()
    published_at = float("-inf")
    while not stop.is_set():
        began, count = time.perf_counter(), 0
        try:
            latest = state.feed_time
            begin = latest.timestamp() - OVERLAP_SECONDS if latest else find_begin(state.clock())
            for snapshot in read_added(archive, begin, read):
                outcome, _ = service.take(snapshot.content, snapshot.fetched_at, snapshot.place)
                count += outcome in ("new", "empty")
            state.report_problem("feed", None)
        except (ArchiveError, CloudError) as error:
            state.report_problem("feed", str(error))
        if count or time.monotonic() - published_at >= REPUBLISH_SECONDS:
            service.publish(state.clock(), began)
            published_at = time.monotonic()
        stop.wait(interval_seconds)


def read_added(archive: FeedArchive, begin: float, read: set[str]) -> Iterator[FetchedSnapshot]:
    """Yield the snapshots since a time, epoch seconds, of parts of an archive that are not in `read`, and add these.

    Raises ArchiveError or CloudError.
    """
    pieces = archive.find_pieces(FEED, begin)
    read.intersection_update({piece.version for piece in pieces})
    for piece in pieces:
        if piece.version not in read:
            read.add(piece.version)
            yield from archive.read_piece(piece)


def replay(
    steps: Iterable[ReplayStep], service: LiveService, state: LiveState, speed: float, stop: threading.Event
) -> int:
    """Take steps in order, `speed` times as fast as they came, or with 0 at once, and publish after each.

    Returns the number of steps.
    """
    count, first, began = 0, None, time.monotonic()
    for at, take in steps:
        first = first or at
        due = began + ((at - first).total_seconds() / speed if speed else 0.0)
        if stop.wait(max(0.0, due - time.monotonic())):
            break
        started = time.perf_counter()
        if take() is None:  # updates that are no snapshot, which counts itself
            state.count_outcome("new")
        service.publish(at, started, is_replay=True)
        count += 1
    return count


def replay_archive(archive: FeedArchive, service: LiveService, service_date: date) -> Iterator[ReplayStep]:
    """Yield the snapshots of a service day as they are kept. Raises ArchiveError or CloudError."""
    begin = start_time(service_date)
    end = begin + timedelta(hours=SERVICE_DAY_HOURS)
    for snapshot in archive.read_snapshots(FEED, begin.timestamp(), end.timestamp()):
        if isinstance(snapshot, FetchedSnapshot):
            at = datetime.fromtimestamp(snapshot.time, UTC)
            yield at, partial(service.take, snapshot.content, snapshot.time, snapshot.place)


def replay_updates(
    updates: Iterable[VehicleUpdate], service: LiveService, service_date: date, interval_seconds: float
) -> Iterator[ReplayStep]:
    """Yield the vehicle updates of a day as if a feed had been fetched at regular times, from the first to the last."""
    interval = timedelta(seconds=interval_seconds)
    taken: dict[int, list[VehicleUpdate]] = defaultdict(list)
    for update in updates:
        taken[(update.updated_at - EPOCH) // interval].append(update)
    for number in range(min(taken, default=0), max(taken, default=-1) + 1):
        at = EPOCH + (number + 1) * interval
        in_order = sorted(taken.pop(number, []), key=lambda update: update.updated_at)
        yield at, partial(service.ingest, at, {service_date: in_order})
