"""A shadow model predicts what production predicts, after it, and harms nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from mbta_assets.settings import Settings
from mbta_assets_tests.live.days import FeedSnapshot
from mbta_assets_tests.live.harness import Live
from mbta_assets_tests.live.test_faults import now, settings, snapshots, tables
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer

__all__ = ["now", "settings", "snapshots", "tables"]
pytestmark = pytest.mark.integration


def read_metric(live: Live, name: str) -> float:
    """Return a metric of the shadow model."""
    return live.state.registry.get_sample_value(f"mbta_live_shadow_{name}") or 0.0


@pytest.fixture
def shadow_store(model_store: ModelStore, tmp_path: Path) -> ModelStore:
    """Return a store whose production model is the second model, which is the shadow here."""
    store = replace(model_store, root=tmp_path / "shadow")
    store.promote(store.models[1])
    return store


def test_a_shadow_predicts_the_same_stops_and_is_not_served_even_when_it_is_promoted_in_the_middle(
    settings: Settings,
    model_store: ModelStore,
    shadow_store: ModelStore,
    server: FeedServer,
    snapshots: list[FeedSnapshot],
) -> None:
    live = Live(settings, model_store, server, shadow_store=shadow_store.root)
    served = live.play(snapshots[-2])
    model_store.promote(model_store.models[1])
    promoted = live.play(snapshots[-1])

    first, second = live.shadowed
    assert served.model_version == model_store.models[0].digest != first.model_version
    assert [(trip.trip_id, [(stop.stop_id, stop.event) for stop in trip.stops]) for trip in served.trips] == [
        (trip.trip_id, [(stop.stop_id, stop.event) for stop in trip.stops]) for trip in first.trips
    ]
    assert served.trips != first.trips and served.made_at == first.made_at
    assert promoted == second and promoted.trips
    assert read_metric(live, "predictions_total") == sum(len(t.stops) for p in live.shadowed for t in p.trips)
    assert read_metric(live, "errors_total") == 0


def test_a_damaged_or_missing_shadow_is_counted_and_production_is_served(
    settings: Settings,
    model_store: ModelStore,
    shadow_store: ModelStore,
    server: FeedServer,
    snapshots: list[FeedSnapshot],
    tmp_path: Path,
) -> None:
    for weights in (shadow_store.root / "bundles").rglob("*.onnx"):
        weights.write_bytes(b"damaged")
    for location in (shadow_store.root, tmp_path / "none"):
        live = Live(settings, model_store, server, shadow_store=location)
        assert live.play(snapshots[-1]).trips
        assert live.shadowed == [] and live.state.list_problems() == []
        assert read_metric(live, "errors_total") == 1
