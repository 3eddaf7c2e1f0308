"""MBTA_SOURCE=bigquery: tables that others load are read where they are, whatever they are called there."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as arrow
import pytest
from dagster._core.definitions.observe import observe

from mbta_assets.definitions import build_defs
from mbta_assets.gcp import Account
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources import SourceError
from mbta_assets.sources.bigquery import BigQuerySource
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.storage.tables import to_arrow
from mbta_assets.transit import schema
from mbta_assets_tests.defs.automation.conftest import Deployment
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.google_fixtures import MAXIMUM_BYTES_BILLED

DAYS = small_network.DAYS[:2]
Tables = dict[tuple[str, date], arrow.Table]
pytestmark = pytest.mark.xdist_group("google")


@pytest.fixture(scope="module")
def mattapan() -> Tables:
    """The simulator's Mattapan line in the morning, as the contract has it."""
    of_days = {day: small_network.make_day(day) for day in DAYS}
    return {(table, day): to_arrow(table, rows) for day, tables in of_days.items() for table, rows in tables.items()}


@pytest.fixture
def loaded(account: Account, dataset: str, mattapan: Tables) -> BigQueryTables:
    """The tables as another team loads them: partitioned by day, named as in the contract."""
    upstream = BigQueryTables(account, f"feed_{dataset}", MAXIMUM_BYTES_BILLED)
    upstream.begin()
    for (table, day), rows in mattapan.items():
        upstream.write(table, day, rows)
    return upstream


def source_of(upstream: BigQueryTables, layout: dict[str, Any] | None = None) -> BigQuerySource:
    return BigQuerySource(upstream.bigquery, upstream.dataset, layout or {})


def sql(upstream: BigQueryTables, statement: str) -> None:
    upstream.bigquery.query("Prepare", statement.replace("$", upstream.where))


@pytest.mark.parametrize("deployment", ["local", "gcp"])
def test_the_lineage_is_the_same_and_nothing_is_copied(
    loaded: BigQueryTables, mattapan: Tables, google_environment: dict[str, str], tmp_path: Path, deployment: str
) -> None:
    environment = google_environment | {
        "MBTA_SOURCE": "bigquery",
        "MBTA_DEPLOYMENT": deployment,
        "BIGQUERY_UPSTREAM_DATASET": loaded.dataset,
    }
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    options = ["--select", "group:transit", "--partition-range", f"{DAYS[0]}...{DAYS[1]}"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, env={**os.environ, **environment})
    assert run.returncode == 0, run.stderr[-4000:]

    lake = Lake(tmp_path / "expected")
    for (table, day), rows in mattapan.items():
        lake.write(table, day, rows)
    tags = {"dagster/asset_partition_range_start": str(DAYS[0]), "dagster/asset_partition_range_end": str(DAYS[1])}
    files = Settings(source="files", files_dir=tmp_path / "expected/tables", store=tmp_path / "expected")
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(files).resolve_job_def("daily_tables")
        assert job.execute_in_process(tags=tags, instance=instance).success

    account, dataset = loaded.account, google_environment["BIGQUERY_DATASET"]
    stored = BigQueryTables(account, dataset, MAXIMUM_BYTES_BILLED)
    made = stored if deployment == "gcp" else Lake(Path(google_environment["MBTA_STORE"]))
    for table in ("raw_transit_data", "transit_features"):
        assert made.versions(table, DAYS) == lake.versions(table, DAYS)
    assert made.days("vehicle") == []


def test_a_day_is_read_with_the_types_of_the_contract(loaded: BigQueryTables, mattapan: Tables) -> None:
    source = source_of(loaded)
    assert source.days("vehicle") == DAYS
    for table in schema.UPSTREAM:
        assert to_arrow(table, source.read(table, [DAYS[0]])).equals(mattapan[table, DAYS[0]])
    assert source.read("trip", DAYS, ["id", "route_id"]).column_names == ["id", "route_id"]


def test_each_partition_has_a_version_that_changes_with_its_rows_alone(loaded: BigQueryTables) -> None:
    source = source_of(loaded)
    before = source.versions("vehicle", DAYS)
    assert source.versions("vehicle", DAYS) == before
    sql(loaded, f"INSERT INTO `$.vehicle` SELECT * FROM `$.vehicle` WHERE service_date = '{DAYS[1]}' LIMIT 7")
    after = source.versions("vehicle", DAYS)
    assert (after[DAYS[0]] == before[DAYS[0]], after[DAYS[1]] == before[DAYS[1]]) == (True, False)


def test_observing_tells_dagster_the_version_of_each_partition(
    loaded: BigQueryTables, google_environment: dict[str, str]
) -> None:
    upstream = {"MBTA_SOURCE": "bigquery", "BIGQUERY_UPSTREAM_DATASET": loaded.dataset}
    defs = build_defs(Settings.from_environment(google_environment | upstream))
    vehicle = next(asset for asset in defs.assets or () if getattr(asset, "key", None) == dg.AssetKey("vehicle"))
    resources = {name: defs.resources[name] for name in ("source", "upstream_tables")}
    with dg.DagsterInstance.ephemeral() as instance:
        events = observe([vehicle], instance=instance, resources=resources).asset_observations_for_node("vehicle")
    versions = source_of(loaded).versions("vehicle", DAYS)
    told = {str(day): version for day, version in versions.items()}
    assert {event.partition: event.data_version for event in events} == told


def test_a_day_that_is_not_there_is_named_with_those_that_are(loaded: BigQueryTables) -> None:
    held = "bigquery, table vehicle, service day 2024-04-11: .* 2024-04-01 to 2024-04-02, 2 in all"
    with pytest.raises(SourceError, match=held):
        source_of(loaded).read("vehicle", [date(2024, 4, 11)])


RENAMED = {
    "vehicle": {
        "table": "vehicle_df",
        "columns": {"id": "vehicle", "updated_at": "reported", "service_date": "reported", "speed": None},
    },
    "trip": {"columns": {"service_date": None}},
    "stop": {"columns": {"service_date": None}},
    "schedule": {"columns": {"service_date": ["departure_time", "arrival_time"]}},
}


def test_tables_that_are_laid_out_otherwise_are_the_same_tables(loaded: BigQueryTables, mattapan: Tables) -> None:
    gone = "id, updated_at, service_date, bearing, speed, occupancy_status"
    renamed = f"id AS vehicle, updated_at AS reported, * EXCEPT ({gone})"
    sql(loaded, f"CREATE TABLE `$.vehicle_df` AS SELECT {renamed} FROM `$.vehicle`")
    for table in ("trip", "stop"):
        of_a_day = f"FROM `$.{table}` WHERE service_date = '{DAYS[0]}'"
        sql(loaded, f"CREATE TABLE `$.{table}s` AS SELECT * EXCEPT (service_date) {of_a_day}")
    layout = json.loads(json.dumps(RENAMED))
    for table in ("trip", "stop"):
        layout[table]["table"] = f"{loaded.dataset}.{table}s"
    source = source_of(loaded, layout)
    found, expected = to_arrow("vehicle", source.read("vehicle", [DAYS[0]])), mattapan["vehicle", DAYS[0]]
    there = [name for name in expected.column_names if name not in ("bearing", "speed", "occupancy_status")]
    assert found.select(there).equals(expected.select(there))
    assert found["speed"].null_count == len(found)
    for table in ("trip", "stop", "schedule"):
        assert to_arrow(table, source.read(table, [DAYS[0]])).equals(mattapan[table, DAYS[0]])
    assert source.days("vehicle") == DAYS
    assert source.days("stop") == DAYS


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE `$.vehicle` DROP COLUMN trip_id", "table vehicle, column trip_id, .*has no trip_id"),
        ("DROP TABLE `$.vehicle`", "there is no table"),
        ("DELETE FROM `$.vehicle` WHERE TRUE", "it holds no rows at all"),
        (
            "UPDATE `$.vehicle` SET current_status = 'FLYING' WHERE TRUE",
            "column current_status, .*unknown value 'FLYING'",
        ),
    ],
    ids=["no column", "no table", "no rows", "no such status"],
)
def test_what_is_wrong_upstream_is_named(loaded: BigQueryTables, statement: str, said: str) -> None:
    sql(loaded, statement)
    if "DROP COLUMN" in statement:  # the emulator does not show what SQL has changed
        made = loaded.account.bigquery.get_table(loaded.path("vehicle"))
        made.schema = [field for field in made.schema if field.name != "trip_id"]
        loaded.account.bigquery.update_table(made, ["schema"])
    with pytest.raises(SourceError, match=said):
        source_of(loaded).read("vehicle", [DAYS[0]])


def test_a_column_of_another_type_is_named(loaded: BigQueryTables) -> None:
    sql(
        loaded,
        "CREATE TABLE `$.vehicles` AS SELECT * REPLACE (CAST(updated_at AS STRING) AS updated_at) FROM `$.vehicle`",
    )
    with pytest.raises(SourceError, match="column updated_at, .*is STRING, and must be TIMESTAMP"):
        source_of(loaded, {"vehicle": {"table": "vehicles"}}).read("vehicle", [DAYS[0]])


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"bus": {}}, "bus: no such table"),
        ({"vehicle": {"columns": {"velocity": "v"}}}, "vehicle: no such column velocity"),
        ({"vehicle": {"columns": {"speed": 5}}}, "column speed must be a name, a list of names or null, and is 5"),
        ({"vehicle": {"table": "a.b.c.d"}}, "dataset.table or project.dataset.table"),
        ({"vehicle": "vehicle.df"}, "it may have 'table' and 'columns'"),
    ],
)
def test_a_layout_that_is_not_understood_stops_the_code_location(layout: dict[str, Any], said: str) -> None:
    settings = Settings(
        source="bigquery", gcp_project="test", bigquery_upstream_dataset="feed", bigquery_upstream_layout=layout
    )
    with pytest.raises(SettingsError, match=f"BIGQUERY_UPSTREAM_LAYOUT: .*{said}"):
        build_defs(settings)


def test_a_changed_partition_is_followed_and_only_that_one(
    loaded: BigQueryTables, google_environment: dict[str, str]
) -> None:
    upstream = {"MBTA_SOURCE": "bigquery", "BIGQUERY_UPSTREAM_DATASET": loaded.dataset}
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(Settings.from_environment(google_environment | upstream), instance)
        transit = [dg.AssetKey("raw_transit_data"), dg.AssetKey("transit_features")]
        for day in DAYS:
            request = dg.RunRequest(run_key=f"at first {day}", partition_key=str(day), asset_selection=transit)
            assert deployment.run(request).is_success
        assert deployment.tick() == []
        sql(loaded, f"INSERT INTO `$.vehicle` SELECT * FROM `$.vehicle` WHERE service_date = '{DAYS[1]}' LIMIT 7")
        (request,) = deployment.tick()
        assert (request.partition_key, request.asset_selection) == (str(DAYS[1]), transit)
        assert deployment.run(request).is_success
        assert deployment.tick() == []
