"""Every form of a GTFS-realtime snapshot becomes typed rows, and anything else an error that can be acted upon."""

import bz2
import gzip
import json
from contextlib import suppress
from datetime import date
from pathlib import Path

import pyarrow as arrow
import pytest
from google.protobuf import json_format
from google.transit.gtfs_realtime_pb2 import FeedMessage
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.realtime.feed import FeedError, parse_feed
from mbta_assets.sources.gtfs.feed_rows import RowBuilder, parse_clock, parse_day
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle

SAMPLES = Path(__file__).parents[2] / "data" / "gtfs_realtime"
COUNTS = {
    "empty.json.gz": (0, 0, 0),
    "louisville_trip_updates.pb.bz2": (0, 774, 0),
    "louisville_vehicle_positions.pb.bz2": (60, 0, 0),
    "mbta_trip_updates_2022-05-08.json.gz": (0, 1273, 0),
    "mbta_vehicle_positions_2019-12-12.json.gz": (60, 0, 0),
    "mbta_vehicle_positions_2022-07-05.json.gz": (60, 0, 0),
    "nyc_vehicle_positions.pb.bz2": (60, 0, 0),
    "one_blank_record.json.gz": (0, 0, 1),
}
"""Rows of vehicle positions and of stop time updates, and unused records, of each file."""


def add(content: bytes, fetched_at: float = 0) -> RowBuilder:
    """Return a builder with the rows of one snapshot."""
    builder = RowBuilder()
    builder.add(parse_feed(content, "a test"), fetched_at)
    return builder


def read_positions(content: bytes, fetched_at: float = 0) -> arrow.Table:
    """Return the vehicle positions of one snapshot."""
    return add(content, fetched_at).take()[0]


def read_updates(content: bytes) -> arrow.Table:
    """Return the stop time updates of one snapshot."""
    return add(content).take()[1]


def test_every_sample_is_read() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == set(COUNTS)
    for name, counts in COUNTS.items():
        builder = add((SAMPLES / name).read_bytes())
        positions, updates = builder.take()
        assert (len(positions), len(updates), builder.unused) == counts, name


def test_a_position_in_enhanced_json_has_what_the_agency_wrote() -> None:
    [row] = read_positions((SAMPLES / "mbta_vehicle_positions_2022-07-05.json.gz").read_bytes()).to_pylist()[:1]
    assert row == pytest.approx(
        {
            "vehicle_id": "y1789",
            "reported_at": 1657024510,
            "trip_id": "52113174",
            "route_id": "47",
            "direction_id": 0,
            "start_date": date(2022, 7, 5),
            "start_seconds": 8 * 3600 + 60,
            "trip_relationship": "SCHEDULED",
            "current_status": "IN_TRANSIT_TO",
            "stop_id": "1810",
            "current_stop_sequence": 30,
            "latitude": 42.350590789,
            "longitude": -71.11004782,
            "bearing": 283.0,
            "speed": None,
            "occupancy_status": "MANY_SEATS_AVAILABLE",
        }
    )


def test_an_update_of_a_trip_has_a_row_for_each_stop() -> None:
    rows = read_updates((SAMPLES / "louisville_trip_updates.pb.bz2").read_bytes()).to_pylist()
    assert rows[0] == {
        "reported_at": 1775069665,
        "trip_id": "t526-b38273-sl6-vA",
        "route_id": "23",
        "direction_id": None,
        "start_date": date(2026, 4, 1),
        "start_seconds": None,
        "trip_relationship": "SCHEDULED",
        "stop_id": "24895",
        "stop_sequence": 3706,
        "stop_relationship": "SCHEDULED",
        "arrival": 1775068794,
        "arrival_delay": 1208,
        "departure": 1775068811,
        "departure_delay": 1225,
        "uncertainty": None,
    }
    mbta = read_updates((SAMPLES / "mbta_trip_updates_2022-05-08.json.gz").read_bytes())
    assert mbta["stop_relationship"].to_pylist().count("SKIPPED") == 559


def test_the_forms_of_a_snapshot_are_the_same_rows() -> None:
    content = make_feed(1_700_000_000, [vehicle("a", 1_699_999_990, stop_id="1", current_status="STOPPED_AT")])
    described = {
        "header": {"gtfsRealtimeVersion": "2.0", "timestamp": "1700000000"},  # as protobuf itself writes JSON
        "entity": [
            {
                "id": "0",
                "vehicle": {
                    "vehicle": {"id": "a", "consist": [{"label": "1"}]},
                    "position": {"latitude": 42.0, "longitude": -71.0},
                    "stopId": "1",
                    "currentStatus": 1,
                    "timestamp": "1699999990",
                },
            }
        ],
    }
    text = json.dumps(described).encode()
    forms = [content, gzip.compress(content), bz2.compress(content), text, gzip.compress(text), b"\xef\xbb\xbf" + text]
    tables = [read_positions(form) for form in forms]
    assert len(tables[0]) == 1
    assert all(table.equals(tables[0]) for table in tables)


def test_a_report_is_one_row_however_often_it_is_repeated() -> None:
    builder = RowBuilder()
    for second in range(5):
        content = make_feed(1_700_000_000 + second, [vehicle("a", 1_699_999_990), vehicle("b", None)])
        builder.add(parse_feed(content, "a test"), 0)
    rows = builder.take()[0]
    assert rows["vehicle_id"].to_pylist().count("a") == 1
    # Without a time of its own a report is as old as its snapshot, each time anew.
    b_times = [row["reported_at"] for row in rows.to_pylist() if row["vehicle_id"] == "b"]
    assert b_times == [1_700_000_000 + second for second in range(5)]
    assert builder.repeated == 4


@pytest.mark.parametrize("named", [{"id": "v"}, {"label": "v"}])
@pytest.mark.parametrize("ahead", [0, 3600])
def test_a_vehicle_keeps_its_identity_when_the_ids_of_entities_change(named: dict[str, str], ahead: int) -> None:
    builder = RowBuilder()
    for second in range(5):
        entity = {"id": f"entity-{second}", "vehicle": {"vehicle": named, "timestamp": 1_700_000_000 + ahead}}
        builder.add(parse_feed(make_feed(1_700_000_000 + second, [entity]), "a test"), 0)
    rows = builder.take()[0]
    assert (rows["vehicle_id"].to_pylist(), rows["reported_at"].to_pylist()) == (["v"], [1_700_000_000])


def test_a_report_without_any_time_has_that_of_the_fetch() -> None:
    assert read_positions(make_feed(None, [vehicle("a", None)]), 1234.9)["reported_at"].to_pylist() == [1234]


@pytest.mark.parametrize(
    ("header", "fetched_at", "reported_at", "expected"),
    [
        (1000, 1002, 990, 990),
        (1000, 1002, 1002, 1002),  # the header may stay while the content changes
        (1000, 900, 1000, 1000),
        (1000, 1002, 1003, 1000),
        (1000, 1002, 4600, 1000),
        (None, 1002.7, 4600, 1002),
    ],
)
def test_a_report_from_the_future_has_the_time_of_its_snapshot(
    header: int | None, fetched_at: float, reported_at: int, expected: int
) -> None:
    builder, content = RowBuilder(), make_feed(header, [vehicle("v", reported_at)])
    builder.add(parse_feed(content, "a test"), fetched_at)
    builder.add(parse_feed(make_feed(header and header + 30, [vehicle("v", reported_at)]), "a test"), fetched_at + 30)
    assert builder.take()[0]["reported_at"].to_pylist() == [expected]


def test_an_update_that_comes_back_is_a_prediction_again() -> None:
    builder = RowBuilder()
    for arrival in (100, 100, 200, 100):
        stop = {"stop_id": "1", "arrival": {"time": arrival}}
        update = {"trip": {"trip_id": "t"}, "stop_time_update": [stop]}
        builder.add(parse_feed(make_feed(50, [{"trip_update": update}]), "a test"), 0)
    assert builder.take()[1]["arrival"].to_pylist() == [100, 200, 100]


def test_a_trip_without_stops_is_known_to_be_canceled() -> None:
    update = {"trip": {"trip_id": "t", "schedule_relationship": "CANCELED"}}
    [row] = read_updates(make_feed(50, [{"trip_update": update}])).to_pylist()
    assert (row["trip_id"], row["trip_relationship"], row["stop_id"]) == ("t", "CANCELED", None)


def test_a_deleted_entity_says_nothing() -> None:
    update = {"trip": {"trip_id": "t", "schedule_relationship": "CANCELED"}}
    gone = [{"is_deleted": True, **vehicle("a", 5)}, {"is_deleted": True, "trip_update": update}, {"is_deleted": True}]
    builder = add(make_feed(9, [*gone, vehicle("b", 5)]))
    positions, updates = builder.take()
    assert positions["vehicle_id"].to_pylist() == ["b"]
    assert len(updates) == builder.unused == 0


def test_a_record_that_cannot_be_read_is_left_out() -> None:
    good = {"id": "1", "vehicle": {"vehicle": {"id": "a"}, "timestamp": 5}}
    bad = {"id": "2", "vehicle": {"vehicle": {"id": "b"}, "timestamp": "noon"}}
    text = json.dumps({"header": {"gtfs_realtime_version": "2.0"}, "entity": [bad, good, 7]}).encode()
    builder = add(text)
    assert builder.take()[0]["vehicle_id"].to_pylist() == ["a"]
    assert builder.unused == 2


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
def test_text_that_is_not_utf_8_costs_no_vehicle_and_keeps_ids_apart(vehicle_id: bytes, trip_id: bytes) -> None:
    entities = [vehicle("aaaa", 5, trip={"trip_id": "tttt"}), vehicle("good", 5, trip={"trip_id": "one"})]
    content = make_feed(9, entities).replace(b"aaaa", vehicle_id).replace(b"tttt", trip_id)
    rows = read_positions(content).to_pylist()
    expected = [text.decode(errors="backslashreplace") or None for text in (vehicle_id, trip_id)]
    assert [(row["vehicle_id"], row["trip_id"]) for row in rows] == [tuple(expected), ("good", "one")]


def test_text_that_is_not_utf_8_is_found_in_every_field() -> None:
    message = FeedMessage()
    message.header.gtfs_realtime_version = "2.0####"
    entity = message.entity.add(id="####")
    entity.trip_update.trip.trip_id = entity.vehicle.vehicle.label = entity.stop.stop_id = "####"
    entity.trip_update.stop_time_update.add(stop_id="####")
    entity.alert.header_text.translation.add(text="####", language="####")
    entity.trip_modifications.selected_trips.add(trip_ids=["fine", "####"])
    content = message.SerializeToString()
    [read] = parse_feed(content.replace(b"####", b"B\xe9b\xff"), "a test").entities
    json_format.MessageToDict(read)  # raises an error at bytes
    assert str(entity).count("####") == 8
    assert str(read) == str(entity).replace("####", r"B\\xe9b\\xff")


FOREIGN = {
    "nothing": (b"", "0 bytes"),
    "a page": (b"<!DOCTYPE html><title>Sorry</title>", "begins with b'<!DOCTYPE"),
    "text": (b"Service unavailable", "no GTFS-realtime feed"),
    "another JSON": (b'{"error": "too many requests"}', "the JSON has error"),
    "cut JSON": (b'{"header": {"gtfs_realtime_version": "2.0"}, "entity": [{"id', "cut short"),
    "cut gzip": (gzip.compress(make_feed(1, [vehicle("a", 1)]))[:-9], "compressed bytes are cut short"),
    "cut bzip2": (bz2.compress(make_feed(1, [vehicle("a", 1)]))[:-9], "compressed bytes are cut short"),
    "no header": (b"\x12\x00", "no"),
    "no record": (b'{"header": {}, "entity": [{"vehicle": 3}]}', "none of its 1 records"),
}


@pytest.mark.parametrize(("content", "problem"), FOREIGN.values(), ids=list(FOREIGN))
def test_foreign_content_is_named_with_its_place_and_a_remedy(content: bytes, problem: str) -> None:
    with pytest.raises(FeedError) as error:
        parse_feed(content, "https://feeds.example/positions.pb")
    assert str(error.value).startswith("https://feeds.example/positions.pb: ")
    assert problem in str(error.value)
    assert "Fetch it again" in str(error.value) or "Check that the address" in str(error.value)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: ('{"header": ' + text).encode()))
def test_any_bytes_are_a_snapshot_or_an_error_of_the_feed(content: bytes) -> None:
    with suppress(FeedError):
        assert add(content).unused >= 0


def test_a_cut_snapshot_is_never_read_as_other_records() -> None:
    content = make_feed(1_700_000_000, [vehicle(name, 1_699_999_990, stop_id="12") for name in "abcdef"])
    whole = read_positions(content).to_pylist()
    n_errors = 0
    for length in range(len(content)):
        try:
            rows = read_positions(content[:length]).to_pylist()
        except FeedError:
            n_errors += 1
        else:
            assert rows == whole[: len(rows)]  # cut between two records
    assert n_errors >= len(content) - 7


@pytest.mark.parametrize(
    ("text", "seconds"), [("08:01:00", 28860), (" 8:01:00", 28860), ("25:10:05", 90605), ("", None), ("8:01", None)]
)
def test_clock_times(text: str, seconds: int | None) -> None:
    assert parse_clock(text) == seconds


@pytest.mark.parametrize(
    ("text", "day"),
    [("20220705", date(2022, 7, 5)), ("2022-07-05", date(2022, 7, 5)), ("20221305", None), ("", None)],
)
def test_days(text: str, day: date | None) -> None:
    assert parse_day(text) == day
