"""Files of static feeds as agencies write them: each row is read, or rejected with its file, line and reason."""

import csv
import io
import json
import re
import zipfile
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.sources import SourceError
from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets.sources.gtfs.static_feed import StaticFeed
from mbta_assets.sources.gtfs.static_file import COLUMNS, read_static_file
from mbta_assets_tests.sources.gtfs.network import FILES, make_source, make_static_feed
from mbta_assets_tests.sources.gtfs.test_source import DAY, FREQUENCIES, FREQUENT, FREQUENT_TIMES, read_schedule

STOP_TIMES, STOPS, TRIPS = FILES["stop_times.txt"], FILES["stops.txt"], FILES["trips.txt"]


def read_rejected(directory: Path, table: str, **files: str) -> list[tuple[str, str | None, str, int]]:
    """Return the reason, column, file and line of each row that is rejected of a static feed with some other files."""
    rejected = make_source(directory, make_static_feed(**files)).read(table, DAY).rejected
    columns = rejected["column_name"].astype(object).where(rejected["column_name"].notna(), None)
    rows = [json.loads(row) for row in rejected["row"]]
    described = zip(rejected["reason"], columns, rows, strict=True)
    return [(reason, column, row["file"], row["line"]) for reason, column, row in described if "file" in row]


def test_rows_that_cannot_be_used_are_rejected_with_reason_file_and_line(tmp_path: Path) -> None:
    stop_times = STOP_TIMES + (
        "broken,row\nmorning,08:30:00,08:30:00,s1,11,1,x\nmorning,8h30,8h30,s1,12,1\nmorning,-8:30:00,,s1,13,1\n"
        "morning,99:00:00,99:00:00,s1,14,1\nmorning,08:30:00,08:30:00,s1,last,1\n\n,08:30:00,08:30:00,s1,15,1\n"
        "night,9999999999999999:00:00,,s1,16,1\nsunday,x,x,s1,17,1\n"
    )
    assert read_rejected(tmp_path / "schedule", "schedule", stop_times=stop_times) == [
        ("unreadable_row", None, "stop_times.txt", 9),
        ("unreadable_row", None, "stop_times.txt", 10),
        ("unreadable_value", "arrival_time", "stop_times.txt", 11),
        ("unreadable_value", "arrival_time", "stop_times.txt", 12),
        ("time_out_of_range", "arrival_time", "stop_times.txt", 13),
        ("unreadable_value", "stop_sequence", "stop_times.txt", 14),
        ("missing_value", "trip_id", "stop_times.txt", 16),
        ("unreadable_value", "arrival_time", "stop_times.txt", 17),  # that of line 18 is of a trip on Sundays
    ]
    trips = TRIPS + "R,,t,Third,,0\n"
    dates = "service_id,date,exception_type\ndaily,2026-05-12,2\ndaily,20260512,3\nsundays,20260513,1\n"
    assert read_rejected(tmp_path / "trip", "trip", trips=trips, calendar_dates=dates) == [
        ("missing_value", "service_id", "trips.txt", 5),
        ("unreadable_value", "date", "calendar_dates.txt", 2),
        ("unreadable_value", "exception_type", "calendar_dates.txt", 3),
    ]
    stops = STOPS.replace("First", '"The\nfirst"') + ",x,42,-71,0,\n"
    assert read_rejected(tmp_path / "stop", "stop", stops=stops) == [("missing_value", "stop_id", "stops.txt", 7)]


def test_only_a_comma_too_many_or_too_few_at_the_end_is_repaired(tmp_path: Path) -> None:
    stops = STOPS + (
        "s4,Fourth,42.1,-71.1,0,,\ns5,Fifth,42.1,-71.1,0\n"
        "s6,Sixth, at the corner,42.1,-71.1,,\ns7,42.1,-71.1,0,place\ns8,Eighth,42.1\ns9,Ninth,42.1,-71.1,0,,,\n"
    )
    rows = make_source(tmp_path / "read", make_static_feed(stops=stops)).read("stop", DAY).rows
    assert rows["id"].tolist() == ["s1", "s2", "s3", "s4", "s5"]
    rejected = read_rejected(tmp_path / "rejected", "stop", stops=stops)
    assert [line for _, _, _, line in rejected] == [8, 9, 10, 11]
    for name, changed in {
        "rows": STOP_TIMES.replace("\n", ",\n").replace("timepoint,", "timepoint"),
        "header": STOP_TIMES.replace("timepoint\n", "timepoint,\n"),
    }.items():
        source = make_source(tmp_path / name, make_static_feed(stop_times=changed))
        assert len(read_schedule(source)) == 5 and source.read("schedule", DAY).rejected.empty


@pytest.mark.parametrize(
    ("files", "problem"),
    {
        "open quote": ({"stops": STOPS.replace("s2,", '"s2,')}, r"quote in line 3 of stops\.txt of .* is not closed"),
        "columns": (
            {"stops": f"{STOPS.splitlines()[0]}\ns1,a,42,-71,0,\nb,c\n\nd,e\n"},
            r"2 of 3 rows of stops.*line 3",
        ),
        "dates": (
            {"calendar": FILES["calendar.txt"].replace("20260101", "2026-01-01")},
            r"2 of 2 values of start_date in calendar\.txt of .*'2026-01-01' in line 2\. Write days as 20260512",
        ),
        "header": ({"calendar": FILES["calendar.txt"].replace("service_id", "service")}, "calendar.*no service_id"),
        "twice": ({"stops": STOPS.replace("stop_name", "stop_id")}, "stops.txt of .* has the column stop_id 2 times"),
    }.values(),
    ids=["open quote", "columns", "dates", "header", "twice"],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(files: dict[str, str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=problem):
        make_source(tmp_path, make_static_feed(**files)).read("stop", DAY)


def test_words_for_missing_values_are_ids_as_others(tmp_path: Path) -> None:
    words = ["NA", "null", "nan", "None", "N/A", "NULL", "1.0"]
    static = make_static_feed(
        stops=STOPS + "".join(f"{word},{word},42.1,-71.1,0,\n" for word in words),
        trips=TRIPS + "".join(f"{word},{word},{word},{word},,0\n" for word in words),
        stop_times=STOP_TIMES + "".join(f"{word},08:00:00,08:00:00,{word},1,1\n" for word in words),
        calendar_dates="service_id,date,exception_type\n" + "".join(f"{word},20260512,1\n" for word in words),
    )
    source = make_source(tmp_path, static)
    assert set(words) <= set(source.read("stop", DAY).rows["id"])
    trips = source.read("trip", DAY).rows
    assert set(words) <= set(trips["id"]) and set(words) <= set(trips["route_id"])
    assert {(word, word) for word in words} <= set(read_schedule(source))


@pytest.mark.parametrize(
    ("row", "reason", "column"),
    [
        ("exact,10:00:00,11:00:00,0,1", "value_out_of_range", "headway_secs"),
        ("exact,10:00:00,11:00:00,-60,1", "unreadable_value", "headway_secs"),
        ("exact,10:00:00,11:00:00,,1", "missing_value", "headway_secs"),
        ("exact,12:00:00,11:00:00,600,1", "value_out_of_range", "end_time"),
        ("exact,x,11:00:00,600,1", "unreadable_value", "start_time"),
        ("exact,10:00,11:00:00,600,1", "unreadable_value", "start_time"),
        ("exact,10:00:00,999999:00:00,600,1", "time_out_of_range", "end_time"),
        ("exact,10:00:00,99999999999999999:00:00,600,1", "unreadable_value", "end_time"),
        ("exact,00:00:00,11:00:00,1,1", "value_out_of_range", "headway_secs"),  # 39,600 trips
        ("morning,x,11:00:00,600,0", "unreadable_value", "start_time"),
    ],
)
def test_a_wrong_row_of_frequencies_costs_itself(row: str, reason: str, column: str, tmp_path: Path) -> None:
    files = {"trips": FREQUENT, "stop_times": FREQUENT_TIMES, "frequencies": f"{FREQUENCIES}{row}\n"}
    assert read_rejected(tmp_path / "rejected", "schedule", **files) == [(reason, column, "frequencies.txt", 4)]
    schedule = read_schedule(make_source(tmp_path / "read", make_static_feed(**files)))
    assert {trip for trip, _ in schedule if "exact" in trip} == {"exact@09:00:00", "exact@09:30:00"}
    # A trip that repeats has no times of its own, even where it is not known when it runs.
    assert any(trip == "morning" for trip, _ in schedule) == (not row.startswith("morning"))


def test_the_feed_nearest_to_the_root_of_the_zip_is_read() -> None:
    def pack(*folders: str) -> StaticFeed:
        stored = io.BytesIO()
        with zipfile.ZipFile(stored, "w") as archive:
            for n, folder in enumerate(folders):
                for name, text in FILES.items():
                    archive.writestr(f"{folder}{name}", text.replace("morning", f"morning{n}"))
        return StaticFeed(stored.getvalue(), "a test")

    assert pack("feed/")._read("trips")["trip_id"][0].as_py() == "morning0"
    assert pack("feed/old/", "feed/")._read("trips")["trip_id"][0].as_py() == "morning1"
    with pytest.raises(StaticFeedError, match="a test has several feeds, in north/ and south/"):
        pack("north/", "south/").trips(DAY)


def test_a_file_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "gtfs.zip"
    file.write_bytes(make_static_feed())
    source = GtfsSource(DirectoryPlace(tmp_path / "archive"), str(file))
    assert source.read("trip", DAY).rows["id"].tolist() == ["morning", "night"]
    version = source.static_feeds.describe_version(DAY)
    file.write_bytes(make_static_feed(trips=TRIPS.replace("morning", "forenoon")))
    assert source.read("trip", DAY).rows["id"].tolist() == ["forenoon", "night"]
    assert source.static_feeds.describe_version(DAY) != version


def test_a_day_of_the_calendar_is_read_though_feed_info_has_ended(tmp_path: Path) -> None:
    info = "feed_publisher_name,feed_start_date,feed_end_date\nx,20250101,20260401\n"
    source = make_source(tmp_path, make_static_feed(feed_info=info))
    assert source.read("trip", DAY).rows["id"].tolist() == ["morning", "night"]


@pytest.mark.parametrize(("first", "last"), [("2026-05-01", "unlimited"), ("", ""), ("5/1/26", "12/31/26")])
def test_days_of_feed_info_that_are_none_leave_the_bounds_to_the_calendars(first: str, last: str) -> None:
    info = f"feed_publisher_name,feed_start_date,feed_end_date\nx,{first},{last}\n"
    feed = StaticFeed(make_static_feed(feed_info=info), "a test")
    assert feed.bounds == StaticFeed(make_static_feed(), "a test").bounds
    assert feed.covers(DAY) and not feed.covers(date(2030, 1, 1))


# A quote after a blank is taken for that of a padded value.
texts = st.text(st.sampled_from('aé7 ,"\n\r\t;🚋'), max_size=6).filter(lambda text: not re.search(r'\s"', text))


@given(
    rows=st.lists(st.tuples(texts, texts), max_size=8),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank=st.booleans(),
)
def test_a_file_is_read_as_it_was_written(
    rows: list[tuple[str, str]], encoding: str, line_end: str, blank: bool
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=line_end * (1 + blank), quoting=csv.QUOTE_ALL)
    writer.writerows([("stop_id ", " stop_name", "level"), *(("s", *row) for row in rows)])
    read = read_static_file(file.getvalue().encode(encoding), "stops", "a test")
    values = [(name.strip() or None) for name, _ in rows]
    assert read.rejected == [] and read.rows["stop_name"].to_pylist() == values


pieces = st.sampled_from(
    ["morning", "s1", "8:00:00", "1", "x", "é", "", " ", ",", ",", ",", '"', "\n", "\n", "\r\n", "\0"]
)


@given(table=st.sampled_from(sorted(COLUMNS)), body=st.lists(pieces, max_size=60).map("".join), utf8=st.booleans())
@example("stop_times", "morning,8:00:00,8:00:00,s1,1\n,,,,,,\n\n,,,,,\nmorning", True)
def test_each_row_is_read_or_rejected_with_its_line(table: str, body: str, utf8: bool) -> None:
    header = ",".join(COLUMNS[table])
    content = f"{header}\n{body}".encode("utf-8" if utf8 else "latin-1")
    try:
        read = read_static_file(content, table, "a test")
    except StaticFeedError as refusal:
        problem = str(refusal)
        assert f"{table}.txt of a test" in problem and "line" in problem  # noqa: PT017
        return
    begins, reader = [], csv.reader(io.StringIO(body, newline=""))
    last = 0
    for row in reader:
        if any(value.strip() for value in row):
            begins.append(last + 2)
        last = reader.line_num
    lines = [json.loads(row)["line"] for _, _, row in read.rejected]
    assert len(read.rows) + len(lines) == len(begins)
    assert set(lines) <= set(begins) and len(set(lines)) == len(lines)
