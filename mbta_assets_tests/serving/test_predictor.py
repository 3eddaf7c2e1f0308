"""The predictor says what the model says, from what is known at a moment, and needs nothing that trains."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbta_assets.ml.inference.intervals import scored
from mbta_assets.ml.inference.model import INTERVAL, Model
from mbta_assets.serving import Predictor, Stream, Timetable, follow
from mbta_assets.serving.moment import EXAMPLE, feature_columns
from mbta_assets.storage.bundle import BundleError, Draft
from mbta_assets_tests.serving.conftest import Production, World
from mbta_assets_tests.support.dagster_dev import eventually

FORBIDDEN = ("torch", "dagster", "pandas", "xgboost", "ray", "pandera", "pyarrow", "duckdb")


@pytest.mark.parametrize("module", ["", ".http", ".events"])
def test_importing_it_brings_in_nothing_that_trains(module: str) -> None:
    script = f"import sys, mbta_assets.serving{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert set(FORBIDDEN).isdisjoint(loaded)


def test_predicting_brings_in_nothing_that_trains(production: Production) -> None:
    script = (
        "import sys; from mbta_assets.serving import Predictor; from mbta_assets.serving.moment import EXAMPLE; "
        "Predictor.load(sys.argv[1]).predict_one(EXAMPLE); print(*sys.modules)"
    )
    command = [sys.executable, "-c", script, str(production.root)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "onnxruntime" in loaded
    assert set(FORBIDDEN).isdisjoint(loaded)


def test_it_says_what_the_model_says_of_the_table(world: World) -> None:
    predictor, rows = Predictor(world.models[0]), world.test[:500]
    delay, least, most = predictor.delays({str(name): rows[name] for name in rows})
    assert np.array_equal(delay, Model(world.models[0]).predict(rows))
    assert (least <= delay).all()
    assert (delay < most).all()


def test_one_by_one_or_together_the_predictions_are_the_same(world: World) -> None:
    predictor = Predictor(world.models[0])
    moments = [replace(EXAMPLE, stops_ahead=n, last_delay_seconds=d) for n in (1, 3, 5, 10) for d in (None, -60.0, 600)]
    together = predictor.predict(moments)
    for moment, one in zip(moments, together, strict=True):
        alone = predictor.predict_one(moment)
        assert alone.delay_seconds == pytest.approx(one.delay_seconds, abs=0.01)
        assert one.predicted_arrival == moment.scheduled_arrival + timedelta(seconds=one.delay_seconds)
        assert one.interval
        assert one.interval.earliest_arrival <= one.predicted_arrival <= one.interval.latest_arrival
        assert one.interval.promise == 0.9
    assert len({one.delay_seconds for one in together}) > 3
    assert predictor.predict([]) == []


def test_what_was_not_in_training_counts_as_unknown_and_what_is_not_known_as_missing(world: World) -> None:
    predictor = Predictor(world.models[0])
    optional: dict[str, Any] = {
        name: None for name, field in type(EXAMPLE).__dataclass_fields__.items() if field.default is None
    }
    for moment in (replace(EXAMPLE, stop_id="Atlantis", route_id="Purple"), replace(EXAMPLE, **optional)):
        columns = feature_columns([moment])
        assert predictor.predict_one(moment).delay_seconds == Model(world.models[0]).predict(columns)[0]


def test_nothing_arrives_before_the_moment_of_the_prediction(world: World) -> None:
    late = replace(EXAMPLE, time_stamp=EXAMPLE.scheduled_arrival + timedelta(hours=3))
    predicted = Predictor(world.models[0]).predict_one(late)
    assert predicted.predicted_arrival >= late.time_stamp
    assert predicted.interval
    assert predicted.interval.earliest_arrival >= late.time_stamp


def test_a_time_beyond_the_calendar_is_its_end(world: World) -> None:
    end = datetime.max.replace(tzinfo=UTC)
    far = replace(EXAMPLE, scheduled_arrival=end, time_stamp=end - timedelta(seconds=5))
    predicted = Predictor(world.models[0]).predict_one(far)
    assert predicted.interval
    assert predicted.interval.latest_arrival == end


def test_the_interval_keeps_its_promise_on_new_days_as_far_as_two_days_of_three_lines_can_tell(world: World) -> None:
    """Days differ: here by up to four points. What the whole lineage keeps, on all lines, `make seeds` measures."""
    model = Model(world.models[0])
    assert model.interval
    found = scored(model.interval, world.test, model.predict(world.test))
    parts = {"all": found, **found["by_stops_ahead"]}
    assert set(parts) == {"all", "1", "3", "5", "10"}
    for name, part in parts.items():
        assert part["n"] > 500
        assert part["coverage"] == pytest.approx(found["promise"], abs=0.04), name


def test_a_bundle_from_before_there_were_intervals_predicts_without(world: World, tmp_path: Path) -> None:
    from mbta_assets.storage.bundle import write

    stored = world.models[0]
    files = {name: stored.file(name) for name in stored.manifest["files"] if name != INTERVAL}
    older = Predictor(write(tmp_path / "older", "onnx", files, residual_to="lookup", features=[]))
    newer = Predictor(stored)
    assert older.predict_one(EXAMPLE).interval is None
    assert older.predict_one(EXAMPLE).delay_seconds == newer.predict_one(EXAMPLE).delay_seconds


def test_it_is_loaded_from_a_store_a_model_or_a_bundle(production: Production) -> None:
    version = production.models[0].digest
    model = production.root / "bundles/production_model"
    for where in (production.root, model, model / version[:16]):
        assert Predictor.load(str(where)).version == version


def test_it_is_followed_from_version_to_version_and_back(production: Production) -> None:
    first, second = (model.digest for model in production.models)
    followed = follow(str(production.root), refresh_seconds=0)
    assert followed.get().predict_one(EXAMPLE).model_version == first

    def serves(version: str) -> bool:
        return followed.get().version == version

    for model in (production.models[1], production.models[0]):
        production.promote(model)
        eventually("it is the other one", 10, partial(serves, model.digest))
    assert {first, second} == {model.digest for model in production.models}


def test_where_there_is_no_model_it_says_what_an_address_may_be(tmp_path: Path, empty: Production) -> None:
    for where in (str(tmp_path), "gs://", "gs://bucket/elsewhere/model/1"):
        with pytest.raises(BundleError, match="It may be a store"):
            Predictor.load(where)
    (empty.root / "bundles").mkdir(parents=True)
    with pytest.raises(BundleError, match="dagster asset materialize --select production_model"):
        Predictor.load(str(empty.root))


def test_a_damaged_bundle_is_not_opened(production: Production) -> None:
    version = production.root / "bundles/production_model" / production.models[0].digest[:16]
    (version / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"model\.onnx is not what the manifest says"):
        Predictor.load(str(production.root))


def test_a_stream_is_predicted_as_it_comes(world: World) -> None:
    from mbta_assets.serving import ScheduledStop, VehicleUpdate

    noon = datetime(2024, 3, 6, 17, tzinfo=UTC)
    stops = ["70061", "70063", "70065", "70067", "70069"]
    rows = [
        ScheduledStop(trip_id="1", stop_id=stop, arrival_time=noon + timedelta(minutes=3 * n))
        for n, stop in enumerate(stops)
    ]
    stream = Stream(Timetable(noon.date(), rows))
    stream.update(
        [VehicleUpdate(id="R-1", updated_at=noon, current_status="STOPPED_AT", stop_id=stops[0], trip_id="1")]
    )
    moments = list(stream.moments())
    predictions = Predictor(world.models[0]).predict(moments)
    assert [moment.stop_id for moment in moments] == [stops[1], stops[3]]
    assert all(noon <= one.predicted_arrival < noon + timedelta(hours=1) for one in predictions)


def test_a_bundle_that_cannot_predict_is_not_a_predictor(world: World, tmp_path: Path) -> None:
    from mbta_assets.storage.bundle import write

    stored = world.models[0]
    files = {name: stored.file(name) for name in stored.manifest["files"]} | {"model.onnx": b"no model"}
    broken = Draft("onnx", files, {"residual_to": "lookup"})
    with pytest.raises(Exception, match="onnx|ONNX|protobuf|INVALID"):
        Predictor(write(tmp_path / "broken", broken.kind, broken.files, **broken.fields))
