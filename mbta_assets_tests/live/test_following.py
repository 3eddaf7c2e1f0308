"""Snapshots that others keep are followed as they come, and a schedule that changes during the day counts at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from google.transit.gtfs_realtime_pb2 import FeedMessage

from mbta_assets.live import timetables
from mbta_assets.live.following import follow_archive
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets_tests.live.days import FeedSnapshot, as_fed, list_delays, make_snapshots
from mbta_assets_tests.live.harness import Live, files_settings
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.serving.test_stream import read_tables
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, feed_server
from mbta_assets_tests.sources.gtfs.messages import make_feed
from mbta_assets_tests.sources.gtfs.network import FILES, local_time, make_static_feed
from mbta_assets_tests.support.dagster_dev import eventually
from mbta_assets_tests.support.days import REAL
from mbta_assets_tests.support.real_day import SEED_UPSTREAM

pytestmark = pytest.mark.integration
DAY = date(2026, 5, 12)
LATER = FILES["stop_times.txt"].replace("8:20:00,8:20:30", "8:25:00,8:25:30")


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with feed_server() as running:
        yield running


@contextmanager
def following(live: Live, archive: FeedArchive) -> Iterator[None]:
    """Follow an archive in a thread meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=follow_archive, args=[archive, live.service, live.state, 0.02, stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("kept_by", ["another collector", "a script that writes files"])
def test_snapshots_that_others_keep_are_taken_in_once_each(
    server: FeedServer, model_store: ModelStore, tmp_path: Path, kept_by: str
) -> None:
    tables = as_fed(read_tables(FilesSource(SEED_UPSTREAM), REAL))
    begin = tables["vehicle"]["updated_at"].min().to_pydatetime() + timedelta(hours=1)
    snapshots = list(make_snapshots(tables["vehicle"], REAL, begin, begin + timedelta(minutes=10), 30))
    settings = files_settings(tmp_path / "files", REAL, tables)
    kept, expected = tmp_path / "kept", Live(settings, model_store, server)
    kept.mkdir()
    live, archive = Live(settings, model_store, server), FeedArchive(DirectoryPlace(kept))
    for number in (live, expected):
        number.state.clock = lambda: snapshots[-1].made_at
    with following(live, archive):
        for snapshot in snapshots:
            second = int(snapshot.made_at.timestamp())
            if kept_by == "another collector":
                archive.append("vehicle_positions", [FetchedSnapshot(second, snapshot.content)])
            else:
                (kept / f"{second}.tmp").write_bytes(snapshot.content)
                (kept / f"{second}.tmp").rename(kept / f"{second}.pb")
            eventually("the snapshot", 60, lambda: live.state.feed_time == snapshot.made_at, 0.01)  # noqa: B023
            expected.play(snapshot)
        eventually("the publication", 60, lambda: is_published(live, snapshots[-1]), 0.01)
    assert live.state.published and expected.state.published
    assert list_delays(live.state.published.publication) == list_delays(expected.state.published.publication)
    taken = live.state.registry.get_sample_value("mbta_live_updates_total", {"outcome": "new"})
    assert taken == len(snapshots)


def is_published(live: Live, snapshot: FeedSnapshot) -> bool:
    """Return whether predictions of a snapshot have been published."""
    published = live.state.published
    return published is not None and published.publication.feed_time == snapshot.made_at


def report(clock: str, stop_id: str, status: int) -> FeedSnapshot:
    """Return a snapshot in which the only vehicle reports itself: 1 is STOPPED_AT, 2 IN_TRANSIT_TO."""
    second = local_time(DAY, clock)
    trip = {"trip_id": "morning", "start_date": f"{DAY:%Y%m%d}"}
    vehicle = {"trip": trip, "vehicle": {"id": "v"}, "timestamp": second, "stop_id": stop_id, "current_status": status}
    return FeedSnapshot(datetime.fromtimestamp(second, UTC), make_feed(second, [{"vehicle": vehicle}]))


def test_another_edition_of_the_schedule_counts_and_nothing_that_was_seen_is_lost(
    server: FeedServer, model_store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timetables, "CHECK_SECONDS", 0.0)
    snapshots = [report("08:01", "s1", 1), report("08:03", "s2", 2), report("08:12", "s2", 1), report("08:14", "s3", 2)]

    def open_live(name: str, static: bytes) -> Live:
        Editions(DirectoryPlace(tmp_path / name)).add(static, local_time(DAY, "05:00"), "a test")
        settings = Settings(source="gtfs", feed_archive=str(tmp_path / name), store=tmp_path / "store")
        live = Live(settings, model_store, server)
        live.state.clock = lambda: snapshots[-1].made_at
        return live

    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    live, expected = open_live("one", make_static_feed()), open_live("other", make_static_feed(stop_times=LATER))
    for snapshot in snapshots[:-1]:
        before = live.play(snapshot)
        expected.play(snapshot)
    Editions(DirectoryPlace(tmp_path / "one")).add(
        make_static_feed(stop_times=LATER), local_time(DAY, "08:13"), "a test"
    )
    after = live.play(snapshots[-1])
    [trip], [trip_before] = after.trips, before.trips
    assert trip.stops[-1].scheduled - trip_before.stops[-1].scheduled == timedelta(minutes=5)
    assert after.trips == expected.play(snapshots[-1]).trips


def test_the_header_of_each_publication_is_of_a_later_second(
    server: FeedServer, model_store: ModelStore, tmp_path: Path
) -> None:
    tables = as_fed(read_tables(FilesSource(SEED_UPSTREAM), REAL))
    live = Live(files_settings(tmp_path / "files", REAL, tables), model_store, server)
    at = tables["vehicle"]["updated_at"].min().to_pydatetime().replace(microsecond=0) + timedelta(hours=1)

    def publish(made_at: datetime) -> int:
        live.service.publish(made_at, is_replay=True)
        assert live.state.published is not None
        return FeedMessage.FromString(live.state.published.protobuf.body).header.timestamp - int(at.timestamp())

    seconds = [0.0, 0.4, 0.9, 5.0, 5.1, -3.0, 6.5]
    assert [publish(at + timedelta(seconds=after)) for after in seconds] == [0, 1, 2, 5, 6, 7, 8]
    assert publish(at - timedelta(hours=1)) == -3600  # the clock was wrong before
