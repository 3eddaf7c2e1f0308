"""A time that none can be, such as one in milliseconds, costs the row that has it and nothing else."""

import json
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mbta_assets.sources import SourceError
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets.transit.service_day import MAX_EPOCH_SECONDS, to_time
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.network import local_time, make_source

DAY = date(2026, 5, 12)
NOW = local_time(DAY, "08:10")
TRIP = {"trip_id": "morning"}
LAST = int(MAX_EPOCH_SECONDS)
DATED = {**TRIP, "start_date": "20260512"}
trips = st.sampled_from([TRIP, {}, DATED])
unsigned, signed = st.integers(1, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)


def update(made_at: int, arrival: int) -> dict[str, Any]:
    """Return an entity with the arrival that is predicted at a stop."""
    stops = [{"stop_id": "s3", "arrival": {"time": arrival}}]
    return {"trip_update": {"trip": DATED, "timestamp": made_at, "stop_time_update": stops}}


def read_with(table: str, usual: dict[str, Any], odd: list[dict[str, Any]]) -> tuple[list[Any], Any]:
    """Return the rows and the rejected rows of a day with a usual report and odd ones."""
    snapshots = {NOW: [usual, *odd]}
    with tempfile.TemporaryDirectory() as directory:
        if table == "vehicle":
            source = make_source(Path(directory), positions=snapshots)
        else:
            source = make_source(Path(directory), updates=snapshots)
        read = source.read(table, DAY)
    return read.rows.to_dict("records"), read.rejected


@settings(max_examples=2)
@given(st.lists(st.tuples(unsigned, trips), min_size=20, max_size=60))
@example([(NOW * 1000, TRIP), (LAST, {}), (LAST - 1, {}), (2**63, TRIP), (2**64 - 1, DATED)])
def test_a_vehicle_with_any_time_costs_its_own_row(reports: list[tuple[int, dict[str, str]]]) -> None:
    odd = [vehicle(str(n), reported_at, trip=trip) for n, (reported_at, trip) in enumerate(reports)]
    rows, rejected = read_with("vehicle", vehicle("usual", NOW, trip=TRIP), odd)
    # Times to come are those of the snapshot, and other times are of another service day.
    assert {row["id"] for row in rows} == {"usual"} | {str(n) for n, (at, _) in enumerate(reports) if NOW <= at < LAST}
    expected = [str(n) for n, (at, trip) in enumerate(reports) if at >= LAST or (at < NOW and trip == DATED)]
    assert sorted(json.loads(row)["id"] for row in rejected["row"]) == sorted(expected)
    assert set(rejected["reason"]) <= {"time_out_of_range"}


@settings(max_examples=2)
@given(st.lists(st.tuples(unsigned, signed), min_size=20, max_size=60, unique=True))
@example([(NOW * 1000, NOW), (2**63, NOW), (NOW, NOW * 1000), (NOW, -(2**63)), (NOW, 2**63 - 1), (NOW, NOW + 2**58)])
def test_an_update_with_any_times_costs_its_own_row(updates: list[tuple[int, int]]) -> None:
    odd = [update(made_at, arrival) for made_at, arrival in updates if arrival]
    rows, rejected = read_with("agency_predictions", update(NOW, NOW + 120), odd)
    assert [row["arrival_time"] for row in rows] == [pd.Timestamp(NOW + 120, unit="s", tz="UTC")]
    assert set(rejected["reason"]) == {"time_out_of_range"}


def test_a_feed_in_milliseconds_is_an_error_that_says_so(tmp_path: Path) -> None:
    source = make_source(tmp_path, positions={NOW: [vehicle(name, NOW * 1000, trip=TRIP) for name in "abc"]})
    with pytest.raises(SourceError, match=f"none of the 3 rows.*time_out_of_range.*{NOW * 1000}.*seconds since 1970"):
        source.read("vehicle", DAY)


def test_an_alteration_with_an_impossible_time_alters_its_trip(tmp_path: Path) -> None:
    canceled = {"trip": {**DATED, "schedule_relationship": "CANCELED"}, "timestamp": 2**64 - 1}
    source = make_source(tmp_path, updates={NOW: [{"trip_update": canceled}]})
    assert "morning" not in set(source.read("schedule", DAY).rows["trip_id"])


@pytest.mark.parametrize("header_time", [NOW * 1000, LAST, 2**63, 2**64 - 1])
def test_a_header_with_an_impossible_time_stops_neither_the_day_nor_the_poll(header_time: int, tmp_path: Path) -> None:
    source = make_source(tmp_path, positions={NOW: [vehicle("usual", NOW, trip=TRIP)]})
    expected = source.poll("vehicle", {})
    content = make_feed(header_time, [vehicle("odd", None, trip=TRIP)])
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "snapshot.pb").write_bytes(content)
    assert list(source.poll("vehicle", {})) == list(expected)
    FeedArchive(source.archive.place).append("vehicle_positions", [FetchedSnapshot(NOW + 30, content)])
    read = GtfsSource(source.archive.place, "").read("vehicle", DAY)
    assert read.rows["id"].tolist() == ["usual"]
    assert read.rejected["reason"].tolist() == ["time_out_of_range"]


@given(st.integers(-(2**70), 2**70) | st.floats())
def test_every_number_is_a_time_or_none(seconds: float) -> None:
    time = to_time(seconds)
    assert time is None or abs(time.timestamp() - seconds) < 1e-4
    assert (time is None) != (datetime(1970, 1, 1, tzinfo=UTC).timestamp() <= seconds < LAST)
