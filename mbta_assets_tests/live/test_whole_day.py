"""The independent checker of feeds finds nothing in what is published over whole replayed days."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from zipfile import ZipFile

import pytest
from google.transit.gtfs_realtime_pb2 import FeedMessage

from mbta_assets.live.command import list_steps, make_state
from mbta_assets.live.following import ReplayStep
from mbta_assets.live.service import LiveService
from mbta_assets.live.timetables import Timetables
from mbta_assets.realtime.feed import parse_feed
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.settings import Settings
from mbta_assets.sources import Source, open_source
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import TIME_ZONE
from mbta_assets_tests.live.days import FeedSnapshot
from mbta_assets_tests.live.harness import MAX_AGE, Live, files_settings
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.serving.test_stream import read_tables, select_routes
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, feed_server
from mbta_assets_tests.support.days import REAL, SIMULATED
from mbta_assets_tests.support.gtfs_day import WMATA
from mbta_assets_tests.support.trip_updates_validator import Finding, StaticFeed, TripUpdatesValidator

pytestmark = pytest.mark.integration
SECONDS_BETWEEN_UPDATES = 30


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with feed_server() as running:
        yield running


class CheckedService:
    """Live predictions in this process whose every publication is checked."""

    def __init__(self, settings: Settings, source: Source, store: str, validator: TripUpdatesValidator) -> None:
        self.settings, self.source, self.validator = settings, source, validator
        self.state = make_state(settings, is_replay=True)
        predictors = make_predictor_cache(open_model_source(store), 0)
        self.service = LiveService(Timetables(source), predictors, self.state, MAX_AGE)
        self.findings: list[tuple[datetime, Finding]] = []
        self.trips: set[str] = set()
        self.updates = 0

    def replay(self, day: date) -> int:
        """Replay a service day; return the number of publications."""
        steps: list[ReplayStep] = list(
            list_steps(self.settings, self.source, self.service, day, SECONDS_BETWEEN_UPDATES)
        )
        for at, take in steps:
            take()
            self.service.publish(at, is_replay=True)
            assert self.state.published is not None
            self.check(self.state.published.protobuf.body, at)
        return len(steps)

    def check(self, content: bytes, at: datetime) -> None:
        """Check a feed that was fetched at a time."""
        self.findings += [(at, finding) for finding in self.validator.check(content, at.timestamp())]
        feed = FeedMessage.FromString(content)
        self.trips |= {entity.trip_update.trip.trip_id for entity in feed.entity}
        self.updates += sum(len(entity.trip_update.stop_time_update) for entity in feed.entity)


def summarize(findings: list[tuple[datetime, Finding]]) -> dict[str, tuple[int, str]]:
    """Return the number of findings of each rule, with an example."""
    counts = Counter(finding.rule for _, finding in findings)
    return {rule: (n, next(f"{at} {f}" for at, f in findings if f.rule == rule)) for rule, n in counts.items()}


@pytest.mark.parametrize("day", [REAL, SIMULATED])
def test_nothing_is_found_over_a_whole_replayed_day(
    day: date, model_store: ModelStore, tmp_path: Path, seed_upstream: Path
) -> None:
    tables = read_tables(FilesSource(seed_upstream) if day == REAL else SyntheticSource(0), day)
    if day == SIMULATED:
        tables["vehicle"] = select_routes(tables["vehicle"], ["Mattapan", "Blue"])
    static = StaticFeed.from_tables(tables, TIME_ZONE, f"{day:%Y%m%d}")
    settings = files_settings(tmp_path, day, {name: tables[name] for name in schema.UPSTREAM})
    checked = CheckedService(settings, open_source(settings), str(model_store.root), TripUpdatesValidator(static))
    assert checked.replay(day) > 500
    assert summarize(checked.findings) == {}
    reported = set(tables["vehicle"]["trip_id"].dropna()) & set(tables["schedule"]["trip_id"])
    assert len(checked.trips) > 0.9 * len(reported)


def test_nothing_is_found_over_wmatas_day_through_a_feed_server(
    server: FeedServer, model_store: ModelStore, tmp_path: Path
) -> None:
    settings = Settings(
        source="gtfs",
        feed_archive=str(WMATA / "vehicle_positions.zip"),
        gtfs_static=str(WMATA / "gtfs.zip"),
        store=tmp_path,
    )
    validator = TripUpdatesValidator(StaticFeed.from_gtfs(WMATA / "gtfs.zip"))
    live, findings, served = Live(settings, model_store, server), list[tuple[datetime, Finding]](), 0
    with ZipFile(WMATA / "vehicle_positions.zip") as archive:
        contents = sorted(((parse_feed(archive.read(n), n).header_time or 0), n) for n in archive.namelist())
        for header, name in contents:
            at = datetime.fromtimestamp(header, UTC)
            live.state.clock = lambda at=at: at  # type: ignore[misc]
            live.play(FeedSnapshot(at, archive.read(name)))
            assert live.state.published is not None
            content = live.state.published.protobuf.body
            findings += [(at, finding) for finding in validator.check(content, header)]
            served += len(FeedMessage.FromString(content).entity)
    assert summarize([row for row in findings if row[1].rule != "W007"]) == {}  # the agency's snapshots have gaps
    assert served > 1000
