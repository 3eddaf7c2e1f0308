"""Archives that others fill or that cannot be written, and editions of the schedule that come during the day."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from google.transit.gtfs_realtime_pb2 import FeedMessage
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.live import command, timetables
from mbta_assets.live.command import show_replay
from mbta_assets.live.following import (
    FEED,
    MAX_OUT_OF_ORDER,
    ArchiveKeeper,
    ReplayStep,
    find_begin,
    follow_archive,
    rebuild,
    sort_by_fetch,
)
from mbta_assets.progress import lines
from mbta_assets.realtime.feed import parse_feed
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.serving.live.state import LiveState
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.transit.service_day import start_time
from mbta_assets_tests.live.days import FeedSnapshot, Key, list_delays
from mbta_assets_tests.live.harness import Live
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer
from mbta_assets_tests.support.dagster_dev import eventually, free_port
from mbta_assets_tests.support.gtfs_day import WMATA, WMATA_DAY

pytestmark = pytest.mark.integration
NOON = start_time(WMATA_DAY).timestamp() + 12 * 3600


@pytest.fixture
def snapshots() -> list[FeedSnapshot]:
    """Return the first snapshots of the extract."""
    with ZipFile(WMATA / "vehicle_positions.zip") as archive:
        contents = [archive.read(name) for name in sorted(archive.namelist())[:60]]
    return [FeedSnapshot(datetime.fromtimestamp(read_time(content), UTC), content) for content in contents]


def read_time(content: bytes) -> int:
    """Return the time in the header of a snapshot."""
    return parse_feed(content, "").header_time or 0


@pytest.fixture
def make_live(server: FeedServer, model_store: ModelStore, tmp_path: Path) -> Callable[[str], Live]:
    """Return a function that begins live predictions on an archive with a name, in which the schedule is."""

    def make(name: str) -> Live:
        directory = tmp_path / name
        Editions(DirectoryPlace(directory)).add((WMATA / "gtfs.zip").read_bytes(), NOON - 12 * 3600, "test")
        settings = Settings(source="gtfs", feed_archive=str(directory), gtfs_static="https://none", store=tmp_path)
        return Live(settings, model_store, server, is_replay=True)

    return make


def play_all(live: Live, snapshots: list[FeedSnapshot]) -> dict[Key, float]:
    """Play snapshots, and return the delays of the last publication."""
    for snapshot in snapshots[:-1]:
        live.service.take(snapshot.content, snapshot.made_at.timestamp(), "test")
    return list_delays(live.play(snapshots[-1]))


@contextmanager
def following(live: Live, directory: Path, now: datetime) -> Iterator[None]:
    """Follow a directory in a thread."""
    stop = threading.Event()
    live.state.clock = lambda: live.state.feed_time or now
    archive = FeedArchive(DirectoryPlace(directory))
    thread = threading.Thread(target=follow_archive, args=(archive, live.service, live.state, 0.01, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for(live: Live, snapshot: FeedSnapshot) -> dict[Key, float]:
    """Wait until a snapshot is published, and return the delays."""

    def is_published() -> bool:
        published = live.state.published
        return published is not None and published.publication.feed_time == snapshot.made_at

    eventually("the snapshot is published", 30, is_published, 0.01)
    assert live.state.published
    return list_delays(live.state.published.publication)


def test_a_directory_of_snapshots_that_others_fill_is_followed_from_the_start_of_the_day(
    make_live: Callable[[str], Live], snapshots: list[FeedSnapshot], tmp_path: Path
) -> None:
    live, directory = make_live("followed"), tmp_path / "snapshots"
    directory.mkdir()
    expected = play_all(make_live("plain"), snapshots)

    def write(snapshot: FeedSnapshot, content: bytes | None = None) -> None:
        name = f"{snapshot.made_at.timestamp():.0f}.pb"
        (directory / name).write_bytes(snapshot.content if content is None else content)

    for snapshot in snapshots[:-4]:
        write(snapshot)
    with following(live, directory, snapshots[-1].made_at):
        wait_for(live, snapshots[-5])
        write(snapshots[-4], snapshots[-4].content[:-7])  # still being written
        eventually("it is counted", 30, lambda: count(live, "truncated"), 0.01)
        write(snapshots[-4])
        wait_for(live, snapshots[-4])
        other = FeedMessage.FromString(snapshots[-1].content)
        for entity in other.entity:
            entity.ClearField("vehicle")
            entity.trip_update.trip.trip_id = "1"
        (directory / f"{read_time(snapshots[-1].content) + 1}.pb").write_bytes(other.SerializeToString())
        eventually("the snapshot of another feed is counted", 30, lambda: count(live, "foreign"), 0.01)
        for snapshot in snapshots[-3:]:
            write(snapshot)
            delays = wait_for(live, snapshot)
    assert delays == expected
    assert count(live, "new") == len(snapshots)


def count(live: Live, outcome: str) -> float:
    """Return how many snapshots were of a kind."""
    return live.state.registry.get_sample_value("mbta_live_updates_total", {"outcome": outcome}) or 0.0


def test_an_archive_that_a_collector_fills_is_followed_and_a_damaged_batch_is_a_problem_until_it_is_restored(
    make_live: Callable[[str], Live], snapshots: list[FeedSnapshot], tmp_path: Path
) -> None:
    live, directory = make_live("followed"), tmp_path / "batches"
    expected = play_all(make_live("plain"), snapshots)
    archive = FeedArchive(DirectoryPlace(directory))

    def append(added: list[FeedSnapshot]) -> Path:
        times = [snapshot.made_at.timestamp() for snapshot in added]
        fetched = [FetchedSnapshot(at, row.content, "", at) for at, row in zip(times, added, strict=True)]
        return directory / archive.append(FEED, fetched)

    append(snapshots[:-6])
    with following(live, directory, snapshots[-1].made_at):
        wait_for(live, snapshots[-7])
        staged = append(snapshots[-6:-3])
        wait_for(live, snapshots[-4])
        whole = staged.read_bytes()
        staged.write_bytes(whole[:100])
        eventually("the damage is named", 30, lambda: "damaged" in " ".join(live.state.list_problems()), 0.01)
        staged.write_bytes(whole)
        eventually("it is restored", 30, lambda: "damaged" not in " ".join(live.state.list_problems()), 0.01)
        append(snapshots[-3:])
        delays = wait_for(live, snapshots[-1])
    assert delays == expected


def test_what_cannot_be_written_waits_and_is_written_later(
    make_live: Callable[[str], Live], snapshots: list[FeedSnapshot], tmp_path: Path
) -> None:
    live = make_live("kept")
    archive = FeedArchive(DirectoryPlace(tmp_path / "kept"))
    keep = ArchiveKeeper(archive, live.state)
    obstacle = tmp_path / "kept" / FEED
    obstacle.write_text("a file where the folder should be")
    for number, snapshot in enumerate(snapshots):
        if number == len(snapshots) // 2:
            assert "would lose them" in " ".join(live.state.list_problems())
            obstacle.unlink()
        live.service.take(snapshot.content, snapshot.made_at.timestamp(), "test", keep=keep)
        live.service.publish(snapshot.made_at, is_replay=True)
        assert live.state.published and live.state.published.publication.feed_time == snapshot.made_at
    assert "would lose them" not in " ".join(live.state.list_problems())
    restarted = make_live("kept")
    assert rebuild(restarted.service, archive, snapshots[-1].made_at) == len(snapshots)
    restarted.service.publish(snapshots[-1].made_at, is_replay=True)
    assert restarted.state.published
    assert live.state.published and live.state.published.publication.trips
    assert restarted.state.published.publication == live.state.published.publication


def change_edition(change: Callable[[str, list[str]], list[str]]) -> bytes:
    """Return the schedule with changed lines of each file; the first line has the names of columns."""
    buffer = BytesIO()
    with ZipFile(WMATA / "gtfs.zip") as old, ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, "\n".join(change(name, old.read(name).decode("utf-8-sig").splitlines())) + "\n")
    return buffer.getvalue()


def test_another_edition_during_the_day_makes_the_state_again_and_nothing_is_lost(
    make_live: Callable[[str], Live], snapshots: list[FeedSnapshot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = play_all(make_live("plain"), snapshots)
    trips = sorted(list_trips(snapshots))
    removed = set(trips[::2])
    assert removed & {key[0] for key in expected}

    def remove_trips(name: str, lines: list[str]) -> list[str]:
        column = lines[0].split(",").index("trip_id") if "trip_id" in lines[0].split(",") else None
        return [line for line in lines if column is None or line.split(",")[column].strip('"') not in removed]

    directory = tmp_path / "edited"
    Editions(DirectoryPlace(directory)).add(change_edition(remove_trips), NOON - 13 * 3600, "test")
    settings = Settings(source="gtfs", feed_archive=str(directory), gtfs_static="https://none", store=tmp_path)
    plain = make_live("plain")
    live = Live(settings, plain.store, plain.server, is_replay=True)
    before = play_all(live, snapshots[:-1])
    assert before and not {key[0] for key in before} & removed
    Editions(DirectoryPlace(directory)).add((WMATA / "gtfs.zip").read_bytes(), NOON - 3600, "test")
    monkeypatch.setattr(timetables, "CHECK_SECONDS", 0.0)  # as if they had passed
    live.timetables.read_ahead(WMATA_DAY).join()
    assert list_delays(live.play(snapshots[-1])) == expected


def list_trips(snapshots: list[FeedSnapshot]) -> set[str]:
    """Return the ids of the trips of the vehicles in snapshots."""
    entities = [entity for snapshot in snapshots for entity in parse_feed(snapshot.content, "").entities]
    return {entity.vehicle.trip.trip_id for entity in entities}


@given(st.lists(st.integers(0, MAX_OUT_OF_ORDER // 2), max_size=300))
def test_snapshots_that_are_almost_in_order_are_put_in_order(shifts: list[int]) -> None:
    rows = [FetchedSnapshot(float(number + shift), b"") for number, shift in enumerate(shifts)]
    assert [row.fetched_at for row in sort_by_fetch(rows)] == sorted(row.fetched_at for row in rows)


def test_the_first_running_day_begins_before_now() -> None:
    for hour, day in ((10, 15), (12, 16)):  # a service day lasts until 11:00 of the next day, in UTC
        now = datetime(2026, 2, 16, hour, tzinfo=UTC)
        assert find_begin(now) == start_time(WMATA_DAY.replace(day=day)).timestamp()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_progress_of_a_replay_is_shown(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lines, "LINE_SECONDS", 0.0)
    monkeypatch.setenv("FORCE_COLOR" if is_terminal else "NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    at = datetime(2024, 4, 8, 16, 30, tzinfo=UTC)
    with show_replay(at.date()) as show:
        show(250, ReplayStep(at, list, 0.25))
    output = capsys.readouterr()
    if is_terminal:
        assert "replay of 2024-04-08, 12:30" in output.err and "250/1000" in output.err and output.out == ""
    else:
        message = json.loads(output.out)["message"]
        assert message.startswith("replay of 2024-04-08: 250 of 1,000 updates, ")
        assert re.search(r"\d updates a second, .* left, at 12:30$", message)


def test_a_replay_is_told_of_while_it_runs_and_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[LiveState] = []
    notices: list[str | None] = []

    def end_at_once(steps: object, service: object, state: LiveState, *options: object) -> int:
        states.append(state)
        notices.append(state.notice)
        return 0

    monkeypatch.setattr(command, "list_steps", lambda *arguments: [])
    monkeypatch.setattr(command, "replay", end_at_once)
    stop = threading.Event()
    stop.set()
    command.run(Settings(store=tmp_path), command.Options(replay=date(2024, 4, 8), port=free_port()), stop)
    assert notices == ["This is a replay of 2024-04-08: the times are those of that day."]
    assert states[0].notice == "The replay of 2024-04-08 is over: this is its last moment."
