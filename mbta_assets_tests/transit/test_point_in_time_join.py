"""The point-in-time join, on tables small enough to read."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as arrow
import pytest
import sqlglot

from mbta_assets.storage.warehouse import join_in_duckdb
from mbta_assets.transit import schema
from mbta_assets.transit.point_in_time_join import build_raw_transit_data_query

DAY = date(2024, 3, 6)
NOON = datetime(2024, 3, 6, 17, tzinfo=UTC)
Row = dict[str, Any]
STOPS = ["70061", "70063", "70065", "70067", "70069", "70071"]


def at(seconds: float) -> datetime:
    """Return the time some seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def update(seconds: float, status: str, stop: str | None, trip: str | None = "1", vehicle: str = "R-1") -> Row:
    """Return a vehicle update, some seconds after noon."""
    return {"id": vehicle, "updated_at": at(seconds), "current_status": status, "stop_id": stop, "trip_id": trip}


def timetable(trip: str = "1", late: float = 0) -> list[Row]:
    """Return a schedule with a stop every 300 s from noon: no arrival at the origin, no departure at the terminal."""
    return [
        {
            "trip_id": trip,
            "stop_id": stop,
            "arrival_time": at(300 * n + late) if n else None,
            "departure_time": at(300 * n + late) if n < len(STOPS) - 1 else None,
            "stop_sequence": 10 * n if n < len(STOPS) - 1 else 1,
        }
        for n, stop in enumerate(STOPS)
    ]


def join(updates: list[Row], schedule: list[Row] | None = None, stations: Mapping[str, str] = {}) -> pd.DataFrame:
    """Return the join of vehicle updates with a schedule, by default `timetable()`.

    `stations` has parent stations by stop; its stops are in the table of stops beside those of the timetable.
    """
    tables = {
        "vehicle": updates,
        "trip": [{"id": "1", "name": "one", "route_id": "Red", "direction_id": 0}],
        "stop": [
            {"id": stop, "name": f"station {stop}", "latitude": 42.0, "longitude": -71.0, "parent_station": station}
            for stop, station in (dict.fromkeys(STOPS) | dict(stations)).items()
        ],
        "schedule": timetable() if schedule is None else schedule,
    }
    upstream = {}
    for name, rows in tables.items():
        fields = schema.arrow_schema(schema.UPSTREAM[name])
        dated = [{"service_date": DAY} | row for row in rows]
        columns = {field.name: arrow.array([row.get(field.name) for row in dated], field.type) for field in fields}
        upstream[name] = arrow.table(columns, schema=fields)
    return schema.RawTransitData.validate(schema.to_frame(join_in_duckdb(upstream, DAY)))


def test_a_first_update_has_a_row_for_every_stop_ahead_in_the_order_of_the_timetable() -> None:
    rows = join([update(10, "STOPPED_AT", "70061")])
    assert rows[["stops_ahead", "stop_id"]].values.tolist() == [[n, stop] for n, stop in enumerate(STOPS)]
    assert rows["event"].tolist() == ["departure"] + ["arrival"] * 5


def test_a_moving_vehicle_is_one_stop_from_where_it_goes() -> None:
    rows = join([update(10, "IN_TRANSIT_TO", "70063")])
    assert rows.loc[rows["stops_ahead"] == 1, "stop_id"].tolist() == ["70063"]


def test_the_label_is_the_first_stop_at_the_platform_and_never_made_up() -> None:
    updates = [update(10, "IN_TRANSIT_TO", "70063"), update(330, "STOPPED_AT", "70063")]
    rows = join([*updates, update(390, "STOPPED_AT", "70063"), update(980, "STOPPED_AT", "70067")])
    first = rows[rows["time_stamp"] == at(10)].set_index("stops_ahead")["actual_arrival_time"]
    assert first[1] == at(330)
    assert first[3] == at(980)
    assert pd.isna(first[5])


def test_another_platform_of_a_station_is_the_stop_of_the_trip_there() -> None:
    stations = {"70061": "Alewife", "Alewife-02": "Alewife", "70067": "Park", "70069": "Park", "Park-1": "Park"}
    rows = join([update(10, "STOPPED_AT", "Alewife-02"), update(980, "STOPPED_AT", "Park-1")], stations=stations)
    assert rows["current_stop_id"].unique().tolist() == ["70061", "70067"], "of two stops in a station the first"
    arrivals = rows[rows["actual_arrival_time"].notna()]
    assert arrivals["stop_id"].unique().tolist() == ["70067"]
    named = join([update(980, "STOPPED_AT", "70069")], stations=stations)
    assert named["current_stop_id"].unique().tolist() == ["70069"], "a stop that the trip serves is itself"


@pytest.mark.parametrize("stations", [{}, {"70061": "Alewife", "Alewife-02": "Braintree"}, {"Alewife-02": "Alewife"}])
def test_a_stop_that_is_in_no_station_of_the_trip_is_no_sample(stations: dict[str, str]) -> None:
    assert join([update(10, "STOPPED_AT", "Alewife-02")], stations=stations).empty


def test_a_stop_that_the_trip_has_arrived_at_is_no_target() -> None:
    rows = join([update(330, "STOPPED_AT", "70063"), update(340, "IN_TRANSIT_TO", "70063")])
    assert not ((rows["stop_id"] == "70063") & (rows["time_stamp"] >= at(330))).any()


def test_repeated_updates_count_once_and_a_vehicle_has_one_status_at_a_time() -> None:
    once = join([update(10, "INCOMING_AT", "70063")])
    again = join([*[update(10, "IN_TRANSIT_TO", "70063")] * 3, *[update(10, "INCOMING_AT", "70063")] * 2])
    pd.testing.assert_frame_equal(once, again)


def test_no_arrival_at_the_origin_is_predicted() -> None:
    rows = join([update(-100, "IN_TRANSIT_TO", "70061")])
    assert "70061" not in rows.loc[rows["event"] == "arrival", "stop_id"].tolist()
    assert rows.loc[rows["event"] == "departure", "stop_id"].tolist() == ["70061"]


@pytest.mark.parametrize("trip", ["ADDED-1", "NONREV-1"])
def test_added_trips_are_no_targets_even_with_a_schedule(trip: str) -> None:
    assert join([update(10, "STOPPED_AT", "70061", trip)], timetable(trip)).empty


def test_a_trip_in_the_wrong_slot_is_dropped_and_a_late_one_kept() -> None:
    running = [update(300 * n + 20, "STOPPED_AT", stop) for n, stop in enumerate(STOPS)]
    early = join(running, timetable(late=2400))
    assert early["actual_arrival_time"].isna().all()
    assert (early["stops_behind"] == 1).all()
    late = join(running, timetable(late=-2400))
    assert late["actual_arrival_time"].notna().any()


def test_a_missing_trip_or_stop_is_no_sample_and_no_error() -> None:
    rows = join([update(10, "STOPPED_AT", None), update(20, "STOPPED_AT", "70061", trip=None)])
    assert rows.empty


def test_bigquery_gets_the_statement_as_written_with_its_own_table_names() -> None:
    text = build_raw_transit_data_query("bigquery", {"vehicle": "p.d.vehicle", "stop": "p.d.stop"})
    assert "FROM p.d.vehicle AS v" in text
    assert sqlglot.parse_one(text, read="bigquery") is not None
    assert set(re.findall(r"@\w+", text)) == {"@service_date"}


def test_an_arrival_counts_to_the_microsecond_from_half_an_hour_early_to_twelve_hours_late() -> None:
    for seconds, has_label in [(-1800, True), (-1800.5, False), (43_200, True), (43_200.5, False)]:
        rows = join([update(-1600, "IN_TRANSIT_TO", "70063"), update(300 + seconds, "STOPPED_AT", "70063")])
        assert rows["actual_arrival_time"].notna().any() == has_label
