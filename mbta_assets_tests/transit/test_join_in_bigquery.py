"""The point-in-time join gives the same rows in BigQuery as in DuckDB, odd rows included."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import BigQueryWarehouse, DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.looping_trips import make_looping_day
from mbta_assets_tests.support.plain_day import BEGIN, STOPS, Row, Rows

pytestmark = pytest.mark.xdist_group("google")

SOME_TRIPS = [f"trip {n}" for n in range(1, 12)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make_odd_day() -> Rows:
    """Return a day with reports and stop times at other times, blank and padded ids, berths and odd positions."""
    rows = plain_day.make_rows()
    rows["stop"][0]["parent_station"] = "station"
    rows["stop"] += [{"id": "track 2 ", "parent_station": " station"}, {"id": "x", "latitude": 0.0, "longitude": 0.0}]
    rows["vehicle"][0]["stop_id"] = "\ttrack 2"
    rows["vehicle"][3] |= {"latitude": 0.0, "longitude": 0.0}
    rows["vehicle"][4] |= {"latitude": -42.39, "longitude": 71.12}
    odd: Row = {"id": "R-2", "current_status": "STOPPED_AT", "stop_id": STOPS[3], "trip_id": "1"}
    times = [EPOCH, BEGIN - timedelta(days=1), BEGIN + timedelta(days=400), BEGIN - timedelta(hours=12, microseconds=1)]
    times += [BEGIN - timedelta(minutes=16), BEGIN + timedelta(hours=12, minutes=20), BEGIN - timedelta(hours=11)]
    rows["vehicle"] += [odd | {"updated_at": time} for time in times]
    too_early = odd | {"updated_at": BEGIN - timedelta(minutes=21), "current_status": "IN_TRANSIT_TO"}
    rows["vehicle"].append(too_early)
    rows["vehicle"] += [odd | {"updated_at": BEGIN, "trip_id": trip} for trip in (None, " ", "ADDED-1", "2")]
    rows["schedule"][0]["arrival_time"] = BEGIN - timedelta(minutes=5)
    rows["schedule"] += [{"trip_id": "1", "stop_id": "x", "arrival_time": EPOCH, "departure_time": None}]
    return rows


def test_the_join_gives_the_same_rows_in_both_engines(tables: BigQueryTables) -> None:
    upstream = plain_day.to_tables(make_odd_day())
    for name, table in upstream.items():
        tables.write(name, plain_day.DAY, to_arrow(name, table))
    joined = BigQueryWarehouse(tables, tables, tables.bigquery).join_upstream_tables(plain_day.DAY)
    expected = plain_day.join(upstream)
    benchmark = expected["stops_ahead"].isin([1, 3, 5, 10])
    assert benchmark.sum() == plain_day.BENCHMARK_ROWS and expected["current_latitude"].isna().any()
    pd.testing.assert_frame_equal(schema.to_frame(joined), expected)


@pytest.mark.parametrize(("every_stop_ahead", "trips"), [(False, None), (True, None), (True, SOME_TRIPS)])
def test_trips_that_repeat_stops_have_the_same_rows_in_both_engines(
    tables: BigQueryTables, tmp_path: Path, every_stop_ahead: bool, trips: list[str] | None
) -> None:
    tables_here = ParquetTables(tmp_path)
    upstream = plain_day.to_tables(make_looping_day(4, n_trips=12))
    for name, table in upstream.items():
        tables.write(name, plain_day.DAY, to_arrow(name, table))
        tables_here.write(name, plain_day.DAY, to_arrow(name, table))
    there, here = (
        schema.to_frame(warehouse.join_upstream_tables(plain_day.DAY, every_stop_ahead=every_stop_ahead, trips=trips))
        for warehouse in (BigQueryWarehouse(tables, tables, tables.bigquery), DuckDBWarehouse(tables_here, tables_here))
    )
    assert trips is None or set(here["trip_id"]) == set(trips)
    assert len(here) > 200 and here["is_interpolated"].any() and (here["event"] == "departure").any()
    pd.testing.assert_frame_equal(there, here)
