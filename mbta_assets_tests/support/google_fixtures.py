"""A BigQuery and a Cloud Storage for the tests of a worker; each test has a dataset, bucket and proxies of its own."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from mbta_assets.gcp import Account, Identity
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSBundleStore
from mbta_assets_tests.support.bigquery_emulator import BigQueryServer, bigquery_server
from mbta_assets_tests.support.fault_proxy import FaultProxy, fault_proxy
from mbta_assets_tests.support.storage_emulator import StorageServer, storage_server

PROJECT = "test"
RETRY_SECONDS = 30
MAXIMUM_BYTES_BILLED = 10**10


@pytest.fixture(scope="session")
def bigquery_emulator() -> Iterator[BigQueryServer]:
    """BigQuery's emulator itself; `bigquery_proxy` is in front of it."""
    with bigquery_server(PROJECT) as running:
        yield running


@pytest.fixture(scope="session")
def storage_emulator() -> Iterator[StorageServer]:
    """Cloud Storage's emulator itself, without buckets; `storage_proxy` is in front of it."""
    with storage_server() as running:
        yield running


@pytest.fixture
def bigquery_proxy(bigquery_emulator: BigQueryServer) -> Iterator[FaultProxy]:
    """What the account takes for BigQuery: goes wrong when told to, and knows what was asked."""
    with fault_proxy(bigquery_emulator.url) as proxy:
        yield proxy


@pytest.fixture
def storage_proxy(storage_emulator: StorageServer) -> Iterator[FaultProxy]:
    """What the account takes for Cloud Storage."""
    with fault_proxy(storage_emulator.url) as proxy:
        yield proxy


@pytest.fixture
def account(bigquery_emulator: BigQueryServer, bigquery_proxy: FaultProxy, storage_proxy: FaultProxy) -> Account:
    """An account whose calls go through the proxies; only the Storage Read API is asked directly."""
    reader = f"127.0.0.1:{bigquery_emulator.grpc_port}"
    return Account(PROJECT, Identity(), "US", RETRY_SECONDS, bigquery_proxy.url, storage_proxy.url, reader)


@pytest.fixture
def dataset() -> str:
    """The name of a dataset that nobody has used."""
    return f"daily_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def tables(account: Account, dataset: str, bigquery_proxy: FaultProxy) -> BigQueryTables:
    """Tables in a fresh dataset, which is made; the proxy has forgotten how."""
    made = BigQueryTables(account, dataset, MAXIMUM_BYTES_BILLED)
    made.begin()
    bigquery_proxy.seen.clear()
    return made


@pytest.fixture
def bucket_name(storage_emulator: StorageServer) -> str:
    """The name of a bucket that is there and empty."""
    name = f"models-{uuid.uuid4().hex[:12]}"
    client = storage.Client(PROJECT, AnonymousCredentials(), client_options={"api_endpoint": storage_emulator.url})
    client.create_bucket(name)
    return name


@pytest.fixture
def bucket(account: Account, bucket_name: str) -> Bucket:
    """A fresh bucket."""
    return Bucket(account, bucket_name)


@pytest.fixture
def bundle_store(bucket: Bucket, tmp_path: Path) -> GCSBundleStore:
    """Bundles in a fresh bucket, kept in a fresh directory too."""
    return GCSBundleStore(bucket, tmp_path / "cache")


@pytest.fixture
def google_environment(account: Account, dataset: str, bucket_name: str, tmp_path: Path) -> dict[str, str]:
    """What to add to the environment of a process that is to use the same dataset and bucket."""
    assert account.bigquery_emulator and account.storage_emulator and account.reader_emulator
    return {
        "MBTA_DEPLOYMENT": "gcp",
        "MBTA_STORE": str(tmp_path / "store"),
        "GCP_PROJECT": PROJECT,
        "GCP_RETRY_SECONDS": str(RETRY_SECONDS),
        "BIGQUERY_DATASET": dataset,
        "BIGQUERY_EMULATOR_HOST": account.bigquery_emulator,
        "BIGQUERY_STORAGE_EMULATOR_HOST": account.reader_emulator,
        "GCS_BUCKET": bucket_name,
        "STORAGE_EMULATOR_HOST": account.storage_emulator,
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
