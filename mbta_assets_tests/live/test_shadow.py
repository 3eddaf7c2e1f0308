"""The candidate in the shadow predicts what production predicts, after it and while it waits, and harms nothing."""

import threading

import pytest
from prometheus_client import CollectorRegistry

from mbta_assets.live.service import LiveService
from mbta_assets.live.shadow import Shadow, make_candidate_cache
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.settings import Settings
from mbta_assets_tests.live.days import FeedSnapshot
from mbta_assets_tests.live.harness import Live
from mbta_assets_tests.live.test_faults import now, settings, snapshots, tables
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer

__all__ = ["now", "settings", "snapshots", "tables"]
pytestmark = pytest.mark.integration


def read_metric(live: Live, name: str) -> float:
    """Return a metric of the shadow."""
    return live.state.registry.get_sample_value(f"mbta_live_shadow_{name}") or 0.0


def read_model(live: Live, version: str) -> float | None:
    """Return what the metrics say of a version in the shadow, None if nothing."""
    return live.state.registry.get_sample_value("mbta_live_shadow_model", {"version": version})


def test_a_candidate_predicts_the_same_stops_and_is_not_served_even_when_it_is_promoted_in_the_middle(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    model_store.set_shadow(model_store.models[1])
    live = Live(settings, model_store, server)
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


def test_a_candidate_is_picked_up_while_it_waits_and_left_when_it_does_not_without_an_error(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    live = Live(settings, model_store, server)
    first, second = model_store.models
    for candidate, snapshot in zip((None, second, first, None), snapshots[-4:], strict=True):
        if candidate is not None or live.shadowed:
            model_store.set_shadow(candidate)
        assert live.play(snapshot).trips
    assert [publication.model_version for publication in live.shadowed] == [second.digest, first.digest]
    assert [read_model(live, model.digest) for model in model_store.models] == [None, None]
    assert read_metric(live, "seconds") == read_metric(live, "errors_total") == 0
    assert live.state.list_problems() == []


def test_a_damaged_candidate_is_counted_and_production_is_served(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    model_store.set_shadow(model_store.models[1])
    for weights in (model_store.root / "bundles/shadow_model").rglob("*.onnx"):
        weights.write_bytes(b"damaged")
    live = Live(settings, model_store, server)
    assert live.play(snapshots[-1]).trips
    assert live.shadowed == [] and live.state.list_problems() == []
    assert read_metric(live, "errors_total") == 1


def test_a_candidate_that_is_slow_delays_nothing_and_what_it_leaves_out_is_counted(
    settings: Settings, model_store: ModelStore, server: FeedServer, snapshots: list[FeedSnapshot]
) -> None:
    live, go_on = Live(settings, model_store, server), threading.Event()
    live.play(snapshots[-5])
    model_store.set_shadow(model_store.models[1])

    def keep(publication: Publication) -> None:
        go_on.wait()
        live.shadowed.append(publication)

    cache = make_candidate_cache(open_model_source(str(model_store.root)), 0)
    shadow = Shadow(cache, CollectorRegistry(), keep)
    service = LiveService(live.timetables, live.predictors, live.state, live.max_age, shadow=shadow)
    times = []
    for snapshot in snapshots[-4:]:
        service.take(snapshot.content, snapshot.made_at.timestamp(), "")
        service.publish(live.state.clock())
        assert live.state.published is not None
        times.append(live.state.published.publication.made_at)
    assert len(set(times)) == 4 and live.shadowed == []
    go_on.set()
    shadow.wait()
    predicted = [publication.made_at for publication in live.shadowed]
    assert predicted[0] == times[0] and set(predicted) < set(times)


def test_the_candidate_is_that_of_the_store_that_is_named_or_that_the_named_model_is_in(
    model_store: ModelStore,
) -> None:
    model_store.set_shadow(model_store.models[1])
    for place in ("", "bundles/production_model"):
        shadow = open_model_source(str(model_store.root / place)).open_shadow()
        assert shadow is not None and shadow.current_version() == model_store.models[1].digest
    bundle = model_store.root / "bundles/production_model" / model_store.models[0].digest[:16]
    assert open_model_source(str(bundle)).open_shadow() is None
