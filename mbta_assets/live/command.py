"""`mbta-assets live`: puts the source, the feed, the service and the HTTP server together, and runs them."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from mbta_assets.agency import AGENCY
from mbta_assets.live.following import (
    AddressFollower,
    ArchiveKeeper,
    ReplayStep,
    follow_archive,
    rebuild,
    replay,
    replay_archive,
    replay_updates,
)
from mbta_assets.live.publication_archive import PublicationArchive
from mbta_assets.live.service import LiveService
from mbta_assets.live.shadow import Shadow, make_candidate_cache
from mbta_assets.live.timetables import Timetables, make_records
from mbta_assets.progress.lines import ProgressLog
from mbta_assets.realtime.fetching import Fetcher, open_client
from mbta_assets.realtime.places import open_feed_archive, open_place
from mbta_assets.serving import VehicleUpdate, logs
from mbta_assets.serving.live.app import LiveApp
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.live.state import LiveState
from mbta_assets.serving.model_source import ModelSource, configured_model_source
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.settings import Settings
from mbta_assets.sources import Source, open_source
from mbta_assets.sources.gtfs.archive import FeedArchive
from mbta_assets.sources.gtfs.collector import MAX_SNAPSHOT_BYTES, MAX_STATIC_BYTES, MetricsRecorder
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.sources.gtfs.polling import StaticPoller
from mbta_assets.sources.gtfs.source import GtfsSource

COLLECTION_THRESHOLDS = (1_000_000, 20, 1000)
"""Thresholds of the garbage collector that an update does not reach: `service` collects once it has published."""
STATIC_SECONDS = 3600.0
"""Interval at which the static feed is fetched."""


class LiveError(Exception):
    """Live predictions cannot begin; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    every: float = 10.0
    """Seconds between two requests of the feed."""
    replay: date | None = None
    """Service day to replay instead."""
    speed: float = 1.0
    """Speed of the replay; 0 for as fast as possible."""
    archive: bool = True
    """Whether to keep snapshots."""
    host: str = "127.0.0.1"
    port: int = 8090
    archive_predictions: bool | None = None
    """Whether to archive what is published; by default unless it is a replay."""

    @property
    def archives_predictions(self) -> bool:
        """Return whether to archive what is published."""
        return self.replay is None if self.archive_predictions is None else self.archive_predictions


class QuietHandler(WSGIRequestHandler):
    """Answers requests on connections that stay open, and logs none: a reader asks every few seconds."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


def run(settings: Settings, options: Options, stop: threading.Event) -> None:
    """Predict and serve until `stop` is set. Raises LiveError, ArchiveError, SourceError or CloudError."""
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    source = open_source(settings)
    state = make_state(settings, is_replay=options.replay is not None)
    timetables = Timetables(source)
    model_source = configured_model_source(settings)
    predictors = make_predictor_cache(model_source, settings.refresh_seconds)
    published = PublicationArchive(open_archive(settings)) if options.archives_predictions else None
    shadow = make_shadow(settings, model_source, state, published)
    max_age = timedelta(seconds=settings.live_max_age_seconds)
    dead_band = settings.live_dead_band_seconds
    service = LiveService(timetables, predictors, state, max_age, published, shadow, dead_band)
    with serve(state, options.host, options.port):
        if options.replay is not None:
            steps = list_steps(settings, source, service, options.replay, options.every)
            state.notice = f"This is a replay of {options.replay}: the times are those of that day."
            with show_replay(options.replay) as show:
                count = replay(steps, service, state, options.speed, stop, show)
            state.notice = f"The replay of {options.replay} is over: this is its last moment."
            logs.write("NOTICE", "replay ended", updates=count)
            stop.wait()
        else:
            follow(settings, options, service, state, stop)


def open_archive(settings: Settings) -> FeedArchive:
    """Return the feed archive. Raises ArchiveError."""
    return FeedArchive(open_feed_archive(settings))


def make_shadow(
    settings: Settings, source: ModelSource, state: LiveState, published: PublicationArchive | None
) -> Shadow:
    """Return the shadow of a source's production model; what a candidate predicts there is archived too."""

    def keep(publication: Publication) -> None:
        if published is not None:
            published.append(publication, "shadow")

    candidates = make_candidate_cache(source, settings.refresh_seconds)
    return Shadow(candidates, state.registry, keep, settings.live_dead_band_seconds)


def make_state(settings: Settings, *, is_replay: bool = False) -> LiveState:
    """Return the state of live predictions; the clock of a replay is the time of its latest update."""

    def read_clock() -> datetime:
        return (is_replay and state.feed_time) or datetime.now(UTC)

    state = LiveState(read_clock, settings.live_max_feed_age_seconds)
    return state


def list_steps(
    settings: Settings, source: Source, service: LiveService, day: date, every: float
) -> Iterator[ReplayStep]:
    """Return the steps of the replay of a service day: of the archive's snapshots, or of the source's updates."""
    if isinstance(source, GtfsSource):
        return replay_archive(source.archive, service, day)
    return replay_updates(make_records(source.read("vehicle", day).rows, VehicleUpdate), service, day, every)


@contextmanager
def show_replay(day: date) -> Iterator[Callable[[int, ReplayStep], None]]:
    """Yield the function that shows the progress of a replay: as a bar in a terminal, otherwise as log entries."""
    from rich.console import Console  # takes a tenth of a second to import, and only a replay needs it

    from mbta_assets.progress.bar import Bar

    console = Console(stderr=True)
    work = f"replay of {day}"
    lines = ProgressLog(work, "updates", partial(logs.write, "INFO"))
    with Bar(console, work, "updates") as bar:

        def show(count: int, step: ReplayStep) -> None:
            total = round(count / step.share) if step.share else None
            clock = f"{step.at.astimezone(ZoneInfo(AGENCY.time_zone)):%H:%M}"
            bar.move(count, total, f"{work}, {clock}")
            if not console.is_terminal:
                lines.update(count, total, f"at {clock}")

        yield show


def follow(settings: Settings, options: Options, service: LiveService, state: LiveState, stop: threading.Event) -> None:
    """Follow the feed until `stop` is set, after the state has been made again from the archive."""
    archive = open_archive(settings)
    place = archive.place
    address = str(settings.vehicle_positions)
    with ExitStack() as stack:
        if Path(address).expanduser().is_dir():
            follow_archive(
                FeedArchive(open_place(Path(address).expanduser(), settings)), service, state, options.every, stop
            )
            return
        client = stack.enter_context(open_client())
        if options.archive:
            stack.enter_context(place.hold_exclusively())
            if settings.source == "gtfs" and str(settings.gtfs_static).startswith(("http://", "https://")):
                fetcher = Fetcher(str(settings.gtfs_static), client, MAX_STATIC_BYTES)
                stack.enter_context(poll_static_feed(fetcher, Editions(place), stop))
        count = rebuild(service, archive, datetime.now(UTC))
        logs.write("NOTICE", "state made again from the archive", snapshots=count)
        keep = ArchiveKeeper(archive, state) if options.archive else None
        fetcher = Fetcher(address, client, MAX_SNAPSHOT_BYTES)
        AddressFollower(fetcher, service, state, options.every, keep).run(stop)


@contextmanager
def poll_static_feed(fetcher: Fetcher, editions: Editions, stop: threading.Event) -> Iterator[None]:
    """Fetch the static feed once, and go on in a thread."""
    poller = StaticPoller(
        fetcher, editions, MetricsRecorder({"static": STATIC_SECONDS}), interval_seconds=STATIC_SECONDS
    )
    pause = poller.poll()

    def poll_again() -> None:
        delay = pause
        while not stop.wait(delay):
            delay = poller.poll()

    thread = threading.Thread(target=poll_again, name="static feed")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def serve(state: LiveState, host: str, port: int) -> Iterator[BaseWSGIServer]:
    """Serve the state over HTTP meanwhile. Raises LiveError if the port is taken."""
    try:
        server = make_server(host, port, LiveApp(state), threaded=True, request_handler=QuietHandler)
    except (OSError, SystemExit) as error:  # Werkzeug exits where a port is taken
        raise LiveError(f"Cannot serve at {host}:{port}: {error}. Choose another --port or --host.") from error
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    logs.write("NOTICE", "serving", url=f"http://{host}:{server.server_port}/")
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
