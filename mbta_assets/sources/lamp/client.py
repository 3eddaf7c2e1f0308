"""HTTP requests to the archive: at a bounded rate, retried with backoff, resumed where they were cut off.

What is fetched, and where it is kept, is up to `archive`.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import httpx2
import stamina

from mbta_assets.progress.lines import ProgressLog

USER_AGENT = "mbta_assets (reads the MBTA's performance archive to learn to predict arrivals)"
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
ABSENT_STATUSES = frozenset({403, 404, 410})
"""Statuses of a file that is not there; a bucket that may not be listed says 403."""
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 120.0

Result = TypeVar("Result")


class DownloadError(Exception):
    """Failure of a request, its retries included; the message has the address and the cause."""


class AbsentFile(DownloadError):
    """Answer that there is no file at an address."""


class TransientError(Exception):
    """Failure that may not happen again; `wait` is the number of seconds that the server asks to wait, if it does."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class Validators(NamedTuple):
    """Headers of an answer that say which edition of a file it is, and that requests are made conditional on."""

    etag: str = ""
    last_modified: str = ""

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """Return the validators of an answer."""
        return cls(headers.get("etag", ""), headers.get("last-modified", ""))

    def to_conditions(self) -> dict[str, str]:
        """Return the headers of a request for the file if it has changed."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}

    def to_range_condition(self) -> str:
        """Return the value of `If-Range`; empty where a later answer may be of another edition."""
        return "" if self.etag.startswith("W/") else self.etag or self.last_modified


UNKNOWN = Validators()
"""Validators of no edition: a request that is conditional on them is answered in full."""


class ArchiveClient:
    """Client that starts its requests `min_interval` seconds apart or more, and makes each up to `attempts` times."""

    def __init__(
        self, *, attempts: int = 6, min_interval: float = 0.2, wait_initial: float = 1.0, timeout: float = 30.0
    ) -> None:
        """Set the limits. `timeout` is how long the server may be silent, `wait_initial` the first backoff."""
        self.attempts, self.min_interval, self.timeout = attempts, min_interval, timeout
        self._caller = stamina.RetryingCaller(
            attempts=attempts,
            timeout=None,
            wait_initial=wait_initial,
            wait_jitter=wait_initial,
            wait_max=MAX_BACKOFF_SECONDS,
        )
        self._lock, self._next_start = threading.Lock(), 0.0

    def fetch(self, url: str, cached: Validators = UNKNOWN) -> tuple[bytes, Validators] | None:
        """Return the content and the validators of a small file, or None if it is `cached`. Raises DownloadError."""

        def request() -> tuple[bytes, Validators] | None:
            with self._stream(url, cached.to_conditions()) as response:
                if response.status_code == httpx2.codes.NOT_MODIFIED:
                    return None
                return response.read(), Validators.from_headers(response.headers)

        return self._retry(url, request)

    def download(
        self, url: str, path: Path, size_bytes: int | None = None, cached: Validators = UNKNOWN
    ) -> Validators | None:
        """Write a file to `path`, of which a part may be there from an earlier call. Raises DownloadError.

        `size_bytes` is the size that it must have, if that is known. Returns its validators, or None if it is `cached`,
        and nothing was written.
        """

        def request() -> Validators | None:
            validators = self._resume(url, path, cached)
            if validators is None or size_bytes is None or path.stat().st_size == size_bytes:
                return validators
            actual = path.stat().st_size
            path.unlink()
            raise TransientError(f"it has {actual:,} bytes where the index says {size_bytes:,}")

        return self._retry(url, request)

    def _resume(self, url: str, path: Path, cached: Validators) -> Validators | None:
        """Fetch what is missing of a file; `<path>.edition` says which edition the part that is there is of."""
        edition = path.with_name(f"{path.name}.edition")
        begin = path.stat().st_size if path.exists() and edition.exists() else 0
        headers = {"Range": f"bytes={begin}-", "If-Range": edition.read_text()} if begin else cached.to_conditions()
        with self._stream(url, headers) as response:
            if response.status_code == httpx2.codes.NOT_MODIFIED:
                return None
            validators = Validators.from_headers(response.headers)
            continued = response.status_code == httpx2.codes.PARTIAL_CONTENT
            if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE or (
                continued and not response.headers.get("content-range", "").startswith(f"bytes {begin}-")
            ):
                path.unlink()
                raise TransientError("the server cannot continue the part that is there", wait=0.0)
            if not continued:
                edition.unlink(missing_ok=True)
                path.write_bytes(b"")
                if condition := validators.to_range_condition():
                    edition.write_text(condition)
            progress = ProgressLog(f"download of {url}", "MB")
            length = response.headers.get("content-length", "")
            total = int(length) / 1e6 if length.isdigit() else None
            with path.open("ab") as file:
                for block in response.iter_bytes():
                    file.write(block)
                    progress.update(response.num_bytes_downloaded / 1e6, total)
                file.flush()
                os.fsync(file.fileno())
            progress.end(response.num_bytes_downloaded / 1e6)
        edition.unlink(missing_ok=True)
        return validators

    @contextmanager
    def _stream(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """Yield an answer, its body unread. Raises AbsentFile, DownloadError or TransientError."""
        self._wait_for_turn()
        try:
            with self._http.stream("GET", url, headers=headers) as response:
                _require_content(url, response)
                yield response
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        except (httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            raise DownloadError(f"{url} cannot be fetched: {error}. Correct MBTA_LAMP_URL") from error

    @cached_property
    def _http(self) -> httpx2.Client:
        # Compressed on its way, a file could not be continued: a range would be one of what is sent.
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        return httpx2.Client(headers=headers, timeout=self.timeout, follow_redirects=True)

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self.min_interval
        time.sleep(start - now)

    def _retry(self, url: str, request: Callable[[], Result]) -> Result:
        try:
            return self._caller(_find_backoff, request)
        except TransientError as error:
            raise DownloadError(f"{url} could not be fetched in {self.attempts} attempts, the last: {error}") from error


def _require_content(url: str, response: httpx2.Response) -> None:
    """Raise the error of an answer that is neither the file, nor a part of it, nor that it has not changed."""
    status = response.status_code
    if status in ABSENT_STATUSES:
        raise AbsentFile(f"{url} is not there, the server answers {status}")
    if status in TRANSIENT_STATUSES:
        raise TransientError(f"the server answers {status}", _parse_retry_after(response.headers.get("retry-after")))
    if status not in (200, 206, 304, 416):
        raise DownloadError(f"{url} cannot be fetched, the server answers {status}")


def _parse_retry_after(value: str | None) -> float | None:
    """Return the number of seconds that a server asks to wait, at most `MAX_RETRY_AFTER_SECONDS`."""
    return min(float(value), MAX_RETRY_AFTER_SECONDS) if value and value.isdecimal() else None


def _find_backoff(error: Exception) -> bool | float:
    """Return whether a request is repeated after an error, or the number of seconds after which it is."""
    if not isinstance(error, TransientError):
        return False
    return True if error.wait is None else error.wait
