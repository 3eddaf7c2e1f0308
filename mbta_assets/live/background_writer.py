"""Writing to an archive in a thread, so that an archive which is away for a while holds up no prediction.

What is written, and where, is up to whoever makes a writer.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from mbta_assets.gcp import CloudError
from mbta_assets.realtime.places import ArchiveError
from mbta_assets.serving import logs

MAX_WAIT_SECONDS = 2.0
"""Time for which who adds an item waits until it is written."""
Item = TypeVar("Item")


class BackgroundWriter(Generic[Item]):
    """Writes items in their order; what cannot be written waits in memory until the next one is added."""

    def __init__(
        self,
        write: Callable[[Item], object],
        report: Callable[[str | None], None],
        measure: Callable[[Item], int],
        max_waiting: int,
    ) -> None:
        """Write by `write`, and give `report` why that failed, or None once nothing waits.

        Of items whose `measure` is more than `max_waiting` together the oldest are given up.
        """
        self._write, self._report, self._measure, self._max_waiting = write, report, measure, max_waiting
        self._waiting: deque[Item] = deque()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "archive")
        self._work: Future[None] | None = None

    def add(self, item: Item) -> None:
        """Write an item; return before that has been done if it takes long, or if an earlier one does."""
        with self._lock:
            self._waiting.append(item)
            size = sum(map(self._measure, self._waiting))
            while size > self._max_waiting:
                size -= self._measure(self._waiting.popleft())
        is_free = self._work is None or self._work.done()
        if self._work is None or self._work.done() or self._work.running():
            self._work = self._thread.submit(self._write_waiting)
        if is_free:
            wait([self._work], MAX_WAIT_SECONDS)

    def _write_waiting(self) -> None:
        """Write what waits, up to the first item that cannot be written."""
        while True:
            with self._lock:
                if not self._waiting:
                    break
                item, count = self._waiting[0], len(self._waiting)
            try:
                self._write(item)
            except (ArchiveError, CloudError) as error:
                logs.write("ERROR", "archive cannot be written", waiting=count, error=str(error))
                self._report(str(error))
                return
            except Exception as error:  # it would fail again and again, and hold up all after it
                logs.write_exception("writing to the archive failed, and is given up", error)
            with self._lock:
                if self._waiting and self._waiting[0] is item:
                    self._waiting.popleft()
        self._report(None)
