"""No snapshot, answer or publication that fails ends the live service, and each is said in health."""

import bz2
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from mbta_assets.live.command import make_state
from mbta_assets.live.following import FEED, AddressFollower, follow_archive, rebuild
from mbta_assets.live.service import LiveService
from mbta_assets.live.timetables import Timetables
from mbta_assets.realtime.fetching import Fetcher, open_client
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.serving import Predictor
from mbta_assets.serving.live.state import LiveState
from mbta_assets.serving.refreshing_cache import LoadError, RefreshingCache
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FetchedSnapshot
from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, Reply, in_turn
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.network import local_time, make_source
from mbta_assets_tests.support.dagster_dev import eventually

pytestmark = pytest.mark.integration
DAY = date(2026, 5, 12)
MORNING = local_time(DAY, "08:00")
TRIP = {"trip": {"trip_id": "morning"}}
NESTED = b'{"header": ' + b"[" * 1_000_000


@dataclass(frozen=True)
class Live:
    """Live predictions without a model."""

    source: GtfsSource
    state: LiveState
    service: LiveService

    def follow(self, url: str) -> AddressFollower:
        """Return the follower of an address."""
        return AddressFollower(Fetcher(url, open_client(), 2**26), self.service, self.state, 10.0, None)

    def count(self, outcome: str) -> float:
        """Return how many snapshots and answers were of a kind."""
        return self.state.registry.get_sample_value("mbta_live_updates_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def live(tmp_path: Path) -> Live:
    """Return live predictions on the small network, at eight in the morning."""

    def load(previous: Predictor | None) -> Predictor:
        raise LoadError("None was promoted.")

    source, state = make_source(tmp_path), make_state(Settings())
    state.clock = lambda: datetime.fromtimestamp(MORNING, UTC)
    service = LiveService(Timetables(source), RefreshingCache("model", load, 60), state, timedelta(minutes=5))
    return Live(source, state, service)


def make_snapshot(second: int) -> bytes:
    """Return a snapshot of a vehicle, made so many seconds after eight."""
    return make_feed(MORNING + second, [vehicle("v", MORNING + second, trip={"trip_id": "morning"})])


def fail_at(place: str, service: LiveService) -> Callable[..., object]:
    """Return a function that takes a snapshot in, but fails at that of a second."""
    ingest = service.ingest

    def take(at: datetime, *arguments: object) -> None:
        if at.timestamp() == MORNING + 1:
            raise LookupError(f"something unexpected {place}")
        ingest(at, *arguments)  # type: ignore[arg-type]

    return take


def test_json_that_is_nested_deeply_is_foreign_and_the_next_snapshot_is_taken_in(
    live: Live, server: FeedServer
) -> None:
    follower = live.follow(f"{server.url}/feed")
    server.plays["/feed"] = lambda request: Reply(NESTED)
    follower.poll()
    [problem] = [problem for problem in live.state.list_problems() if "truncated" in problem]
    assert problem.startswith(f"{server.url}/feed: truncated. content of 1000011 bytes that begins with")
    server.plays["/feed"] = lambda request: Reply(make_snapshot(0))
    assert follower.poll() == 10.0
    assert live.count("new") == 1 and "truncated" not in " ".join(live.state.list_problems())


def test_a_header_that_is_not_ascii_is_not_sent_back(live: Live, server: FeedServer) -> None:
    follower = live.follow(f"{server.url}/feed")
    headers = {"ETag": '"caf\xe9"', "Last-Modified": "yesterday"}
    server.plays["/feed"] = lambda request: Reply(make_snapshot(request.number), headers=headers)
    for _ in range(3):
        follower.poll()
    assert live.count("new") == 3
    assert "if-none-match" not in server.requests[-1].headers
    assert server.requests[-1].headers["if-modified-since"] == "yesterday"


def test_health_shows_no_password_and_no_key_of_an_address(
    live: Live, server: FeedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    host = server.url.removeprefix("http://")
    replies = [Reply(b"<html>"), Reply(NESTED), Reply(status=500), Reply(make_feed(1, [{"trip_update": TRIP}]))]
    server.plays["/feed?key=hunter2"] = in_turn(replies)
    addresses = [f"http://me:hunter2@{host}/feed?key=hunter2", "http://me:hunter2@127.0.0.1:1/", "http://me:hunter2/@["]
    for address in [addresses[0]] * len(replies) + addresses[1:]:
        live.follow(address).poll()
        [problem] = [problem for problem in live.state.list_problems() if problem.startswith("http")]
        shown = f"http://{host}/feed?...: " if host in address else "http://"
        assert problem.startswith(shown) and "hunter2" not in problem
    live.source.static_feeds.address = "https://me:hunter2@feeds.example/gtfs.zip?key=hunter2"
    live.source.static_feeds.editions.place = DirectoryPlace(Path("/nowhere"))
    with pytest.raises(
        StaticFeedError, match=r"MBTA_GTFS_STATIC, https://feeds\.example/gtfs\.zip\?\.\.\., is no file"
    ):
        live.source.static_feeds.find(DAY)
    output = capsys.readouterr()
    assert "snapshot not taken in" in output.out and "hunter2" not in output.out + output.err


def test_a_feed_without_vehicles_is_empty_once_it_had_some_and_foreign_before(live: Live, server: FeedServer) -> None:
    updates = {"trip_update": TRIP}
    follower = live.follow(f"{server.url}/feed")
    snapshots = [[updates], [vehicle("v", MORNING), updates], [updates], [{"is_deleted": True}]]
    contents = [make_feed(MORNING + second, entities) for second, entities in enumerate(snapshots)]
    server.plays["/feed"] = lambda request: Reply(contents[request.number])
    expected = [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 1, 2)]
    for second, counts in enumerate(expected):
        follower.poll()
        assert (live.count("foreign"), live.count("new"), live.count("empty")) == counts
        assert live.state.feed_time == (datetime.fromtimestamp(MORNING + second, UTC) if second else None)
        assert ("has no vehicle positions" in " ".join(live.state.list_problems())) == (second == 0)


def test_a_deletion_alone_is_empty_from_the_start(live: Live, server: FeedServer) -> None:
    server.plays["/feed"] = lambda request: Reply(make_feed(MORNING, [{"is_deleted": True, **vehicle("v", MORNING)}]))
    live.follow(f"{server.url}/feed").poll()
    assert live.count("empty") == 1


@pytest.mark.parametrize(("clock", "ahead"), [("20:30", 0), ("21:30", 1), ("23:59", 1), ("24:30", 1)])
def test_the_day_whose_timetable_is_read_ahead_is_one_of_the_agency(
    live: Live, clock: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    days: list[date] = []
    monkeypatch.setattr(live.service._timetables, "read_ahead", days.append)
    live.service.ingest(datetime.fromtimestamp(local_time(DAY, clock), UTC), {})
    assert days == [DAY + timedelta(days=ahead)]


@pytest.mark.parametrize("address", ["http://[", "http://127.0.0.1:port/feed", "http://\udce9/"])
def test_an_address_that_is_none_is_unreachable(live: Live, address: str) -> None:
    assert live.follow(address).poll() > 0
    assert live.count("unreachable") == 1


def test_a_snapshot_that_fails_unexpectedly_is_logged_and_those_after_it_are_taken_in(
    live: Live, server: FeedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live.service, "ingest", fail_at("here", live.service))
    follower = live.follow(f"{server.url}/feed")
    for second in range(3):
        server.plays["/feed"] = lambda request, second=second: Reply(make_snapshot(second))  # type: ignore[misc]
        follower.poll()
        said = [
            problem for problem in live.state.list_problems() if "LookupError: something unexpected here" in problem
        ]
        assert len(said) == (second == 1)
    assert (live.count("new"), live.count("failed")) == (2, 1)
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [entry] = [entry for entry in entries if "stack_trace" in entry]
    assert entry["place"] == f"{server.url}/feed" and "LookupError" in entry["stack_trace"]


def test_a_snapshot_of_an_archive_that_fails_ends_neither_the_start_nor_following(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.service, "ingest", fail_at("here", live.service))
    for second in range(3):
        live.source.archive.append(FEED, [FetchedSnapshot(MORNING + second, make_snapshot(second))])
    live.source.archive.append(FEED, [FetchedSnapshot(MORNING + 3, bz2.compress(NESTED))])
    assert rebuild(live.service, live.source.archive, live.state.clock()) == 4
    assert (live.count("new"), live.count("failed"), live.count("truncated")) == (2, 1, 1)
    stop = threading.Event()
    arguments = (live.source.archive, live.service, live.state, 0.01, stop)
    thread = threading.Thread(target=follow_archive, args=arguments)
    thread.start()
    try:
        live.source.archive.append(FEED, [FetchedSnapshot(MORNING + 4, make_snapshot(4))])
        eventually("the next one is taken in", 30, lambda: live.count("new") == 3, 0.01)
    finally:
        stop.set()
        thread.join()


def test_a_publication_that_fails_is_a_problem_until_one_works(
    live: Live, server: FeedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise LookupError("no such thing")

    server.plays["/feed"] = lambda request: Reply(make_snapshot(request.number))
    follower = live.follow(f"{server.url}/feed")
    with monkeypatch.context() as patch:
        patch.setattr(live.service, "publish", fail)
        follower.poll()
    assert "LookupError: no such thing" in " ".join(live.state.list_problems())
    follower.poll()
    assert "LookupError" not in " ".join(live.state.list_problems())
