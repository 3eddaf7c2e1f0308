"""The predictor gives the model's predictions for queries, and needs no training library."""

import lzma
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbta_assets.ml.evaluation.metrics import score_interval
from mbta_assets.ml.inference.model import EARLIER_INTERVAL_FILE, INTERVAL_FILE, ONNX_FILE, ONNX_KIND, Model
from mbta_assets.ml.inference.monotone import group_reports, make_monotone
from mbta_assets.ml.inference.width_correction import WidthCorrection
from mbta_assets.serving import ArrivalQuery, Predictor, StopTime, Stream, Timetable, VehicleUpdate, follow_model
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, REQUIRED_FIELDS
from mbta_assets.serving.predictor import feature_columns
from mbta_assets.storage import bundle
from mbta_assets.storage.reports import WIDTH_CORRECTION, ReportStore
from mbta_assets_tests.serving.conftest import ModelStore, TrainedModels
from mbta_assets_tests.support.dagster_dev import eventually

TRAINING_LIBRARIES = ("torch", "dagster", "pandas", "xgboost", "ray", "pandera", "pyarrow", "duckdb")


def list_modules(script: str, *arguments: str) -> list[str]:
    """Return the modules that a new process has imported after a script."""
    command = [sys.executable, "-c", f"import sys; {script}; print(*sys.modules)", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.integration
@pytest.mark.parametrize("module", ["", ".http_app", ".upstream_events"])
def test_importing_serving_loads_no_training_library(module: str) -> None:
    modules = list_modules(f"import mbta_assets.serving{module}")
    assert "numpy" in modules
    assert set(TRAINING_LIBRARIES).isdisjoint(modules)


@pytest.mark.integration
def test_predicting_loads_no_training_library(model_store: ModelStore) -> None:
    script = (
        "from mbta_assets.serving import Predictor; from mbta_assets.serving.predictor import EXAMPLE_QUERY; "
        "Predictor.load(sys.argv[1]).predict_one(EXAMPLE_QUERY)"
    )
    modules = list_modules(script, str(model_store.root))
    assert "onnxruntime" in modules
    assert set(TRAINING_LIBRARIES).isdisjoint(modules)


def test_the_predictor_predicts_what_the_model_predicts_for_the_table(trained_models: TrainedModels) -> None:
    predictor, rows = Predictor(trained_models.bundles[0]), trained_models.test_rows[:500]
    delay, lower, upper = predictor.predict_delays({str(name): rows[name] for name in rows})
    assert np.array_equal(delay, Model(trained_models.bundles[0]).predict(rows))
    assert (lower <= delay).all()
    assert (delay < upper).all()


def test_the_intervals_of_a_table_are_those_of_each_report_by_itself(trained_models: TrainedModels) -> None:
    model, rows = Model(trained_models.bundles[0]), trained_models.test_rows[:500]
    delay, groups = model.predict(rows), group_reports(rows)
    assert model.interval
    lower, upper = model.interval.compute_bounds(rows, delay)
    for number in np.unique(groups):
        mask = groups == number
        columns = {str(name): rows[name].to_numpy()[mask] for name in rows}
        alone = model.interval.compute_bounds(columns, delay[mask], groups[mask])
        assert np.array_equal(alone, (lower[mask], upper[mask]))


def test_queries_are_predicted_alike_one_by_one_and_together(trained_models: TrainedModels) -> None:
    predictor = Predictor(trained_models.bundles[0])
    queries = [
        replace(EXAMPLE_QUERY, stops_ahead=stops_ahead, last_delay_seconds=delay, vehicle_id=f"R-{stops_ahead} {delay}")
        for stops_ahead in (1, 3, 5, 10)
        for delay in (None, -60.0, 600)
    ]
    predictions = predictor.predict(queries)
    for query, prediction in zip(queries, predictions, strict=True):
        single = predictor.predict_one(query)
        assert single.delay_seconds == pytest.approx(prediction.delay_seconds, abs=0.01)
        assert prediction.predicted_arrival == query.scheduled_arrival + timedelta(seconds=prediction.delay_seconds)
        assert prediction.interval
        assert prediction.interval.earliest_arrival <= prediction.predicted_arrival
        assert prediction.predicted_arrival <= prediction.interval.latest_arrival
        assert prediction.interval.confidence_level == 0.9
    assert len({prediction.delay_seconds for prediction in predictions}) > 3
    assert predictor.predict([]) == []


def make_story(predictor: Predictor, delays: list[float]) -> list[ArrivalQuery]:
    """Return queries of one report about stops that the model predicts to be reached after one another, or not.

    A stop ahead is scheduled so that its predicted time is some seconds after the one before it.
    """
    queries = []
    for index, seconds in enumerate(delays):
        query = replace(EXAMPLE_QUERY, stops_ahead=index + 1, stop_sequence=30 + index)
        ahead = predictor.predict_one(query).predicted_arrival - query.time_stamp
        queries.append(replace(query, scheduled_arrival=query.scheduled_arrival + timedelta(seconds=seconds) - ahead))
    return queries


def test_the_predictions_for_one_report_never_run_backwards(trained_models: TrainedModels) -> None:
    predictor = Predictor(trained_models.bundles[0])
    story = make_story(predictor, [1000, 700, 900, 400, 1200, 1100])
    alone = [predictor.predict_one(query).predicted_arrival for query in story]
    assert alone != sorted(alone)
    shuffled = [story[index] for index in (3, 0, 5, 2, 4, 1)]
    predictions = dict(zip((query.stops_ahead for query in shuffled), predictor.predict(shuffled), strict=True))
    together = [predictions[query.stops_ahead].predicted_arrival for query in story]
    assert together == sorted(together)
    order = np.array([query.stops_ahead for query in story])
    seconds = np.array([(time - EXAMPLE_QUERY.time_stamp).total_seconds() for time in alone])
    nearest = make_monotone(seconds, order, np.zeros(len(story), dtype=np.int64))
    assert [(time - EXAMPLE_QUERY.time_stamp).total_seconds() for time in together] == pytest.approx(nearest, abs=1e-5)
    for query in story:
        prediction = predictions[query.stops_ahead]
        assert prediction.predicted_arrival == query.scheduled_arrival + timedelta(seconds=prediction.delay_seconds)
        assert prediction.interval
        assert (
            prediction.interval.earliest_arrival <= prediction.predicted_arrival <= prediction.interval.latest_arrival
        )


@pytest.mark.parametrize(
    "change",
    [
        {"trip_id": None},
        {"trip_id": "another"},
        {"vehicle_id": "another"},
        {"service_date": EXAMPLE_QUERY.service_date - timedelta(days=1)},
        {"time_stamp": EXAMPLE_QUERY.time_stamp - timedelta(seconds=1)},
    ],
)
def test_queries_about_other_reports_are_predicted_by_themselves(
    trained_models: TrainedModels, change: dict[str, Any]
) -> None:
    predictor = Predictor(trained_models.bundles[0])
    near, far = make_story(predictor, [1000, 700])
    if change == {"trip_id": None}:
        near = replace(near, **change)
    far = replace(far, **change)
    for query, prediction in zip((near, far), predictor.predict([near, far]), strict=True):
        assert prediction.delay_seconds == pytest.approx(predictor.predict_one(query).delay_seconds, abs=0.01)


def test_a_departure_is_predicted_as_the_first_event_of_its_trip(trained_models: TrainedModels) -> None:
    predictor = Predictor(trained_models.bundles[0])
    waiting = replace(EXAMPLE_QUERY, current_status="STOPPED_AT", stops_behind=1)
    departure = replace(waiting, stops_ahead=0)
    first = replace(waiting, stops_ahead=1, scheduled_arrival=waiting.scheduled_arrival - timedelta(minutes=10))
    left, arrived = predictor.predict([departure, first])
    assert left.predicted_arrival <= arrived.predicted_arrival


def test_values_unseen_in_training_count_as_unknown_and_absent_values_as_missing(
    trained_models: TrainedModels,
) -> None:
    predictor = Predictor(trained_models.bundles[0])
    absent: dict[str, Any] = dict.fromkeys(type(EXAMPLE_QUERY).__dataclass_fields__.keys() - REQUIRED_FIELDS)
    assert len(absent) > 10
    for query in (
        replace(EXAMPLE_QUERY, stop_id="Atlantis", route_id="Purple"),
        replace(EXAMPLE_QUERY, **absent),
    ):
        columns = feature_columns([query])
        expected = Model(trained_models.bundles[0]).predict(columns)[0]
        assert predictor.predict_one(query).delay_seconds == expected


def test_no_arrival_is_predicted_before_the_time_of_the_prediction(trained_models: TrainedModels) -> None:
    late = replace(EXAMPLE_QUERY, time_stamp=EXAMPLE_QUERY.scheduled_arrival + timedelta(hours=3))
    prediction = Predictor(trained_models.bundles[0]).predict_one(late)
    assert prediction.predicted_arrival >= late.time_stamp
    assert prediction.interval
    assert prediction.interval.earliest_arrival >= late.time_stamp


def test_times_beyond_the_range_of_datetime_are_limited_to_it(trained_models: TrainedModels) -> None:
    end = datetime.max.replace(tzinfo=UTC)
    query = replace(EXAMPLE_QUERY, scheduled_arrival=end, time_stamp=end - timedelta(seconds=5))
    prediction = Predictor(trained_models.bundles[0]).predict_one(query)
    assert prediction.interval
    assert prediction.interval.latest_arrival == end


def test_intervals_cover_as_many_arrivals_as_their_confidence_level_says(trained_models: TrainedModels) -> None:
    # On two days of three lines the coverage differs by up to four points; `make seeds` measures it on all lines.
    model = Model(trained_models.bundles[0])
    assert model.interval
    score = score_interval(model.interval, trained_models.test_rows, model.predict(trained_models.test_rows))
    parts = {"all": score, **score["by_stops_ahead"]}
    assert {"all", "1", "3", "5", "10"} <= set(parts)
    for name in ("all", "1", "3", "5", "10"):
        part = parts[name]
        assert part["n"] > 500
        assert part["coverage"] == pytest.approx(score["confidence_level"], abs=0.04), name


def test_a_bundle_without_calibrated_intervals_predicts_without_them(
    trained_models: TrainedModels, tmp_path: Path
) -> None:
    stored = trained_models.bundles[0]
    files = {name: stored.file(name) for name in stored.manifest["files"] if name != INTERVAL_FILE}
    old_bundle = bundle.write(tmp_path / "old", ONNX_KIND, files, residual_to="lookup", features=[])
    without_interval = Predictor(old_bundle).predict_one(EXAMPLE_QUERY)
    assert without_interval.interval is None
    assert without_interval.delay_seconds == Predictor(stored).predict_one(EXAMPLE_QUERY).delay_seconds


def test_the_interval_of_an_earlier_release_is_read(trained_models: TrainedModels, tmp_path: Path) -> None:
    stored = trained_models.bundles[0]
    files = {name: stored.file(name) for name in stored.manifest["files"]}
    files[EARLIER_INTERVAL_FILE] = lzma.decompress(files.pop(INTERVAL_FILE))
    old_bundle = bundle.write(tmp_path / "old", ONNX_KIND, files, residual_to="lookup", features=[])
    assert Predictor(old_bundle).predict_one(EXAMPLE_QUERY).interval is not None
    assert Model(old_bundle).interval == Model(stored).interval


def test_a_bundle_that_cannot_predict_is_not_opened(trained_models: TrainedModels, tmp_path: Path) -> None:
    stored = trained_models.bundles[0]
    files = {name: stored.file(name) for name in stored.manifest["files"]} | {ONNX_FILE: b"no model"}
    broken = bundle.write(tmp_path / "broken", ONNX_KIND, files, residual_to="lookup")
    with pytest.raises(Exception, match="onnx|ONNX|protobuf|INVALID"):
        Predictor(broken)


def test_a_followed_model_changes_with_each_promotion_and_rollback(model_store: ModelStore) -> None:
    first, second = (model.digest for model in model_store.models)
    assert first != second
    predictors = follow_model(str(model_store.root), refresh_seconds=0)
    assert predictors.get().predict_one(EXAMPLE_QUERY).model_version == first

    def serves(version: str) -> bool:
        return predictors.get().version == version

    for model in (model_store.models[1], model_store.models[0]):
        model_store.promote(model)
        eventually("the promoted version is served", 10, partial(serves, model.digest))


def test_a_followed_model_follows_the_correction_of_its_intervals(model_store: ModelStore) -> None:
    version, reports = model_store.models[0].digest, ReportStore(model_store.root)
    predictors = follow_model(str(model_store.root), refresh_seconds=0)
    wider = WidthCorrection(by_route={EXAMPLE_QUERY.route_id or "": 0.5})

    def get_width() -> float:
        prediction = predictors.get().predict_one(EXAMPLE_QUERY)
        assert prediction.interval
        return prediction.interval.upper_delay_seconds - prediction.delay_seconds

    def has_width(width: float) -> bool:
        return bool(np.isclose(get_width(), width))

    usual = get_width()
    for content, factor in (
        (wider.to_json(version), np.exp(0.5)),
        (b"half", np.exp(0.5)),
        (wider.to_json("another"), 1),
        (b"half", 1),
    ):
        reports.write(WIDTH_CORRECTION, content)
        eventually("the correction is followed", 10, partial(has_width, usual * factor))
        assert predictors.get().version == version
    assert Predictor.load(str(model_store.root)).predict_one(EXAMPLE_QUERY).interval


def test_a_stream_of_updates_is_predicted(trained_models: TrainedModels) -> None:
    noon = datetime(2024, 3, 6, 17, tzinfo=UTC)
    stops = ["70061", "70063", "70065", "70067", "70069"]
    schedule = [
        StopTime(trip_id="1", stop_id=stop, arrival_time=noon + timedelta(minutes=3 * n))
        for n, stop in enumerate(stops)
    ]
    stream = Stream(Timetable(noon.date(), schedule))
    stream.update(
        [VehicleUpdate(id="R-1", updated_at=noon, current_status="STOPPED_AT", stop_id=stops[0], trip_id="1")]
    )
    queries = list(stream.iter_queries())
    predictions = Predictor(trained_models.bundles[0]).predict(queries)
    assert [(query.stops_ahead, query.stop_id) for query in queries] == list(enumerate(stops))
    times = [prediction.predicted_arrival for prediction in predictions]
    assert times == sorted(times)
    assert all(noon <= time < noon + timedelta(hours=1) for time in times)
