"""The collector: it polls the feeds of an agency into the archive until it is stopped.

It serves metrics for Prometheus at /metrics and its health at /health, and writes one line a minute to its log. What
an answer is and what is kept is up to `polling`.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as CounterMetric
from prometheus_client import Gauge as GaugeMetric

from mbta_assets.realtime.fetching import WORKING, Fetcher, Outcome, open_client
from mbta_assets.realtime.places import Place, open_feed_archive
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FeedArchive
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.sources.gtfs.polling import Poller, Recorder, SnapshotPoller, StaticPoller

MAX_SNAPSHOT_BYTES, MAX_STATIC_BYTES = 64 * 2**20, 512 * 2**20
HEALTHY_SECONDS, HEALTHY_INTERVALS = 180.0, 5
"""A feed is healthy that has worked in this time, or in so many intervals if that is longer."""
LOG_SECONDS = 60.0

logger = logging.getLogger(__name__)


class CollectorError(Exception):
    """The collector cannot begin; the message says why and what to do."""


@dataclass(frozen=True)
class Pace:
    """How often the collector does what, in seconds."""

    interval: float = 10.0
    """Between two requests of a GTFS-realtime feed."""
    batch: float = 60.0
    """Between two writes, which is what a killed collector loses at most."""
    static: float = 3600.0
    """Between two checks of the static feed."""


@dataclass
class FeedStatus:
    """How a feed does, for its health and the log."""

    worked_at: float = field(default_factory=time.monotonic)
    answers: Counter[str] = field(default_factory=Counter)
    """Since the latest line of the log."""
    header_time: float = 0.0
    last_problem: str = ""


class MetricsRecorder(Recorder):
    """Metrics, health and log lines of pollers in several threads."""

    def __init__(self, healthy_seconds: dict[str, float]) -> None:
        """Begin to record; `healthy_seconds` has, by feed, how long it may not have worked."""
        self.registry = CollectorRegistry()
        self.healthy_seconds = healthy_seconds
        self.feeds = {feed: FeedStatus() for feed in healthy_seconds}
        self._lock = threading.Lock()
        self._answers = self._counter("answers", "Answers by what they are.", "feed", "outcome")
        self._snapshots = self._counter("snapshots_written", "Snapshots and editions in the archive.", "feed")
        self._bytes = self._counter("bytes_written", "Their bytes before compression.", "feed")
        self._failed_writes = self._counter("failed_writes", "Failures to write to the archive.", "feed")
        self._lost = self._counter("snapshots_lost", "Snapshots given up as the archive cannot be written.", "feed")
        self._jumps = self._counter("clock_jumps", "Jumps of the clock of this machine.", "feed")
        labels = ("feed",)
        self._header = GaugeMetric(
            "mbta_collector_header_timestamp_seconds", "Header of the latest snapshot.", labels, registry=self.registry
        )
        self._worked = GaugeMetric(
            "mbta_collector_worked_timestamp_seconds", "Latest answer of use.", labels, registry=self.registry
        )

    def count_answer(self, feed: str, outcome: Outcome, problem: str) -> None:
        """Count an answer."""
        self._answers.labels(feed, outcome).inc()
        with self._lock:
            status = self.feeds[feed]
            status.answers[outcome] += 1
            if problem:
                status.last_problem = f"{outcome}: {problem}"
            if outcome in WORKING:
                status.worked_at = time.monotonic()
                self._worked.labels(feed).set_to_current_time()

    def count_write(self, feed: str, snapshots: int, size_bytes: int) -> None:
        """Count a batch or an edition that was written."""
        self._snapshots.labels(feed).inc(snapshots)
        self._bytes.labels(feed).inc(size_bytes)

    def count_failed_write(self, feed: str, problem: str, lost: int) -> None:
        """Count a failure to write, and log it at once."""
        self._failed_writes.labels(feed).inc()
        self._lost.labels(feed).inc(lost)
        logger.error("%s: %s%s", feed, problem, f" {lost} snapshots are lost." if lost else "")

    def count_clock_jump(self, feed: str, seconds: float) -> None:
        """Count a jump of this machine's clock, and log it at once."""
        self._jumps.labels(feed).inc()
        logger.warning("%s: the clock of this machine has jumped by %.0f s", feed, seconds)

    def set_header_time(self, feed: str, header_time: float) -> None:
        """Record the time in the header of the latest snapshot."""
        self._header.labels(feed).set(header_time)
        self.feeds[feed].header_time = header_time

    def describe_health(self) -> tuple[bool, dict[str, dict[str, object]]]:
        """Return whether every feed works, and how each does."""
        now = time.monotonic()
        feeds: dict[str, dict[str, object]] = {}
        for feed, status in self.feeds.items():
            seconds = now - status.worked_at
            healthy = seconds <= self.healthy_seconds[feed]
            feeds[feed] = {"healthy": healthy, "seconds_since_it_worked": round(seconds, 1)}
            if not healthy:
                feeds[feed]["problem"] = status.last_problem
        return all(feed["healthy"] for feed in feeds.values()), feeds

    def describe_minute(self) -> str:
        """Return a line of the answers since the previous one."""
        with self._lock:
            parts = []
            for feed, status in self.feeds.items():
                counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(status.answers.items()))
                age = f", header {time.time() - status.header_time:.0f} s old" if status.header_time else ""
                problem = f" (last problem: {status.last_problem})" if status.last_problem else ""
                parts.append(f"{feed}: {counts or 'no answer'}{age}{problem}")
                status.answers, status.last_problem = Counter(), ""
        return "; ".join(parts)

    def _counter(self, name: str, description: str, *labels: str) -> CounterMetric:
        return CounterMetric(f"mbta_collector_{name}", description, labels, registry=self.registry)


def collect(settings: Settings, pace: Pace, address: tuple[str, int] | None, stop: threading.Event) -> None:
    """Poll the feeds of the settings into their archive until `stop` is set, and write what waits.

    `address` is the host and port of metrics and health; None to serve none. Raises CollectorError if they cannot be
    served, ArchiveError or CloudError if the archive cannot be opened, or the error that ended a poller.
    """
    place = open_feed_archive(settings)
    static_seconds = max(HEALTHY_SECONDS, 2 * pace.static)
    snapshot_seconds = max(HEALTHY_SECONDS, HEALTHY_INTERVALS * pace.interval)
    feeds = {"vehicle_positions": settings.vehicle_positions, "trip_updates": settings.trip_updates}
    configured = {feed: source for feed, source in feeds.items() if source}
    recorder = MetricsRecorder({**dict.fromkeys(configured, snapshot_seconds), "static": static_seconds})
    with place.hold_exclusively(), open_client() as client, _serve(recorder, address):
        pollers: list[Poller] = [
            SnapshotPoller(
                feed,
                Fetcher(source, client, MAX_SNAPSHOT_BYTES),
                FeedArchive(place),
                recorder,
                interval_seconds=pace.interval,
                batch_seconds=pace.batch,
            )
            for feed, source in configured.items()
        ]
        pollers.append(_static_poller(settings, client, place, recorder, pace))
        _run(pollers, recorder, stop)


def _static_poller(
    settings: Settings, client: httpx2.Client, place: Place, recorder: Recorder, pace: Pace
) -> StaticPoller:
    fetcher = Fetcher(settings.gtfs_static, client, MAX_STATIC_BYTES)
    return StaticPoller(fetcher, Editions(place), recorder, interval_seconds=pace.static)


def _run(pollers: Sequence[Poller], recorder: MetricsRecorder, stop: threading.Event) -> None:
    """Run each poller in a thread, and log a line a minute, until `stop` is set or a poller fails."""
    errors: list[BaseException] = []

    def run(poller: Poller) -> None:
        try:
            _poll_until(stop, poller)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=[poller], name=poller.feed) for poller in pollers]
    for thread in threads:
        thread.start()
    logger.info("Collecting %s", ", ".join(f"{poller.feed} from {poller.fetcher.shown_address}" for poller in pollers))
    while not stop.wait(LOG_SECONDS):
        logger.info(recorder.describe_minute())
    for thread in threads:
        thread.join()
    logger.info(recorder.describe_minute())
    if errors:
        raise errors[0]


def _poll_until(stop: threading.Event, poller: Poller) -> None:
    """Poll until `stop` is set, and write what waits; what a slow answer has missed is not made up for."""
    try:
        while not stop.is_set():
            began = time.monotonic()
            delay = poller.poll()
            stop.wait(max(0.0, began + delay - time.monotonic()))
    finally:
        poller.flush()


@contextmanager
def _serve(recorder: MetricsRecorder, address: tuple[str, int] | None) -> Iterator[None]:
    """Serve metrics and health meanwhile."""
    if address is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(recorder.registry))
            elif self.path == "/health":
                healthy, feeds = recorder.describe_health()
                status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, "application/json", json.dumps({"healthy": healthy, "feeds": feeds}).encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"There are /metrics and /health.\n")

        def _answer(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing: a probe asks every few seconds."""

    try:
        server = ThreadingHTTPServer(address, Handler)
    except OSError as error:
        raise CollectorError(
            f"Cannot serve /metrics and /health at {address[0]}:{address[1]}: {error.strerror or error}. Choose "
            "another --port or --host, or --port 0 to serve none."
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
