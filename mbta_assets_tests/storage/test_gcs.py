"""The registry and the reports in a bucket: no order of calls waits for itself, and no lost write counts as one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbta_assets.gcp import CloudError
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.gcs import MAX_REPORT_WRITES, GCSModelRegistry, GCSReportStore
from mbta_assets.storage.model_registry import ModelRegistry, PointerMoved
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule
from mbta_assets_tests.support.writers import make_draft

pytestmark = pytest.mark.xdist_group("google")

ROLLBACK = [sys.executable, "-m", "dagster", "job", "execute", "-m", "mbta_assets.definitions"]
ROLLBACK += ["-j", "rollback_production"]
MAX_ROLLBACK_SECONDS = 300
"""A command that waited for itself would take for ever; importing Dagster and the definitions takes most of this."""
CALLS = st.sampled_from(["put", "get", "current", "set_current", "clear", "empty the cache"])


def test_a_rollback_on_a_machine_with_an_empty_cache_ends(
    model_registry: GCSModelRegistry, google_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (model_registry.put("production_model", make_draft(n)).digest for n in (1, 2))
    model_registry.set_current("production_model", first, None)
    model_registry.set_current("production_model", second, first)
    for name, value in google_environment.items():
        monkeypatch.setenv(name, value)
    run = subprocess.run(ROLLBACK, capture_output=True, text=True, timeout=MAX_ROLLBACK_SECONDS)
    assert run.returncode == 0, run.stderr
    assert model_registry.history("production_model") == [first, second, first]
    assert (Path(google_environment["MBTA_STORE"]) / "cache").exists(), "the version is verified by its bytes"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(CALLS, st.integers(0, 2)), max_size=8))
def test_calls_in_any_order_on_any_cache_end_and_do_what_they_do_on_one_machine(
    bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("any-order")
    asset = root.name  # the objects of an earlier example stay in the bucket
    digests = [ModelRegistry(root / "digests").put(asset, make_draft(n)).digest for n in range(3)]

    def outcomes(registry: ModelRegistry, is_cache: bool) -> list[str]:
        return [_call(registry, asset, call, n, digests[n], is_cache) for call, n in calls]

    assert outcomes(GCSModelRegistry(bucket, root / "cache"), True) == outcomes(ModelRegistry(root / "local"), False)


def _call(registry: ModelRegistry, asset: str, call: str, n: int, digest: str, is_cache: bool) -> str:
    """Call a method of a registry, and return what it has returned or the name of its error."""
    try:
        match call:
            case "put":
                return registry.put(asset, make_draft(n)).digest
            case "get":
                return registry.get(asset, digest).digest
            case "current":
                return registry.current(asset).digest
            case "set_current":
                registry.set_current(asset, digest, registry.current_digest(asset))
                return str(registry.history(asset))
            case "clear":
                registry.make_current(asset, None)
                return str([move.digest for move in registry.moves(asset)])
    except (BundleError, PointerMoved) as error:
        return type(error).__name__
    if is_cache:
        shutil.rmtree(registry.root, ignore_errors=True)
    return ""


@pytest.mark.parametrize("lost", [1, MAX_REPORT_WRITES - 1])
def test_a_report_whose_write_loses_a_race_is_written_again(
    bucket: Bucket, storage_proxy: FaultProxy, tmp_path: Path, lost: int
) -> None:
    store, rival = (GCSReportStore(bucket, tmp_path / name) for name in ("mine", "rival"))
    store.write("report.json", b"old")
    racing = Rule(
        method="POST", path="^/upload/storage", body=b"mine", call=lambda: rival.write("report.json", b"r"), times=lost
    )
    storage_proxy.inject(racing)
    store.write("report.json", b"mine")
    assert store.read("report.json") == b"mine"
    assert rival.read("report.json") == b"mine"


def test_a_report_that_loses_every_race_is_an_error_that_names_the_object(
    bucket: Bucket, storage_proxy: FaultProxy, tmp_path: Path
) -> None:
    store, rival = (GCSReportStore(bucket, tmp_path / name) for name in ("mine", "rival"))
    storage_proxy.inject(
        Rule(
            method="POST",
            path="^/upload/storage",
            body=b"mine",
            call=lambda: rival.write("report.json", b"r"),
            times=None,
        )
    )
    with pytest.raises(CloudError, match=f"gs://{bucket.name}/reports/report.json .*{MAX_REPORT_WRITES} .*again"):
        store.write("report.json", b"mine")
    storage_proxy.clear()
    assert store.read("report.json") == b"r"
    assert not (tmp_path / "mine/reports/report.json").exists(), "the copy is no newer than the report"


def test_a_report_that_does_not_exist_yet_is_created_once(bucket: Bucket, tmp_path: Path) -> None:
    store = GCSReportStore(bucket, tmp_path)
    store.write("a/report.json", b"1")
    assert store.read("a/report.json") == b"1"
