"""Reading the timetable of a day holds nobody up who has one."""

import threading
from datetime import date, timedelta
from pathlib import Path

import pytest

from mbta_assets.live import timetables
from mbta_assets.live.timetables import Timetables
from mbta_assets.serving import Timetable
from mbta_assets_tests.sources.gtfs.network import local_time, make_source
from mbta_assets_tests.sources.gtfs.test_source import ANOTHER

DAY = date(2026, 5, 12)


class SlowTimetables(Timetables):
    """Timetables that are read once `go_on` is set."""

    def __init__(self, directory: Path) -> None:
        self.source = make_source(directory)
        super().__init__(self.source)
        self.go_on = threading.Event()
        self.loaded: list[date] = []

    def _load(self, day: date) -> Timetable:
        self.loaded.append(day)
        assert self.go_on.wait(60)
        return super()._load(day)

    def read_now(self, day: date) -> Timetable | None:
        """Read a timetable that does not wait."""
        self.go_on.set()
        timetable = self.read(day)
        self.go_on.clear()
        return timetable


def list_trips(timetable: Timetable | None) -> set[str | None]:
    """Return the ids of the trips of a timetable."""
    assert timetable
    return set(timetable.trips)


def test_a_day_that_is_read_ahead_does_not_hold_up_today(tmp_path: Path) -> None:
    slow = SlowTimetables(tmp_path)
    today = slow.read_now(DAY)
    thread = slow.read_ahead(DAY + timedelta(days=1))
    assert slow.read_ahead(DAY + timedelta(days=1)) is thread
    assert slow.read(DAY) is today and today
    slow.go_on.set()
    thread.join()
    assert slow.loaded == [DAY, DAY + timedelta(days=1)]
    assert list_trips(slow.read(DAY + timedelta(days=1))) == {"morning", "night"}


def test_another_edition_is_read_while_the_one_before_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowTimetables(tmp_path)
    before = slow.read_now(DAY)
    slow.source.static_feeds.editions.add(ANOTHER, local_time(DAY, "06:00"), "a test")
    assert slow.read(DAY) is before  # until the next check
    monkeypatch.setattr(timetables, "CHECK_SECONDS", 0.0)
    assert slow.read(DAY) is before
    slow.go_on.set()
    slow.read_ahead(DAY).join()
    assert list_trips(slow.read(DAY)) == {"other"}


def test_a_timetable_that_fails_unexpectedly_is_a_problem_until_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Timetables(make_source(tmp_path))

    def fail(day: date) -> Timetable:
        raise LookupError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(read, "_load", fail)
        assert read.read(DAY) is None and read.read(DAY) is None
    assert "LookupError: no such thing" in read.problems[DAY]
    read.read_ahead(DAY).join()
    assert list_trips(read.read(DAY)) == {"morning", "night"} and not read.problems
