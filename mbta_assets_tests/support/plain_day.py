"""A service day small enough to read, with one trip that is a minute late at each stop, to be made odd by tests.

Trip `1` is due at six stops every five minutes from noon in Boston, 17:00 UTC. To every stop but the first its vehicle
reports IN_TRANSIT_TO 250 s before it arrives and INCOMING_AT 30 s before, then STOPPED_AT. Its features are a row about
its departure, which is 110 s late, and rows about its arrivals, each `LATE_SECONDS` late.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow

from mbta_assets.storage.warehouse import join_in_duckdb
from mbta_assets.transit import features, schema

DAY = date(2024, 3, 6)
BEGIN = datetime(2024, 3, 6, 17, tzinfo=UTC)
STOPS = ("70061", "70063", "70065", "70067", "70069", "70071")
INTERVAL = timedelta(seconds=300)
LATE_SECONDS = 60
ROWS_BY_STOP = (1, 3, 6, 9, 12, 15)
"""Number of rows about each of the stops, the departure from the first one included."""
ROWS = sum(ROWS_BY_STOP)
BENCHMARK_ROWS = 27
"""Number of rows about the stops 1, 3 and 5 ahead."""
LOOP = ("A", "B", "C", "D", "E", "A")
"""Stops of a trip that ends where it began."""
UNROLLED_LOOP = ("a", "b", "c", "d", "e", "f")
"""Stops of another trip on the same course, all different."""
TIMED_STOPS = (0, 3, 5)
"""Numbers of the stops that have times where only timepoints do."""

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""Rows of the upstream tables, without their service date."""
Tables = dict[str, pd.DataFrame]
"""Upstream tables, typed as the schema has them."""


def make_reports(
    trip: str | None = "1",
    vehicle: str = "R-1",
    stops: Sequence[str] = STOPS,
    begin: datetime = BEGIN,
    route: str = "Red",
    late_seconds: float = LATE_SECONDS,
    with_sequence: bool = False,
) -> list[Row]:
    """Return the 16 reports of a trip that is due at the first stop at `begin`, in order of time."""
    reports: list[Row] = []
    for n, stop in enumerate(stops):
        arrival = begin + n * INTERVAL + timedelta(seconds=late_seconds)
        phases = {"IN_TRANSIT_TO": 250, "INCOMING_AT": 30, "STOPPED_AT": 0} if n else {"STOPPED_AT": 0}
        reports += [
            {
                "id": vehicle, "updated_at": arrival - timedelta(seconds=before), "current_status": status,
                "latitude": 42.39, "longitude": -71.12, "stop_id": stop, "trip_id": trip, "route_id": route,
                "direction_id": 0, "current_stop_sequence": n + 1 if with_sequence else None,
            }
            for status, before in phases.items()
        ]  # fmt: skip
    return reports


def make_stop_times(trip: str = "1", stops: Sequence[str] = STOPS, begin: datetime = BEGIN) -> list[Row]:
    """Return the stop times of a trip: no arrival at its origin and no departure at its terminal."""
    times = [begin + n * INTERVAL for n in range(len(stops))]
    return [
        {
            "trip_id": trip,
            "stop_id": stop,
            "arrival_time": time if n else None,
            "departure_time": time if n < len(stops) - 1 else None,
            "stop_sequence": n + 1,
        }
        for n, (stop, time) in enumerate(zip(stops, times, strict=True))
    ]


def make_stops(stops: Sequence[str] = STOPS) -> list[Row]:
    """Return stops one behind the other, each a station of its own without a parent."""
    return [
        {"id": stop, "name": stop, "platform_name": stop, "latitude": round(42.39 - n / 100, 2), "longitude": -71.12}
        for n, stop in enumerate(stops)
    ]


def make_trip(trip: str = "1", route: str = "Red") -> Row:
    """Return a trip in direction 0."""
    return {"id": trip, "name": None, "route_id": route, "direction_id": 0}


def make_rows() -> Rows:
    """Return the rows of the plain day, which tests may change."""
    return {
        "vehicle": make_reports(),
        "trip": [make_trip()],
        "stop": make_stops(),
        "schedule": make_stop_times(),
    }


def make_two_trips() -> Rows:
    """Return the plain day with a second trip, a vehicle without a trip, and one of an added trip.

    Two of the stations have another berth.
    """
    rows = make_rows()
    rows["trip"].append(make_trip("2"))
    rows["schedule"] += make_stop_times("2", begin=BEGIN + timedelta(minutes=4))
    rows["vehicle"] += make_reports("2", "R-2", begin=BEGIN + timedelta(minutes=4))
    rows["vehicle"] += make_reports(None, "R-3", begin=BEGIN - timedelta(minutes=7))
    rows["vehicle"] += make_reports("ADDED-1", "R-4", begin=BEGIN - timedelta(minutes=3))
    for stop in (rows["stop"][0], rows["stop"][2]):
        stop["parent_station"] = "place-" + stop["id"]
        rows["stop"].append({**stop, "id": stop["id"] + "-berth"})
    return rows


def make_loop(with_sequence: bool = True) -> Rows:
    """Return a day with two trips on one course, of which trip `1` serves its first stop again as its last.

    `with_sequence` is whether reports and stop times have stop sequences.
    """
    rows: Rows = {"vehicle": [], "trip": [], "stop": [], "schedule": []}
    for trip, stops, route in (("1", LOOP, "Red"), ("2", UNROLLED_LOOP, "Blue")):
        rows["vehicle"] += make_reports(trip, f"R-{trip}", stops, route=route, with_sequence=with_sequence)
        rows["trip"].append(make_trip(trip, route))
        rows["stop"] += make_stops(stops)[: len(set(stops))]
        rows["schedule"] += make_stop_times(trip, stops)
    rows["stop"][-1]["latitude"] = rows["stop"][0]["latitude"]
    if not with_sequence:
        for row in rows["schedule"]:
            row["stop_sequence"] = None
    return rows


def make_timepoints() -> Rows:
    """Return the plain day with times at the first, the fourth and the last stop only, which are its timepoints."""
    rows = make_rows()
    for n, row in enumerate(rows["schedule"]):
        row["timepoint"] = int(n in TIMED_STOPS)
        if n not in TIMED_STOPS:
            row |= {"arrival_time": None, "departure_time": None}
    return rows


def make_odd_report(stop: int, status: str, seconds: int, vehicle: str, trip: str = "1") -> Row:
    """Return a report of a trip of `make_two_trips` that is so early, or late, by some seconds that it cannot be right.

    It names the stop number `stop`, not the origin. One with negative seconds is early: before the earliest time at
    which the trip can be on its way there, or stand there. One with others is late: after the latest arrival.
    """
    [due] = [row for row in make_two_trips()["schedule"] if (row["trip_id"], row["stop_id"]) == (trip, STOPS[stop])]
    earliest = due["arrival_time"] - timedelta(minutes=30)
    if status != "STOPPED_AT":
        earliest -= INTERVAL
    latest = due["arrival_time"] + timedelta(hours=12)
    at = (earliest if seconds < 0 else latest) + timedelta(seconds=seconds)
    return make_reports(trip, vehicle)[0] | {"updated_at": at, "current_status": status, "stop_id": STOPS[stop]}


def shift_rows(rows: Rows, day: date) -> Rows:
    """Return the rows with their times on another day; times of other years stay."""
    return {table: [_shift(row, day - DAY) for row in of_table] for table, of_table in rows.items()}


def _shift(row: Row, by: timedelta) -> Row:
    return {
        name: value + by if isinstance(value, datetime) and value.year == BEGIN.year else value
        for name, value in row.items()
    }


def to_tables(rows: Rows, day: date = DAY) -> Tables:
    """Return the rows as the upstream tables of a service day; what a row does not give is missing."""
    tables = {}
    for name, table in schema.UPSTREAM.items():
        dated = [{"service_date": day} | row for row in rows[name]]
        tables[name] = schema.to_frame(arrow.Table.from_pylist(dated, schema.arrow_schema(table)))
    return tables


def write(directory: Path, rows: Rows, day: date = DAY) -> None:
    """Write the tables of a service day as the `files` source reads them, a file for each."""
    for name, table in to_tables(rows, day).items():
        path = directory / name / f"service_date={day}" / "part.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.drop(columns="service_date").to_parquet(path, index=False)


def join(tables: Tables, day: date = DAY, every_stop_ahead: bool = False) -> pd.DataFrame:
    """Return `raw_transit_data` of the upstream tables of a service day."""
    upstream = {
        name: arrow.Table.from_pandas(tables[name], schema.arrow_schema(table), preserve_index=False)
        for name, table in schema.UPSTREAM.items()
    }
    return schema.to_frame(join_in_duckdb(upstream, day, every_stop_ahead=every_stop_ahead))


def compute(rows: Rows, day: date = DAY) -> pd.DataFrame:
    """Return `transit_features` of the rows of a service day."""
    tables = to_tables(rows, day)
    raw = join(tables, day)
    return features.compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])
