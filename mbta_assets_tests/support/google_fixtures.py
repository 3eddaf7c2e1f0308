"""Fixtures of BigQuery and Cloud Storage: one emulator per process; a dataset, a bucket and proxies per test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSModelRegistry
from mbta_assets_tests.support.bigquery_emulator import BigQueryServer, bigquery_server
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR
from mbta_assets_tests.support.fault_proxy import FaultProxy, fault_proxy
from mbta_assets_tests.support.storage_emulator import StorageServer, open_client, storage_server

PROJECT = "test"
RETRY_SECONDS = 30 * BUSY_FACTOR
"""A third of it may be one request."""
MAX_BYTES_BILLED = 10**10


@pytest.fixture(scope="session")
def bigquery_emulator() -> Iterator[BigQueryServer]:
    """Run BigQuery's emulator; tests call it through `bigquery_proxy`."""
    with bigquery_server(PROJECT) as server:
        yield server


@pytest.fixture(scope="session")
def storage_emulator() -> Iterator[StorageServer]:
    """Run Cloud Storage's emulator without buckets; tests call it through `storage_proxy`."""
    with storage_server() as server:
        yield server


@pytest.fixture
def bigquery_proxy(bigquery_emulator: BigQueryServer) -> Iterator[FaultProxy]:
    """Run a proxy in front of BigQuery, which injects faults and records requests."""
    with fault_proxy(bigquery_emulator.url) as proxy:
        yield proxy


@pytest.fixture
def storage_proxy(storage_emulator: StorageServer) -> Iterator[FaultProxy]:
    """Run a proxy in front of Cloud Storage, which injects faults and records requests."""
    with fault_proxy(storage_emulator.url) as proxy:
        yield proxy


@pytest.fixture
def account(bigquery_emulator: BigQueryServer, bigquery_proxy: FaultProxy, storage_proxy: FaultProxy) -> Account:
    """Return an account that calls through the proxies; only the Storage Read API is called directly."""
    return Account(
        project=PROJECT,
        retry_seconds=RETRY_SECONDS,
        bigquery_emulator=bigquery_proxy.url,
        read_api_emulator=f"127.0.0.1:{bigquery_emulator.grpc_port}",
        storage_emulator=storage_proxy.url,
    )


@pytest.fixture
def dataset() -> str:
    """Return the name of a dataset that does not exist yet."""
    return f"daily_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def tables(account: Account, dataset: str, bigquery_proxy: FaultProxy) -> BigQueryTables:
    """Create a dataset and return its tables; the proxy has recorded no request yet."""
    tables = BigQueryTables(BigQuery(account, MAX_BYTES_BILLED), dataset)
    tables.prepare()
    bigquery_proxy.requests.clear()
    return tables


@pytest.fixture
def bucket_name(storage_emulator: StorageServer) -> str:
    """Create an empty bucket and return its name."""
    name = f"models-{uuid.uuid4().hex[:12]}"
    open_client(storage_emulator.url).create_bucket(name)
    return name


@pytest.fixture
def bucket(account: Account, bucket_name: str) -> Bucket:
    """Return a client of an empty bucket."""
    return Bucket(account, bucket_name)


@pytest.fixture
def model_registry(bucket: Bucket, tmp_path: Path) -> GCSModelRegistry:
    """Return a model registry in an empty bucket, with an empty cache."""
    return GCSModelRegistry(bucket, tmp_path / "cache")


@pytest.fixture
def google_environment(account: Account, dataset: str, bucket_name: str, tmp_path: Path) -> dict[str, str]:
    """Return environment variables for a process that uses the same dataset and bucket."""
    assert account.bigquery_emulator and account.storage_emulator and account.read_api_emulator
    return {
        "MBTA_DEPLOYMENT": "gcp",
        "MBTA_STORE": str(tmp_path / "store"),
        "GCP_PROJECT": PROJECT,
        "GCP_RETRY_SECONDS": str(RETRY_SECONDS),
        "BIGQUERY_DATASET": dataset,
        "BIGQUERY_EMULATOR_HOST": account.bigquery_emulator,
        "BIGQUERY_STORAGE_EMULATOR_HOST": account.read_api_emulator,
        "GCS_BUCKET": bucket_name,
        "STORAGE_EMULATOR_HOST": account.storage_emulator,
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
