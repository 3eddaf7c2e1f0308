"""A model in Cloud Storage: loaded from there, followed there, kept where the bucket cannot be reached."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from mbta_assets.gcp import Account, Identity
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.serving import Predictor
from mbta_assets.serving.moment import EXAMPLE
from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.gcs import GCSBundleStore, GCSReports
from mbta_assets.storage.reports import NETWORK_SNAPSHOT, Reports
from mbta_assets_tests.serving.conftest import Production, serving
from mbta_assets_tests.support.dagster_dev import eventually
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, fault_proxy
from mbta_assets_tests.support.storage_emulator import storage_server

BUCKET = "delay-models"


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    """A Cloud Storage with an empty bucket, behind what can make it fail."""
    with storage_server() as running:
        client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": running.url})
        client.create_bucket(BUCKET)
        with fault_proxy(running.url) as proxy:
            yield proxy


@pytest.fixture
def remote(proxy: FaultProxy, whole_store: Production, tmp_path: Path) -> GCSBundleStore:
    """The store of bundles in that bucket, with the first model in production, and the page's snapshot."""
    bucket = Bucket(Account("test", Identity(), "US", 30, storage_emulator=proxy.url), BUCKET)
    store = GCSBundleStore(bucket, tmp_path / "writer")
    promote(store, whole_store, 0)
    GCSReports(bucket, tmp_path / "writer").write(NETWORK_SNAPSHOT, Reports(whole_store.root).read(NETWORK_SNAPSHOT))
    return store


def promote(store: GCSBundleStore, production: Production, number: int) -> str:
    stored = store.put("production_model", production.models[number])
    store.point("production_model", stored.digest, store.current_digest("production_model"), "promoted")
    return stored.digest


def test_it_is_loaded_from_a_bucket_without_a_project(
    remote: GCSBundleStore, proxy: FaultProxy, whole_store: Production, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setenv("MBTA_STORE", str(tmp_path / "reader"))
    expected = Predictor(whole_store.models[0]).predict_one(EXAMPLE)
    for where in (f"gs://{BUCKET}", f"gs://{BUCKET}/", f"gs://{BUCKET}/models/production_model"):
        assert Predictor.load(where).predict_one(EXAMPLE) == expected
    with pytest.raises(BundleError, match="no version in gs://there-is-none/models yet"):
        Predictor.load("gs://there-is-none")


@pytest.mark.parametrize("setting", ["MBTA_MODEL", "MBTA_DEPLOYMENT"])
def test_a_service_follows_the_bucket_and_goes_on_while_it_is_away(
    remote: GCSBundleStore, proxy: FaultProxy, whole_store: Production, tmp_path: Path, setting: str
) -> None:
    chosen = {
        "MBTA_MODEL": {"MBTA_MODEL": f"gs://{BUCKET}"},
        "MBTA_DEPLOYMENT": {
            "MBTA_DEPLOYMENT": "gcp",
            "GCS_BUCKET": BUCKET,
            "GCP_PROJECT": "test",
            "BIGQUERY_DATASET": "tables",
        },
    }[setting]
    first, second = (model.digest for model in whole_store.models)
    emulated = {"STORAGE_EMULATOR_HOST": proxy.url, "GCP_RETRY_SECONDS": "2", "MBTA_REFRESH_SECONDS": "0"}
    with serving(tmp_path / "reader", tmp_path / "log", **chosen, **emulated) as server:
        assert server.ask("/readyz").json()["model_version"] == first
        assert server.ask("/network?time=08:30").json()["lines"]
        promote(remote, whole_store, 1)
        eventually("it has the second", 20, lambda: server.ask("/readyz").json()["model_version"] == second)
        proxy.inject(Rule(times=None, status=503))
        try:
            for _ in range(20):
                assert server.ask("/readyz").json()["model_version"] == second
            eventually("it complains", 20, lambda: any(one["severity"] == "ERROR" for one in server.logged()))
            assert server.ask("/").status == 200
        finally:
            proxy.clear()
