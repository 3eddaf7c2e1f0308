"""MBTA_SOURCE=bigquery: tables that others load are read in place, whatever their names and columns are."""

import copy
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as arrow
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs.dagster_internals import observe
from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources import SourceError, bigquery
from mbta_assets.sources.bigquery import BigQuerySource, BigQueryUpstreamTables
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import TableStore, to_arrow
from mbta_assets.transit import schema
from mbta_assets.transit.agency_delays import AGENCY_DELAY
from mbta_assets_tests.defs.automation.conftest import Deployment, select_resources
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.google_fixtures import MAX_BYTES_BILLED

DAYS = small_network.DAYS[:2]
TablesByDay = dict[tuple[str, date], arrow.Table]
pytestmark = pytest.mark.xdist_group("google")


@pytest.fixture(scope="module")
def contract_tables() -> TablesByDay:
    """Return the tables of a small network with the columns of the contract."""
    upstream = {day: small_network.make_day(day) for day in DAYS}
    return {(table, day): to_arrow(table, rows) for day, tables in upstream.items() for table, rows in tables.items()}


@pytest.fixture
def upstream(account: Account, dataset: str, contract_tables: TablesByDay) -> BigQueryTables:
    """Load the tables as another team does: partitioned by day, with the names of the contract."""
    upstream = BigQueryTables(BigQuery(account, MAX_BYTES_BILLED), f"feed_{dataset}")
    upstream.prepare()
    for (table, day), rows in contract_tables.items():
        upstream.write(table, day, rows)
    return upstream


def open_source(upstream: BigQueryTables, layout: dict[str, Any] | None = None) -> BigQuerySource:
    """Return a source that reads the upstream tables."""
    return BigQuerySource(upstream.bigquery, upstream.dataset, layout or {})


def open_tables(upstream: BigQueryTables, layout: dict[str, Any] | None = None) -> BigQueryUpstreamTables:
    """Return the tables in place of a source that reads the upstream tables."""
    return open_source(upstream, layout).tables_in_place


def execute(upstream: BigQueryTables, statement: str) -> None:
    """Execute a statement in which `$` stands for the upstream dataset."""
    upstream.bigquery.query("Prepare", statement.replace("$", upstream.dataset_path))


def upstream_environment(upstream: BigQueryTables, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment with the upstream tables as the source."""
    return environment | {"MBTA_SOURCE": "bigquery", "BIGQUERY_UPSTREAM_DATASET": upstream.dataset}


def read_features(tables: TableStore, day: date) -> pd.DataFrame:
    """Return the stored features of a service day."""
    return schema.to_frame(tables.read("transit_features", [day]))


@pytest.mark.parametrize("deployment", ["local", "gcp"])
def test_the_lineage_is_the_same_and_nothing_is_copied(
    upstream: BigQueryTables,
    contract_tables: TablesByDay,
    google_environment: dict[str, str],
    tmp_path: Path,
    deployment: str,
) -> None:
    environment = upstream_environment(upstream, google_environment) | {"MBTA_DEPLOYMENT": deployment}
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    options = ["--select", "group:transit", "--partition-range", f"{DAYS[0]}...{DAYS[1]}"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, env={**os.environ, **environment})
    assert run.returncode == 0, run.stderr[-4000:]

    expected = ParquetTables(tmp_path / "expected")
    for (table, day), rows in contract_tables.items():
        expected.write(table, day, rows)
    tags = {"dagster/asset_partition_range_start": str(DAYS[0]), "dagster/asset_partition_range_end": str(DAYS[1])}
    files = Settings(source="files", files_dir=tmp_path / "expected/tables", store=tmp_path / "expected")
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(files).resolve_job_def("daily_tables")
        assert job.execute_in_process(tags=tags, instance=instance).success

    if deployment == "gcp":
        stored: TableStore = BigQueryTables(upstream.bigquery, google_environment["BIGQUERY_DATASET"])
    else:
        stored = ParquetTables(Path(google_environment["MBTA_STORE"]))
    for table in ("raw_transit_data", "transit_features"):
        assert stored.versions(table, DAYS) == expected.versions(table, DAYS)
    assert stored.days("vehicle") == []


def test_a_day_is_read_with_the_types_of_the_contract(upstream: BigQueryTables, contract_tables: TablesByDay) -> None:
    source, tables = open_source(upstream), open_tables(upstream)
    assert tables.days("vehicle") == DAYS
    for table in schema.UPSTREAM:
        expected = contract_tables[table, DAYS[0]]
        assert to_arrow(table, tables.read(table, [DAYS[0]])).equals(expected)
        assert to_arrow(table, source.read(table, DAYS[0]).rows).equals(expected)
    assert tables.read("trip", DAYS, ["id", "route_id"]).column_names == ["id", "route_id"]


def test_each_partition_has_a_version_that_changes_with_its_rows_alone(upstream: BigQueryTables) -> None:
    tables = open_tables(upstream)
    before = tables.versions("vehicle", DAYS)
    assert tables.versions("vehicle", DAYS) == before
    execute(upstream, f"INSERT INTO `$.vehicle` SELECT * FROM `$.vehicle` WHERE service_date = '{DAYS[1]}' LIMIT 7")
    after = tables.versions("vehicle", DAYS)
    assert (after[DAYS[0]] == before[DAYS[0]], after[DAYS[1]] == before[DAYS[1]]) == (True, False)
    assert open_source(upstream).poll("vehicle", {}) == after


def test_an_observation_has_the_version_of_each_partition(
    upstream: BigQueryTables, google_environment: dict[str, str]
) -> None:
    defs = build_defs(Settings.from_environment(upstream_environment(upstream, google_environment)))
    vehicle = next(asset for asset in defs.assets or () if getattr(asset, "key", None) == dg.AssetKey("vehicle"))
    assert isinstance(vehicle, dg.SourceAsset | dg.AssetsDefinition)
    resources = select_resources(defs, {"source", "upstream_tables"})
    with dg.DagsterInstance.ephemeral() as instance:
        result = observe([vehicle], instance=instance, resources=resources)
    versions = {str(day): version for day, version in open_tables(upstream).versions("vehicle", DAYS).items()}
    observations = result.asset_observations_for_node("vehicle")
    assert {observation.partition: observation.data_version for observation in observations} == versions


def test_the_error_of_an_absent_day_names_the_days_that_are_stored(upstream: BigQueryTables) -> None:
    message = "bigquery, table vehicle, service day 2024-04-11: .* 2024-04-01 to 2024-04-02, 2 in all"
    with pytest.raises(SourceError, match=message):
        open_source(upstream).read("vehicle", date(2024, 4, 11))


RENAMED: dict[str, Any] = {
    "vehicle": {
        "table": "vehicle_df",
        "columns": {"id": "vehicle", "updated_at": "reported", "service_date": "reported", "speed": None},
    },
    "trip": {"columns": {"service_date": None}},
    "stop": {"columns": {"service_date": None}},
    "schedule": {"columns": {"service_date": ["departure_time", "arrival_time"]}},
}


def test_tables_with_another_layout_are_read_as_the_same_tables(
    upstream: BigQueryTables, contract_tables: TablesByDay
) -> None:
    dropped = "id, updated_at, service_date, bearing, speed, occupancy_status"
    renamed = f"id AS vehicle, updated_at AS reported, * EXCEPT ({dropped})"
    execute(upstream, f"CREATE TABLE `$.vehicle_df` AS SELECT {renamed} FROM `$.vehicle`")
    layout = copy.deepcopy(RENAMED)
    for table in ("trip", "stop"):
        rows_of_a_day = f"FROM `$.{table}` WHERE service_date = '{DAYS[0]}'"
        execute(upstream, f"CREATE TABLE `$.{table}s` AS SELECT * EXCEPT (service_date) {rows_of_a_day}")
        layout[table]["table"] = f"{upstream.dataset}.{table}s"
    tables = open_tables(upstream, layout)
    vehicle, expected = to_arrow("vehicle", tables.read("vehicle", [DAYS[0]])), contract_tables["vehicle", DAYS[0]]
    upstream_names = [name for name in expected.column_names if name not in ("bearing", "speed", "occupancy_status")]
    assert vehicle.select(upstream_names).equals(expected.select(upstream_names))
    assert vehicle["speed"].null_count == len(vehicle)
    for table in ("trip", "stop", "schedule"):
        assert to_arrow(table, tables.read(table, [DAYS[0]])).equals(contract_tables[table, DAYS[0]])
    assert tables.days("vehicle") == DAYS
    assert tables.days("stop") == DAYS


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Auckland", "America/New_York", "Pacific/Honolulu"])
def test_a_day_of_timestamps_is_that_of_the_agencys_zone(
    upstream: BigQueryTables, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setattr(bigquery, "TIME_ZONE", zone)
    begin = pd.Timestamp(DAYS[1], tz=zone) + pd.Timedelta(hours=bigquery.SERVICE_DAY_START_HOUR)
    times = [begin + pd.Timedelta(seconds=seconds) for seconds in (-1, 0, 86_399, 86_400)]
    values = " UNION ALL ".join(f"SELECT {n} AS id, TIMESTAMP '{time}' AS at" for n, time in enumerate(times))
    execute(upstream, f"CREATE TABLE `$.times` AS {values}")
    tables = open_tables(upstream, {"vehicle": {"table": "times", "columns": {"service_date": "at"}}})
    columns = tables._stat("vehicle").columns
    sql = f"SELECT id FROM `{tables.path('vehicle')}` WHERE {' AND '.join(tables._conditions('vehicle', columns))}"
    rows = upstream.bigquery.fetch_rows("Read", sql, {"service_date": DAYS[1]})
    assert sorted(rows["id"].to_pylist()) == [1, 2]


ODD_VALUES = {
    "vehicle": [
        "trip_id = CONCAT(' ', trip_id, '.0 ') WHERE MOD(CAST(trip_id AS INT64), 2) = 0",
        "trip_id = '  ', stop_id = 'None' WHERE latitude > 42.28",
        "latitude = 0.5, longitude = 0 WHERE current_status = 'STOPPED_AT'",
        "longitude = 181 WHERE stop_id = 'None'",
        "direction_id = 7, current_status = CONCAT(current_status, ' ') WHERE direction_id = 1",
        "current_status = 'FLYING' WHERE longitude > 0",
        "id = ' ' WHERE direction_id = 0 AND latitude > 42.27",
        "updated_at = TIMESTAMP '1970-01-01 00:00:00+00:00' WHERE latitude < 42.268",
    ],
    "trip": ["id = CONCAT(id, '.0'), route_id = '1.5' WHERE direction_id = 1", "id = 'nan' WHERE direction_id = 0"],
    "stop": ["latitude = -0.9, longitude = 0.9, parent_station = '' WHERE latitude > 42.27"],
    "schedule": [
        "arrival_time = TIMESTAMP '1970-01-01 00:00:00+00:00' WHERE stop_sequence > 30",
        "departure_time = TIMESTAMP '2106-01-01 00:00:00+00:00' WHERE stop_sequence > 50",
        "stop_id = NULL WHERE stop_sequence = 20",
    ],
}


@pytest.mark.parametrize("table", schema.UPSTREAM)
def test_the_join_has_the_rows_that_are_not_rejected(upstream: BigQueryTables, table: str) -> None:
    for assignment in ODD_VALUES[table]:
        execute(upstream, f"UPDATE `$.{table}` SET {assignment}")
    tables = open_tables(upstream)
    rows, rejected = tables.read_rows(table, DAYS[0])
    sql = f"SELECT * FROM {tables.relation(table, DAYS[0])}"
    joined = upstream.bigquery.fetch_rows("Read", sql, {"service_date": DAYS[0]})
    assert to_arrow(table, joined).equals(to_arrow(table, rows))
    assert len(rows) + len(rejected) == len(upstream.read(table, [DAYS[0]]))
    expected = {
        "vehicle": {("missing_value", "id"), ("unknown_value", "current_status"), ("time_out_of_range", "updated_at")},
        "trip": {("missing_value", "id")},
        "stop": set(),
        "schedule": {("missing_value", "stop_id"), ("time_out_of_range", "departure_time")},
    }
    assert set(zip(rejected["reason"], rejected["column_name"], strict=True)) == expected[table]
    assert to_arrow(table, tables.read(table, [DAYS[0]])).equals(to_arrow(table, rows))


def test_whole_numbers_are_read_as_ids(upstream: BigQueryTables, contract_tables: TablesByDay) -> None:
    columns = "CAST(stop_id AS INT64) AS stop_id, CAST(trip_id AS INT64) AS trip_id"
    execute(upstream, f"CREATE TABLE `$.numbered` AS SELECT * REPLACE ({columns}) FROM `$.schedule`")
    rows = open_source(upstream, {"schedule": {"table": "numbered"}}).read("schedule", DAYS[0]).rows
    assert to_arrow("schedule", rows).equals(contract_tables["schedule", DAYS[0]])


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "ALTER TABLE `$.vehicle` DROP COLUMN trip_id",
            "table vehicle, column trip_id, .*has no trip_id.*has service_date, id, ",
        ),
        ("DROP TABLE `$.vehicle`", "there is no table"),
        ("DELETE FROM `$.vehicle` WHERE TRUE", "it holds no rows at all"),
        (
            "UPDATE `$.vehicle` SET current_status = 'FLYING' WHERE TRUE",
            "column current_status, .*reason unknown_value, first 'FLYING' in row 0. It may be IN_TRANSIT_TO, ",
        ),
    ],
    ids=["no column", "no table", "no rows", "no such status"],
)
def test_an_upstream_problem_is_named(upstream: BigQueryTables, statement: str, message: str) -> None:
    execute(upstream, statement)
    if "DROP COLUMN" in statement:  # the emulator's metadata still has a column that SQL has dropped
        client = upstream.bigquery.client
        vehicle = client.get_table(upstream.path("vehicle"))
        vehicle.schema = [field for field in vehicle.schema if field.name != "trip_id"]
        client.update_table(vehicle, ["schema"])
    with pytest.raises(SourceError, match=message):
        open_source(upstream).read("vehicle", DAYS[0])


def test_a_column_of_another_type_is_named(upstream: BigQueryTables) -> None:
    execute(
        upstream,
        "CREATE TABLE `$.vehicles` AS SELECT * REPLACE (CAST(updated_at AS STRING) AS updated_at) FROM `$.vehicle`",
    )
    with pytest.raises(SourceError, match="column updated_at, .*is STRING, and must be TIMESTAMP"):
        open_source(upstream, {"vehicle": {"table": "vehicles"}}).read("vehicle", DAYS[0])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"bus": {}}, "bus: no such table"),
        ({"vehicle": {"columns": {"velocity": "v"}}}, "vehicle: no such column velocity"),
        ({"vehicle": {"columns": {"speed": 5}}}, "column speed must be a name, a list of names or null, and is 5"),
        ({"vehicle": {"table": "a.b.c.d"}}, "dataset.table or project.dataset.table"),
        ({"vehicle": "vehicle.df"}, "it may have 'table' and 'columns'"),
    ],
)
def test_an_invalid_layout_stops_the_code_location(layout: dict[str, Any], message: str) -> None:
    settings = Settings(
        source="bigquery", gcp_project="test", bigquery_upstream_dataset="feed", bigquery_upstream_layout=layout
    )
    with pytest.raises(SettingsError, match=f"BIGQUERY_UPSTREAM_LAYOUT: .*{message}"):
        build_defs(settings)


def test_a_changed_partition_is_recomputed_and_only_that_one(
    upstream: BigQueryTables, google_environment: dict[str, str]
) -> None:
    settings = Settings.from_environment(upstream_environment(upstream, google_environment))
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(settings, instance)
        transit = [dg.AssetKey("raw_transit_data"), dg.AssetKey("transit_features")]
        for day in DAYS:
            request = dg.RunRequest(run_key=f"first run of {day}", partition_key=str(day), asset_selection=transit)
            assert deployment.run(request).is_success
        assert deployment.tick() == []
        execute(upstream, f"INSERT INTO `$.vehicle` SELECT * FROM `$.vehicle` WHERE service_date = '{DAYS[1]}' LIMIT 7")
        (request,) = deployment.tick()
        assert (request.partition_key, request.asset_selection) == (str(DAYS[1]), transit)
        assert deployment.run(request).is_success
        assert deployment.tick() == []


def test_the_agencys_predictions_are_optional_and_make_the_day_again_when_they_come(
    upstream: BigQueryTables, google_environment: dict[str, str], contract_tables: TablesByDay
) -> None:
    settings = Settings.from_environment(upstream_environment(upstream, google_environment))
    day, stored = DAYS[1], BigQueryTables(upstream.bigquery, google_environment["BIGQUERY_DATASET"])
    transit = [dg.AssetKey("raw_transit_data"), dg.AssetKey("transit_features")]
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(settings, instance)
        first = dg.RunRequest(run_key="first run", partition_key=str(day), asset_selection=transit)
        assert deployment.run(first).is_success
        assert read_features(stored, day)[AGENCY_DELAY].isna().all()
        assert deployment.tick() == []
        stop_times = contract_tables["schedule", day].to_pandas()
        stop_times = stop_times[stop_times["arrival_time"].notna()]
        predictions = pd.DataFrame(
            {
                "service_date": day,
                "predicted_at": pd.Timestamp(day, tz="UTC"),
                **{name: stop_times[name] for name in ("trip_id", "stop_id", "stop_sequence")},
                "arrival_time": stop_times["arrival_time"] + pd.Timedelta(seconds=90),
                "departure_time": pd.NaT,
                "uncertainty": None,
            }
        )
        upstream.write("agency_predictions", day, to_arrow("agency_predictions", predictions))
        (request,) = deployment.tick()
        assert (request.partition_key, request.asset_selection) == (str(day), transit)
        assert deployment.run(request).is_success
        arrivals = read_features(stored, day).query("stops_ahead > 0")
        assert len(arrivals) and (arrivals[AGENCY_DELAY] == 90).all()
        assert deployment.tick() == []


def test_an_optional_table_that_the_layout_names_must_be_there(upstream: BigQueryTables) -> None:
    source = open_source(upstream, {"agency_predictions": {"table": "predicted"}})
    with pytest.raises(SourceError, match=r"table agency_predictions.*there is no table .*predicted"):
        source.read("agency_predictions", DAYS[0])
