"""Models are loaded from stores, bundles and buckets; a bucket is followed, and the model kept while it is away."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.serving import Predictor, follow_model
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY
from mbta_assets.serving.refreshing_cache import MAX_WAIT_SECONDS, RefreshingCache, Unavailable
from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.gcs import GCSModelRegistry, GCSReportStore
from mbta_assets.storage.reports import NETWORK_SNAPSHOT, ReportStore
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR, eventually
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, fault_proxy
from mbta_assets_tests.support.function_server import serve_predictions
from mbta_assets_tests.support.storage_emulator import storage_server

BUCKET = "delay-models"


def test_a_model_is_loaded_from_a_store_one_of_its_models_or_a_bundle(model_store: ModelStore) -> None:
    version = model_store.models[0].digest
    model = model_store.root / "bundles/production_model"
    for location in (model_store.root, model, model / version[:16]):
        assert Predictor.load(str(location)).version == version


def test_an_error_lists_the_possible_locations_or_the_command_that_makes_a_model(
    tmp_path: Path, empty_store: ModelStore
) -> None:
    for location in (str(tmp_path), "gs://", "gs://bucket/elsewhere/model/1"):
        with pytest.raises(BundleError, match="A model location is a store"):
            Predictor.load(location)
    (empty_store.root / "bundles").mkdir(parents=True)
    with pytest.raises(BundleError, match="-m mbta_assets.definitions --select production_model"):
        Predictor.load(str(empty_store.root))


def test_a_damaged_bundle_is_not_opened(model_store: ModelStore) -> None:
    version = model_store.root / "bundles/production_model" / model_store.models[0].digest[:16]
    (version / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"model\.onnx is not what the manifest says"):
        Predictor.load(str(model_store.root))


def test_a_damaged_pointer_is_named_with_what_to_do(model_store: ModelStore) -> None:
    pointer = model_store.root / "bundles/production_model/current.json"
    intact = pointer.read_bytes()
    for content in (b"", b"[]", b"{}", b"null", intact[: len(intact) // 2]):
        pointer.write_bytes(content)
        with pytest.raises(BundleError, match=r"its current\.json, is damaged .* promote a version again"):
            Predictor.load(str(model_store.root))


def test_a_model_that_is_made_after_its_place_was_opened_is_followed(model_store: ModelStore, tmp_path: Path) -> None:
    place = tmp_path / "place"
    predictors = follow_model(str(place), refresh_seconds=0)
    with pytest.raises(Unavailable, match="Make one with: dagster .* --select production_model"):
        predictors.get()
    shutil.copytree(model_store.root, place)
    version = model_store.models[0].digest
    eventually("the model is loaded", 5, lambda: has_version(predictors, version))


def has_version(predictors: RefreshingCache[Predictor], version: str) -> bool:
    """Return whether a cache has a version of the model."""
    try:
        return predictors.get().version == version
    except Unavailable:
        return False


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    """Yield a proxy, which can inject faults, of a Cloud Storage with an empty bucket."""
    with storage_server(BUCKET) as running, fault_proxy(running.url) as proxy:
        yield proxy


@pytest.fixture
def bucket_registry(proxy: FaultProxy, full_store: ModelStore, tmp_path: Path) -> GCSModelRegistry:
    """Return the registry in that bucket, with the first model in production and the page's snapshot beside it."""
    account = Account(project="test", retry_seconds=30 * BUSY_FACTOR, storage_emulator=proxy.url)
    bucket = Bucket(account, BUCKET)
    registry = GCSModelRegistry(bucket, tmp_path / "writer")
    promote(registry, full_store, 0)
    snapshot = ReportStore(full_store.root).read(NETWORK_SNAPSHOT)
    GCSReportStore(bucket, tmp_path / "writer").write(NETWORK_SNAPSHOT, snapshot)
    return registry


def promote(registry: GCSModelRegistry, store: ModelStore, number: int) -> None:
    """Make a model of a store the production model of a registry."""
    stored = registry.put("production_model", store.models[number])
    registry.set_current("production_model", stored.digest, registry.current_digest("production_model"), "promoted")


def test_a_model_is_loaded_from_a_bucket_without_a_project(
    bucket_registry: GCSModelRegistry,
    proxy: FaultProxy,
    full_store: ModelStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setenv("MBTA_STORE", str(tmp_path / "reader"))
    expected = Predictor(full_store.models[0]).predict_one(EXAMPLE_QUERY)
    for location in (f"gs://{BUCKET}", f"gs://{BUCKET}/", f"gs://{BUCKET}/models/production_model"):
        assert Predictor.load(location).predict_one(EXAMPLE_QUERY) == expected
    with pytest.raises(BundleError, match="no version in gs://there-is-none/models yet"):
        Predictor.load("gs://there-is-none")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"MBTA_MODEL": f"gs://{BUCKET}"}, id="MBTA_MODEL"),
        pytest.param(
            {
                "MBTA_DEPLOYMENT": "gcp",
                "GCS_BUCKET": BUCKET,
                "GCP_PROJECT": "test",
                "BIGQUERY_DATASET": "tables",
            },
            id="MBTA_DEPLOYMENT",
        ),
    ],
)
def test_a_server_follows_a_bucket_and_keeps_its_model_while_the_bucket_is_unavailable(
    bucket_registry: GCSModelRegistry,
    proxy: FaultProxy,
    full_store: ModelStore,
    tmp_path: Path,
    settings: dict[str, str],
) -> None:
    first, second = (model.digest for model in full_store.models)
    patience = str(2 * BUSY_FACTOR)
    emulated = {"STORAGE_EMULATOR_HOST": proxy.url, "GCP_RETRY_SECONDS": patience, "MBTA_REFRESH_SECONDS": "0"}
    with serve_predictions(tmp_path / "reader", tmp_path / "log", **settings, **emulated) as server:

        def served_version() -> str:
            return server.request("/readyz").json()["model_version"]

        def has_failed() -> bool:
            return any(entry["severity"] == "ERROR" for entry in server.log_entries())

        assert served_version() == first
        assert server.request("/network?time=08:30").json()["lines"]
        promote(bucket_registry, full_store, 1)
        eventually("the second version is served", 20, lambda: served_version() == second)
        proxy.inject(Rule(times=None, status=503))
        try:
            for _ in range(20):
                assert served_version() == second
            eventually("the failure is logged", 20, has_failed)
            assert server.request("/").status == 200
        finally:
            proxy.clear()


def test_after_idle_time_the_bucket_is_read_before_the_first_answer_and_only_for_a_bounded_time(
    bucket_registry: GCSModelRegistry, proxy: FaultProxy, full_store: ModelStore, tmp_path: Path
) -> None:
    first, second = (model.digest for model in full_store.models)
    promote(bucket_registry, full_store, 0)
    settings = {"MBTA_MODEL": f"gs://{BUCKET}", "STORAGE_EMULATOR_HOST": proxy.url, "MBTA_REFRESH_SECONDS": "2"}
    with serve_predictions(tmp_path / "reader", tmp_path / "log", **settings) as server:

        def served_version() -> str:
            return server.request("/readyz").json()["model_version"]

        assert served_version() == first
        for number, version in ((1, second), (0, first)):
            promote(bucket_registry, full_store, number)
            time.sleep(2.1)
            assert served_version() == version
        promote(bucket_registry, full_store, 1)
        proxy.inject(Rule(path="current.json", hang=2 * MAX_WAIT_SECONDS))
        try:
            time.sleep(2.1)
            started_at = time.monotonic()
            assert served_version() == first
            assert time.monotonic() - started_at < 2 * MAX_WAIT_SECONDS
            assert [entry for entry in server.log_entries() if "not refreshed in time" in entry["message"]]
        finally:
            proxy.clear()
        eventually("the second version is served", 20, lambda: served_version() == second)


def test_a_damaged_report_of_a_bucket_is_named(
    bucket_registry: GCSModelRegistry, proxy: FaultProxy, tmp_path: Path
) -> None:
    reports = GCSReportStore(bucket_registry.bucket, tmp_path / "writer")
    intact = reports.read(NETWORK_SNAPSHOT)
    reports.write(NETWORK_SNAPSHOT, intact[: len(intact) // 2])
    settings = {"MBTA_MODEL": f"gs://{BUCKET}", "STORAGE_EMULATOR_HOST": proxy.url}
    with serve_predictions(tmp_path / "reader", tmp_path / "log", **settings) as server:
        response = server.request("/network")
        assert response.status == 503
        assert "network_snapshot.npz is damaged" in response.json()["error"]
        reports.write(NETWORK_SNAPSHOT, intact)
        eventually("the page is back", 10, lambda: server.request("/network").status == 200)
