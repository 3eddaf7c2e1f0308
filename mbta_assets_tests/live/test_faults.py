"""Whatever a feed, a model or a machine does, answers stay valid, and health says what is wrong."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.transit.gtfs_realtime_pb2 import FeedMessage

from mbta_assets.live.command import serve
from mbta_assets.live.following import FEED, ArchiveKeeper, rebuild
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.transit.plausibility import SERVICE_DAY_HOURS
from mbta_assets.transit.service_day import service_date_at, start_time
from mbta_assets_tests.live.days import FeedSnapshot, as_fed, list_delays, make_snapshots, shift
from mbta_assets_tests.live.harness import MAX_AGE, Live, fetch, files_settings
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.serving.test_stream import read_tables
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, Reply
from mbta_assets_tests.support.dagster_dev import ROOT, eventually, free_port
from mbta_assets_tests.support.days import REAL, Tables
from mbta_assets_tests.support.other_networks import OTHER_NETWORK, with_network
from mbta_assets_tests.support.real_day import SEED_UPSTREAM

pytestmark = pytest.mark.integration
SNAPSHOTS = 40


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def tables(now: datetime) -> Tables:
    """Return the seed day as if it had happened until now."""
    tables = as_fed(read_tables(FilesSource(SEED_UPSTREAM), REAL))
    end = tables["vehicle"]["updated_at"].sort_values().iloc[len(tables["vehicle"]) // 2].to_pydatetime()
    return shift(tables, service_date_at(now), now - end)


@pytest.fixture
def snapshots(tables: Tables, now: datetime) -> list[FeedSnapshot]:
    """Return the snapshots of the last minutes, 30 s apart; the last one is of now."""
    day, begin = service_date_at(now), now - timedelta(seconds=30 * (SNAPSHOTS - 1))
    return list(make_snapshots(tables["vehicle"], day, begin, now, 30))


@pytest.fixture
def settings(tables: Tables, now: datetime, tmp_path: Path) -> Settings:
    return files_settings(tmp_path / "files", service_date_at(now), tables)


@pytest.fixture
def live(settings: Settings, model_store: ModelStore, server: FeedServer) -> Live:
    return Live(settings, model_store, server)


def count(live: Live, outcome: str) -> float:
    """Return how many snapshots and answers were of a kind."""
    return live.state.registry.get_sample_value("mbta_live_updates_total", {"outcome": outcome}) or 0.0


def test_a_feed_that_stops_is_named_and_its_predictions_drop_out(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    quick = settings.model_copy(update={"live_max_feed_age_seconds": 1})
    live = Live(quick, model_store, server, max_age=timedelta(seconds=30))
    assert live.play(snapshots[-2]).trips
    server.plays["/feed"] = lambda request: Reply(status=500)
    live.follower.poll()
    assert count(live, "server_error") == 1
    assert any("server_error" in problem for problem in live.state.list_problems())
    assert any("MBTA_LIVE_MAX_FEED_AGE_SECONDS" in problem for problem in live.state.list_problems())
    live.service.publish(live.state.clock() + timedelta(seconds=31))
    assert live.state.published and not live.state.published.publication.trips
    assert live.play(snapshots[-1]).trips
    assert not any("server_error" in problem for problem in live.state.list_problems())


def test_what_is_made_again_from_the_archive_is_as_old_as_it_was(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot], tmp_path: Path
) -> None:
    live = Live(settings, model_store, server)
    archive, made_at = FeedArchive(DirectoryPlace(tmp_path / "kept")), snapshots[-1].made_at
    archive.append(FEED, [FetchedSnapshot(made_at.timestamp() + 2, snapshots[-1].content)])
    assert rebuild(live.service, archive, made_at) == 1
    trips = []
    for seconds in (2, 100, MAX_AGE.seconds + 3):
        live.service.publish(made_at + timedelta(seconds=seconds))
        assert live.state.published
        trips.append(len(live.state.published.publication.trips))
    assert trips[0] >= trips[1] > 0 and trips[2] == 0


def test_a_feed_that_goes_back_in_time_or_doubles_changes_nothing(
    live: Live, settings: Settings, model_store: ModelStore, snapshots: list[FeedSnapshot]
) -> None:
    plain = Live(settings, model_store, live.server)
    for number, snapshot in enumerate(snapshots):
        before = live.play(snapshot)
        assert list_delays(before) == list_delays(plain.play(snapshot))
        assert list_delays(live.play(snapshots[number // 2])) == list_delays(before)
        assert list_delays(live.play(FeedSnapshot(snapshot.made_at, doubled(snapshot.content)))) == list_delays(before)
    assert count(live, "older") > 0 and count(live, "unchanged") > 0
    assert count(plain, "new") == SNAPSHOTS


def doubled(content: bytes) -> bytes:
    """Return a snapshot that has each entity a second time, under another id."""
    message = FeedMessage.FromString(content)
    for entity in list(message.entity):
        message.entity.add().CopyFrom(entity)
        message.entity[-1].id += "-again"
    return message.SerializeToString()


def test_what_is_no_snapshot_is_counted_as_what_it_is(live: Live, snapshots: list[FeedSnapshot]) -> None:
    before = list_delays(live.play(snapshots[-2]))
    at = snapshots[-1].made_at
    ahead = FeedMessage.FromString(snapshots[-1].content)
    ahead.header.timestamp += 3600
    for outcome, content in {
        "truncated": snapshots[-1].content[:-7],
        "foreign": b"<html>Please come back later</html>",
        "from_the_future": ahead.SerializeToString(),
    }.items():
        assert list_delays(live.play(FeedSnapshot(at, content))) == before
        assert count(live, outcome) == 1
    live.play(FeedSnapshot(at, FeedMessage(header=ahead.header).SerializeToString()))
    assert live.play(snapshots[-1]).feed_time == at


def test_a_vehicle_with_text_that_is_not_utf_8_costs_no_other_vehicle(
    live: Live, settings: Settings, model_store: ModelStore, snapshots: list[FeedSnapshot]
) -> None:
    expected = list_delays(Live(settings, model_store, live.server).play(snapshots[-1]))
    message = FeedMessage.FromString(snapshots[-1].content)
    added = message.entity.add()
    added.CopyFrom(message.entity[0])
    added.id = added.vehicle.vehicle.id = added.vehicle.trip.trip_id = "####"
    content = message.SerializeToString().replace(b"####", b"\xff\xfe\xe9 ")
    assert list_delays(live.play(FeedSnapshot(snapshots[-1].made_at, content))) == expected
    assert live.state.list_problems() == []


def test_impossible_times_of_reports_leave_out_those_reports(live: Live, snapshots: list[FeedSnapshot]) -> None:
    before = live.play(snapshots[-2])
    message = FeedMessage.FromString(snapshots[-1].content)
    for entity, reported_at in zip(
        message.entity, (1, message.header.timestamp * 1000, 2**63, 2**64 - 1), strict=False
    ):
        entity.vehicle.timestamp = reported_at
    after = live.play(FeedSnapshot(snapshots[-1].made_at, message.SerializeToString()))
    assert len(after.trips) >= len(before.trips) - 4
    message.header.timestamp = 2**64 - 1
    live.play(FeedSnapshot(snapshots[-1].made_at, message.SerializeToString()))
    assert count(live, "from_the_future") == 1


def test_a_model_promoted_in_the_middle_predicts_the_next_update(
    live: Live, model_store: ModelStore, snapshots: list[FeedSnapshot]
) -> None:
    before = live.play(snapshots[-3])
    promoted = model_store.promote(model_store.models[1])
    after = live.play(snapshots[-2])
    assert before.model_version == model_store.models[0].digest
    assert after.model_version == promoted == model_store.models[1].digest
    assert after.trips


def test_a_service_day_that_ends_is_dropped_while_vehicles_run(live: Live, snapshots: list[FeedSnapshot]) -> None:
    publication = live.play(snapshots[-1])
    [day] = {trip.service_date for trip in publication.trips}
    end = start_time(day) + timedelta(hours=SERVICE_DAY_HOURS)
    live.service.ingest(end - timedelta(seconds=1), {})
    assert day in live.service._engine.days
    live.service.ingest(end, {})
    assert day not in live.service._engine.days
    live.service.publish(end, is_replay=True)
    assert live.state.published and not live.state.published.publication.trips


def test_a_timetable_that_cannot_be_read_is_a_problem_of_health(
    server: FeedServer, model_store: ModelStore, tmp_path: Path, snapshots: list[FeedSnapshot]
) -> None:
    (tmp_path / "none").mkdir()
    live = Live(Settings(source="files", files_dir=tmp_path / "none"), model_store, server)
    assert not live.play(snapshots[-1]).trips
    assert any("schedule" in problem for problem in live.state.list_problems())


def test_without_a_model_health_says_so_until_there_is_one(
    settings: Settings, empty_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    live = Live(settings, empty_store, server)
    server.plays["/feed"] = lambda request: Reply(snapshots[-2].content)
    live.follower.poll()
    assert any("There is no model" in problem for problem in live.state.list_problems())
    empty_store.promote(empty_store.models[0])
    time.sleep(1.0)  # a failed first load is not repeated at once
    assert live.play(snapshots[-1]).trips
    assert live.state.list_problems() == []


def test_a_model_of_another_network_is_not_served_and_health_says_so_until_there_is_one_of_this(
    settings: Settings, empty_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    live = Live(settings, empty_store, server)
    empty_store.promote(with_network(empty_store.models[0], OTHER_NETWORK))
    server.plays["/feed"] = lambda request: Reply(snapshots[-2].content)
    live.follower.poll()
    assert live.state.published is None
    assert any("another network" in problem for problem in live.state.list_problems())
    empty_store.promote(empty_store.models[0])
    assert live.play(snapshots[-1]).trips
    assert live.state.list_problems() == []


def test_the_feed_is_served_from_memory_with_conditional_requests(live: Live, snapshots: list[FeedSnapshot]) -> None:
    with serve(live.state, "127.0.0.1", 0) as running:
        url = f"http://127.0.0.1:{running.server_port}"
        assert fetch(f"{url}/readyz")[0] == fetch(f"{url}/tripupdates.pb")[0] == 503
        publication = live.play(snapshots[-1])
        status, headers, body = fetch(f"{url}/tripupdates.pb")
        assert status == 200 and len(FeedMessage.FromString(body).entity) == len(publication.trips)
        assert headers["Last-Modified"] and headers["X-Model-Version"] == publication.model_version
        assert fetch(f"{url}/tripupdates.pb", If_None_Match=headers["ETag"])[0] == 304
        assert fetch(f"{url}/tripupdates.pb", If_None_Match='"another"')[0] == 200
        assert json.loads(fetch(f"{url}/tripupdates.json")[2])["entity"]
        trip = publication.trips[0]
        vehicle = json.loads(fetch(f"{url}/vehicles/{trip.vehicle_id}")[2])
        assert [stop["delay_seconds"] for stop in vehicle["stops"]] == [stop.delay_seconds for stop in trip.stops]
        rows = json.loads(fetch(f"{url}/stops/{trip.stops[0].stop_id}")[2])["predictions"]
        assert trip.vehicle_id in {row["vehicle_id"] for row in rows}
        for path in ("/vehicles/nobody", "/stops/nowhere", "/other"):
            status, _, body = fetch(url + path)
            assert status == 404 and json.loads(body)["error"].endswith((".", "all.", "/metrics."))
        assert fetch(f"{url}/readyz")[0] == fetch(f"{url}/healthz")[0] == 200
        assert b'mbta_live_updates_total{outcome="new"} 1.0' in fetch(f"{url}/metrics")[2]


def test_an_archive_that_cannot_be_written_is_a_problem_and_the_feed_stays_ready(
    live: Live, server: FeedServer, snapshots: list[FeedSnapshot], tmp_path: Path
) -> None:
    keep = ArchiveKeeper(FeedArchive(DirectoryPlace(tmp_path / "kept")), live.state)
    obstacle = tmp_path / "kept" / FEED
    obstacle.parent.mkdir()
    obstacle.write_text("a file where the folder should be")
    with serve(live.state, "127.0.0.1", 0) as running:
        url = f"http://127.0.0.1:{running.server_port}"

        def read_health() -> tuple[int, str, list[str]]:
            status, _, body = fetch(f"{url}/readyz")
            content = json.loads(body)
            return status, content["status"], content.get("problems", [])

        def keep_and_count(snapshot: FeedSnapshot) -> bytes:
            keep(snapshot.content, snapshot.made_at.timestamp(), None)
            return b"\n".join(line for line in fetch(f"{url}/metrics")[2].splitlines() if b"mbta_live_problem{" in line)

        live.play(snapshots[-1])
        assert read_health() == (200, "ready", [])
        assert keep_and_count(snapshots[-2]) == b'mbta_live_problem{part="archive"} 1.0'
        status, ready, [lost] = read_health()
        assert (status, ready) == (200, "ready") and "would lose them" in lost
        server.plays["/feed"] = lambda request: Reply(status=500)
        live.follower.poll()
        status, ready, problems = read_health()
        assert (status, ready) == (503, "not ready") and lost in problems and len(problems) == 2
        obstacle.unlink()
        assert keep_and_count(snapshots[-1]) == b'mbta_live_problem{part="feed"} 1.0'
        assert lost not in read_health()[2]


@contextmanager
def running(settings: Settings, store: ModelStore, feed: str, archive: Path) -> Iterator[tuple[str, Any]]:
    """Run the command; yield its address and its process."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MBTA_SOURCE": "files",
        "MBTA_FILES_DIR": str(settings.files_dir),
        "MBTA_MODEL": str(store.root),
        "MBTA_VEHICLE_POSITIONS": feed,
        "MBTA_FEED_ARCHIVE": str(archive),
    }
    arguments = [sys.executable, "-m", "mbta_assets", "live", "--every", "0.05", "--port", str(port)]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def read_trips(url: str, at: datetime) -> Any:
    """Return the trips that are published once the snapshot of a time was taken in; None before."""
    try:
        trips = json.loads(fetch(f"{url}/trips.json")[2])
    except OSError:
        return None
    return trips.get("trips") if trips.get("feed_time") == at.isoformat() else None


def test_killed_in_the_middle_and_restarted_it_publishes_the_same(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot], tmp_path: Path
) -> None:
    def play(url: str, served: list[FeedSnapshot]) -> Any:
        for snapshot in served:
            server.plays["/feed"] = lambda request, content=snapshot.content: Reply(content)  # type: ignore[misc]
            trips = eventually("a publication", 60, lambda: read_trips(url, snapshot.made_at), 0.02)  # noqa: B023
        return trips

    server.plays["/feed"] = lambda request: Reply(snapshots[0].content)
    feed = f"{server.url}/feed"
    with running(settings, model_store, feed, tmp_path / "whole") as (url, _):
        expected = play(url, snapshots)
    server.plays["/feed"] = lambda request: Reply(snapshots[0].content)
    with running(settings, model_store, feed, tmp_path / "killed") as (url, process):
        play(url, snapshots[: SNAPSHOTS // 2])
        process.kill()
    with running(settings, model_store, feed, tmp_path / "killed") as (url, _):
        assert play(url, snapshots[SNAPSHOTS // 2 :]) == expected
    assert len(expected) > 5


def test_publications_of_one_moment_have_increasing_timestamps(
    live: Live, snapshots: list[FeedSnapshot], now: datetime
) -> None:
    def publish(after: float) -> int:
        live.service.publish(now + timedelta(seconds=after))
        assert live.state.published is not None
        return FeedMessage.FromString(live.state.published.protobuf.body).header.timestamp - int(now.timestamp())

    live.play(snapshots[-1])
    assert [publish(after) for after in (5, 5, 5.9, 9, 9.1, 1, 12)] == [5, 6, 7, 9, 10, 11, 12]
    assert publish(-3600) == -3600  # the clock was wrong before
