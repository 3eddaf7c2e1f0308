"""Live predictions in this process, of a feed that a server plays."""

import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from mbta_assets.live.command import make_state
from mbta_assets.live.following import AddressFollower
from mbta_assets.live.service import LiveService
from mbta_assets.live.shadow import Shadow, make_candidate_cache
from mbta_assets.live.timetables import Timetables
from mbta_assets.realtime.fetching import Fetcher, open_client
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.settings import Settings
from mbta_assets.sources import open_source
from mbta_assets_tests.live.days import FeedSnapshot, write_tables
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, Reply
from mbta_assets_tests.support.days import Tables

MAX_AGE = timedelta(seconds=300)


@dataclass
class Live:
    """Live predictions of a feed that a server plays."""

    settings: Settings
    store: ModelStore
    server: FeedServer
    max_age: timedelta = MAX_AGE
    is_replay: bool = False
    """Whether the clock is the time of the latest snapshot."""

    def __post_init__(self) -> None:
        self.state = make_state(self.settings, is_replay=self.is_replay)
        self.timetables = Timetables(open_source(self.settings))
        source = open_model_source(str(self.store.root))
        self.predictors = make_predictor_cache(source, 0)
        self.shadowed: list[Publication] = []
        self.shadow = Shadow(make_candidate_cache(source, 0), self.state.registry, self.shadowed.append)
        self.service = LiveService(self.timetables, self.predictors, self.state, self.max_age, shadow=self.shadow)
        fetcher = Fetcher(f"{self.server.url}/feed", open_client(), 2**26)
        self.follower = AddressFollower(fetcher, self.service, self.state, 0.01, None)

    def play(self, snapshot: FeedSnapshot) -> Publication:
        """Serve a snapshot, poll it once, and return what is published."""
        self.server.plays["/feed"] = lambda request: Reply(snapshot.content)
        self.follower.poll()
        self.shadow.wait()
        assert self.state.published is not None
        return self.state.published.publication


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of an answer."""
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def files_settings(directory: Path, day: date, tables: Tables) -> Settings:
    """Write the tables of a day, and return the settings of their source."""
    write_tables(directory, day, tables)
    return Settings(source="files", files_dir=directory)
