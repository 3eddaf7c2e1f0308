"""What each snapshot of a feed is, compared with those before: new, repeated, older, empty, or from the future.

Fetching is up to `fetching`, and what becomes of a snapshot to whoever asks.
"""

import hashlib
from collections import deque
from typing import NamedTuple

from mbta_assets.realtime.feed import Snapshot
from mbta_assets.realtime.fetching import Outcome

MAX_CLOCK_ERROR_SECONDS = 300.0
"""A header that is further ahead of this machine's clock is from the future."""
RECENT_SNAPSHOTS = 500
"""Number of latest snapshots that a further one is compared with; servers behind one address answer out of step."""


class Classified(NamedTuple):
    """What a snapshot is."""

    outcome: Outcome
    problem: str = ""
    made_at: float | None = None
    """When the agency made it, epoch seconds; None if the header does not say."""
    is_repeated: bool = False
    """Whether it has the content of an earlier one."""


class SnapshotSequence:
    """The snapshots of a feed so far, by their digests and the time of the latest header."""

    def __init__(self) -> None:
        self.header_time = 0
        """The latest header that was not from the future, epoch seconds; 0 before the first one."""
        self._latest_header = 0
        self._recent: deque[bytes] = deque(maxlen=RECENT_SNAPSHOTS)

    @property
    def is_full(self) -> bool:
        """Return whether there are as many snapshots as a further one is compared with."""
        return len(self._recent) == RECENT_SNAPSHOTS

    def remember(self, content: bytes, snapshot: Snapshot, fetched_at: float) -> None:
        """Take in a snapshot of before a restart, from the latest one backwards, until there are enough."""
        if not self.is_full:
            self._recent.appendleft(hashlib.sha256(content).digest())
        header_time = snapshot.header_time or 0
        if header_time <= fetched_at + MAX_CLOCK_ERROR_SECONDS:
            self.header_time = max(self.header_time, header_time)

    def classify(self, content: bytes, snapshot: Snapshot, fetched_at: float) -> Classified:
        """Return what the next snapshot is, which was fetched at a time in epoch seconds."""
        header_time = snapshot.header_time or 0
        is_older = 0 < header_time < self.header_time
        is_ahead = header_time > fetched_at + MAX_CLOCK_ERROR_SECONDS
        if not is_ahead and header_time:
            self.header_time = max(self.header_time, header_time)
        digest = hashlib.sha256(content).digest()
        if digest in self._recent:
            return Classified("older" if is_older else "unchanged", is_repeated=True)
        self._recent.append(digest)
        # A header that is ahead of the clock, or that stays while the content changes, is not the time of the snapshot.
        is_trusted = header_time and not is_ahead and header_time != self._latest_header
        self._latest_header = header_time
        made_at = float(header_time) if is_trusted else None
        if is_ahead:
            problem = f"its header is {header_time - fetched_at:.0f} s ahead of this machine's clock"
            return Classified("from_the_future", problem, made_at)
        if is_older:
            problem = f"its header is {self.header_time - header_time} s older than the latest"
            return Classified("older", problem, made_at)
        return Classified("new" if snapshot.entities else "empty", "", made_at)
