"""An archive that is away holds up no prediction, and what waited for it is written once it is there."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets.live import background_writer
from mbta_assets.live.background_writer import BackgroundWriter
from mbta_assets.live.command import make_state
from mbta_assets.live.following import FEED, ArchiveKeeper
from mbta_assets.realtime.places import ArchiveError, DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets_tests.support.dagster_dev import eventually


class SlowPlace(DirectoryPlace):
    """A directory that is written once `is_there` is set, as a bucket that is away may take minutes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.is_there = threading.Event()

    def add(self, path: str, content: bytes) -> None:
        """Wait, then write."""
        assert self.is_there.wait(60)
        super().add(path, content)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[SlowPlace]:
    slow = SlowPlace(tmp_path)
    yield slow
    slow.is_there.set()


def test_snapshots_wait_while_the_archive_is_away_and_none_is_lost(
    place: SlowPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_writer, "MAX_WAIT_SECONDS", 0.2)
    archive = FeedArchive(place)
    keep = ArchiveKeeper(archive, make_state(Settings()))
    began = time.monotonic()
    for second in range(50):
        keep(b"%d" % second, 1_700_000_000.0 + second, None)
    assert time.monotonic() - began < 20  # the first one alone is waited for
    place.is_there.set()

    def read() -> list[bytes]:
        snapshots = archive.read_snapshots(FEED, 0, float("inf"))
        return [snapshot.content for snapshot in snapshots if isinstance(snapshot, FetchedSnapshot)]

    eventually("all are written", 30, lambda: read() == [b"%d" % second for second in range(50)], 0.1)


def test_what_cannot_be_written_is_written_before_the_next_and_the_oldest_is_given_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written: list[int] = []
    reports: list[str | None] = []
    failing = True

    def write(number: int) -> None:
        if number == 5:
            raise LookupError("no such thing")
        if failing:
            raise ArchiveError("The disk is full.")
        written.append(number)

    writer = BackgroundWriter(write, reports.append, lambda number: 1, 3)
    for number in range(4):
        writer.add(number)
    assert (written, reports) == ([], ["The disk is full."] * 4)
    failing = False
    writer.add(4)
    assert (written, reports[4:]) == ([2, 3, 4], [None])
    writer.add(5)  # fails as no archive does
    writer.add(6)
    assert written == [2, 3, 4, 6]
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["LookupError" in entry.get("stack_trace", "") for entry in entries] == [False] * 4 + [True]
