"""The sensor follows the archive of feeds as it follows files: a service day is made once it is over."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.transit.service_day import service_date_at
from mbta_assets_tests.defs.automation.conftest import DOWNSTREAM, TABLES, Deployment, asset_names
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.network import FILES, local_time, make_static_feed

pytestmark = pytest.mark.integration

CALENDAR = FILES["calendar.txt"].replace("20260101", "20200101").replace("20261231", "20991231")
TIMED = FILES["stop_times.txt"].replace("morning,,,s2", "morning,08:10:00,08:10:00,s2")
TODAY = service_date_at(datetime.now(UTC))


def collect_day(
    archive: DirectoryPlace, day: date, clocks: Iterable[str] = ("08:00", "08:05", "08:11", "08:21")
) -> None:
    """Add snapshots of a vehicle that runs a trip of a day."""
    for clock, (stop, status) in zip(
        clocks,
        [("s1", "STOPPED_AT"), ("s2", "IN_TRANSIT_TO"), ("s2", "STOPPED_AT"), ("s3", "STOPPED_AT")],
        strict=False,
    ):
        time = local_time(day, clock)
        entity = vehicle("v", time, trip={"trip_id": "morning"}, stop_id=stop, current_status=status)
        FeedArchive(archive).append("vehicle_positions", [FetchedSnapshot(time, make_feed(time, [entity]))])


@pytest.fixture
def archive(tmp_path: Path) -> DirectoryPlace:
    """Return an archive with a static feed and a day."""
    place = DirectoryPlace(tmp_path / "archive")
    Editions(place).add(make_static_feed(calendar=CALENDAR, stop_times=TIMED), 0, "a test")
    collect_day(place, TODAY - timedelta(days=6))
    return place


@pytest.fixture
def following(archive: DirectoryPlace, tmp_path: Path, instance: dg.DagsterInstance) -> Deployment:
    """Return a deployment that has made that day, after the sensor's first tick."""
    settings = Settings(store=tmp_path / "store", source="gtfs", feed_archive=archive.name, training_days=5)
    deployment = Deployment(settings, instance)
    assert deployment.materialize(TODAY - timedelta(days=6)).is_success
    assert deployment.tick() == []
    return deployment


def test_a_day_is_made_once_it_is_over_and_again_when_it_changes(
    archive: DirectoryPlace, following: Deployment
) -> None:
    collect_day(archive, TODAY - timedelta(days=3))
    collect_day(archive, TODAY)
    [request] = following.tick()
    assert request.partition_key == str(TODAY - timedelta(days=3))
    assert asset_names(request) == [*TABLES, *DOWNSTREAM]
    assert following.run(request).is_success
    assert following.run_until_idle() == []
    rows = following.tables.read("transit_features", [TODAY - timedelta(days=3)], ["delay_seconds"])
    assert {60.0} <= set(rows["delay_seconds"].to_pylist())

    collect_day(archive, TODAY - timedelta(days=3), ["08:01"])  # a batch that came late
    [request] = following.tick()
    assert asset_names(request) == ["vehicle", *DOWNSTREAM]
    assert following.run(request).is_success
    assert following.run_until_idle() == []


def test_late_predictions_of_the_agency_make_what_is_downstream_again(
    archive: DirectoryPlace, following: Deployment
) -> None:
    day = TODAY - timedelta(days=6)
    assert len(following.tables.read("agency_predictions", [day])) == 0
    time = local_time(day, "08:01")
    arrival = {"stop_id": "s2", "arrival": {"time": local_time(day, "08:12")}}
    update = {"trip": {"trip_id": "morning"}, "timestamp": time, "stop_time_update": [arrival]}
    snapshot = make_feed(time, [{"trip_update": update}])
    FeedArchive(archive).append("trip_updates", [FetchedSnapshot(time, snapshot)])
    [request] = following.tick()
    assert asset_names(request) == ["agency_predictions", *DOWNSTREAM]
    assert following.run(request).is_success
    delays = following.tables.read("transit_features", [day], ["agency_delay_seconds"])["agency_delay_seconds"]
    assert set(delays.drop_null().to_pylist()) == {120.0}
    assert following.run_until_idle() == []


def test_another_edition_of_the_static_feed_makes_the_days_after_it_again(
    archive: DirectoryPlace, following: Deployment
) -> None:
    collect_day(archive, TODAY - timedelta(days=2))
    assert following.run_until_idle() == [str(TODAY - timedelta(days=2))]
    changed = make_static_feed(calendar=CALENDAR, stop_times=TIMED.replace("8:20:00", "8:19:00"))
    Editions(archive).add(changed, local_time(TODAY - timedelta(days=3), "12:00"), "a test")
    assert following.run_until_idle() == [str(TODAY - timedelta(days=2))]
