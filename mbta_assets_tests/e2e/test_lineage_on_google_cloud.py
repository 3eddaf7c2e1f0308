"""The whole lineage with MBTA_DEPLOYMENT=gcp stores the same tables, models and leaderboard as on one machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSModelRegistry
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.e2e.conftest import MONITORED, succeed
from mbta_assets_tests.support.bigquery_emulator import bigquery_server
from mbta_assets_tests.support.real_day import DAY
from mbta_assets_tests.support.storage_emulator import storage_server

# The first test may run the whole lineage twice in its setup, which takes minutes where other tests run beside it.
pytestmark = pytest.mark.xdist_group("trained")

TABLES = sorted(schema.TABLES.keys() - {"rejected_rows", *schema.OPTIONAL_UPSTREAM})
"""Tables of the real day, of which no row is rejected."""
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
class Stores:
    """The stores of two deployments with the same input: one machine, and Google Cloud's emulators."""

    local: Path
    google: Path
    """Local store of the deployment on Google Cloud, which also has its reports."""
    settings: Settings
    """Settings of another user of the same dataset and bucket."""

    @property
    def tables(self) -> BigQueryTables:
        """Return the tables in BigQuery."""
        return BigQueryTables.from_settings(self.settings)

    @property
    def bucket(self) -> Bucket:
        """Return the bucket of models and reports."""
        return Bucket.from_settings(self.settings)


@pytest.fixture(scope="module")
def stores(trained: dict[str, str], store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Materialize the lineage on the emulators, from the input of the trained store."""
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
        yield Stores(store, root, Settings.from_environment({**google, "MBTA_STORE": str(root / "elsewhere")}))


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_the_same_as_on_one_machine(stores: Stores, table: str) -> None:
    tables, local_tables = stores.tables, ParquetTables(stores.local)
    assert tables.days(table) == local_tables.days(table) == [DAY]
    assert tables.versions(table, [DAY]) == local_tables.versions(table, [DAY])
    assert tables.read(table, [DAY]).equals(local_tables.read(table, [DAY]))


@pytest.mark.parametrize("asset", BUNDLES)
def test_every_bundle_is_the_same_as_on_one_machine(stores: Stores, asset: str, tmp_path: Path) -> None:
    registry, local_registry = GCSModelRegistry(stores.bucket, tmp_path), ModelRegistry(stores.local)
    assert registry.current_digest(asset) == local_registry.current_digest(asset)
    bundle, local_bundle = registry.current(asset), local_registry.current(asset)
    assert bundle.manifest == local_bundle.manifest
    assert all(bundle.file(name) == local_bundle.file(name) for name in local_bundle.manifest["files"])


def test_the_leaderboard_is_in_the_bucket_and_in_the_local_store(stores: Stores) -> None:
    stored = stores.bucket.read("reports/model_leaderboard.json")
    assert stored is not None
    content, _ = stored
    assert content == (stores.google / "reports/model_leaderboard.json").read_bytes()

    def without_latency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "latency_us_p50"} for row in rows]

    local_rows = json.loads((stores.local / "reports/model_leaderboard.json").read_text())
    assert without_latency(json.loads(content)) == without_latency(local_rows)


def test_only_the_tables_models_and_reports_are_left_and_no_pickle(stores: Stores) -> None:
    tables, bucket = stores.tables, stores.bucket
    names = {table.table_id for table in tables.bigquery.client.list_tables(tables.dataset)}
    assert names == {*TABLES, *schema.OPTIONAL_UPSTREAM, "stored_days"}
    paths = [blob.name for blob in bucket.client.list_blobs(bucket.name)]
    assert paths
    assert all(path.startswith(("models/", "reports/")) for path in paths)
    assert not [path for path in paths if path.endswith((".pkl", ".pickle", ".pt", ".joblib"))]
