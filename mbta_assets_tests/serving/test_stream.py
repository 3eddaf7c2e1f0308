"""A stream of updates gives the features that the table has, row by row and bit by bit."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest

from mbta_assets.serving import Moment, ScheduledStop, Stop, Stream, Timetable, Trip, VehicleUpdate
from mbta_assets.serving.moment import feature_columns
from mbta_assets.sources import Source
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.transit import schema
from mbta_assets_tests.support.days import REAL, SIMULATED, Tables, build, changed_after

KEY = ["time_stamp", "vehicle_id", "trip_id", "stops_ahead"]
FEATURES = [name for role in ("numeric", "category") for name in schema.columns(schema.TransitFeatures, role)]
ROWS = 10_000
Record = TypeVar("Record", ScheduledStop, Stop, Trip, VehicleUpdate)


def records(rows: pd.DataFrame, kind: type[Record]) -> Iterator[Record]:
    """Rows of a table as what the stream takes."""
    names = [field.name for field in fields(kind) if field.name in rows]
    plain = rows[names].astype(object).where(rows[names].notna(), None)
    columns = [[v.to_pydatetime() if isinstance(v, pd.Timestamp) else v for v in plain[name]] for name in names]
    return (kind(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


def followed(day: date, tables: Tables, wanted: pd.DataFrame) -> list[Moment]:
    """The moments of the wanted rows, as the stream tells them right after the updates of their time."""
    keys = [(time.to_pydatetime(), *rest) for time, *rest in wanted[KEY].itertuples(index=False)]
    trips: dict[datetime, set[str]] = {}
    for time, _, trip, _ in keys:
        trips.setdefault(time, set()).add(trip)
    stream = Stream(
        Timetable(
            day,
            records(tables["schedule"], ScheduledStop),
            records(tables["stop"], Stop),
            records(tables["trip"], Trip),
        )
    )
    found: dict[tuple, Moment] = {}
    updates = sorted(records(tables["vehicle"], VehicleUpdate), key=lambda update: update.updated_at)
    for time, together in groupby(updates, key=lambda update: update.updated_at):
        stream.update(together)
        for trip in trips.get(time, ()):
            for moment in stream.of_trip(trip):
                found[time, moment.vehicle_id, trip, moment.stops_ahead] = moment
    assert stream.overtaken == 0
    return [found[key] for key in map(tuple, keys)]


def assert_equal_features(day: date, tables: Tables, features: pd.DataFrame) -> None:
    wanted = features.sample(min(ROWS, len(features)), random_state=7)
    columns = feature_columns(followed(day, tables, wanted))
    assert set(FEATURES) == set(columns)
    for name, values in columns.items():
        # The stubs of pandas do not know that what is missing may become None.
        expected = wanted[name].to_numpy(dtype=object, na_value=None)  # type: ignore[call-overload]
        served = np.array([None if value != value else value for value in values.tolist()], dtype=object)
        differing = np.flatnonzero(expected != served)
        assert not len(differing), f"{name}: {expected[differing][:3]}, served as {served[differing][:3]}"


def tables_of(source: Source, day: date) -> Tables:
    return {name: source.read(name, day) for name in schema.UPSTREAM}


def test_ten_thousand_rows_of_a_simulated_day_are_the_tables(tmp_path: Path) -> None:
    tables = tables_of(SyntheticSource(0), SIMULATED)
    assert_equal_features(SIMULATED, tables, build(Lake(tmp_path), SIMULATED, tables))


def test_ten_thousand_rows_of_the_real_day_are_the_tables(tmp_path: Path, seed_upstream: Path) -> None:
    tables = tables_of(FilesSource(seed_upstream), REAL)
    features = build(Lake(tmp_path), REAL, tables)
    assert len(features) >= ROWS
    assert_equal_features(REAL, tables, features)


@pytest.mark.parametrize("seed", range(2))
def test_so_they_are_where_vehicles_go_astray_change_trips_and_lose_them(tmp_path: Path, seed: int) -> None:
    """Wrong stops, statuses and times, trips that change vehicles or have none, lines without a name."""
    tables = tables_of(SyntheticSource(seed), SIMULATED)
    vehicle = tables["vehicle"][tables["vehicle"]["route_id"].isin(["Blue", "Mattapan", "Red"])].reset_index(drop=True)
    moment = vehicle["updated_at"].quantile(0.4)
    assert isinstance(moment, pd.Timestamp)
    vehicle = changed_after(vehicle, moment, seed)
    random = np.random.default_rng(seed)
    for name, share in (("trip_id", 0.02), ("route_id", 0.05), ("direction_id", 0.05), ("latitude", 0.1)):
        vehicle[name] = vehicle[name].mask(random.random(len(vehicle)) < share)
    others = vehicle["id"].sample(frac=1, random_state=seed).reset_index(drop=True)
    vehicle["id"] = vehicle["id"].mask(random.random(len(vehicle)) < 0.01, others)
    whole = vehicle["updated_at"].dt.floor("s").where(random.random(len(vehicle)) < 0.5, vehicle["updated_at"])
    tables["vehicle"] = vehicle.assign(updated_at=whole.dt.floor("10s").where(random.random(len(vehicle)) < 0.3, whole))
    features = build(Lake(tmp_path), SIMULATED, tables)
    assert len(features) > 10_000
    assert_equal_features(SIMULATED, tables, features)


NOON = datetime(2024, 3, 6, 17, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def stream() -> Stream:
    """A trip of four stops, five minutes apart."""
    stops = ["70061", "70063", "70065", "70067"]
    rows = [
        ScheduledStop(
            trip_id="1",
            stop_id=stop,
            arrival_time=at(300 * n) if n else None,
            departure_time=at(300 * n) if n < 3 else None,
        )
        for n, stop in enumerate(stops)
    ]
    return Stream(Timetable(SIMULATED, rows))


def update(seconds: float, status: str, stop: str | None, trip: str | None = "1", **more: Any) -> VehicleUpdate:
    return VehicleUpdate(id="R-1", updated_at=at(seconds), current_status=status, stop_id=stop, trip_id=trip, **more)


def test_a_vehicle_at_a_berth_stands_at_the_platform_of_the_timetable(stream: Stream) -> None:
    stream.update([update(5, "STOPPED_AT", "Alewife-01")])
    first, third = stream.moments()
    assert (first.stop_id, first.stops_ahead, first.current_stop_id) == ("70063", 1, "70061")
    assert (third.stop_id, third.stops_ahead, third.scheduled_last_departure) == ("70067", 3, at(0))


def test_what_a_trip_has_reached_is_no_longer_predicted_and_its_delay_is_known(stream: Stream) -> None:
    stream.update([update(5, "STOPPED_AT", "70061"), update(60, "IN_TRANSIT_TO", "70063")])
    stream.update([update(330, "STOPPED_AT", "70063")])
    [moment] = stream.moments()
    assert (moment.stop_id, moment.last_arrival, moment.last_delay_seconds) == ("70065", at(330), 30)
    assert list(stream.moments(since=at(331))) == []


def test_an_update_older_than_its_trips_last_is_left_out_and_counted(stream: Stream) -> None:
    stream.update([update(60, "IN_TRANSIT_TO", "70063")])
    before = list(stream.moments())
    stream.update([update(30, "STOPPED_AT", "70063"), update(60, "IN_TRANSIT_TO", "70063")])
    assert list(stream.moments()) == before
    assert stream.overtaken == 1


def test_nothing_is_told_of_trips_that_are_not_on_the_timetable(stream: Stream) -> None:
    stream.update([update(5, "STOPPED_AT", "70061", "ADDED-1"), update(6, "IN_TRANSIT_TO", None)])
    stream.update([update(7, "IN_TRANSIT_TO", "70063", None)])
    assert list(stream.moments()) == []
    assert list(stream.of_trip("never heard of")) == []
