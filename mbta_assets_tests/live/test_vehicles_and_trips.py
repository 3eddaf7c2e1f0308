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
        live.service.take(make_feed(at, entities), float(at), "a test")
        live.service.publish(datetime.fromtimestamp(at, UTC), is_replay=True)
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


def test_the_published_route_and_direction_are_those_of_the_schedule(play: Play) -> None:
    at = local_time(DAY, "08:05")
    trip = {"trip_id": "morning", "route_id": "Q", "direction_id": 1}
    [entity] = play(at, vehicle("v", at, trip=trip, stop_id="s2")).entity
    assert (entity.trip_update.trip.route_id, entity.trip_update.trip.direction_id) == ("R", 0)
    assert entity.trip_update.trip.HasField("direction_id")
    assert not entity.trip_update.trip.start_time


def on_trip(vehicle_id: str, timestamp: int, stop_id: str | None = "s3", **trip: Any) -> dict[str, Any]:
    """Return an entity of a vehicle on a trip, on its way to a stop."""
    fields = {"trip": trip} if trip else {}
    return vehicle(vehicle_id, timestamp, **fields, **({"stop_id": stop_id} if stop_id else {}))


@pytest.mark.parametrize("seconds", [0, 30])
@pytest.mark.parametrize(
    ("trip", "stop_id"),
    [
        ({}, "s3"),
        ({}, None),
        ({"trip_id": "morning", "schedule_relationship": "CANCELED"}, "s3"),
        ({"trip_id": "morning", "schedule_relationship": "ADDED"}, "s3"),
        ({"trip_id": "extra", "schedule_relationship": "ADDED"}, "s3"),
        ({"trip_id": "next"}, None),
    ],
)
def test_a_vehicle_that_has_left_its_trip_is_no_longer_predicted_on_it(
    play: Play, trip: dict[str, Any], stop_id: str | None, seconds: int
) -> None:
    at = local_time(DAY, "08:12")
    assert list_trips(play(at, on_trip("v", at, trip_id="morning"))) == ["morning"]
    assert list_trips(play(at + 30, on_trip("v", at + seconds, stop_id, **trip))) == []
    assert list_trips(play(at + 60, on_trip("v", at + seconds, stop_id, **trip))) == []
    assert list_trips(play(at + 90, on_trip("v", at + 90, trip_id="morning"))) == ["morning"]


def test_a_vehicle_stays_on_its_trip_when_an_older_report_comes_later_or_one_names_no_stop(play: Play) -> None:
    at = local_time(DAY, "08:12")
    assert list_trips(play(at, on_trip("v", at, trip_id="morning"))) == ["morning"]
    assert list_trips(play(at + 30, on_trip("v", at - 30))) == ["morning"]
    assert list_trips(play(at + 60, on_trip("v", at + 60, None, trip_id="morning"))) == ["morning"]
    assert list_trips(play(at + 301, on_trip("v", at + 301, None, trip_id="morning"))) == []


def test_a_vehicle_that_takes_over_a_trip_is_predicted_on_it(play: Play) -> None:
    at = local_time(DAY, "08:12")
    play(at, on_trip("v1", at, trip_id="morning"), on_trip("v2", at - 10, trip_id="morning"))
    [entity] = play(at + 30, on_trip("v1", at + 30)).entity
    assert (entity.trip_update.trip.trip_id, entity.trip_update.vehicle.id) == ("morning", "v2")


def test_a_report_from_the_future_is_of_the_time_of_its_snapshot(play: Play) -> None:
    at = local_time(DAY, "08:12")
    ahead = on_trip("v", at + 7200, "s2", trip_id="morning")
    [entity] = play(at, ahead).entity
    assert [update.stop_id for update in entity.trip_update.stop_time_update] == ["s2", "s3"]
    assert entity.trip_update.timestamp == at
    [entity] = play(at + 30, on_trip("v", at + 30, trip_id="morning")).entity
    assert [update.stop_id for update in entity.trip_update.stop_time_update] == ["s3"]
    assert list_trips(play(at + 331, ahead)) == []


@pytest.mark.parametrize("named", [{"id": "v"}, {"label": "v"}])
def test_a_vehicle_keeps_its_identity_when_the_ids_of_entities_change(live: Live, play: Play, named: Any) -> None:
    at = local_time(DAY, "08:01")
    for number, stop_id in enumerate(["s2", "s2", "s3", "s3"]):
        report = {"vehicle": named, "trip": {"trip_id": "morning"}, "stop_id": stop_id, "timestamp": at + number // 2}
        [entity] = play(at + 30 * number, {"id": f"entity-{number}", "vehicle": report}).entity
        assert (entity.trip_update.vehicle.id, entity.id) == ("v", f"{DAY:%Y%m%d}-morning")
    assert len(live.service._engine._days[DAY].updates) == 2  # repeated reports are taken in once
