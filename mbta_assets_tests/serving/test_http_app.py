"""The HTTP function predicts, refuses invalid requests cleanly, and changes its model without failing a request."""

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from mbta_assets.ml.inference.transit_network import list_served_stops
from mbta_assets.serving import ArrivalQuery, Predictor, openapi
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, REQUIRED_FIELDS
from mbta_assets.serving.http_app import HttpApp
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT
from mbta_assets_tests.deploy import compose
from mbta_assets_tests.serving.conftest import ModelStore, TrainedModels, query_json
from mbta_assets_tests.support.dagster_dev import ROOT, eventually
from mbta_assets_tests.support.function_server import FunctionServer, Response, serve_predictions
from mbta_assets_tests.support.image import read_instructions
from mbta_assets_tests.support.other_networks import OTHER_NETWORK, with_network

JSON = {"Content_Type": "application/json"}
NEED_A_SOURCE = ("/readyz", "/network", "/accuracy.json", "/accuracy.csv")
"""Paths that answer with JSON when the store cannot be read."""
SHARED_CASES = "MBTA_SHARED_CASES"
"""Environment variable that names a directory of odd inputs, in directories of their own."""


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
        assert (returned["stop_sequence"], returned["current_stop_sequence"], returned["event"]) == (30, 30, "arrival")
        assert returned["delay_seconds"] == pytest.approx(prediction.delay_seconds, abs=0.001)
        assert returned["predicted_arrival"] == prediction.predicted_arrival.isoformat()
        assert prediction.interval
        assert returned["interval"]["earliest_arrival"] == prediction.interval.earliest_arrival.isoformat()
        assert returned["interval"]["confidence_level"] == 0.9


def test_predictions_for_one_report_never_run_backwards(server: FunctionServer) -> None:
    queries = [query_json(stops_ahead=n, stops_behind=1) for n in range(12)]
    predictions = server.request("/predict", {"queries": queries}).json()["predictions"]
    assert [prediction["event"] for prediction in predictions] == ["departure", *["arrival"] * 11]
    times = [datetime.fromisoformat(prediction["predicted_arrival"]) for prediction in predictions]
    assert times == sorted(times)


def test_queries_of_another_network_than_the_models_are_refused_and_those_of_its_own_answered(
    empty_store: ModelStore, trained_models: TrainedModels
) -> None:
    served = sorted(list_served_stops(trained_models.test_rows))
    version = empty_store.promote(with_network(empty_store.models[0], served))
    app = HttpApp(open_model_source(str(empty_store.root)), 30)

    def post(stops: list[tuple[Any, Any]]) -> tuple[int, dict[str, Any]]:
        queries = [query_json(route_id=route, stop_id=stop) for route, stop in stops]
        request = Request(EnvironBuilder("/predict", method="POST", json={"queries": queries}).get_environ())
        response = app.handle(request)
        assert response.headers["X-Model-Version"] == version
        return response.status_code, response.get_json()

    assert post(served[:50])[0] == 200
    status, content = post(OTHER_NETWORK)
    assert status == 422 and "another network" in content["error"] and "MBTA_FOREIGN_MODEL=allow" in content["error"]
    assert post([(None, stop) for _, stop in OTHER_NETWORK])[0] == 200, "routes are optional"


def test_optional_fields_may_be_left_out(server: FunctionServer) -> None:
    required = {name: value for name, value in query_json().items() if name in REQUIRED_FIELDS}
    assert server.request("/predict", {"queries": [required]}).status == 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stop_id": 70065}, "stop_id"),
        ({"stop_id": ""}, "stop_id"),
        ({"stops_ahead": -1}, "stops_ahead"),
        ({"stops_ahead": 1001}, "stops_ahead"),
        ({"stops_ahead": 0}, "stops_behind"),
        ({"stop_sequence": -1}, "stop_sequence"),
        ({"current_stop_sequence": "30"}, "current_stop_sequence"),
        ({"timepoint": 2}, "timepoint"),
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
        ({"current_latitude": None}, "current_latitude"),
        ({"time_stamp": "1970-01-01T00:00:00Z"}, "time_stamp"),
        ({"state_since": "2024-03-06T09:30:12-05:00"}, "state_since"),
        ({"leader_arrival": "2024-03-06T09:30:12-05:00"}, "leader_arrival"),
        ({"scheduled_arrival": "2024-03-07T08:31:00-05:00"}, "scheduled_arrival"),
    ],
)
def test_an_invalid_field_is_named(server: FunctionServer, changes: dict[str, Any], field: str) -> None:
    response = server.request("/predict", {"queries": [query_json(), query_json(**changes)]})
    errors = assert_refused(response, 422)["fields"]
    assert f"queries.1.{field}" in {error["field"] for error in errors}
    assert all(error["field"].startswith("queries.1.") and error["message"] for error in errors)


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


def test_a_compressed_body_is_predicted_like_the_body_itself(server: FunctionServer) -> None:
    body = json.dumps({"queries": [query_json()] * 100}).encode()
    expected = server.request("/predict", body, **JSON).json()
    for encoding in ("gzip", "x-gzip", "identity"):
        sent = body if encoding == "identity" else gzip.compress(body)
        response = server.request("/predict", sent, Content_Encoding=encoding, **JSON)
        assert (response.status, response.json()) == (200, expected)


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_another_encoding_is_refused_by_name(server: FunctionServer, encoding: str) -> None:
    response = server.request("/predict", b"{}", Content_Encoding=encoding, **JSON)
    assert encoding in assert_refused(response, 415)["error"]
    assert response.headers["Accept-Encoding"] == "gzip, identity"


ODD_BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a_position_of_0_0": {"current_latitude": 0.0, "current_longitude": 0.0},
    "a_time_stamp_of_1970": {"time_stamp": "1970-01-01T00:00:00Z"},
    "due_a_day_later": {"scheduled_arrival": "2024-03-07T08:31:00-05:00"},
    "the_leader_arrived_later": {"leader_arrival": "2024-03-06T09:30:12-05:00"},
    "the_state_began_later": {"state_since": "2024-03-06T09:30:12-05:00"},
}
"""Changes of the example that make it odd."""


def read_odd_bodies() -> dict[str, bytes]:
    """Return the bodies of the shared cases if the environment names them, otherwise the same made here."""
    if SHARED_CASES not in os.environ:
        return {name: json.dumps({"queries": [query_json(**fields)]}).encode() for name, fields in ODD_BODIES.items()}
    [plain] = Path(os.environ[SHARED_CASES]).rglob("plain.json")
    # The shared bodies have the name that queries had before.
    return {path.stem: path.read_bytes().replace(b'"moments"', b'"queries"') for path in plain.parent.glob("*.json")}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_an_odd_body_is_refused_by_field(server: FunctionServer, name: str) -> None:
    body = read_odd_bodies()[name]
    for sent, encoding in ((body, "identity"), (gzip.compress(body), "gzip")):
        response = server.request("/predict", sent, Content_Encoding=encoding, **JSON)
        if name == "plain":
            assert response.status == 200
        else:
            fields = {error["field"] for error in assert_refused(response, 422)["fields"]}
            assert {f"queries.0.{field}" for field in ODD_BODIES[name]} <= fields


def test_a_damaged_or_too_large_compressed_body_is_refused(server: FunctionServer) -> None:
    compressed = gzip.compress(json.dumps({"queries": [query_json()]}).encode())
    for body in (compressed[:-1], compressed + b"x", b"no gzip", b""):
        assert_refused(server.request("/predict", body, Content_Encoding="gzip", **JSON), 400)
    expanding = gzip.compress(b" " * (openapi.MAX_BODY_BYTES + 1))
    assert len(expanding) < 10_000
    assert_refused(server.request("/predict", expanding, Content_Encoding="gzip", **JSON), 413)


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
        output, _ = load.communicate(timeout=600)
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
            assert "-m mbta_assets.definitions --select production_model" in assert_refused(response, 503)["error"]
            assert response.headers["Retry-After"]
        page = server.request("/")
        assert page.status == 503
        assert "dagster asset materialize" in page.body.decode()
        version = empty_store.promote(empty_store.models[0])
        eventually("the server is ready", 10, lambda: server.request("/readyz").status == 200)
        assert server.request("/predict", {"queries": [query_json()]}).json()["model_version"] == version


def read_container_environment(store: Path) -> dict[str, str]:
    """Return the variables of the predictor's container, with a directory in the place of its volume."""
    service = compose.read_services(DAGSTER_POSTGRES_PASSWORD="tram")["predictor"]
    instructions = read_instructions(ROOT / service["build"]["dockerfile"])
    image = dict(
        pair.split("=", 1) for step in instructions if step.name == "ENV" for pair in shlex.split(step.arguments)
    )
    [volume] = service["volumes"]
    variables = {**image, **service["environment"]}
    return {name: value.replace(volume.split(":")[1], str(store)) for name, value in variables.items()}


NO_ACCESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Command with which root may read only what the permissions of files allow it to read."""


@pytest.mark.parametrize("volume", ["missing", "empty", "unreadable"])
def test_on_a_fresh_volume_the_process_lives_says_what_to_do_and_serves_the_first_model(
    model_store: ModelStore, tmp_path: Path, volume: str
) -> None:
    store = tmp_path / "volume"
    if volume != "missing":
        store.mkdir(mode=0o000 if volume == "unreadable" else 0o755)
    prefix = NO_ACCESS if os.geteuid() == 0 else ()
    variables = read_container_environment(store)
    server = FunctionServer.start("predict", tmp_path / "log", prefix, **variables)
    try:
        assert server.request("/healthz").json() == {"status": "alive"}
        assert server.request("/openapi.json").status == server.request("/metrics").status == 200
        remedy = "readable for the user" if volume == "unreadable" else "--select production_model"
        for path, body in (("/predict", {"queries": [query_json()]}), *((path, None) for path in NEED_A_SOURCE)):
            message = assert_refused(server.request(path, body), 503)["error"]
            assert str(store) in message
            assert remedy in message
        assert server.request("/").status == 503
        store.mkdir(exist_ok=True)
        store.chmod(0o755)
        shutil.copytree(model_store.root, store, dirs_exist_ok=True)
        eventually("the server is ready", 10, lambda: server.request("/readyz").status == 200)
        assert server.request("/predict", {"queries": [query_json()]}).status == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("variable", "value"), [("MBTA_MODEL", "gs://bucket/elsewhere"), ("MBTA_REFRESH_SECONDS", "soon")]
)
def test_with_a_wrong_setting_the_process_lives_and_names_it(tmp_path: Path, variable: str, value: str) -> None:
    server = FunctionServer.start("predict", tmp_path / "log", **{variable: value})
    try:
        assert server.request("/healthz").status == 200
        for path, body in (("/predict", {"queries": [query_json()]}), *((path, None) for path in NEED_A_SOURCE)):
            assert value in assert_refused(server.request(path, body), 503)["error"]
    finally:
        server.stop()


def test_a_version_that_was_rolled_back_while_nobody_asked_answers_no_more(
    model_store: ModelStore, tmp_path: Path
) -> None:
    body = {"queries": [query_json()]}
    with serve_predictions(model_store.root, tmp_path / "log", MBTA_REFRESH_SECONDS="2") as server:
        for number in (1, 0, 1, 0):
            version = model_store.promote(model_store.models[number])
            time.sleep(2.1)
            assert server.request("/predict", body).json()["model_version"] == version


@pytest.mark.parametrize(
    ("report", "content", "remedy"),
    [
        (NETWORK_SNAPSHOT, b"", "network_snapshot"),
        (NETWORK_SNAPSHOT, b"half", "network_snapshot"),
        (LEADERBOARD, b"", "model_leaderboard"),
        (LEADERBOARD, b'[{"model": "schedule", "mae"', "model_leaderboard"),
        (LEADERBOARD, b'{"model": 1}', "model_leaderboard"),
    ],
)
def test_a_damaged_report_is_named_and_predictions_go_on(
    store_copy: ModelStore, tmp_path: Path, report: str, content: bytes, remedy: str
) -> None:
    path = store_copy.root / "reports" / report
    intact = path.read_bytes()
    path.write_bytes(intact[: len(intact) // 2] if content == b"half" else content)
    with serve_predictions(store_copy.root, tmp_path / "log") as server:
        message = assert_refused(server.request("/network"), 503)["error"]
        assert report in message
        assert f"-m mbta_assets.definitions --select {remedy}" in message
        assert server.request("/").status == 503
        assert server.request("/predict", {"queries": [query_json()]}).status == 200
        path.write_bytes(intact)
        eventually("the page is back", 10, lambda: server.request("/network").status == 200)
        path.unlink()
        eventually("the page does without it", 10, lambda: is_missing_from_page(server, report))


def is_missing_from_page(server: FunctionServer, report: str) -> bool:
    """Return whether the page is served without what a report contributes."""
    content = server.request("/network").json()
    return content["service_date" if report == NETWORK_SNAPSHOT else "accuracy"] is None
