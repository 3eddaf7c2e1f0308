"""The HTTP function predicts, refuses invalid requests cleanly, and changes its model without failing a request."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbta_assets.serving import ArrivalQuery, Predictor, openapi
from mbta_assets.serving.predictor import EXAMPLE_QUERY, REQUIRED_FIELDS
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets_tests.serving.conftest import ModelStore, query_json
from mbta_assets_tests.support.dagster_dev import eventually
from mbta_assets_tests.support.function_server import FunctionServer, Response, serve_predictions

JSON = {"Content_Type": "application/json"}


def assert_refused(response: Response, *statuses: int) -> dict[str, Any]:
    """Return the JSON of an error. Raises AssertionError unless it has one of the statuses and no stack trace."""
    assert response.status in statuses, response
    assert b"Traceback" not in response.body
    content = response.json()
    assert content["error"]
    return content


def test_predictions_are_those_of_the_predictor_in_the_order_of_the_queries(
    server: FunctionServer, full_store: ModelStore
) -> None:
    predictor = Predictor(full_store.models[0])
    stops_ahead = (1, 3, 5, 10)
    queries = [query_json(stops_ahead=n, vehicle_id=f"R-{n}") for n in stops_ahead]
    response = server.request("/predict", {"queries": queries})
    content = response.json()
    assert response.status == 200
    assert content["model_version"] == response.headers["X-Model-Version"] == predictor.version
    expected = predictor.predict(openapi.parse_queries(json.dumps({"queries": queries}).encode()))
    for n, returned, prediction in zip(stops_ahead, content["predictions"], expected, strict=True):
        assert (returned["vehicle_id"], returned["stop_id"]) == (f"R-{n}", EXAMPLE_QUERY.stop_id)
        assert returned["delay_seconds"] == pytest.approx(prediction.delay_seconds, abs=0.001)
        assert returned["predicted_arrival"] == prediction.predicted_arrival.isoformat()
        assert prediction.interval
        assert returned["interval"]["earliest_arrival"] == prediction.interval.earliest_arrival.isoformat()
        assert returned["interval"]["confidence_level"] == 0.9


def test_optional_fields_may_be_left_out(server: FunctionServer) -> None:
    required = {name: value for name, value in query_json().items() if name in REQUIRED_FIELDS}
    assert server.request("/predict", {"queries": [required]}).status == 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stop_id": 70065}, "stop_id"),
        ({"stop_id": ""}, "stop_id"),
        ({"stops_ahead": 0}, "stops_ahead"),
        ({"stops_ahead": 1.5}, "stops_ahead"),
        ({"stops_ahead": "1"}, "stops_ahead"),
        ({"stops_ahead": True}, "stops_ahead"),
        ({"current_status": "FLYING"}, "current_status"),
        ({"time_stamp": "2024-03-06T08:30:12"}, "time_stamp"),
        ({"time_stamp": 1709731812}, "time_stamp"),
        ({"service_date": "yesterday"}, "service_date"),
        ({"current_latitude": 91}, "current_latitude"),
        ({"last_delay_seconds": "late"}, "last_delay_seconds"),
        ({"direction_id": 2}, "direction_id"),
        ({"direction_id": False}, "direction_id"),
        ({"scheduled_arrival": None}, "scheduled_arrival"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_invalid_field_is_named(server: FunctionServer, changes: dict[str, Any], field: str) -> None:
    response = server.request("/predict", {"queries": [query_json(), query_json(**changes)]})
    errors = assert_refused(response, 422)["fields"]
    assert [error["field"] for error in errors] == [f"queries.1.{field}"]
    assert all(error["message"] for error in errors)


def test_all_invalid_fields_are_named_at_once(server: FunctionServer) -> None:
    content = assert_refused(server.request("/predict", {"queries": [{"stops_ahead": -1}]}), 422)
    assert {error["field"] for error in content["fields"]} == {f"queries.0.{name}" for name in REQUIRED_FIELDS}


def test_invalid_requests_are_refused(server: FunctionServer) -> None:
    body = json.dumps({"queries": [query_json()]}).encode()
    assert_refused(server.request("/predict", b"{not json", **JSON), 400)
    assert_refused(server.request("/predict", b"", **JSON), 400)
    assert_refused(server.request("/predict", b'{"queries": [NaN]}', **JSON), 400, 422)
    assert_refused(server.request("/predict", body, Content_Type="text/plain"), 415)
    assert_refused(server.request("/predict", {"queries": []}), 422)
    assert_refused(server.request("/predict", {"queries": [query_json()] * (openapi.MAX_QUERIES + 1)}), 422)
    assert_refused(server.request("/nowhere"), 404)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = server.request("/predict", method=method)
        assert_refused(response, 405)
        assert "POST" in response.headers["Allow"]


def test_the_maximum_number_of_queries_is_predicted_at_once(server: FunctionServer) -> None:
    response = server.request("/predict", {"queries": [query_json()] * openapi.MAX_QUERIES})
    assert response.status == 200
    assert len(response.json()["predictions"]) == openapi.MAX_QUERIES == 1_000


def test_a_body_that_is_too_large_is_refused_whether_or_not_its_size_is_declared(server: FunctionServer) -> None:
    assert_refused(server.request("/predict", b" " * (openapi.MAX_BODY_BYTES + 1), **JSON), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(openapi.MAX_BODY_BYTES // 100_000 + 1):
            yield b" " * 100_000

    assert_refused(server.request("/predict", chunks(), method="POST", **JSON), 413)


def test_invalid_chunks_are_refused(server: FunctionServer) -> None:
    response = server.request("/predict", b"no chunk\r\n\r\n", Transfer_Encoding="chunked", **JSON)
    assert_refused(response, 400)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
fuzzing = settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(name=st.sampled_from(sorted(ArrivalQuery.__dataclass_fields__)), value=any_json)
@fuzzing
def test_any_value_of_any_field_is_predicted_or_cleanly_refused(server: FunctionServer, name: str, value: Any) -> None:
    response = server.request("/predict", json.dumps({"queries": [query_json(**{name: value})]}).encode(), **JSON)
    if response.status == 200:
        [prediction] = response.json()["predictions"]
        assert -1e12 < prediction["delay_seconds"] < 1e12
    else:
        assert_refused(response, 400, 422)


@given(body=st.binary(max_size=300) | any_json.map(lambda value: json.dumps(value).encode()))
@fuzzing
def test_any_body_is_cleanly_refused(server: FunctionServer, body: bytes) -> None:
    assert_refused(server.request("/predict", body, **JSON), 400, 422)


@given(
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    method=st.sampled_from(["GET", "PUT"]),
)
@settings(fuzzing, max_examples=200)
def test_any_path_gets_a_response_without_a_stack_trace(server: FunctionServer, path: str, method: str) -> None:
    response = server.request("/" + path, method=method)
    assert response.status < 500
    assert b"Traceback" not in response.body


def test_deeply_nested_json_and_huge_numbers_are_refused(server: FunctionServer) -> None:
    assert_refused(server.request("/predict", b"[" * 100_000, **JSON), 400, 422)
    assert_refused(server.request("/predict", {"queries": [query_json(stops_ahead=10**400)]}), 422)
    assert_refused(server.request("/predict", b'{"queries": [{"last_delay_seconds": 1e999}]}', **JSON), 400, 422)


def test_health_readiness_and_metrics_are_reported(server: FunctionServer, full_store: ModelStore) -> None:
    version = full_store.models[0].digest
    assert server.request("/healthz").json() == {"status": "alive"}
    assert server.request("/readyz").json() == {"status": "ready", "model_version": version}
    server.request("/predict", {"queries": [query_json()] * 3})
    lines = server.request("/metrics").body.decode().splitlines()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    metrics = {name: float(value) for name, _, value in samples}
    assert metrics[f'mbta_model{{version="{version}"}}'] == 1
    assert metrics["mbta_predictions_total"] >= 3
    assert metrics['mbta_requests_total{method="POST",path="/predict",status="200"}'] >= 1
    assert metrics['mbta_request_seconds_count{path="/predict"}'] >= 1


def test_each_request_is_logged_as_a_line_of_json(server: FunctionServer) -> None:
    before = len(server.log_entries())
    server.request("/predict", {"queries": [query_json()]})
    entry = eventually("the request is logged", 5, lambda: server.log_entries()[before:])[0]
    assert (entry["severity"], entry["message"]) == ("INFO", "request handled")
    assert entry["httpRequest"]["status"] == 200
    assert entry["httpRequest"]["requestUrl"] == "/predict"


def test_a_promotion_under_load_fails_no_request(model_store: ModelStore, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"queries": [query_json()] * 5}))
    first, second = (model.digest for model in model_store.models)
    with serve_predictions(model_store.root, tmp_path / "log") as server:
        assert server.request("/readyz").json()["model_version"] == first
        program = Path(__file__).with_name("load.py")
        command = [sys.executable, str(program), str(server.port), "50", "4", str(body), second]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        eventually("there is load", 20, lambda: len(server.log_entries()) > 200)
        model_store.promote(model_store.models[1])
        output, _ = load.communicate(timeout=150)
    results = json.loads(output)
    assert results["failures"] == []
    assert set(results["statuses"]) == {"200"}
    assert results["statuses"]["200"] >= 400
    assert results["versions"] == [[first, second]] * 4


def test_a_damaged_new_version_is_not_served_until_it_is_repaired(model_store: ModelStore, tmp_path: Path) -> None:
    first, second = model_store.models
    promoted = ModelStore(tmp_path / "promoted", model_store.models)
    shutil.copytree(model_store.root, promoted.root)
    promoted.promote(second)
    with serve_predictions(model_store.root, tmp_path / "log", MBTA_REFRESH_SECONDS="0") as server:
        assert server.request("/readyz").json()["model_version"] == first.digest
        ModelRegistry(model_store.root).put("production_model", second)
        weights = model_store.root / "bundles/production_model" / second.digest[:16] / "model.onnx"
        intact = weights.read_bytes()
        weights.write_bytes(b"damaged")
        pointer = "bundles/production_model/current.json"
        os.replace(promoted.root / pointer, model_store.root / pointer)  # a registry refuses to set a damaged version

        def load_errors() -> list[dict[str, Any]]:
            assert server.request("/predict", {"queries": [query_json()]}).json()["model_version"] == first.digest
            return [entry for entry in server.log_entries() if entry["message"] == "model not loaded"]

        [entry, *_] = eventually("the damage is logged", 20, load_errors)
        assert "model.onnx is not what the manifest says" in entry["error"]
        weights.write_bytes(intact)
        eventually(
            "the repaired version is served",
            20,
            lambda: server.request("/readyz").json()["model_version"] == second.digest,
        )


def test_without_a_model_responses_name_the_command_that_makes_one_and_the_first_model_is_served(
    empty_store: ModelStore, tmp_path: Path
) -> None:
    with serve_predictions(empty_store.root, tmp_path / "log") as server:
        assert server.request("/healthz").status == 200
        for path, body in (("/readyz", None), ("/predict", {"queries": [query_json()]}), ("/network", None)):
            response = server.request(path, body)
            assert "dagster asset materialize --select production_model" in assert_refused(response, 503)["error"]
            assert response.headers["Retry-After"]
        page = server.request("/")
        assert page.status == 503
        assert "dagster asset materialize" in page.body.decode()
        version = empty_store.promote(empty_store.models[0])
        eventually("the server is ready", 10, lambda: server.request("/readyz").status == 200)
        assert server.request("/predict", {"queries": [query_json()]}).json()["model_version"] == version
