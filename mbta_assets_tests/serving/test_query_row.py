"""Single and few queries have the features and the predictions of the path in columns, to the bit."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache, partial
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.ml.inference.intervals import UNCORRECTED
from mbta_assets.ml.inference.model import INTERVAL_FILE, ONNX_KIND
from mbta_assets.ml.inference.width_correction import LAST_STOPS, WidthCorrection
from mbta_assets.serving import ArrivalQuery, Predictor
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, REQUIRED_FIELDS, TIME_FIELDS
from mbta_assets.serving.predictor import MAX_ROWS, Prediction, feature_columns, to_columns
from mbta_assets.serving.query_row import compute_feature_row
from mbta_assets.storage import bundle
from mbta_assets.transit.formulas import OBSERVED_FEATURES, STATUSES
from mbta_assets_tests.serving.conftest import TrainedModels

ROUTES = ("Red", "Mattapan", "Blue", "66", None)
REPORTS = (("1", "a"), ("1", "b"), ("2", "a"), (None, "a"))
"""Trips and vehicles of some reports; those without a trip are reports of their own."""
offsets = st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=45))])
near = st.floats(-7200, 7200).map(lambda seconds: timedelta(seconds=seconds))
seconds_of_change = st.one_of(st.sampled_from([0.0, -0.0, 1e6, -1e6]), st.floats(-3600, 3600))
corrections = st.builds(
    WidthCorrection,
    st.dictionaries(
        st.sampled_from([f"{place} {n}" for place in ("terminal", "mid_trip") for n in (*LAST_STOPS, "more")]),
        st.floats(-1, 1),
    ),
    st.dictionaries(st.sampled_from(["Red", "Blue", ""]), st.floats(-1, 1)),
)
"""Any corrections of the widths of intervals, none included."""


@cache
def queries(stop_ids: tuple[str, ...]) -> st.SearchStrategy[ArrivalQuery]:
    """Return queries with any values of their fields, about these stops and one that nobody knows."""
    stops = st.sampled_from([*stop_ids, "nowhere"])

    @st.composite
    def draw_query(draw: st.DrawFn) -> ArrivalQuery:
        day = draw(st.dates(date(2023, 1, 1), date(2026, 12, 31)))
        now = datetime(day.year, day.month, day.day, 12, tzinfo=draw(offsets)) + 6 * draw(near)
        now = now.replace(microsecond=draw(st.sampled_from([0, 500_000, 123_457])))
        values: dict[str, Any] = {
            "service_date": day,
            "time_stamp": now,
            "stop_id": draw(stops),
            "current_stop_id": draw(stops),
            "current_status": draw(st.sampled_from(STATUSES)),
            "stops_ahead": draw(st.one_of(st.integers(0, 3), st.integers(0, 1000))),
            "stops_behind": draw(st.one_of(st.integers(0, 2), st.integers(0, 1000))),
            "timepoint": draw(st.sampled_from([None, 0, 1])),
            "route_id": draw(st.sampled_from(ROUTES)),
            "direction_id": draw(st.sampled_from([None, 0, 1])),
        }
        for name in TIME_FIELDS:
            values[name] = now.astimezone(draw(offsets)) + draw(near)
        for name in ("current", "destination"):
            values[f"{name}_latitude"], values[f"{name}_longitude"] = (
                draw(st.floats(-90, 90)),
                draw(st.floats(-180, 180)),
            )
        values |= {name: draw(seconds_of_change) for name in OBSERVED_FEATURES}
        optional = sorted(values.keys() - REQUIRED_FIELDS)
        return ArrivalQuery(**values | dict.fromkeys(draw(st.sets(st.sampled_from(optional)))))

    return draw_query()


def to_bits(value: Any) -> Any:
    """Return a value so that it equals another one with the same bits as a float; all missing ones are alike."""
    if not isinstance(value, int | float | np.floating):
        return value
    return "missing" if value != value else np.float64(value + 0.0).tobytes()


def predict_in_columns(predictor: Predictor, query: ArrivalQuery) -> list[float]:
    """Return the delay and its bounds in seconds that the path for many queries gives one."""
    _, *values = predictor.predict_events(to_columns([query]))
    return [value.item() for value in values]


def predict_alone(predictor: Predictor, query: ArrivalQuery) -> list[float]:
    """Return the delay and its bounds in seconds of the path for one query."""
    return read_seconds(predictor.predict_one(query))


def read_seconds(prediction: Prediction) -> list[float]:
    """Return the delay and its bounds in seconds, NaN where there are none."""
    interval = prediction.interval
    if interval is None:
        return [prediction.delay_seconds, np.nan, np.nan]
    return [prediction.delay_seconds, interval.lower_delay_seconds, interval.upper_delay_seconds]


@given(query=queries(("70065", "70061")))
def test_the_features_of_any_query_are_those_in_columns_to_the_bit(query: ArrivalQuery) -> None:
    row, columns = compute_feature_row(query), feature_columns([query])
    assert row.keys() == columns.keys()
    for name, values in columns.items():
        [expected] = values.tolist()
        assert to_bits(row[name]) == to_bits(expected), name


@pytest.fixture(scope="module")
def predictors(trained_models: TrainedModels, tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    """Return predictors of a model, of the same one without an interval, and of one with the other residual base."""
    stored, root = trained_models.bundles[0], tmp_path_factory.mktemp("predictors")
    files = {name: stored.file(name) for name in stored.manifest["files"]}
    without_interval = {name: content for name, content in files.items() if name != INTERVAL_FILE}
    others = (
        bundle.write(root / "without_interval", ONNX_KIND, without_interval, residual_to="lookup"),
        bundle.write(root / "to_now", ONNX_KIND, files, residual_to="now"),
    )
    return [Predictor(model) for model in (stored, *others)]


@pytest.mark.integration
@settings(max_examples=400)
@given(data=st.data())
def test_any_query_has_the_prediction_of_the_path_in_columns_to_the_bit(
    predictors: list[Predictor], trained_models: TrainedModels, data: st.DataObject
) -> None:
    stop_ids = tuple(sorted(trained_models.test_rows["stop_id"].unique())[:30])
    predictor, query = data.draw(st.sampled_from(predictors)), data.draw(queries(stop_ids))
    predictor.correction = data.draw(corrections)
    alone, in_columns = predict_alone(predictor, query), predict_in_columns(predictor, query)
    assert list(map(to_bits, alone)) == list(map(to_bits, in_columns))


@pytest.mark.integration
@settings(max_examples=200)
@given(data=st.data())
def test_any_number_of_queries_has_the_predictions_of_the_path_in_columns_to_the_bit(
    predictors: list[Predictor], trained_models: TrainedModels, data: st.DataObject
) -> None:
    stop_ids = tuple(sorted(trained_models.test_rows["stop_id"].unique())[:30])
    predictor, first = data.draw(st.sampled_from(predictors)), data.draw(queries(stop_ids))
    others = data.draw(st.lists(queries(stop_ids), min_size=1, max_size=5))
    reports = data.draw(st.lists(st.sampled_from(REPORTS), min_size=2, max_size=MAX_ROWS + 4))
    asked = [
        replace(
            query, service_date=first.service_date, time_stamp=first.time_stamp, trip_id=trip_id, vehicle_id=vehicle_id
        )
        for query, (trip_id, vehicle_id) in zip(cycle([first, *others]), reports, strict=False)
    ]
    predictor.correction = data.draw(corrections)
    together = [read_seconds(prediction) for prediction in predictor.predict(asked)]
    _, *in_columns = predictor.predict_events(to_columns(asked))
    assert np.array_equal(np.array(together), np.column_stack(in_columns), equal_nan=True)


def test_many_threads_get_the_predictions_that_one_gets(
    predictors: list[Predictor], trained_models: TrainedModels
) -> None:
    stop_ids = sorted(trained_models.test_rows["stop_id"].unique())
    asked = [replace(EXAMPLE_QUERY, stop_id=stop_id, stops_ahead=n) for stop_id in stop_ids for n in (1, 3, 5, 10)]
    predictors[0].correction = UNCORRECTED
    expected = [predict_in_columns(predictors[0], query) for query in asked]
    untouched = Predictor(trained_models.bundles[0])  # nothing is in its caches yet
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(partial(predict_alone, untouched), asked * 4))
    assert answers == expected * 4
