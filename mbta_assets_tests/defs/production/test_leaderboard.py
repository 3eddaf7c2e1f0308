"""The rows on which the leaderboard measures how much predictions change: every stop ahead on some whole trips."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pytest

from mbta_assets.defs.production.leaderboard import compute_whole_trips, measure_steadiness
from mbta_assets.sources.bigquery import BigQuerySource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import BigQueryWarehouse, DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.looping_trips import make_looping_day

pytestmark = pytest.mark.xdist_group("google")
Store: TypeAlias = tuple[DuckDBWarehouse, pd.DataFrame, dict[str, Any]]
KEY = ["trip_id", "vehicle_id", "time_stamp", "stops_ahead"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Store a day; return its warehouse, rows about every stop ahead, and a manifest whose test part is its end."""
    stored, rows = ParquetTables(tmp_path_factory.mktemp("store")), make_looping_day(4, n_trips=12)
    rows["vehicle"][0]["trip_id"] += " "  # a blank is no part of an id
    tables = plain_day.to_tables(rows)
    for name, table in tables.items():
        stored.write(name, plain_day.DAY, to_arrow(name, table))
    upstream = tables["vehicle"], tables["schedule"], tables["stop"]
    sample = compute_transit_features(plain_day.join(tables), *upstream)
    stored.write("transit_features", plain_day.DAY, to_arrow("transit_features", sample))
    every = compute_transit_features(plain_day.join(tables, every_stop_ahead=True), *upstream)
    begin = every["time_stamp"].quantile(0.4)
    versions = {str(day): version for day, version in stored.versions("transit_features", [plain_day.DAY]).items()}
    manifest = {"parts": [{"part": "test", "from": str(begin)}], "data_versions": versions}
    return DuckDBWarehouse(stored, stored), every[every["time_stamp"] >= begin], manifest


def sort(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in an order of their own."""
    return rows.sort_values(KEY).reset_index(drop=True)


def test_they_are_those_of_every_stop_ahead_in_the_test_part(store: Store) -> None:
    warehouse, every, manifest = store
    rows = compute_whole_trips(warehouse, SyntheticSource(0), manifest)
    pd.testing.assert_frame_equal(sort(rows), sort(every))


def test_of_more_rows_than_the_limit_whole_trips_are_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse, every, manifest = store
    monkeypatch.setattr("mbta_assets.defs.production.leaderboard.MAX_ROWS_OF_WHOLE_TRIPS", len(every) // 3)
    rows = compute_whole_trips(warehouse, SyntheticSource(0), manifest)
    assert 0 < rows["trip_id"].nunique() < every["trip_id"].nunique()
    pd.testing.assert_frame_equal(sort(rows), sort(every[every["trip_id"].isin(rows["trip_id"])]))


def test_of_days_that_were_made_again_or_removed_nothing_is_measured(store: Store) -> None:
    warehouse, _, manifest = store
    again = manifest | {"data_versions": {str(plain_day.DAY): "another"}}
    removed = manifest | {"data_versions": {"2024-03-07": "a"}}
    for training_set in (again, removed, manifest | {"parts": []}):
        rows = compute_whole_trips(warehouse, SyntheticSource(0), training_set)
        assert list(rows) == list(schema.empty_frame(schema.TransitFeatures)) and rows.empty
        assert measure_steadiness({"schedule": np.zeros(0)}, {}, rows)["schedule"] is None


def test_a_day_before_the_test_part_is_not_joined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse, every, manifest = store
    joined = list[object]()
    monkeypatch.setattr("mbta_assets.defs.production.leaderboard.compute_trip_features", lambda *of: joined.append(of))
    later = str(every["time_stamp"].max() + pd.Timedelta("1min"))
    training_set = manifest | {"parts": [{"part": "test", "from": later}]}
    assert compute_whole_trips(warehouse, SyntheticSource(0), training_set).empty
    assert not joined


def test_of_days_whose_upstream_tables_are_gone_nothing_is_measured(store: Store, tmp_path: Path) -> None:
    warehouse, _, manifest = store
    upstream = ParquetTables(tmp_path)
    assert compute_whole_trips(DuckDBWarehouse(warehouse.tables, upstream), SyntheticSource(0), manifest).empty


def test_tables_in_bigquery_have_the_same_rows_until_they_are_gone(store: Store, tables: BigQueryTables) -> None:
    warehouse, every, manifest = store
    for name in schema.UPSTREAM:
        tables.write(name, plain_day.DAY, warehouse.upstream.read(name, [plain_day.DAY]))
    source = BigQuerySource(tables.bigquery, tables.dataset, {})
    in_place = BigQueryWarehouse(warehouse.tables, source.tables_in_place, tables.bigquery)
    pd.testing.assert_frame_equal(sort(compute_whole_trips(in_place, source, manifest)), sort(every))
    tables.bigquery.query("Prepare", f"DELETE FROM `{tables.dataset_path}.vehicle` WHERE TRUE")
    assert compute_whole_trips(in_place, source, manifest).empty
    tables.bigquery.query("Prepare", f"DROP TABLE `{tables.dataset_path}.vehicle`")
    assert compute_whole_trips(in_place, source, manifest).empty
