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
from heapq import heappop, heappush
from typing import NamedTuple

from mbta_assets.gcp import CloudError
from mbta_assets.live.background_writer import BackgroundWriter
from mbta_assets.live.service import Keep, LiveService
from mbta_assets.realtime.fetching import WORKING, Fetcher, compute_backoff
from mbta_assets.realtime.places import ArchiveError
from mbta_assets.serving import VehicleUpdate, logs
from mbta_assets.serving.live.engine import list_running_days
from mbta_assets.serving.live.state import LiveState
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot, UnreadablePiece
from mbta_assets.sources.gtfs.polling import MAX_BACKOFF_SECONDS, MAX_WAITING_BYTES
from mbta_assets.transit.plausibility import SERVICE_DAY_HOURS
from mbta_assets.transit.service_day import start_time

FEED = "vehicle_positions"
REPUBLISH_SECONDS = 15.0
"""Time after which predictions are published again, if no snapshot has come: readers expect a feed that is renewed."""
OVERLAP_SECONDS = 3600.0
"""Time before the latest snapshot in which an archive is searched for further ones."""
MAX_OUT_OF_ORDER = 100
"""Number of snapshots that are compared to put them in order."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ReplayStep(NamedTuple):
    """What came at some time of a service day."""

    at: datetime
    take: Callable[[], object]
    """Takes it in."""
    share: float
    """Share of the replay that is over with it."""


class ArchiveKeeper:
    """Writes each snapshot to an archive at once; what cannot be written waits in memory for the next one."""

    def __init__(self, archive: FeedArchive, state: LiveState) -> None:
        self._archive, self._state = archive, state
        self._writer = BackgroundWriter(self._write, self._report, lambda kept: len(kept.content), MAX_WAITING_BYTES)

    def __call__(self, content: bytes, fetched_at: float, made_at: float | None) -> None:
        """Write a snapshot; a failure is a problem that health reports."""
        self._writer.add(FetchedSnapshot(fetched_at, content, made_at=made_at))

    def _write(self, snapshot: FetchedSnapshot) -> None:
        """Write a snapshot as a file: the times of several may span more than a reader of batches expects."""
        self._archive.append(FEED, [snapshot])

    def _report(self, problem: str | None) -> None:
        message = problem and f"Snapshots are not kept, so that a restart would lose them: {problem}"
        self._state.report_problem("archive", message)


def rebuild(service: LiveService, archive: FeedArchive, now: datetime) -> int:
    """Take in the snapshots of the running service days from an archive, in the order in which they were fetched.

    Returns their number. Raises ArchiveError or CloudError.
    """
    count = 0
    for snapshot in sort_by_fetch(archive.read_snapshots(FEED, find_begin(now), float("inf"))):
        service.take(snapshot.content, snapshot.fetched_at, snapshot.place)
        count += 1
    return count


def find_begin(now: datetime) -> float:
    """Return the start of the first running service day, epoch seconds."""
    return min(start_time(day) for day in list_running_days(now)).timestamp()


def sort_by_fetch(snapshots: Iterable[FetchedSnapshot | UnreadablePiece]) -> Iterator[FetchedSnapshot]:
    """Yield snapshots that are almost in the order in which they were fetched in exactly that order.

    Only a few are in memory: those of a day may be gigabytes. What cannot be read is left out.
    """
    waiting: list[tuple[float, int, FetchedSnapshot]] = []
    for number, snapshot in enumerate(snapshots):
        if isinstance(snapshot, UnreadablePiece):
            continue
        heappush(waiting, (snapshot.fetched_at, number, snapshot))
        if len(waiting) > MAX_OUT_OF_ORDER:
            yield heappop(waiting)[-1]
    while waiting:
        yield heappop(waiting)[-1]


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
        outcome, problem = answer.outcome, answer.problem
        if outcome == "new":
            outcome, problem = self.service.take(
                answer.content, time.time(), self.fetcher.shown_address, keep=self.keep, is_mixed=False
            )
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
        address = self.fetcher.shown_address
        self.state.report_problem("feed", f"{address}: {outcome}. {problem.removeprefix(f'{address}: ')}".strip())
        longest = max(MAX_BACKOFF_SECONDS, self.interval_seconds)
        return max(answer.retry_after, compute_backoff(self.interval_seconds, longest, self._failures))

    def _publish_again(self) -> None:
        if time.monotonic() - self._published_at >= REPUBLISH_SECONDS:
            self._publish(time.perf_counter())

    def _publish(self, began: float) -> None:
        publish(self.service, self.state, began)
        self._published_at = time.monotonic()


def publish(service: LiveService, state: LiveState, began: float) -> None:
    """Publish the predictions of now; where that fails unexpectedly, log it and let health say so until it works."""
    try:
        service.publish(state.clock(), began)
    except Exception as error:
        logs.write_exception("publishing failed", error)
        problem = f"Publishing failed unexpectedly, and is tried again. {type(error).__name__}: {error}"
        state.report_problem("publishing", problem)
    else:
        state.report_problem("publishing", None)


def follow_archive(
    archive: FeedArchive, service: LiveService, state: LiveState, interval_seconds: float, stop: threading.Event
) -> None:
    """Take in what others add to an archive or a directory of snapshots, until `stop` is set.

    It begins with the snapshots of the running service days.
    """
    read: set[str] = set()
    published_at = float("-inf")
    since = find_begin(state.clock())
    while not stop.is_set():
        began, count, problems = time.perf_counter(), 0, []
        if state.feed_time is not None:
            since = max(since, state.feed_time.timestamp() - OVERLAP_SECONDS)
        try:
            for snapshot in read_added(archive, since, read):
                if isinstance(snapshot, UnreadablePiece):
                    problems.append(snapshot.problem)
                    continue
                outcome, problem = service.take(snapshot.content, snapshot.fetched_at, snapshot.place)
                count += outcome in ("new", "empty")
                problems += [problem] if outcome == "failed" else []
        except (ArchiveError, CloudError) as error:
            problems.append(str(error))
        state.report_problem("feed", " ".join(problems) or None)
        if count or time.monotonic() - published_at >= REPUBLISH_SECONDS:
            publish(service, state, began)
            published_at = time.monotonic()
        stop.wait(interval_seconds)


def read_added(archive: FeedArchive, begin: float, read: set[str]) -> Iterator[FetchedSnapshot | UnreadablePiece]:
    """Yield the snapshots since a time, epoch seconds, of parts of an archive that are not in `read`, and add these.

    A part that cannot be read is yielded as such, and read again the next time. Raises ArchiveError or CloudError.
    """
    pieces = archive.find_pieces(FEED, begin)
    read.intersection_update({piece.version for piece in pieces})
    for piece in pieces:
        if piece.version in read:
            continue
        try:
            snapshots = archive.read_piece(piece)
        except ArchiveError as error:
            yield UnreadablePiece(piece.file.path, str(error))
            continue
        read.add(piece.version)
        yield from snapshots


def replay(
    steps: Iterable[ReplayStep],
    service: LiveService,
    state: LiveState,
    speed: float,
    stop: threading.Event,
    show: Callable[[int, ReplayStep], object],
) -> int:
    """Take steps in order, `speed` times as fast as they came, or with 0 at once, and publish after each.

    `show` is called after each with their number so far. Returns the number of steps.
    """
    count, first, began = 0, None, time.monotonic()
    for step in steps:
        at = step.at
        first = first or at
        due = began + ((at - first).total_seconds() / speed if speed else 0.0)
        if stop.wait(max(0.0, due - time.monotonic())):
            break
        started = time.perf_counter()
        if step.take() is None:  # updates that are no snapshot, which counts itself
            state.count_outcome("new")
        service.publish(at, started, is_replay=True)
        count += 1
        show(count, step)
    return count


def replay_archive(archive: FeedArchive, service: LiveService, service_date: date) -> Iterator[ReplayStep]:
    """Yield the snapshots of a service day as they are kept. Raises ArchiveError or CloudError."""
    begin = start_time(service_date).timestamp()
    end = begin + SERVICE_DAY_HOURS * 3600
    pieces = archive.find_pieces(FEED, begin, end)
    first = max(begin, min((piece.first for piece in pieces), default=begin))
    last = min(end, max((piece.last for piece in pieces), default=end))
    for snapshot in archive.read_pieces(pieces, begin, end):
        if isinstance(snapshot, FetchedSnapshot):
            at = datetime.fromtimestamp(snapshot.time, UTC)
            take = partial(service.take, snapshot.content, snapshot.time, snapshot.place)
            yield ReplayStep(at, take, (snapshot.time - first) / (last - first) if last > first else 1.0)


def replay_updates(
    updates: Iterable[VehicleUpdate], service: LiveService, service_date: date, interval_seconds: float
) -> Iterator[ReplayStep]:
    """Yield the vehicle updates of a day, in order of time, as if a feed had been fetched at regular times."""
    interval = timedelta(seconds=interval_seconds)
    groups: dict[int, list[VehicleUpdate]] = defaultdict(list)
    for update in sorted(updates, key=lambda update: update.updated_at):
        groups[(update.updated_at - EPOCH) // interval].append(update)
    first, last = min(groups, default=0), max(groups, default=-1)
    for number in range(first, last + 1):
        at = EPOCH + (number + 1) * interval
        take = partial(service.ingest, at, {service_date: groups.pop(number, [])})
        yield ReplayStep(at, take, (number + 1 - first) / (last + 1 - first))
