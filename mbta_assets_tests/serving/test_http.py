"""The HTTP function under functions-framework: right answers, clean refusals, a new model without a failed request."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbta_assets.serving import Moment, Predictor, api
from mbta_assets.serving.moment import EXAMPLE, REQUIRED
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets_tests.serving.conftest import Answer, Production, Server, serving
from mbta_assets_tests.support.dagster_dev import eventually

JSON = {"Content_Type": "application/json"}


def plain(moment: Moment = EXAMPLE, **changes: Any) -> dict[str, Any]:
    """A moment as JSON."""
    return {**json.loads(json.dumps(asdict(moment), default=lambda value: value.isoformat())), **changes}


def assert_refused(answer: Answer, *statuses: int) -> dict[str, Any]:
    """What a clean refusal says."""
    assert answer.status in statuses, answer
    assert b"Traceback" not in answer.body
    said = answer.json()
    assert said["error"]
    return said


def test_predictions_are_the_predictors_in_the_order_of_the_moments(server: Server, whole_store: Production) -> None:
    predictor = Predictor(whole_store.models[0])
    asked = [plain(stops_ahead=n, vehicle_id=f"R-{n}") for n in (1, 3, 5, 10)]
    answer = server.ask("/predict", {"moments": asked})
    said = answer.json()
    assert answer.status == 200
    assert said["model_version"] == answer.headers["X-Model-Version"] == predictor.version
    expected = predictor.predict([api.read(json.dumps({"moments": [one]}).encode())[0] for one in asked])
    for one, prediction, n in zip(said["predictions"], expected, (1, 3, 5, 10), strict=True):
        assert (one["vehicle_id"], one["stop_id"]) == (f"R-{n}", EXAMPLE.stop_id)
        assert one["delay_seconds"] == pytest.approx(prediction.delay_seconds, abs=0.001)
        assert one["predicted_arrival"] == prediction.predicted_arrival.isoformat()
        assert prediction.interval
        assert one["interval"]["earliest_arrival"] == prediction.interval.earliest_arrival.isoformat()
        assert one["interval"]["promise"] == 0.9


def test_what_is_not_known_may_be_left_out(server: Server) -> None:
    least = {name: value for name, value in plain().items() if name in REQUIRED}
    assert server.ask("/predict", {"moments": [least]}).status == 200


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
def test_a_wrong_field_is_named(server: Server, changes: dict[str, Any], field: str) -> None:
    said = assert_refused(server.ask("/predict", {"moments": [plain(), plain(**changes)]}), 422)
    assert [one["field"] for one in said["fields"]] == [f"moments.1.{field}"]
    assert all(one["problem"] for one in said["fields"])


def test_every_wrong_field_is_named_at_once(server: Server) -> None:
    said = assert_refused(server.ask("/predict", {"moments": [{"stops_ahead": -1}]}), 422)
    assert {one["field"] for one in said["fields"]} == {f"moments.0.{name}" for name in REQUIRED}


def test_what_is_no_request_is_refused(server: Server) -> None:
    body = json.dumps({"moments": [plain()]}).encode()
    assert_refused(server.ask("/predict", b"{not json", **JSON), 400)
    assert_refused(server.ask("/predict", b"", **JSON), 400)
    assert_refused(server.ask("/predict", b'{"moments": [NaN]}', **JSON), 400, 422)
    assert_refused(server.ask("/predict", body, Content_Type="text/plain"), 415)
    assert_refused(server.ask("/predict", {"moments": []}), 422)
    assert_refused(server.ask("/predict", {"moments": [plain()] * (api.MOST_MOMENTS + 1)}), 422)
    assert_refused(server.ask("/nowhere"), 404)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = server.ask("/predict", method=method)
        assert_refused(answer, 405)
        assert "POST" in answer.headers["Allow"]


def test_a_thousand_moments_are_predicted_at_once(server: Server) -> None:
    answer = server.ask("/predict", {"moments": [plain()] * api.MOST_MOMENTS})
    assert answer.status == 200
    assert len(answer.json()["predictions"]) == api.MOST_MOMENTS


def test_a_body_that_is_too_large_is_refused_whether_or_not_its_size_is_declared(server: Server) -> None:
    assert_refused(server.ask("/predict", b" " * (api.MOST_BYTES + 1), **JSON), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(api.MOST_BYTES // 100_000 + 1):
            yield b" " * 100_000

    assert_refused(server.ask("/predict", chunks(), method="POST", **JSON), 413)


def test_chunks_that_are_none_are_refused(server: Server) -> None:
    answer = server.ask("/predict", b"no chunk\r\n\r\n", Transfer_Encoding="chunked", **JSON)
    assert_refused(answer, 400)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
hostile = settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(name=st.sampled_from(sorted(Moment.__dataclass_fields__)), value=anything)
@hostile
def test_any_value_in_any_field_is_predicted_or_cleanly_refused(server: Server, name: str, value: Any) -> None:
    answer = server.ask("/predict", json.dumps({"moments": [plain(**{name: value})]}).encode(), **JSON)
    if answer.status == 200:
        [one] = answer.json()["predictions"]
        assert -1e12 < one["delay_seconds"] < 1e12
    else:
        assert_refused(answer, 400, 422)


@given(body=st.binary(max_size=300) | anything.map(lambda value: json.dumps(value).encode()))
@hostile
def test_any_body_is_cleanly_refused(server: Server, body: bytes) -> None:
    assert_refused(server.ask("/predict", body, **JSON), 400, 422)


@given(
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    method=st.sampled_from(["GET", "PUT"]),
)
@settings(hostile, max_examples=200)
def test_any_path_is_answered(server: Server, path: str, method: str) -> None:
    answer = server.ask("/" + path, method=method)
    assert answer.status < 500
    assert b"Traceback" not in answer.body


def test_deeply_nested_and_huge_numbers_are_refused(server: Server) -> None:
    assert_refused(server.ask("/predict", b"[" * 100_000, **JSON), 400, 422)
    assert_refused(server.ask("/predict", {"moments": [plain(stops_ahead=10**400)]}), 422)
    assert_refused(server.ask("/predict", b'{"moments": [{"last_delay_seconds": 1e999}]}', **JSON), 400, 422)


def test_schemathesis_finds_nothing_in_what_the_description_allows_and_forbids(server: Server, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        str(program),
        "run",
        f"{server.address}/openapi.json",
        "--max-examples",
        "300",
        "--seed",
        "7",
        "--no-color",
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-6000:]
    assert "No issues found" in run.stdout
    failures = [line for line in server.logged() if line["severity"] == "ERROR"]
    assert not failures, failures[:3]


def test_the_description_is_of_what_there_is(server: Server) -> None:
    described = server.ask("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            answer = server.ask(path, body, method=method.upper())
            assert answer.status == 200
            [media] = operation["responses"]["200"]["content"]
            assert answer.headers["Content-Type"].startswith(media)


def test_it_says_that_it_is_alive_and_ready_and_what_it_has_done(server: Server, whole_store: Production) -> None:
    version = whole_store.models[0].digest
    assert server.ask("/healthz").json() == {"status": "alive"}
    assert server.ask("/readyz").json() == {"status": "ready", "model_version": version}
    server.ask("/predict", {"moments": [plain()] * 3})
    told = server.ask("/metrics").body.decode()
    counted = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in told.splitlines() if line[0] != "#"}
    assert counted[f'mbta_model{{version="{version}"}}'] == 1
    assert counted["mbta_predictions_total"] >= 3
    assert counted['mbta_requests_total{method="POST",path="/predict",status="200"}'] >= 1
    assert counted['mbta_request_seconds_count{path="/predict"}'] >= 1


def test_each_answer_is_logged_as_a_line_of_json(server: Server) -> None:
    before = len(server.logged())
    server.ask("/predict", {"moments": [plain()]})
    entry = eventually("it is logged", 5, lambda: server.logged()[before:])[0]
    assert (entry["severity"], entry["message"]) == ("INFO", "answered")
    assert entry["httpRequest"]["status"] == 200
    assert entry["httpRequest"]["requestUrl"] == "/predict"


def test_under_load_a_promotion_happens_and_no_request_fails(production: Production, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"moments": [plain()] * 5}))
    first, second = (model.digest for model in production.models)
    with serving(production.root, tmp_path / "log") as server:
        assert server.ask("/readyz").json()["model_version"] == first
        program = Path(__file__).with_name("load.py")
        command = [sys.executable, str(program), str(server.port), "50", "4", str(body), second]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        eventually("it is loaded", 20, lambda: len(server.logged()) > 200)
        production.promote(production.models[1])
        said, _ = load.communicate(timeout=150)
    found = json.loads(said)
    assert found["failures"] == []
    assert set(found["statuses"]) == {"200"}
    assert found["statuses"]["200"] >= 400
    assert found["versions"] == [[first, second]] * 4


def test_a_new_version_that_is_damaged_is_not_taken_over_until_it_is_mended(
    production: Production, tmp_path: Path
) -> None:
    first, second = production.models
    twin = Production(tmp_path / "twin", production.models)
    shutil.copytree(production.root, twin.root)
    twin.promote(second)
    with serving(production.root, tmp_path / "log", MBTA_REFRESH_SECONDS="0") as server:
        assert server.ask("/readyz").json()["model_version"] == first.digest
        BundleStore(production.root).put("production_model", second)
        weights = production.root / "bundles/production_model" / second.digest[:16] / "model.onnx"
        whole = weights.read_bytes()
        weights.write_bytes(b"damaged")
        pointer = "bundles/production_model/current.json"
        os.replace(twin.root / pointer, production.root / pointer)  # no store would point to a damaged version

        def complaints() -> list[dict[str, Any]]:
            assert server.ask("/predict", {"moments": [plain()]}).json()["model_version"] == first.digest
            return [line for line in server.logged() if line["message"] == "model not loaded"]

        [complaint, *_] = eventually("it has been looked at", 20, complaints)
        assert "model.onnx is not what the manifest says" in complaint["problem"]
        weights.write_bytes(whole)
        eventually("it is mended", 20, lambda: server.ask("/readyz").json()["model_version"] == second.digest)


def test_before_there_is_a_model_it_says_so_and_takes_the_first_one(empty: Production, tmp_path: Path) -> None:
    with serving(empty.root, tmp_path / "log") as server:
        assert server.ask("/healthz").status == 200
        for path, body in (("/readyz", None), ("/predict", {"moments": [plain()]}), ("/network", None)):
            answer = server.ask(path, body)
            assert "dagster asset materialize --select production_model" in assert_refused(answer, 503)["error"]
            assert answer.headers["Retry-After"]
        page = server.ask("/")
        assert page.status == 503
        assert "dagster asset materialize" in page.body.decode()
        version = empty.promote(empty.models[0])
        eventually("it is ready", 10, lambda: server.ask("/readyz").status == 200)
        assert server.ask("/predict", {"moments": [plain()]}).json()["model_version"] == version
