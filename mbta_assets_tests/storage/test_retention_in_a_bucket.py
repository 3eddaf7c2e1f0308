"""Pruning of versions in a bucket, in Cloud Storage's emulator."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mbta_assets.gcp.errors import CloudError
from mbta_assets.storage import gcs
from mbta_assets.storage.bundle import MANIFEST, BundleError, Draft
from mbta_assets.storage.gcs import GCSModelRegistry
from mbta_assets.storage.retention import PRODUCTION, Retention, apply_plan, make_plan
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule


def put_versions(registry: GCSModelRegistry, n: int) -> list[str]:
    """Store production models, each with a training set of its own and current once, and return their digests."""
    digests = []
    for number in range(n):
        training_set = registry.put("training_set", Draft("toy", {"rows": bytes([number])}))
        fields = {"inputs": {"training_set": training_set.digest}}
        digests.append(registry.put(PRODUCTION, Draft("toy", {"a": b"a", "weights": bytes([number])}, fields)).digest)
        registry.make_current("training_set", training_set.digest)
        registry.make_current(PRODUCTION, digests[-1])
    return digests


def read_anew(registry: GCSModelRegistry, cache: Path, digest: str) -> None:
    """Read a version and its training set with an empty cache. Raises BundleError."""
    reader = GCSModelRegistry(registry.bucket, cache)
    inputs = reader.get(PRODUCTION, digest).manifest["inputs"]
    reader.get("training_set", inputs["training_set"])


@pytest.fixture
def later() -> datetime:
    """Return a time at which what is stored now is no longer young."""
    return datetime.now(UTC) + timedelta(days=2)


def test_what_production_and_its_history_need_stays_and_the_rest_goes(
    model_registry: GCSModelRegistry, tmp_path: Path, later: datetime
) -> None:
    digests = put_versions(model_registry, 5)
    retention = Retention(tmp_path, 1, 14)
    assert make_plan(model_registry, retention, datetime.now(UTC)).versions == [], "a training may be under way"
    plan = make_plan(model_registry, retention, later)
    assert [stored.asset for stored in plan.versions] == [PRODUCTION] * 3 + ["training_set"] * 3
    assert plan.size_bytes == sum(stored.size_bytes for stored in plan.versions) > 0
    assert apply_plan(model_registry, plan) == plan
    read_anew(model_registry, tmp_path / "a", digests[-1])
    for digest in digests[:-2]:
        with pytest.raises(BundleError, match=f"{digest[:16]}/{MANIFEST} is missing"):
            model_registry.get(PRODUCTION, digest)
    assert make_plan(model_registry, retention, later).versions == []


def test_a_removal_that_ends_early_leaves_a_version_that_is_not_there_and_is_completed(
    model_registry: GCSModelRegistry, storage_proxy: FaultProxy, tmp_path: Path, later: datetime
) -> None:
    digests = put_versions(model_registry, 4)
    retention = Retention(tmp_path, 1, 14)
    plan = make_plan(model_registry, retention, later)
    storage_proxy.inject(Rule(method="DELETE", skip=1, status=403, times=1))
    with pytest.raises(CloudError):
        apply_plan(model_registry, plan)
    incomplete = [stored for stored in model_registry.versions(PRODUCTION) if not stored.is_complete]
    assert [stored.version for stored in incomplete] == [plan.versions[0].version]
    removed = next(digest for digest in digests if digest.startswith(plan.versions[0].version))
    with pytest.raises(BundleError, match=f"{MANIFEST} is missing"):
        read_anew(model_registry, tmp_path / "a", removed)
    apply_plan(model_registry, make_plan(model_registry, retention, later))
    assert all(stored.is_complete for stored in model_registry.versions(PRODUCTION))
    read_anew(model_registry, tmp_path / "b", digests[-1])


def test_a_version_that_is_stored_again_or_made_current_meanwhile_stays(
    model_registry: GCSModelRegistry, tmp_path: Path, later: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = put_versions(model_registry, 4)
    plan = make_plan(model_registry, Retention(tmp_path, 1, 14), later)
    first, second = model_registry.get(PRODUCTION, digests[0]), model_registry.get(PRODUCTION, digests[1])
    monkeypatch.setattr(gcs, "MAX_AGE", timedelta(0))  # as if the versions had been stored hours ago
    model_registry.put(PRODUCTION, first)
    model_registry.make_current(PRODUCTION, second.digest)
    removed = {stored.version for stored in apply_plan(model_registry, plan).versions}
    assert removed.isdisjoint({first.digest[:16], second.digest[:16]})
    assert GCSModelRegistry(model_registry.bucket, tmp_path / "a").get(PRODUCTION, first.digest)
    assert GCSModelRegistry(model_registry.bucket, tmp_path / "b").current(PRODUCTION)
