"""Of which trip a vehicle's predictions are, and how riders' applications find it in the schedule."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from google.transit.gtfs_realtime_pb2 import FeedMessage

from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets_tests.live.days import FeedSnapshot
from mbta_assets_tests.live.harness import Live
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.network import FILES, local_time, make_static_feed
from mbta_assets_tests.support.static_feed import StaticFeed
from mbta_assets_tests.support.trip_updates_validator import TripUpdatesValidator

pytestmark = pytest.mark.integration
DAY = date(2026, 3, 6)
STATIC = make_static_feed(
    routes="route_id,route_type\nR,3\nQ,3\n",
    trips=FILES["trips.txt"] + "R,daily,F1,Third,,1\nR,daily,next,Third,,0\n",
    stop_times=FILES["stop_times.txt"].replace("morning,,,s2,5,0\n", "morning,8:10:00,8:10:00,s2,5,1\n")
    + "F1,06:00:00,06:00:00,s1,1,1\nF1,06:10:00,06:11:00,s2,2,1\nF1,06:20:00,06:20:00,s3,9,1\n"
    + "next,08:30:00,08:30:00,s3,1,1\nnext,08:50:00,08:50:00,s1,9,1\n",
    frequencies="trip_id,start_time,end_time,headway_secs,exact_times\nF1,22:00:00,25:00:00,600,1\n",
)
"""Trips at 8 and 8:30 am, and one of frequencies.txt that starts every ten minutes from 10 pm to 1 am."""
Play = Callable[..., FeedMessage]


@pytest.fixture
def live(server: FeedServer, model_store: ModelStore, tmp_path: Path) -> Live:
    directory = tmp_path / "archive"
    Editions(DirectoryPlace(directory)).add(STATIC, 0, "a test")
    settings = Settings(source="gtfs", feed_archive=str(directory), gtfs_static="https://none", store=tmp_path)
    return Live(settings, model_store, server, is_replay=True)


@pytest.fixture
def play(live: Live, tmp_path: Path) -> Play:
    """Return a function that plays a snapshot of a time, and returns the published feed, which is valid."""
    (tmp_path / "gtfs.zip").write_bytes(STATIC)
    static = StaticFeed.from_gtfs(tmp_path / "gtfs.zip")

    def play_snapshot(at: int, *entities: dict[str, Any]) -> FeedMessage:
        live.play(FeedSnapshot(datetime.fromtimestamp(at, UTC), make_feed(at, entities)))
        assert live.state.published is not None
        content = live.state.published.protobuf.body
        assert TripUpdatesValidator(static).check(content, at) == []
        return FeedMessage.FromString(content)

    return play_snapshot


def list_trips(feed: FeedMessage) -> list[str]:
    """Return the trips of a published feed."""
    return [entity.trip_update.trip.trip_id for entity in feed.entity]


@pytest.mark.parametrize("start", ["22:10:00", "24:10:00"])
def test_a_trip_of_frequencies_is_published_as_the_schedule_names_it(play: Play, start: str) -> None:
    at = local_time(DAY, start[:5]) + 60
    trip = {"trip_id": "F1", "start_time": start, "start_date": f"{DAY:%Y%m%d}"}
    feed = play(at, vehicle("v", at, trip=trip, stop_id="s2"))
    [descriptor] = [entity.trip_update.trip for entity in feed.entity]
    assert (descriptor.trip_id, descriptor.start_time, descriptor.start_date) == ("F1", start, f"{DAY:%Y%m%d}")


def test_trips_of_frequencies_that_start_at_different_times_have_different_entities(play: Play) -> None:
    at = local_time(DAY, "22:21")
    feed = play(
        at,
        *[
            vehicle(f"v{n}", at, trip={"trip_id": "F1", "start_time": f"22:{n}0:00"}, stop_id=f"s{3 - n // 2}")
            for n in (1, 2)
        ],
    )
    assert list_trips(feed) == ["F1", "F1"]


def test_the_published_route_and_direction_are_those_of_the_schedule(live: Live, play: Play) -> None:
    at = local_time(DAY, "08:05")
    trip = {"trip_id": "morning", "route_id": "Q", "direction_id": 1}
    [entity] = play(at, vehicle("v", at, trip=trip, stop_id="s2")).entity
    assert (entity.trip_update.trip.route_id, entity.trip_update.trip.direction_id) == ("R", 0)
    assert entity.trip_update.trip.HasField("direction_id")
    assert not entity.trip_update.trip.start_time
