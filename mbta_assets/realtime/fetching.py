"""Fetching a feed from its address, with conditional requests, and saying of each answer what it is.

When to fetch, and what becomes of the content, is up to whoever polls; `compute_backoff` says how long to wait after
failures.
"""

import email.utils
import random
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import httpx2

Outcome = Literal[
    "new",
    "not_modified",
    "unchanged",
    "older",
    "from_the_future",
    "empty",
    "truncated",
    "foreign",
    "throttled",
    "server_error",
    "refused",
    "timed_out",
    "unreachable",
    "too_large",
    "not_kept",
    "failed",
]
"""What an answer is. The first six are of a feed that works; `new`, `empty`, `from_the_future` and perhaps `older`
bring a snapshot that is not in the archive yet."""
WORKING: tuple[Outcome, ...] = ("new", "not_modified", "unchanged", "older", "from_the_future", "empty")
CONNECT_SECONDS, READ_SECONDS, TOTAL_SECONDS = 10.0, 20.0, 120.0
"""Limits of connecting, of waiting for the next bytes, and of a whole answer."""
MAX_RETRY_AFTER_SECONDS = 3600.0
USER_AGENT = "mbta_assets (GTFS collector)"
HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:[0-9]*)?")


@dataclass(frozen=True)
class Answer:
    """Answer to one request. Content is there if the outcome is `new`, which it is until somebody has read it."""

    outcome: Outcome
    content: bytes = b""
    problem: str = ""
    retry_after: float = 0.0
    """Seconds for which the server asks not to be called."""
    validators: dict[str, str] = field(default_factory=dict)
    """Headers that make the next request conditional."""


def open_client() -> httpx2.Client:
    """Return a client of HTTP with time limits, which follows redirects."""
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    return httpx2.Client(timeout=timeout, follow_redirects=True, headers={"User-Agent": USER_AGENT})


class Fetcher:
    """Fetches one feed, from a URL or from a file that others replace."""

    def __init__(self, address: str, client: httpx2.Client, max_bytes: int) -> None:
        self.address, self._client, self._max_bytes = address, client, max_bytes
        self._validators: dict[str, str] = {}

    @property
    def shown_address(self) -> str:
        """Return the address as logs, health and errors may show it."""
        return show_address(self.address)

    def fetch(self) -> Answer:
        """Fetch the feed unless it is the one that was accepted last. Failures are answers too."""
        if not self.address.startswith(("http://", "https://")):
            return self._read_file()
        try:
            with self._client.stream("GET", self.address, headers=self._validators) as response:
                return self._read_response(response)
        except httpx2.TimeoutException as error:
            return Answer("timed_out", problem=f"{type(error).__name__} after {READ_SECONDS:.0f} s")
        except httpx2.HTTPError as error:
            problem = str(error).replace(self.address, self.shown_address)
            return Answer("unreachable", problem=f"{type(error).__name__}: {problem}")
        except (httpx2.InvalidURL, ValueError):  # whose message may have a part of the password
            return Answer("unreachable", problem="it is no address of HTTP. Check it.")

    def accept(self, answer: Answer) -> None:
        """Make later requests conditional on an answer whose content could be read.

        After an answer that was cut short, a conditional request would say that nothing has changed since.
        """
        self._validators = answer.validators

    def _read_response(self, response: httpx2.Response) -> Answer:
        status = response.status_code
        problem, retry_after = f"status {status}", _parse_retry_after(response.headers.get("Retry-After", ""))
        if status == 304:
            return Answer("not_modified")
        if status == 429:
            return Answer("throttled", problem=problem, retry_after=retry_after)
        if status != 200:
            return Answer("server_error" if status >= 500 else "refused", problem=problem, retry_after=retry_after)
        deadline, blocks, size = time.monotonic() + TOTAL_SECONDS, [], 0
        try:
            for block in response.iter_bytes():
                blocks.append(block)
                size += len(block)
                if size > self._max_bytes:
                    return Answer("too_large", problem=f"more than {self._max_bytes} bytes")
                if time.monotonic() > deadline:
                    return Answer("timed_out", problem=f"the answer was not complete after {TOTAL_SECONDS:.0f} s")
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.DecodingError) as error:
            return Answer("truncated", problem=f"the answer ended after {size} bytes: {error}")
        names = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
        headers = {name: response.headers.get(of, "") for name, of in names.items()}
        validators = {name: value for name, value in headers.items() if value and value.isascii()}
        return Answer("new", b"".join(blocks), validators=validators)

    def _read_file(self) -> Answer:
        path = Path(self.address).expanduser()
        try:
            status = path.stat()
            validators = {"status": f"{status.st_mtime_ns} {status.st_ino} {status.st_size}"}
            if validators == self._validators:
                return Answer("not_modified")
            if status.st_size > self._max_bytes:
                return Answer("too_large", problem=f"{status.st_size} bytes")
            return Answer("new", path.read_bytes(), validators=validators)
        except OSError as error:
            return Answer("unreachable", problem=f"{path}: {error.strerror}")


def show_address(address: str) -> str:
    """Return the address of a feed without its user and its query, which may have a password or a key.

    A path stays as it is; of an address whose host cannot be told from a password nothing is shown.
    """
    if not address.startswith(("http://", "https://")):
        return address
    begin, mark, _ = address.partition("#")[0].partition("?")
    scheme, _, rest = begin.partition("://")
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if not HOST.fullmatch(host):
        return f"{scheme}://..."
    return f"{scheme}://{host}{slash}{path}{mark and '?...'}"


def compute_backoff(first: float, longest: float, failures: int) -> float:
    """Return how many seconds to wait after some failures in a row: about twice as many each time, with jitter.

    It is from `first` to `longest` seconds.
    """
    bound = min(longest, first * 2 ** min(failures, 20))
    return first + random.uniform(0.5, 1) * (bound - first)


def _parse_retry_after(text: str) -> float:
    """Return the seconds that a header Retry-After asks for, at most an hour; 0 if it asks for none."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS) if seconds == seconds else 0.0
