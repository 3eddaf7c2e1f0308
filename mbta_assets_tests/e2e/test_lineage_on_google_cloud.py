"""The whole lineage with MBTA_DEPLOYMENT=gcp makes what it makes on one machine."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from mbta_assets.gcp import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSBundleStore
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.storage.tables import to_arrow
from mbta_assets.transit import schema
from mbta_assets_tests.support.bigquery_emulator import bigquery_server
from mbta_assets_tests.support.storage_emulator import storage_server

DAYS = [date(2024, 9, 9), date(2024, 9, 10)]
RANGE = ["--partition-range", f"{DAYS[0]}...{DAYS[-1]}"]
SHORT = {
    "xgboost_model": {"rounds": 20, "trial_rounds": 20, "trial_rows": 2000},
    "dnn_teacher": {"epochs": 2, "trial_epochs": 2, "trial_rows": 2000},
    "pruned_teacher": {"epochs": 1},
    "distilled_student": {"epochs": 2, "trial_epochs": 2, "trial_rows": 2000},
    "production_model": {
        "margin_over_lookup": 0.0, "margin_over_production": 0.0, "route_bound": 100.0, "test_rows": 1,
        "latency_microseconds": 1e7,
    },
}  # fmt: skip
"""So little training that the test is short; the gate lets what comes of it through if it beats the lookup."""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator's Mattapan line as files."""
    directory = tmp_path_factory.mktemp("upstream")
    lake, source = Lake(directory), SyntheticSource(0)
    for day in DAYS:
        rows = {table: source.read(table, day) for table in schema.UPSTREAM}
        for table in ("vehicle", "trip"):
            rows[table] = rows[table][rows[table]["route_id"] == "Mattapan"]
        rows["schedule"] = rows["schedule"][rows["schedule"]["trip_id"].isin(rows["trip"]["id"])]
        for table, frame in rows.items():
            lake.write(table, day, to_arrow(table, frame))
    return directory / "tables"


def materialize(store: Path, environment: Mapping[str, str], *arguments: str) -> None:
    store.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    variables = {"DAGSTER_HOME": str(store), "MBTA_STORE": str(store), "MBTA_TUNE_TRIALS": "1"}
    run = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env={**os.environ, **variables, **environment}
    )
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.fixture(scope="module")
def both(upstream: Path, tmp_path_factory: pytest.TempPathFactory):
    """The lineage of the same input on one machine, and on Google Cloud as far as emulators are that."""
    root = tmp_path_factory.mktemp("both")
    config = json.dumps({"ops": {name: {"config": values} for name, values in SHORT.items()}})
    with bigquery_server() as bigquery, storage_server("delay-models") as bucket:
        source = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(upstream)}
        google = {
            **source,
            "MBTA_DEPLOYMENT": "gcp",
            "GCP_PROJECT": "test",
            "BIGQUERY_DATASET": "delays",
            "GCS_BUCKET": "delay-models",
            "BIGQUERY_EMULATOR_HOST": bigquery.url,
            "STORAGE_EMULATOR_HOST": bucket.url,
        }

        def make(name: str, environment: Mapping[str, str]) -> None:
            materialize(root / name, environment, "group:upstream or group:transit", *RANGE)
            trained = "group:training or group:models or group:production"
            materialize(root / name, environment, trained, "--config-json", config)
            materialize(root / name, environment, "group:monitoring", *RANGE)

        with ThreadPoolExecutor() as together:
            list(together.map(make, ("local", "google"), (source, google)))
        yield root, Settings.from_environment({**google, "MBTA_STORE": str(root / "elsewhere")})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("table", schema.TABLES)
def test_every_table_is_read_back_as_one_machine_has_it(both, table):
    root, settings = both
    tables, lake = BigQueryTables(Account.of(settings), "delays", 10**10), Lake(root / "local")
    assert tables.days(table) == lake.days(table) == DAYS
    assert tables.versions(table, DAYS) == lake.versions(table, DAYS)
    for day in DAYS:
        assert tables.read(table, [day]).equals(lake.read(table, [day]))


BUNDLES = ("training_set", "runtime_lookup", "xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student")
BUNDLES += ("quantized_student", "production_model")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("asset", BUNDLES)
def test_every_bundle_is_read_back_as_one_machine_has_it(both, asset):
    root, settings = both
    local, stored = (
        BundleStore(root / "local"),
        GCSBundleStore(Bucket(Account.of(settings), "delay-models"), root / "c"),
    )
    assert stored.current_digest(asset) == local.current_digest(asset)
    here, there = local.current(asset), stored.current(asset)
    assert there.manifest == here.manifest
    assert all(there.file(name) == here.file(name) for name in here.manifest["files"])


@pytest.mark.timeout(900)
def test_the_leaderboard_is_in_the_bucket_and_in_the_store(both):
    root, settings = both
    account = Account.of(settings)
    found = Bucket(account, "delay-models").read("reports/model_leaderboard.json")
    assert found is not None
    assert found[0] == (root / "google/reports/model_leaderboard.json").read_bytes()
    local = json.loads((root / "local/reports/model_leaderboard.json").read_text())

    def told(rows):
        return [{key: value for key, value in row.items() if key != "latency_us_p50"} for row in rows]

    assert told(json.loads(found[0])) == told(local)


@pytest.mark.timeout(900)
def test_nothing_but_the_tables_and_no_pickle_is_left_behind(both):
    _, settings = both
    account = Account.of(settings)
    assert {table.table_id for table in account.bigquery.list_tables("delays")} == {*schema.TABLES, "stored_days"}
    client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": account.storage_emulator})
    names = [blob.name for blob in client.list_blobs("delay-models")]
    assert all(name.startswith(("models/", "reports/")) for name in names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".joblib"))]
