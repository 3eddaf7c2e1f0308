"""Files of the archive are downloaded once and whole, whatever the server does, and each failure is told as it is."""

import random
from collections.abc import Iterator
from datetime import date, timedelta

import pandas as pd
import pytest

from mbta_assets.sources import SourceError
from mbta_assets.sources.contract import FetchedDay
from mbta_assets.sources.lamp.archive import DAYS, LampArchive
from mbta_assets.sources.lamp.client import USER_AGENT, ArchiveClient, DownloadError
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import start_time
from mbta_assets_tests.support.lamp_archive import (
    SAMPLE_DAY,
    Fault,
    ServedArchive,
    make_stops,
    move_rows,
    read_sample,
    serve_archive,
    to_parquet,
)

pytestmark = pytest.mark.integration

THIRTY_DAYS = [date(2025, 10, 20) + timedelta(days=n) for n in range(30)]  # the clocks change on November 2
MISSING, WITHDRAWN, EMPTY, WITHOUT_BYTES, FAILED, DAMAGED = ODD_DAYS = THIRTY_DAYS[3:21:3]
USUAL_DAYS = [day for day in THIRTY_DAYS if day not in ODD_DAYS]
PASSING = [Fault.ERROR, Fault.UNAVAILABLE, Fault.TRUNCATED, Fault.CUT, Fault.SLOW]
"""Faults that pass."""
ROWS = read_sample(60)


@pytest.fixture(scope="module")
def thirty_days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedArchive]:
    """Serve thirty days, of which six are odd, half of the others after faults that pass; and the sample's day."""
    with serve_archive(tmp_path_factory.mktemp("store") / "lamp") as archive:
        for day in [SAMPLE_DAY, *THIRTY_DAYS]:
            archive.add_day(day, to_parquet(move_rows(ROWS, day)))
        del archive.index[MISSING]
        archive.add_day(EMPTY, to_parquet(ROWS.slice(0, 0)))
        archive.add_day(WITHOUT_BYTES, b"")
        for day, fault in ((WITHDRAWN, Fault.NOT_FOUND), (FAILED, Fault.ERROR), (DAMAGED, Fault.DAMAGED)):
            archive.always[archive.path(day)] = fault
        for year in (2024, 2025):
            archive.add_stops(year, make_stops(ROWS))
        draw = random.Random(1)
        for day in draw.sample(USUAL_DAYS, len(USUAL_DAYS) // 2):
            archive.faults[archive.path(day)] += draw.choices(PASSING, k=draw.choice([1, 2]))
        yield archive


@pytest.fixture(scope="module")
def fetched(thirty_days: ServedArchive) -> dict[date, FetchedDay]:
    """Fetch the thirty days, and return how each is."""
    return {day.service_date: day for day in thirty_days.open_source().fetch(THIRTY_DAYS)}


def test_days_that_failed_for_a_time_are_fetched(fetched: dict[date, FetchedDay]) -> None:
    assert {fetched[day].state for day in USUAL_DAYS} == {"fetched"}


@pytest.mark.parametrize(
    ("day", "state", "detail"),
    [
        (MISSING, "missing", "the archive's index does not have it"),
        (WITHDRAWN, "missing", "is not there, the server answers 404"),
        (EMPTY, "empty", "has no rows"),
        (WITHOUT_BYTES, "empty", "has no rows"),
        (FAILED, "failed", "could not be fetched in 3 attempts, the last: the server answers 500"),
        (DAMAGED, "failed", "is no Parquet file"),
    ],
)
def test_an_odd_day_is_told_as_what_it_is(fetched: dict[date, FetchedDay], day: date, state: str, detail: str) -> None:
    assert fetched[day].state == state
    assert detail in fetched[day].detail


@pytest.mark.parametrize("table", schema.UPSTREAM)
def test_every_usual_day_has_its_rows(thirty_days: ServedArchive, fetched: dict[date, FetchedDay], table: str) -> None:
    source = thirty_days.open_source()
    expected = source.read(table, SAMPLE_DAY).rows.drop(columns="service_date")
    assert len(expected) > 10
    for day in USUAL_DAYS:
        rows = source.read(table, day).rows
        assert set(rows.pop("service_date")) == {day}
        shift = start_time(day) - start_time(SAMPLE_DAY)
        for name in rows.select_dtypes("datetimetz"):
            rows[name] -= shift
        pd.testing.assert_frame_equal(rows, expected)


@pytest.mark.parametrize("table", schema.UPSTREAM)
def test_an_empty_day_has_no_rows_and_no_error(
    thirty_days: ServedArchive, fetched: dict[date, FetchedDay], table: str
) -> None:
    for day in (EMPTY, WITHOUT_BYTES):
        rows, rejected = thirty_days.open_source().read(table, day)
        pd.testing.assert_frame_equal(rows, schema.empty_frame(schema.UPSTREAM[table]))
        assert rejected.empty


@pytest.mark.parametrize(
    ("day", "problem"),
    [
        (MISSING, "the archive has no file of the day; it holds 2024-02-07 to 2025-11-18, 30 in all. Ask for"),
        (WITHDRAWN, "the file is not in the archive: .* the server answers 404. Try again later"),
        (FAILED, "could not be fetched in 3 attempts, the last: the server answers 500. Try again"),
        (DAMAGED, "is no Parquet file"),
    ],
)
def test_a_day_that_cannot_be_read_is_an_error_that_says_why(
    thirty_days: ServedArchive, fetched: dict[date, FetchedDay], day: date, problem: str
) -> None:
    with pytest.raises(SourceError, match=f"source lamp, table vehicle, service day {day}: .*{problem}"):
        thirty_days.open_source().read("vehicle", day)


def test_a_second_pass_downloads_nothing(thirty_days: ServedArchive, fetched: dict[date, FetchedDay]) -> None:
    thirty_days.answers.clear()
    source = thirty_days.open_source()
    again = {day.service_date: day.state for day in source.fetch(USUAL_DAYS)}
    for day in USUAL_DAYS:
        source.read("schedule", day)
    assert set(again.values()) == {"cached"}
    assert [answer.path for answer in thirty_days.answers] == [f"{DAYS}/index.csv", "gtfs_archive/2025/stops.parquet"]
    assert {answer.status for answer in thirty_days.answers} == {304}
    assert sum(answer.sent_bytes for answer in thirty_days.answers) == 0


def test_a_request_names_the_project(thirty_days: ServedArchive, fetched: dict[date, FetchedDay]) -> None:
    thirty_days.open_source().archive.read_index()
    assert {answer.user_agent for answer in thirty_days.answers} == {USER_AGENT}
    assert "mbta_assets" in USER_AGENT


def test_a_download_that_is_cut_off_is_continued(archive: ServedArchive) -> None:
    content = to_parquet(read_sample())
    path = archive.add_day(SAMPLE_DAY, content)
    archive.faults[path] = [Fault.TRUNCATED, Fault.TRUNCATED]
    copy = archive.open_source().archive.fetch_day(SAMPLE_DAY)
    assert copy.path.read_bytes() == content
    answers = [answer for answer in archive.answers if answer.path == path]
    assert [answer.status for answer in answers] == [200, 206, 206]
    assert sum(answer.sent_bytes for answer in answers) == len(content)


def test_a_download_is_continued_by_the_next_process(archive: ServedArchive) -> None:
    content = to_parquet(read_sample())
    path = archive.add_day(SAMPLE_DAY, content)
    archive.faults[path] = [Fault.TRUNCATED] * 3
    with pytest.raises(DownloadError, match="could not be fetched in 3 attempts"):
        archive.open_source().archive.fetch_day(SAMPLE_DAY)
    archive.answers.clear()
    assert archive.open_source().archive.fetch_day(SAMPLE_DAY).path.read_bytes() == content
    [answer] = [answer for answer in archive.answers if answer.path == path]
    assert answer.status == 206 and answer.sent_bytes < len(content) / 4


def test_a_part_of_another_edition_is_not_continued(archive: ServedArchive) -> None:
    path = archive.add_day(SAMPLE_DAY, to_parquet(read_sample()))
    archive.faults[path] = [Fault.TRUNCATED] * 3
    with pytest.raises(DownloadError):
        archive.open_source().archive.fetch_day(SAMPLE_DAY)
    content = to_parquet(read_sample(1000))
    archive.add_day(SAMPLE_DAY, content, "2026-02-02 12:00:00")
    assert archive.open_source().archive.fetch_day(SAMPLE_DAY).path.read_bytes() == content


def test_a_revised_day_is_downloaded_again_and_no_other(archive: ServedArchive) -> None:
    next_day = SAMPLE_DAY + timedelta(days=1)
    for day in (SAMPLE_DAY, next_day):
        archive.add_day(day, to_parquet(move_rows(ROWS, day)))
    assert [day.state for day in archive.open_source().fetch([SAMPLE_DAY, next_day])] == ["failed"] * 2  # no stops
    archive.add_stops(2024, make_stops(ROWS))
    before = archive.open_source()
    assert [day.state for day in before.fetch([SAMPLE_DAY, next_day])] == ["cached"] * 2
    archive.add_day(next_day, to_parquet(move_rows(ROWS.slice(0, 30), next_day)), "2026-02-02 12:00:00")
    assert [day.state for day in archive.open_source().fetch([SAMPLE_DAY, next_day])] == ["cached", "fetched"]
    # A run that has begun reads what it has begun with.
    assert len(before.read("schedule", next_day).rows) > len(archive.open_source().read("schedule", next_day).rows)


def test_a_day_that_is_revised_after_the_index_was_read_is_what_the_index_then_says(archive: ServedArchive) -> None:
    archive.add_day(SAMPLE_DAY, to_parquet(ROWS))
    source = archive.open_source()
    source.archive.read_index()
    content = to_parquet(ROWS.slice(0, 30))
    archive.add_day(SAMPLE_DAY, content, "2026-02-02 12:00:00")
    assert source.archive.fetch_day(SAMPLE_DAY).path.read_bytes() == content


def test_a_copy_that_is_damaged_is_downloaded_again(archive: ServedArchive) -> None:
    content = to_parquet(ROWS)
    archive.add_day(SAMPLE_DAY, content)
    copy = archive.open_source().archive.fetch_day(SAMPLE_DAY)
    copy.path.write_bytes(content[:-1] + b"x")
    again = archive.open_source().archive.fetch_day(SAMPLE_DAY)
    assert again.downloaded and again.path.read_bytes() == content


def test_copies_are_read_while_the_archive_cannot_be_reached(archive: ServedArchive) -> None:
    archive.add_day(SAMPLE_DAY, to_parquet(ROWS))
    archive.add_stops(2024, make_stops(ROWS))
    rows = archive.open_source().read("vehicle", SAMPLE_DAY).rows
    for path in archive.files:
        archive.always[path] = Fault.ERROR
    pd.testing.assert_frame_equal(archive.open_source().read("vehicle", SAMPLE_DAY).rows, rows)
    with pytest.raises(SourceError, match="source lamp, table vehicle: .*answers 500"):
        archive.open_source().poll("vehicle", {})  # nothing that has not changed is said to


def test_requests_are_apart_by_the_interval(archive: ServedArchive) -> None:
    days = [SAMPLE_DAY + timedelta(days=n) for n in range(4)]
    for day in days:
        archive.add_day(day, to_parquet(ROWS))
    reader = LampArchive(archive.url, archive.store, ArchiveClient(min_interval=0.2))
    for day in days:
        reader.fetch_day(day)
    times = [answer.time for answer in archive.answers]
    assert times[-1] - times[1] > 3 * 0.2 - 0.1


def test_a_server_that_asks_to_wait_is_waited_for(archive: ServedArchive) -> None:
    path = archive.add_day(SAMPLE_DAY, to_parquet(ROWS))
    archive.faults[path] = [Fault.TOO_MANY]
    archive.open_source().archive.fetch_day(SAMPLE_DAY)
    first, second = [answer.time for answer in archive.answers if answer.path == path]
    assert second - first >= 1.0


def test_an_address_that_is_no_archive_is_an_error_that_names_the_setting(archive: ServedArchive) -> None:
    archive.files[f"{DAYS}/index.csv"] = b"<html><body>welcome</body></html>"
    with pytest.raises(SourceError, match="no column service_date and no file_url.*MBTA_LAMP_URL"):
        archive.open_source().read("vehicle", SAMPLE_DAY)
    assert list(archive.store.glob("pins/*")) == []


def test_versions_change_with_the_file_and_with_the_stops_of_the_day(archive: ServedArchive) -> None:
    next_day = SAMPLE_DAY + timedelta(days=1)
    for day in (SAMPLE_DAY, next_day):
        archive.add_day(day, to_parquet(move_rows(ROWS, day)))
    stops = make_stops(ROWS, last=20240207)
    later = make_stops(ROWS, first=20240208)
    archive.add_stops(2024, pd.concat([stops, later]))
    before = {table: archive.open_source().poll(table, {}) for table in schema.UPSTREAM}
    assert set(before["vehicle"]) == {SAMPLE_DAY, next_day}
    archive.add_stops(2024, pd.concat([stops, later.assign(stop_lat=later["stop_lat"] + 0.001)]))
    after = {table: archive.open_source().poll(table, {}) for table in schema.UPSTREAM}
    changed = {(table, day) for table in after for day in after[table] if after[table][day] != before[table][day]}
    assert changed == {("vehicle", next_day), ("stop", next_day)}
    archive.add_day(SAMPLE_DAY, to_parquet(ROWS), "2026-02-02 12:00:00")
    last = {table: archive.open_source().poll(table, {}) for table in schema.UPSTREAM}
    changed = {(table, day) for table in last for day in last[table] if last[table][day] != after[table][day]}
    assert changed == {(table, SAMPLE_DAY) for table in schema.UPSTREAM}
