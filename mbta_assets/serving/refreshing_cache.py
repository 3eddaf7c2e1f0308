"""A value that is kept in memory and never answered with when it is older than its refresh interval allows.

What the value is, and where it is loaded from, is up to the caller: `predictor` keeps models, `page` keeps reports.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mbta_assets.gcp.errors import CloudError
from mbta_assets.serving import logs
from mbta_assets.storage.bundle import BundleError

T = TypeVar("T")
MAX_WAIT_SECONDS = 5.0
"""Time for which a request waits for a refresh at most, counted from the start of the refresh."""
FIRST_LOAD_PAUSE_SECONDS = 1.0
"""Time after a failed first load during which the failure is repeated without another attempt."""
FAILURE_PAUSE_SECONDS = 10.0
"""Time after a failed load during which nobody waits for the next one, as the storage may be away for longer."""


class Unavailable(Exception):
    """A cache has no value yet; the message says why, and what to do."""


class LoadError(Exception):
    """A value cannot be loaded; the message says why and what to do, and may be shown to clients."""


@dataclass
class _Refresh:
    """A load that is in progress in a thread."""

    started_at: float
    is_done: threading.Event = field(default_factory=threading.Event)
    is_overdue: bool = False
    """True if a request has stopped waiting for it."""


class RefreshingCache(Generic[T]):
    """A cached value that is loaded again every `refresh_seconds`.

    `load` makes the value; it gets the cached one, or None, and may return it unchanged. A `get` in the second half of
    the interval starts a load in the background and returns at once, so that under steady traffic nobody waits. A `get`
    after the interval, as the first one after idle time, waits for a load that began within the interval, for
    `max_wait_seconds` at most. If the load fails or takes longer, that is logged and the cached value stays.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[T | None], T],
        refresh_seconds: float,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
    ) -> None:
        """Create an empty cache; `name` appears in log entries and error messages."""
        self._name, self._load = name, load
        self._refresh_seconds, self._max_wait_seconds = refresh_seconds, max_wait_seconds
        self._checked_at = float("-inf")
        """Start of the latest load that has ended, failed ones included."""
        self._failed_at = float("-inf")
        self._failure: str | None = None
        self._first_load = threading.Lock()
        self._refresh: _Refresh | None = None
        self._refresh_lock = threading.Lock()
        self.value: T | None = None
        """The cached value, or None before the first load; reading it loads nothing."""

    def get(self) -> T:
        """Return the value, loading it first if there is none. Raises Unavailable if that fails."""
        now = time.monotonic()
        if self.value is None:
            return self._get_first_value()
        if now - self._checked_at >= self._refresh_seconds / 2:
            self._start_refresh()
            self._wait_for_load_since(now - self._refresh_seconds)
        return self.value

    def _get_first_value(self) -> T:
        """Return the first value, loaded by one thread while the others wait. Raises Unavailable."""
        with self._first_load:
            has_just_failed = time.monotonic() - self._failed_at < FIRST_LOAD_PAUSE_SECONDS
            if self.value is None and not has_just_failed:
                self._try_load(time.monotonic())
            if self.value is None:
                raise Unavailable(self._failure)
            return self.value

    def _start_refresh(self) -> _Refresh:
        """Return the refresh that is in progress; start one in a thread if there is none."""
        with self._refresh_lock:
            if self._refresh is None:
                refresh = _Refresh(time.monotonic())
                thread = threading.Thread(
                    target=self._run_refresh, args=(refresh,), name=f"refresh {self._name}", daemon=True
                )
                thread.start()
                self._refresh = refresh
            return self._refresh

    def _run_refresh(self, refresh: _Refresh) -> None:
        """Load the value and wake up those who wait for it."""
        try:
            self._try_load(refresh.started_at)
        finally:
            with self._refresh_lock:
                self._refresh = None
            refresh.is_done.set()

    def _wait_for_load_since(self, earliest: float) -> None:
        """Wait for the end of a load that began at a monotonic time or later, or until one fails or is overdue."""
        while self._checked_at < earliest and time.monotonic() - self._failed_at >= FAILURE_PAUSE_SECONDS:
            refresh = self._start_refresh()
            remaining = refresh.started_at + self._max_wait_seconds - time.monotonic()
            if not refresh.is_done.wait(max(remaining, 0)):
                if not refresh.is_overdue:
                    refresh.is_overdue = True
                    logs.write(
                        "WARNING",
                        f"{self._name} not refreshed in time; the cached one is used",
                        waited_seconds=self._max_wait_seconds,
                    )
                return

    def _try_load(self, started_at: float) -> None:
        """Load the value, or log the failure and keep the cached value."""
        try:
            self.value, self._failure = self._load(self.value), None
        except (BundleError, CloudError, LoadError) as error:
            self._record_failure(error, str(error))
        except Exception as error:  # any failure must leave the cached value in use
            self._record_failure(
                error, f"{type(error).__name__} while the {self._name} was loaded; the log of the predictor has more."
            )
        finally:
            self._checked_at = started_at

    def _record_failure(self, error: Exception, public_message: str) -> None:
        """Log an error and keep the message that clients may see."""
        self._failure, self._failed_at = public_message, time.monotonic()
        logs.write("ERROR", f"{self._name} not loaded", error=f"{type(error).__name__}: {error}")
