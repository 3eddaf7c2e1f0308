"""The whole lineage with MBTA_DEPLOYMENT=gcp makes what it makes on one machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from mbta_assets.gcp import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSBundleStore
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.transit import schema
from mbta_assets_tests.e2e.conftest import MONITORED, succeed
from mbta_assets_tests.support.bigquery_emulator import bigquery_server
from mbta_assets_tests.support.real_day import DAY
from mbta_assets_tests.support.storage_emulator import storage_server

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("trained")]

BUNDLES = (
    "training_set",
    "runtime_lookup",
    "xgboost_model",
    "dnn_teacher",
    "pruned_teacher",
    "distilled_student",
    "quantized_student",
    "production_model",
)


@dataclass(frozen=True)
class Both:
    """The lineage of the same input on one machine, and on Google Cloud as far as emulators are that."""

    local: Path
    google: Path
    """The store of the second, where its reports are kept too."""
    settings: Settings
    """Those of somebody else who uses the same dataset and bucket."""

    @property
    def account(self) -> Account:
        return Account.of(self.settings)


@pytest.fixture(scope="module")
def both(trained: dict[str, str], store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    root = tmp_path_factory.mktemp("google")
    with bigquery_server() as bigquery, storage_server("delay-models") as bucket:
        google = {
            "MBTA_DEPLOYMENT": "gcp",
            "GCP_PROJECT": "test",
            "BIGQUERY_DATASET": "delays",
            "GCS_BUCKET": "delay-models",
            "BIGQUERY_EMULATOR_HOST": bigquery.url,
            "STORAGE_EMULATOR_HOST": bucket.url,
        }
        variables = trained | google | {"MBTA_STORE": str(root), "DAGSTER_HOME": str(root)}
        succeed(variables, "--select", "group:upstream or group:transit", "--partition", str(DAY))
        succeed(variables, "--select", "group:training or group:models or group:production")
        succeed(variables, *MONITORED)
        yield Both(store, root, Settings.from_environment({**google, "MBTA_STORE": str(root / "elsewhere")}))


@pytest.mark.parametrize("table", schema.TABLES)
def test_every_table_is_read_back_as_one_machine_has_it(both: Both, table: str) -> None:
    tables, lake = BigQueryTables(both.account, "delays", 10**10), Lake(both.local)
    assert tables.days(table) == lake.days(table) == [DAY]
    assert tables.versions(table, [DAY]) == lake.versions(table, [DAY])
    assert tables.read(table, [DAY]).equals(lake.read(table, [DAY]))


@pytest.mark.parametrize("asset", BUNDLES)
def test_every_bundle_is_read_back_as_one_machine_has_it(both: Both, asset: str, tmp_path: Path) -> None:
    local, stored = BundleStore(both.local), GCSBundleStore(Bucket(both.account, "delay-models"), tmp_path)
    assert stored.current_digest(asset) == local.current_digest(asset)
    here, there = local.current(asset), stored.current(asset)
    assert there.manifest == here.manifest
    assert all(there.file(name) == here.file(name) for name in here.manifest["files"])


def test_the_leaderboard_is_in_the_bucket_and_in_the_store(both: Both) -> None:
    found = Bucket(both.account, "delay-models").read("reports/model_leaderboard.json")
    assert found is not None
    assert found[0] == (both.google / "reports/model_leaderboard.json").read_bytes()

    def without_latency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "latency_us_p50"} for row in rows]

    local = json.loads((both.local / "reports/model_leaderboard.json").read_text())
    assert without_latency(json.loads(found[0])) == without_latency(local)


def test_nothing_but_the_tables_and_no_pickle_is_left_behind(both: Both) -> None:
    account = both.account
    assert {table.table_id for table in account.bigquery.list_tables("delays")} == {*schema.TABLES, "stored_days"}
    client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": account.storage_emulator})
    names = [blob.name for blob in client.list_blobs("delay-models")]
    assert all(name.startswith(("models/", "reports/")) for name in names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".joblib"))]
