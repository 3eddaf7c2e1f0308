"""Service days from static feeds and archived snapshots, with expectations that were worked out by hand."""

import json
import zipfile
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources import SourceError, open_source
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets.transit import schema
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.network import FILES, local_time, make_source, make_static_feed

WMATA = Path(__file__).parents[2] / "data" / "wmata"
WMATA_DAY = date(2026, 2, 16)
DAY = date(2026, 5, 12)
"""A Tuesday."""
FREQUENT = FILES["trips.txt"] + "F,daily,shuttle,Loop,,0\nF,daily,exact,Loop,,0\n"
FREQUENT_TIMES = FILES["stop_times.txt"] + (
    "shuttle,00:00:00,00:00:00,s1,1,1\nshuttle,00:10:00,00:10:00,s2,2,1\n"
    "exact,05:00:00,05:00:00,s1,1,1\nexact,05:10:00,05:10:00,s2,2,1\n"
)
FREQUENCIES = (
    "trip_id,start_time,end_time,headway_secs,exact_times\nshuttle,06:00:00,22:00:00,600,0\n"
    "exact,09:00:00,10:00:00,1800,1\n"
)


def utc(text: str) -> pd.Timestamp:
    """Return a time in UTC."""
    return pd.Timestamp(text, tz="UTC")


def report(clock: str, vehicle_id: str = "v", day: date = DAY, **trip: Any) -> tuple[int, dict[str, Any]]:
    """Return the time of a report, local and possibly past 24:00, and its entity."""
    time = local_time(day, clock)
    return time, vehicle(vehicle_id, time, trip=trip, stop_id="s1", current_status="STOPPED_AT")


def read_trips(source: GtfsSource, day: date = DAY) -> dict[str, str | None]:
    """Return the trip of each vehicle that reported on a service day; none if there is no snapshot of it."""
    with suppress(SourceError):
        rows = source.read("vehicle", day).rows
        return dict(zip(rows["id"], rows["trip_id"].astype(object).where(rows["trip_id"].notna(), None), strict=True))
    return {}


def read_schedule(source: GtfsSource, day: date = DAY) -> list[tuple[str, str]]:
    """Return the trip and stop of each stop time of a service day."""
    rows = source.read("schedule", day).rows
    return list(zip(rows["trip_id"], rows["stop_id"], strict=True))


def test_the_tables_of_a_day_are_those_of_the_contract(tmp_path: Path) -> None:
    time, entity = report("08:00", trip_id="morning", start_date="20260512")
    source = make_source(tmp_path, positions={time: [entity]})
    tables = {table: source.read(table, DAY) for table in schema.UPSTREAM}
    for table, read in tables.items():
        schema.UPSTREAM[table].validate(read.rows)
        assert read.rejected.empty
    assert tables["stop"].rows["id"].tolist() == ["s1", "s2", "s3"]  # neither stations nor entrances
    assert tables["stop"].rows["parent_station"].tolist()[2] == "place-third"
    assert tables["trip"].rows["id"].tolist() == ["morning", "night"]
    assert tables["trip"].rows["headsign"].tolist() == ["Third", "Third"]
    times = tables["schedule"].rows.set_index(["trip_id", "stop_sequence"])
    assert times.loc[("morning", 1), "departure_time"] == utc("2026-05-12 12:00:00")
    assert times.loc[("morning", 9), "departure_time"] == utc("2026-05-12 12:20:30")
    assert times["arrival_time"].isna().tolist() == [False, True, False, False, False]  # the join interpolates it
    assert times["timepoint"].tolist()[:2] == [1, 0]
    assert times["timepoint"].isna().tolist() == [False, False, True, False, False]
    assert times.loc[("night", 9), "arrival_time"] == utc("2026-05-13 07:40:00")
    [row] = tables["vehicle"].rows.to_dict("records")
    assert row["updated_at"] == utc("2026-05-12 12:00:00")
    assert (row["route_id"], row["direction_id"]) == ("R", 0)  # of the timetable, as the report has none


# Noon minus twelve hours is 11 pm of the day before when the clocks go forward at 2 am, and 1 am when they go back.
DST = {
    "forward": (date(2026, 3, 8), "2026-03-08 12:00:00", "2026-03-09 05:30:00"),
    "back": (date(2026, 11, 1), "2026-11-01 13:00:00", "2026-11-02 06:30:00"),
    "the day before": (date(2026, 3, 7), "2026-03-07 13:00:00", "2026-03-08 06:30:00"),
}


@pytest.mark.parametrize(("day", "morning", "night"), DST.values(), ids=list(DST))
def test_times_count_from_noon_minus_twelve_hours(day: date, morning: str, night: str, tmp_path: Path) -> None:
    rows = make_source(tmp_path).read("schedule", day).rows.set_index(["trip_id", "stop_sequence"])
    assert rows.loc[("morning", 1), "departure_time"] == utc(morning)
    assert rows.loc[("night", 1), "departure_time"] == utc(night)
    assert ("sunday", 1) in rows.index or day.weekday() != 6


def test_times_before_the_change_of_clocks_are_an_hour_off_the_wall_clock(tmp_path: Path) -> None:
    early = FILES["stop_times.txt"] + "early,01:30:00,01:30:00,s1,1,1\nearly,01:50:00,01:50:00,s2,2,1\n"
    static = make_static_feed(trips=FILES["trips.txt"] + "R,daily,early,Third,,0\n", stop_times=early)
    rows = make_source(tmp_path, static).read("schedule", date(2026, 3, 8)).rows.set_index(["trip_id", "stop_id"])
    # The day began at 11 pm EST, so that 1:30 of the timetable is 12:30 am EST.
    assert rows.loc[("early", "s1"), "departure_time"] == utc("2026-03-08 05:30:00")


@pytest.mark.parametrize(
    ("clock", "trip", "expected"),
    [
        ("08:05", {"trip_id": "morning"}, DAY),
        ("25:35", {"trip_id": "night"}, DAY),  # before the day turns
        ("27:20", {"trip_id": "night"}, DAY),  # and after it, while the trip still runs
        ("27:50", {"trip_id": "night"}, DAY),  # ten minutes late
        ("27:20", {"trip_id": "unknown"}, DAY + timedelta(days=1)),  # nothing but the time tells
        ("26:50", {}, DAY),
        ("27:10", {}, DAY + timedelta(days=1)),
        ("27:20", {"trip_id": "night", "start_date": "20260513"}, DAY + timedelta(days=1)),  # what the agency says
        ("08:05", {"trip_id": "morning", "start_date": "20260511"}, DAY - timedelta(days=1)),
    ],
)
def test_a_report_is_of_the_service_day_of_its_start_date_or_its_time(
    clock: str, trip: dict[str, Any], expected: date, tmp_path: Path
) -> None:
    time, entity = report(clock, **trip)
    source = make_source(tmp_path, positions={time: [entity]})
    days = [DAY + timedelta(days=n) for n in (-1, 0, 1)]
    # The report of a trip of two days ago comes too late for that day.
    found = [day for day in days if read_trips(source, day)]
    assert found == ([] if expected < DAY else [expected])


def test_added_and_canceled_trips_have_ids_of_their_own(tmp_path: Path) -> None:
    time = local_time(DAY, "08:10")
    relationships = ["ADDED", "CANCELED", "DUPLICATED", "UNSCHEDULED", "NEW", "SCHEDULED"]
    entities = [report("08:10", name, trip_id="morning", schedule_relationship=name)[1] for name in relationships]
    entities.append(report("08:10", "own", trip_id="ADDED-15", schedule_relationship="ADDED")[1])
    trips = read_trips(make_source(tmp_path, positions={time: entities}))
    assert trips == {
        "ADDED": "ADDED-morning",
        "CANCELED": "CANCELED-morning",
        "DUPLICATED": "DUPLICATED-morning",
        "UNSCHEDULED": "UNSCHEDULED-morning",
        "NEW": "NEW-morning",
        "SCHEDULED": "morning",
        "own": "ADDED-15",
    }


def update(time: int, trip_id: str, relationship: str = "SCHEDULED", *stops: dict[str, Any]) -> dict[str, Any]:
    """Return the entity of an update of a trip."""
    trip = {"trip_id": trip_id, "start_date": f"{DAY:%Y%m%d}", "schedule_relationship": relationship}
    return {"id": trip_id, "trip_update": {"trip": trip, "timestamp": time, "stop_time_update": list(stops)}}


def test_canceled_trips_and_skipped_stops_are_no_targets_and_are_counted(tmp_path: Path) -> None:
    first, second = local_time(DAY, "07:00"), local_time(DAY, "08:10")
    skipped = {"stop_sequence": 5, "schedule_relationship": "SKIPPED"}
    updates = {
        first: [update(first, "night", "CANCELED"), update(first, "morning", "SCHEDULED", skipped)],
        second: [update(second, "morning", "SCHEDULED", {"stop_sequence": 9, "arrival": {"time": second + 60}})],
    }
    source = make_source(tmp_path, updates=updates)
    read = source.read("schedule", DAY)
    assert read_schedule(source) == [("morning", "s1"), ("morning", "s3")]
    assert read.rejected["reason"].tolist() == ["skipped_stop", "canceled_trip", "canceled_trip"]
    assert json.loads(read.rejected["row"][0])["stop_id"] == "s2"
    # On other days nothing is altered.
    assert len(read_schedule(source, DAY + timedelta(days=1))) == 5


def test_a_trip_that_runs_after_all_is_a_target(tmp_path: Path) -> None:
    first, second = local_time(DAY, "07:00"), local_time(DAY, "07:30")
    skipped = {"stop_id": "s2", "schedule_relationship": "SKIPPED"}
    updates = {
        first: [update(first, "night", "CANCELED"), update(first, "morning", "SCHEDULED", skipped)],
        second: [
            update(second, "night"),
            update(second, "morning", "SCHEDULED", {"stop_id": "s2", "arrival": {"time": second}}),
        ],
    }
    assert len(read_schedule(make_source(tmp_path, updates=updates))) == 5


def test_trips_that_repeat_are_told_by_their_starts(tmp_path: Path) -> None:
    static = make_static_feed(trips=FREQUENT, stop_times=FREQUENT_TIMES, frequencies=FREQUENCIES)
    time = local_time(DAY, "09:05")
    entities = [
        report("09:05", "a", trip_id="shuttle", start_time="08:55:00", start_date="20260512")[1],
        report("09:05", "b", trip_id="shuttle", start_time="09:05:00", schedule_relationship="UNSCHEDULED")[1],
        report("09:05", "c", trip_id="shuttle")[1],
        report("09:05", "d", trip_id="exact", start_time="09:00:00")[1],
        report("09:05", "e", route_id="F", direction_id=0, start_time="09:30:00", start_date="20260512")[1],
    ]
    source = make_source(tmp_path, static, positions={time: entities})
    assert read_trips(source) == {
        "a": "shuttle@08:55:00", "b": "shuttle@09:05:00", "c": "shuttle", "d": "exact@09:00:00", "e": "exact@09:30:00",
    }  # fmt: skip
    read = source.read("schedule", DAY)
    runs = read.rows[read.rows["trip_id"].str.contains("exact")].set_index(["trip_id", "stop_id"])["arrival_time"]
    assert runs.to_dict() == {
        ("exact@09:00:00", "s1"): utc("2026-05-12 13:00:00"),
        ("exact@09:00:00", "s2"): utc("2026-05-12 13:10:00"),
        ("exact@09:30:00", "s1"): utc("2026-05-12 13:30:00"),
        ("exact@09:30:00", "s2"): utc("2026-05-12 13:40:00"),
    }
    assert not read.rows["trip_id"].str.contains("shuttle").any()
    assert read.rejected["reason"].tolist() == ["frequency_based"]
    assert json.loads(read.rejected["row"][0])["trip_id"] == "shuttle"


def test_a_missing_trip_id_is_told_from_route_direction_and_start(tmp_path: Path) -> None:
    time = local_time(DAY, "08:05")
    start = {"start_date": "20260512", "start_time": "08:00:00"}
    descriptions: dict[str, dict[str, Any]] = {
        "told": {"route_id": "R", "direction_id": 0, **start},
        "by route": {"route_id": "R", **start},
        "without a date": {"route_id": "R", "direction_id": 0, "start_time": "08:00:00"},
        "padded": {"route_id": "R", "direction_id": 0, "start_date": "20260512", "start_time": "8:00:00"},
        "other direction": {"route_id": "R", "direction_id": 1, **start},
        "other start": {"route_id": "R", "direction_id": 0, "start_date": "20260512", "start_time": "08:01:00"},
        "two": {"route_id": "T", "direction_id": 0, **start},
        "no start": {"route_id": "R", "direction_id": 0},
        "added": {"route_id": "R", "direction_id": 0, "schedule_relationship": "ADDED", **start},
    }
    entities = [report("08:05", name, **trip)[1] for name, trip in descriptions.items()]
    both = "T,daily,t1,Third,,0\nT,daily,t2,Third,,0\n"
    times = "".join(f"{trip},08:00:00,08:00:00,s1,1,1\n{trip},08:10:00,08:10:00,s2,2,1\n" for trip in ("t1", "t2"))
    static = make_static_feed(trips=FILES["trips.txt"] + both, stop_times=FILES["stop_times.txt"] + times)
    trips = read_trips(make_source(tmp_path, static, positions={time: entities}))
    assert trips == dict.fromkeys(descriptions) | dict.fromkeys(
        ["told", "by route", "without a date", "padded"], "morning"
    )


def test_a_report_without_a_stop_is_at_that_of_its_sequence(tmp_path: Path) -> None:
    time = local_time(DAY, "08:05")
    entities = [
        vehicle("known", time, trip={"trip_id": "morning"}, current_stop_sequence=5),
        vehicle("unknown", time, trip={"trip_id": "morning"}, current_stop_sequence=6),
        vehicle("zero", time, trip={"trip_id": "morning"}, current_stop_sequence=0),
    ]
    rows = make_source(tmp_path, positions={time: entities}).read("vehicle", DAY).rows.set_index("id")
    assert rows.loc["known", "stop_id"] == "s2"
    assert rows.loc["known", "current_status"] == "IN_TRANSIT_TO"  # as the standard says where a feed does not
    assert rows["stop_id"].isna().tolist() == [False, True, True]
    assert rows["current_stop_sequence"].tolist() == [5, 6, 0]


def test_calendar_dates_add_and_remove_service(tmp_path: Path) -> None:
    dates = "service_id,date,exception_type\ndaily,20260512,2\nsundays,20260512,1\nextra,20260513,1\n"
    static = make_static_feed(calendar_dates=dates, trips=FILES["trips.txt"] + "R,extra,special,Third,,0\n")
    source = make_source(tmp_path, static)
    trips = {n: source.read("trip", DAY + timedelta(days=n)).rows["id"].tolist() for n in (0, 1, 5)}
    assert trips == {0: ["sunday"], 1: ["morning", "night", "special"], 5: ["morning", "night", "sunday"]}


def test_a_static_feed_as_agencies_write_it(tmp_path: Path) -> None:
    static = make_static_feed(
        stops="\ufeffstop_name,stop_id \r\n\"First, at the corner\", s1\r\nSecond,s2\r\n\r\n",
        trips="trip_id,service_id,route_id\r\nmorning,extra,R\r\n",
        stop_times="stop_sequence,stop_id,trip_id,arrival_time,departure_time\n"
        "2,s2,morning, 8:20:00, 8:20:00\n1,s1,morning,08:00:00,08:00:00\nbroken,row\n",
        calendar="", calendar_dates="service_id,date,exception_type\nextra,20260512,1\n", agency="",
    )  # fmt: skip
    source = make_source(tmp_path, static)
    assert source.read("stop", DAY).rows["name"].tolist() == ["First, at the corner", "Second"]
    assert source.read("trip", DAY).rows["direction_id"].isna().all()
    rows = source.read("schedule", DAY).rows
    assert rows["stop_id"].tolist() == ["s1", "s2"]
    assert rows["arrival_time"].tolist() == [utc("2026-05-12 12:00:00"), utc("2026-05-12 12:20:00")]
    assert rows["timepoint"].isna().all()


ANOTHER = make_static_feed(trips="route_id,service_id,trip_id\nR,daily,other\n", stop_times=FILES["stop_times.txt"])
NEXT_YEAR = make_static_feed(calendar=FILES["calendar.txt"].replace("2026", "2027"))


def test_the_edition_that_was_valid_at_noon_is_used(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    editions = source.static_feeds.editions
    editions.add(NEXT_YEAR, local_time(DAY, "06:00"), "a test")  # ahead of its first day
    editions.add(ANOTHER, local_time(DAY, "14:00"), "a test")  # in the middle of the week, after noon
    trips = [source.read("trip", DAY + timedelta(days=n)).rows["id"].tolist() for n in (-1, 0, 1)]
    assert trips == [["morning", "night"], ["morning", "night"], ["other"]]
    assert source.read("trip", date(2027, 5, 12)).rows["id"].tolist() == ["morning", "night"]
    # Of a time before anything was seen, the first edition with a timetable counts.
    late = GtfsSource(DirectoryPlace(tmp_path / "late"), "https://feeds.example/gtfs.zip")
    for second, static in enumerate([NEXT_YEAR, ANOTHER, make_static_feed()]):
        late.static_feeds.editions.add(static, local_time(DAY, "23:00") + second, "a test")
    assert late.read("trip", DAY).rows["id"].tolist() == ["other"]


def test_a_day_without_a_timetable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"table trip, service day 2028-01-01: No static feed .* 20260101 to 2026"):
        make_source(tmp_path).read("trip", date(2028, 1, 1))
    empty = GtfsSource(DirectoryPlace(tmp_path / "empty"), "https://feeds.example/gtfs.zip")
    with pytest.raises(SourceError, match="Run `mbta-assets collect`, or set MBTA_GTFS_STATIC"):
        empty.read("schedule", DAY)
    with pytest.raises(SourceError, match=r"there is no snapshot of vehicle_positions in .* holds no rows at all"):
        make_source(tmp_path).read("vehicle", DAY)


def test_another_time_zone_is_refused(tmp_path: Path) -> None:
    static = make_static_feed(agency=FILES["agency.txt"].replace("America/New_York", "Pacific/Auckland"))
    with pytest.raises(SourceError, match=r"Pacific/Auckland, and MBTA_TIME_ZONE is America/New_York\. Set it to Pac"):
        make_source(tmp_path, static).read("schedule", DAY)


def test_a_static_feed_without_a_required_column_is_refused(tmp_path: Path) -> None:
    static = make_static_feed(trips="route_id,trip_id\nR,morning\n")
    with pytest.raises(SourceError, match=r"trips.txt of .* has no service_id, but route_id, trip_id"):
        make_source(tmp_path, static).read("trip", DAY)


def test_an_unreadable_snapshot_costs_itself(tmp_path: Path) -> None:
    time, entity = report("08:00", trip_id="morning")
    source = make_source(tmp_path, positions={time: [entity]})
    FeedArchive(source.archive.place).append("vehicle_positions", [FetchedSnapshot(time + 1, b"<html>")])
    read = source.read("vehicle", DAY)
    assert len(read.rows) == 1
    assert read.rejected["reason"].tolist() == ["unreadable_snapshot"]
    assert "<html>" in read.rejected["row"][0]
    alone = make_source(tmp_path / "alone")
    FeedArchive(alone.archive.place).append("vehicle_positions", [FetchedSnapshot(time, b"<html>")])
    with pytest.raises(SourceError, match=r"none of the 1 snapshots can be read; the first: .*<html>.* Restore them"):
        alone.read("vehicle", DAY)


def test_the_predictions_that_riders_saw_are_kept_when_they_change(tmp_path: Path) -> None:
    first, second, third = (local_time(DAY, clock) for clock in ("08:01", "08:02", "08:03"))

    def predict(time: int, arrival: int) -> list[dict[str, Any]]:
        by_time = {"stop_sequence": 5, "stop_id": "s2", "arrival": {"time": arrival, "uncertainty": 60}}
        by_delay = {"stop_sequence": 9, "arrival": {"delay": 90}}
        no_data = {"stop_sequence": 1, "schedule_relationship": "NO_DATA"}
        return [update(time, "morning", "SCHEDULED", no_data, by_time, by_delay)]

    arrival = local_time(DAY, "08:11")
    snapshots = {first: predict(first, arrival), second: predict(second, arrival), third: predict(third, arrival + 30)}
    rows = make_source(tmp_path, updates=snapshots).read("agency_predictions", DAY).rows
    described = [tuple(row) for row in rows[["predicted_at", "stop_id", "stop_sequence", "arrival_time"]].to_numpy()]
    assert described == [
        (utc("2026-05-12 12:01"), "s2", 5, utc("2026-05-12 12:11")),
        (utc("2026-05-12 12:01"), "s3", 9, utc("2026-05-12 12:21:30")),
        (utc("2026-05-12 12:03"), "s2", 5, utc("2026-05-12 12:11:30")),
    ]
    assert rows["uncertainty"].tolist()[0] == 60


def test_a_day_without_trip_updates_has_no_predictions(tmp_path: Path) -> None:
    time, entity = report("08:00", trip_id="morning")
    read = make_source(tmp_path, positions={time: [entity]}).read("agency_predictions", DAY)
    assert read.rows.empty and read.rejected.empty
    schema.AgencyPredictions.validate(read.rows)


def test_a_version_changes_with_what_the_table_is_made_of(tmp_path: Path) -> None:
    time, entity = report("08:00", trip_id="morning")
    source = make_source(tmp_path, positions={time: [entity]})
    tables = [*schema.UPSTREAM, "agency_predictions"]
    first = {table: source.poll(table, {}) for table in tables}
    assert {table: list(versions) for table, versions in first.items()} == {
        **dict.fromkeys(schema.UPSTREAM, [DAY]), "agency_predictions": [],
    }  # fmt: skip
    assert {table: source.poll(table, first[table]) for table in tables} == first

    later, other = report("28:00", "w", trip_id="night")
    FeedArchive(source.archive.place).append("vehicle_positions", [FetchedSnapshot(later, make_feed(later, [other]))])
    second = {table: source.poll(table, {}) for table in tables}
    changed = {table for table in tables if second[table].get(DAY) != first[table].get(DAY)}
    assert changed == {"vehicle"}
    assert list(second["vehicle"]) == [DAY, DAY + timedelta(days=1)]

    FeedArchive(source.archive.place).append("trip_updates", [FetchedSnapshot(time, make_feed(time, []))])
    third = {table: source.poll(table, {}) for table in tables}
    assert {table for table in tables if third[table].get(DAY) != second[table].get(DAY)} == {
        "schedule", "agency_predictions",
    }  # fmt: skip

    source.static_feeds.editions.add(ANOTHER, local_time(DAY, "03:00"), "a test")
    fourth = {table: source.poll(table, {}) for table in tables}
    assert all(fourth[table][DAY] != third[table][DAY] for table in tables)


def test_a_day_that_is_not_over_has_no_version_yet(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    calendar = FILES["calendar.txt"].replace("20260101", "20000101").replace("20261231", "20991231")
    static = make_static_feed(calendar=calendar)
    times = [int((now - timedelta(days=n)).timestamp()) for n in range(5)]
    source = make_source(tmp_path, static, positions={time: [vehicle("v", time)] for time in times})
    days = list(source.poll("vehicle", {}))
    assert len(days) >= 2
    assert max(days) < now.date()
    assert all(datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=30) <= now for day in days)


def test_a_day_that_was_settled_long_ago_is_not_read_again(tmp_path: Path) -> None:
    time, entity = report("08:00", trip_id="morning")
    source = make_source(tmp_path, positions={time: [entity]})
    assert source.poll("vehicle", {DAY: "as it was"}) == {DAY: "as it was"}
    (tmp_path / f"{time}.pb").write_bytes(make_feed(time, [entity]))  # others may change what they keep
    assert source.poll("vehicle", {DAY: "as it was"}) != {DAY: "as it was"}


def test_a_real_day_is_the_same_from_a_zip_and_from_the_archive_of_the_collector(tmp_path: Path) -> None:
    settings = Settings(
        source="gtfs", feed_archive=str(WMATA / "vehicle_positions.zip"), gtfs_static=str(WMATA / "gtfs.zip")
    )
    place = DirectoryPlace(tmp_path)
    Editions(place).add((WMATA / "gtfs.zip").read_bytes(), 1_771_200_000, "a test")
    with zipfile.ZipFile(WMATA / "vehicle_positions.zip") as snapshots:
        fetched = [FetchedSnapshot(int(name[:-3]) + 0.5, snapshots.read(name)) for name in snapshots.namelist()]
    for first in range(0, len(fetched), 7):
        FeedArchive(place).append("vehicle_positions", fetched[first : first + 7])
    theirs, ours = open_source(settings), GtfsSource(place, "https://feeds.example/gtfs.zip")
    for table in schema.UPSTREAM:
        one, other = theirs.read(table, WMATA_DAY), ours.read(table, WMATA_DAY)
        assert len(one.rows) > 40
        pd.testing.assert_frame_equal(one.rows, other.rows)
        assert one.rejected.empty and other.rejected.empty
    vehicles, stop_times = theirs.read("vehicle", WMATA_DAY).rows, theirs.read("schedule", WMATA_DAY).rows
    assert set(vehicles["trip_id"]) <= set(stop_times["trip_id"])
    visits = vehicles.merge(
        stop_times, left_on=["trip_id", "current_stop_sequence"], right_on=["trip_id", "stop_sequence"]
    )
    assert len(visits) == len(vehicles)
    assert (visits["stop_id_x"] == visits["stop_id_y"]).all()
    assert list(theirs.poll("vehicle", {})) == [WMATA_DAY]


@pytest.mark.integration
def test_a_day_is_read_from_a_bucket(bucket: Any) -> None:
    from mbta_assets.realtime.places import BucketPlace

    place = BucketPlace(bucket, "feeds")
    Editions(place).add(make_static_feed(), 0, "a test")
    time, entity = report("08:00", trip_id="morning")
    FeedArchive(place).append("vehicle_positions", [FetchedSnapshot(time, make_feed(time, [entity]))])
    source = GtfsSource(place, "https://feeds.example/gtfs.zip")
    assert read_trips(source) == {"v": "morning"}
    assert list(source.poll("vehicle", {})) == [DAY]
