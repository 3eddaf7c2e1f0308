"""Every publication of a replayed day is valid, by an independent checker with the schedule of the day."""

from datetime import date
from pathlib import Path
from zipfile import ZipFile

import pytest

from mbta_assets.live.command import list_steps, serve
from mbta_assets.settings import Settings
from mbta_assets.sources import open_source
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit.service_day import TIME_ZONE
from mbta_assets_tests.live.days import FeedSnapshot
from mbta_assets_tests.live.harness import Live, fetch, files_settings
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.serving.test_stream import read_tables, select_routes
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer
from mbta_assets_tests.support.days import REAL, SIMULATED
from mbta_assets_tests.support.gtfs_day import WMATA
from mbta_assets_tests.support.real_day import write_days
from mbta_assets_tests.support.static_feed import StaticFeed
from mbta_assets_tests.support.trip_updates_validator import TripUpdatesValidator

pytestmark = pytest.mark.integration
SECONDS = 30.0
"""Interval between two publications; the checker allows 35 s."""


def assert_valid_replay(live: Live, day: date) -> tuple[int, int]:
    """Raise AssertionError unless each publication of the replay of a day is valid; return publications and trips."""
    source = open_source(live.settings)
    tables = {name: source.read(name, day).rows for name in ("trip", "stop", "schedule")}
    validator = TripUpdatesValidator(StaticFeed.from_tables(tables, str(TIME_ZONE), f"{day:%Y%m%d}"))
    publications, trips, shares = 0, 0, [0.0]
    for at, take, share in list_steps(live.settings, source, live.service, day, SECONDS):
        take()
        live.service.publish(at, is_replay=True)
        assert live.state.published is not None
        assert validator.check(live.state.published.protobuf.body, at.timestamp()) == []
        publications += 1
        shares.append(share)
        trips += len(live.state.published.publication.trips)
    assert shares == sorted(shares) and shares[-1] == 1
    return publications, trips


def test_a_whole_simulated_day_is_valid(server: FeedServer, model_store: ModelStore, tmp_path: Path) -> None:
    tables = read_tables(SyntheticSource(0), SIMULATED)
    tables["vehicle"] = select_routes(tables["vehicle"], ["Blue", "Mattapan"])
    live = Live(files_settings(tmp_path / "files", SIMULATED, tables), model_store, server)
    publications, trips = assert_valid_replay(live, SIMULATED)
    assert publications > 2_000 and trips > 20_000


def test_the_whole_seed_day_is_valid(server: FeedServer, model_store: ModelStore, tmp_path: Path) -> None:
    write_days(tmp_path / "files", [REAL])
    live = Live(Settings(source="files", files_dir=tmp_path / "files"), model_store, server)
    publications, trips = assert_valid_replay(live, REAL)
    assert publications > 900 and trips > 5_000


def test_wmata_is_valid_as_it_is_served(server: FeedServer, model_store: ModelStore, tmp_path: Path) -> None:
    settings = Settings(
        source="gtfs",
        feed_archive=str(WMATA / "vehicle_positions.zip"),
        gtfs_static=str(WMATA / "gtfs.zip"),
        store=tmp_path,
    )
    live = Live(settings, model_store, server, is_replay=True)
    validator = TripUpdatesValidator(StaticFeed.from_gtfs(WMATA / "gtfs.zip"))
    with ZipFile(WMATA / "vehicle_positions.zip") as archive:
        contents = [archive.read(name) for name in sorted(archive.namelist())]
    trips = 0
    with serve(live.state, "127.0.0.1", 0) as running:
        for content in contents:
            publication = live.play(FeedSnapshot(live.state.clock(), content))
            status, _, body = fetch(f"http://127.0.0.1:{running.server_port}/tripupdates.pb")
            assert status == 200
            assert validator.check(body, publication.made_at.timestamp()) == []
            trips += len(publication.trips)
    assert trips > 1_000
