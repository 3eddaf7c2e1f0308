"""Something that is kept in memory and looked at again now and then, without anybody being kept waiting for it."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from mbta_assets.gcp import CloudError
from mbta_assets.serving import logs
from mbta_assets.storage.bundle import BundleError

T = TypeVar("T")
PAUSE_SECONDS = 1.0
"""So long after a first load failed, those who ask are told so without another try."""


class Unavailable(Exception):
    """There is nothing yet; the message says why."""


class Kept(Generic[T]):
    """A value that `load` makes, which is given the one that is held and may return it.

    Whoever asks after `refresh_seconds` has it loaded again in the background and goes on with the value there is;
    the next ones get the new one once it is there, whole. What goes wrong meanwhile is logged, and the value stays.
    """

    def __init__(self, what: str, load: Callable[[T | None], T], refresh_seconds: float) -> None:
        self._what, self._load, self._refresh_seconds = what, load, refresh_seconds
        self._loaded_at = float("-inf")
        self._failure: str | None = None
        self._loading = threading.Lock()
        self.held: T | None = None
        """The value, if there is one; nothing is loaded."""

    def get(self) -> T:
        """The value. Raises Unavailable."""
        found = self.held
        if found is None:
            return self._first()
        if time.monotonic() - self._loaded_at >= self._refresh_seconds and self._loading.acquire(blocking=False):
            threading.Thread(target=self._refresh, name=f"refresh {self._what}", daemon=True).start()
        return found

    def _first(self) -> T:
        with self._loading:  # all who come meanwhile wait for the one that loads
            if self.held is None and not (self._failure and time.monotonic() - self._loaded_at < PAUSE_SECONDS):
                self._look()
        if self.held is None:
            raise Unavailable(self._failure)
        return self.held

    def _refresh(self) -> None:
        try:
            self._look()
        finally:
            self._loading.release()

    def _look(self) -> None:
        try:
            self.held, self._failure = self._load(self.held), None
        except Exception as error:  # whatever it is, what is held is better
            known = isinstance(error, BundleError | CloudError)
            self._failure = str(error) if known else f"{type(error).__name__} while the {self._what} was loaded"
            logs.write("ERROR", f"{self._what} not loaded", problem=f"{type(error).__name__}: {error}")
        finally:
            self._loaded_at = time.monotonic()
