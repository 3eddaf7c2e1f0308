"""A stream of updates gives the features that the table has, row by row and bit by bit."""

from collections.abc import Collection, Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest

from mbta_assets.serving import ArrivalQuery, Stop, StopTime, Stream, Timetable, Trip, VehicleUpdate
from mbta_assets.serving.predictor import feature_columns
from mbta_assets.sources.contract import Source
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.days import REAL, SIMULATED, Tables, build, changed_after

KEY = ["time_stamp", "vehicle_id", "trip_id", "stop_sequence", "stops_ahead"]
RETURNED = ["stop_sequence", "current_stop_sequence", "scheduled_arrival"]
"""Columns that are no features, but fields of a query."""
FEATURES = [
    name
    for role in ("numeric", "category", "lookup")
    for name in schema.columns_with_role(schema.TransitFeatures, role)
]
COMPARED_ROWS = 10_000
Key = tuple[datetime, str, str, int, int]
"""Time, vehicle, trip, stop sequence and stops ahead of a row."""
Record = TypeVar("Record", StopTime, Stop, Trip, VehicleUpdate)


def make_records(rows: pd.DataFrame, record_type: type[Record]) -> Iterator[Record]:
    """Yield the rows of a table as records for a timetable or stream, in their order."""
    names = [field.name for field in fields(record_type) if field.name in rows]
    objects = rows[names].astype(object).where(rows[names].notna(), None)
    columns = [
        [value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for value in objects[name]]
        for name in names
    ]
    return (record_type(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


def make_timetable(day: date, tables: Tables) -> Timetable:
    """Return the timetable of a day."""
    return Timetable(
        day,
        make_records(tables["schedule"], StopTime),
        make_records(tables["stop"], Stop),
        make_records(tables["trip"], Trip),
    )


def stream_queries(day: date, tables: Tables, times: Collection[datetime] | None = None) -> dict[Key, ArrivalQuery]:
    """Stream the updates of a day in order of time; return all queries made at the time of an update, by row key.

    With `times`, queries are made at these only.
    """
    stream = Stream(make_timetable(day, tables))
    queries: dict[Key, ArrivalQuery] = {}
    updates = sorted(make_records(tables["vehicle"], VehicleUpdate), key=lambda update: update.updated_at)
    for time, simultaneous in groupby(updates, key=lambda update: update.updated_at):
        stream.update(simultaneous)
        if times is None or time in times:
            for query in stream.iter_queries(since=time):
                if query.time_stamp == time:
                    queries[make_key(query)] = query
    assert stream.late_updates == stream.revoked_updates == 0
    return queries


def make_key(query: ArrivalQuery) -> Key:
    """Return the key of the row that a query is about."""
    sequence = -1 if query.stop_sequence is None else query.stop_sequence
    return query.time_stamp, query.vehicle_id or "", query.trip_id or "", sequence, query.stops_ahead


def compute_features(day: date, tables: Tables) -> pd.DataFrame:
    """Return the features of a day's rows about every stop ahead."""
    raw = plain_day.join(tables, day, every_stop_ahead=True)
    return compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])


def assert_same_rows(day: date, tables: Tables) -> pd.DataFrame:
    """Return the features of a day. Raises AssertionError unless stream and table have the same rows and features."""
    features = compute_features(day, tables)
    assert_equal_features(day, tables, features)
    if len(features) <= COMPARED_ROWS:
        assert set(stream_queries(day, tables)) == set(list_keys(features))
    return features


def list_keys(rows: pd.DataFrame) -> list[Key]:
    """Return the keys of rows of the table."""
    return [(time.to_pydatetime(), *rest) for time, *rest in rows[KEY].itertuples(index=False)]


def assert_equal_features(day: date, tables: Tables, features: pd.DataFrame) -> None:
    """Raise AssertionError unless a sample of 10,000 rows equals the features of the streamed queries."""
    rows = features if len(features) <= COMPARED_ROWS else features.sample(COMPARED_ROWS, random_state=7)
    keys = list_keys(rows)
    queries = stream_queries(day, tables, {time for time, *_ in keys})
    asked = [queries[key] for key in keys]
    columns = feature_columns(asked)
    assert set(FEATURES) == set(columns)
    for name in RETURNED:
        columns[name] = np.array([getattr(query, name) for query in asked], dtype=object)
    for name, values in columns.items():
        # The stubs of pandas do not know that what is missing may become None.
        expected = rows[name].to_numpy(dtype=object, na_value=None)  # type: ignore[call-overload]
        served = np.array([None if value != value else value for value in values.tolist()], dtype=object)
        differing = np.flatnonzero(expected != served)
        assert not len(differing), f"{name}: {expected[differing][:3]}, served as {served[differing][:3]}"


def read_tables(source: Source, day: date) -> Tables:
    """Read the upstream tables of a day."""
    return {name: source.read(name, day).rows for name in schema.UPSTREAM}


def select_routes(vehicle: pd.DataFrame, routes: Collection[str]) -> pd.DataFrame:
    """Return the updates of vehicles on some routes."""
    return vehicle[vehicle["route_id"].isin(routes)].reset_index(drop=True)


@pytest.mark.integration
def test_ten_thousand_rows_of_two_simulated_lines_equal_the_table(tmp_path: Path) -> None:
    tables = read_tables(SyntheticSource(0), SIMULATED)
    tables["vehicle"] = select_routes(tables["vehicle"], ["Blue", "Red"])
    assert_equal_features(SIMULATED, tables, build(ParquetTables(tmp_path), SIMULATED, tables))


@pytest.mark.integration
def test_ten_thousand_rows_of_the_real_day_equal_the_table(tmp_path: Path, seed_upstream: Path) -> None:
    tables = read_tables(FilesSource(seed_upstream), REAL)
    assert_equal_features(REAL, tables, build(ParquetTables(tmp_path), REAL, tables))


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(2))
def test_features_of_irregular_updates_equal_the_table(tmp_path: Path, seed: int) -> None:
    """Include wrong stops, statuses and times, vehicles that change or lose trips, and missing routes."""
    tables = read_tables(SyntheticSource(seed), SIMULATED)
    vehicle = select_routes(tables["vehicle"], ["Blue", "Mattapan", "Red"])
    time = vehicle["updated_at"].quantile(0.4)
    assert isinstance(time, pd.Timestamp)
    vehicle = changed_after(vehicle, time, seed)
    rng = np.random.default_rng(seed)
    for name, fraction in (("trip_id", 0.02), ("route_id", 0.05), ("direction_id", 0.05), ("latitude", 0.1)):
        vehicle[name] = vehicle[name].mask(rng.random(len(vehicle)) < fraction)
    other_ids = vehicle["id"].sample(frac=1, random_state=seed).reset_index(drop=True)
    vehicle["id"] = vehicle["id"].mask(rng.random(len(vehicle)) < 0.01, other_ids)
    # Rounded times make updates simultaneous.
    seconds = vehicle["updated_at"].dt.floor("s").where(rng.random(len(vehicle)) < 0.5, vehicle["updated_at"])
    rounded = seconds.dt.floor("10s").where(rng.random(len(vehicle)) < 0.3, seconds)
    tables["vehicle"] = vehicle.assign(updated_at=rounded)
    assert_equal_features(SIMULATED, tables, build(ParquetTables(tmp_path), SIMULATED, tables))


NOON = datetime(2024, 3, 6, 17, tzinfo=UTC)


def after_noon(seconds: float) -> datetime:
    """Return a time after noon in Boston."""
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def stream() -> Stream:
    """Return a stream with a trip of four stops, five minutes apart; the first is in a station with another berth."""
    stops = ["70061", "70063", "70065", "70067"]
    schedule = [
        StopTime(
            trip_id="1",
            stop_id=stop,
            arrival_time=after_noon(300 * n) if n else None,
            departure_time=after_noon(300 * n) if n < 3 else None,
        )
        for n, stop in enumerate(stops)
    ]
    berths = [Stop(id=stop, parent_station="place-alfcl") for stop in ("70061", "Alewife-01")]
    return Stream(Timetable(SIMULATED, schedule, berths))


def make_update(seconds: float, status: str, stop_id: str | None, trip_id: str | None = "1") -> VehicleUpdate:
    """Return an update of the vehicle R-1, some seconds after noon."""
    return VehicleUpdate(
        id="R-1", updated_at=after_noon(seconds), current_status=status, stop_id=stop_id, trip_id=trip_id
    )


def test_a_vehicle_at_a_berth_is_at_the_platform_of_the_timetable(stream: Stream) -> None:
    stream.update([make_update(5, "STOPPED_AT", "Alewife-01")])
    departure, first, _, third = stream.iter_queries()
    assert (first.stop_id, first.stops_ahead, first.current_stop_id) == ("70063", 1, "70061")
    assert (third.stop_id, third.stops_ahead, third.scheduled_last_departure) == ("70067", 3, after_noon(0))
    assert (departure.stop_id, departure.stops_ahead, departure.scheduled_arrival) == ("70061", 0, after_noon(0))


def test_a_reached_stop_is_no_longer_predicted_and_its_delay_is_known(stream: Stream) -> None:
    stream.update([make_update(5, "STOPPED_AT", "70061"), make_update(60, "IN_TRANSIT_TO", "70063")])
    stream.update([make_update(330, "STOPPED_AT", "70063")])
    query, last = stream.iter_queries()
    assert (query.stop_id, query.last_arrival, query.last_delay_seconds) == ("70065", after_noon(330), 30)
    assert (last.stop_id, last.stops_ahead) == ("70067", 2)
    assert list(stream.iter_queries(since=after_noon(331))) == []


def test_an_update_older_than_the_latest_of_its_trip_is_ignored_and_counted(stream: Stream) -> None:
    stream.update([make_update(60, "IN_TRANSIT_TO", "70063")])
    before = list(stream.iter_queries())
    stream.update([make_update(30, "STOPPED_AT", "70063"), make_update(60, "IN_TRANSIT_TO", "70063")])
    assert list(stream.iter_queries()) == before
    assert stream.late_updates == 1


def test_trips_that_are_not_in_the_timetable_give_no_queries(stream: Stream) -> None:
    stream.update([make_update(5, "STOPPED_AT", "70061", "ADDED-1"), make_update(6, "IN_TRANSIT_TO", None)])
    stream.update([make_update(7, "IN_TRANSIT_TO", "70063", None)])
    assert list(stream.iter_queries()) == []
    assert list(stream.iter_trip_queries("unknown")) == []
