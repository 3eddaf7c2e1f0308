"""Events of upstream changes: who may send them, the changes they describe, and their reports to Dagster."""

import base64
import datetime as dt
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from google.oauth2 import id_token

from mbta_assets.serving.upstream_events import (
    AUDIT_LOG_WRITTEN,
    MAX_BODY_BYTES,
    OBJECT_FINALIZED,
    ReportFailed,
    TableChange,
    find_refusal_reason,
    parse_changes,
    report_change,
)
from mbta_assets.settings import Settings
from mbta_assets_tests.support.cloud_events import AUTHORIZED, EVENT_TOKEN, make_object_data, post_event
from mbta_assets_tests.support.dagster_dev import eventually, free_port
from mbta_assets_tests.support.function_server import FunctionServer

TABLE_NAMES = {"vehicle": "vehicle", "up.vehicle.df": "vehicle", "trip": "trip"}
TRIP = "projects/p/datasets/d/tables/trip"
VEHICLE = "projects/up/datasets/vehicle/tables/df"
READ_SESSION = "google.cloud.bigquery.storage.v1.BigQueryRead.CreateReadSession"
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


def make_audit_log(**payload: Any) -> dict[str, Any]:
    """Return the data of an audit log entry of BigQuery."""
    return {"insertId": "abc", "protoPayload": {"serviceName": "bigquery.googleapis.com", **payload}}


def make_load_job(table: str, **status: Any) -> dict[str, Any]:
    """Return the payload of an entry about a job that loads a table; it is done unless `status` says otherwise."""
    job = {"jobConfig": {"loadConfig": {"destinationTable": table}}, "jobStatus": {"jobState": "DONE", **status}}
    return {"metadata": {"jobChange": {"job": job}}}


@pytest.mark.parametrize(
    ("event_type", "data", "change"),
    [
        (
            OBJECT_FINALIZED,
            make_object_data(),
            TableChange(
                "vehicle", date(2024, 4, 1), "gs://loads/upstream/vehicle/service_date=2024-04-01/part.parquet#17"
            ),
        ),
        (
            OBJECT_FINALIZED,
            make_object_data(name="trip/service_date=2024-04-02/x.parquet"),
            TableChange("trip", date(2024, 4, 2), "gs://loads/trip/service_date=2024-04-02/x.parquet#17"),
        ),
        (
            OBJECT_FINALIZED,
            make_object_data(name="up/stop.csv"),
            TableChange("stop", None, "gs://loads/up/stop.csv#17"),
        ),
        (
            AUDIT_LOG_WRITTEN,
            make_audit_log(resourceName=f"{VEHICLE}$20240401", metadata={"tableDataChange": {"reason": "JOB"}}),
            TableChange("vehicle", date(2024, 4, 1), "bigquery://up.vehicle.df$20240401#abc"),
        ),
        (
            AUDIT_LOG_WRITTEN,
            make_audit_log(**make_load_job(f"{TRIP}$20240402")),
            TableChange("trip", date(2024, 4, 2), "bigquery://p.d.trip$20240402#abc"),
        ),
        (
            AUDIT_LOG_WRITTEN,
            make_audit_log(resourceName=TRIP),
            TableChange("trip", None, "bigquery://p.d.trip#abc"),
        ),
    ],
)
def test_an_event_names_the_table_and_service_date_that_have_changed(
    event_type: str, data: dict[str, Any], change: TableChange
) -> None:
    assert parse_changes(event_type, "id-1", data, TABLE_NAMES) == [change]


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        (OBJECT_FINALIZED, make_object_data(table="parking")),
        (OBJECT_FINALIZED, make_object_data(name="notes.txt")),
        (AUDIT_LOG_WRITTEN, make_audit_log(resourceName="projects/p/datasets/d/tables/other$20240401")),
        (AUDIT_LOG_WRITTEN, make_audit_log(metadata={"tableDataRead": {"reason": "JOB"}}, queriedTable=TRIP)),
        (
            AUDIT_LOG_WRITTEN,
            make_audit_log(resourceName=f"{TRIP}$20240401", metadata={"tableDataRead": {"reason": "JOB"}}),
        ),
        (AUDIT_LOG_WRITTEN, make_audit_log(resourceName=f"{TRIP}$20240401", methodName=READ_SESSION)),
        (AUDIT_LOG_WRITTEN, make_audit_log(**make_load_job(TRIP, jobState="RUNNING"))),
        (AUDIT_LOG_WRITTEN, make_audit_log(**make_load_job(TRIP, errorResult={"code": 5}))),
        ("google.cloud.pubsub.topic.v1.messagePublished", {"message": {}}),
        ("something.else", None),
    ],
)
def test_an_unrelated_event_describes_no_change(event_type: str, data: dict[str, Any] | None) -> None:
    assert parse_changes(event_type, "id-1", data, TABLE_NAMES) == []


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        (OBJECT_FINALIZED, None),
        (OBJECT_FINALIZED, {"bucket": "b"}),
        (OBJECT_FINALIZED, make_object_data(name=5)),
        (OBJECT_FINALIZED, make_object_data(day="2024-02-31")),
        (AUDIT_LOG_WRITTEN, {"insertId": "x"}),
        (AUDIT_LOG_WRITTEN, make_audit_log(resourceName="projects/p/datasets/d/tables/trip$20241301")),
    ],
)
def test_an_event_that_differs_from_the_documentation_of_google_is_an_error(
    event_type: str, data: dict[str, Any] | None
) -> None:
    with pytest.raises(ValueError, match=r"needs|is not a service date"):
        parse_changes(event_type, "id-1", data, TABLE_NAMES)


@contextmanager
def serve_http(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve HTTP with a handler in a thread, and yield the host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def respond(self, status: int, body: bytes, **headers: str) -> None:
        """Send a response."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def read_audience(authorization: str) -> str | None:
    """Return the audience of a bearer's identity token, without verifying it."""
    scheme, _, token = authorization.partition(" ")
    parts = token.split(".")
    if scheme != "Bearer" or len(parts) != 3:
        return None
    return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))).get("aud")


class FakeWebserver:
    """A webserver of Dagster that records reported observations."""

    def __init__(self) -> None:
        self.address = ""
        self.reports: list[tuple[str, dict[str, Any]]] = []
        """The path and JSON of each report."""
        self.status = 200
        self.required_audience: str | None = None
        """The audience of the identity token without which a request is refused."""

    @contextmanager
    def run(self) -> Iterator[None]:
        """Serve reports until the context ends."""
        webserver = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                audience = read_audience(self.headers["Authorization"] or "")
                if webserver.required_audience in (None, audience):
                    webserver.reports.append((self.path, json.loads(body)))
                    self.respond(webserver.status, b"{}")
                else:
                    self.respond(403, b"{}")

        with serve_http(Handler) as address:
            self.address = f"http://{address}"
            yield


@pytest.fixture(scope="module")
def running_webserver() -> Iterator[FakeWebserver]:
    """Run a webserver for the tests of this module."""
    webserver = FakeWebserver()
    with webserver.run():
        yield webserver


@pytest.fixture
def webserver(running_webserver: FakeWebserver) -> FakeWebserver:
    """Return the webserver without reports, accepting every request."""
    running_webserver.reports.clear()
    running_webserver.status = 200
    running_webserver.required_audience = None
    return running_webserver


@pytest.fixture(scope="module")
def event_server(
    running_webserver: FakeWebserver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FunctionServer]:
    """Serve the event function, which reports to the webserver."""
    log = tmp_path_factory.mktemp("events") / "log"
    settings = {"MBTA_DAGSTER_URL": running_webserver.address, "MBTA_EVENT_TOKEN": EVENT_TOKEN}
    server = FunctionServer.start("on_upstream_change", log, **settings)
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.integration
def test_an_event_is_reported_as_an_observation_of_its_partition(
    event_server: FunctionServer, webserver: FakeWebserver
) -> None:
    response = post_event(event_server, make_object_data())
    assert (response.status, response.json()["reported"][0]["partition"]) == (200, "2024-04-01")
    [(path, observation)] = webserver.reports
    assert path == "/report_asset_observation/vehicle"
    assert observation["partition"] == "2024-04-01"
    assert observation["data_version"] == "gs://loads/upstream/vehicle/service_date=2024-04-01/part.parquet#17"
    assert observation["metadata"]["cloud_event"] == "id-1"


@pytest.mark.integration
def test_a_structured_event_is_reported_like_a_binary_one(
    event_server: FunctionServer, webserver: FakeWebserver
) -> None:
    event = {
        "specversion": "1.0",
        "id": "id-2",
        "source": "s",
        "type": OBJECT_FINALIZED,
        "data": make_object_data(),
    }
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    assert event_server.request("/", json.dumps(event).encode(), **structured, **AUTHORIZED).status == 200
    assert post_event(event_server, make_object_data(), event_id="id-2").status == 200
    [structured_report, binary_report] = webserver.reports
    assert structured_report[1]["data_version"] == binary_report[1]["data_version"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "authorization",
    [None, "", EVENT_TOKEN, f"Bearer {EVENT_TOKEN}x", "Bearer", f"Basic {EVENT_TOKEN}", "Bearer ü"],
)
def test_a_forged_event_is_refused(
    event_server: FunctionServer, webserver: FakeWebserver, authorization: str | None
) -> None:
    headers = {"Authorization": authorization.encode().decode("latin-1")} if authorization is not None else {}
    event = {"ce-id": "1", "ce-source": "s", "ce-type": OBJECT_FINALIZED, "ce-specversion": "1.0"}
    response = event_server.request("/", make_object_data(), **event, **headers)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert webserver.reports == []


@pytest.mark.integration
def test_an_unrelated_event_is_acknowledged_and_not_reported(
    event_server: FunctionServer, webserver: FakeWebserver
) -> None:
    response = post_event(event_server, make_object_data(table="parking"))
    assert (response.status, response.json()) == (200, {"reported": []})
    assert webserver.reports == []


@pytest.mark.integration
def test_a_compressed_event_is_reported_and_another_encoding_is_refused(
    event_server: FunctionServer, webserver: FakeWebserver
) -> None:
    data = gzip.compress(json.dumps(make_object_data()).encode())
    refused = post_event(event_server, data, Content_Encoding="br")
    assert (refused.status, refused.headers["Accept-Encoding"]) == (415, "gzip, identity")
    assert "br" in refused.json()["error"]
    assert post_event(event_server, data, Content_Encoding="gzip").status == 200
    assert len(webserver.reports) == 1


@pytest.mark.integration
def test_requests_that_are_no_events_are_refused(event_server: FunctionServer, webserver: FakeWebserver) -> None:
    attributes = {"ce-id": "1", "ce-source": "s", "ce-type": OBJECT_FINALIZED}
    too_large = make_object_data(padding="x" * MAX_BODY_BYTES)
    assert post_event(event_server, {"bucket": "b"}).status == 400
    assert post_event(event_server, make_object_data(), event_id="").status == 400
    assert event_server.request("/", b"{no json", **AUTHORIZED, **attributes).status == 400
    assert event_server.request("/", b"[]", **AUTHORIZED, **STRUCTURED).status == 400
    assert event_server.request("/", b"[" * 100_000, **AUTHORIZED, **STRUCTURED).status == 400
    assert event_server.request("/", too_large, **AUTHORIZED).status == 413
    assert event_server.request("/", method="GET").status == 405
    assert webserver.reports == []
    assert not [entry for entry in event_server.log_entries() if "stack_trace" in entry]


@pytest.mark.integration
@pytest.mark.parametrize("status", [401, 404, 500])
def test_an_event_that_dagster_refuses_must_be_sent_again(
    event_server: FunctionServer, webserver: FakeWebserver, status: int
) -> None:
    webserver.status = status
    assert post_event(event_server, make_object_data()).status == 503

    def report_errors() -> list[dict[str, Any]]:
        errors = [entry for entry in event_server.log_entries() if entry["severity"] == "ERROR"]
        return [entry for entry in errors if f"answered {status}" in entry.get("error", "")]

    eventually("the refusal is logged", 5, report_errors)
    webserver.status = 200
    assert post_event(event_server, make_object_data()).status == 200


@pytest.mark.integration
def test_without_a_token_every_event_is_refused(tmp_path: Path) -> None:
    settings = {"MBTA_DAGSTER_URL": "http://127.0.0.1:9"}
    server = FunctionServer.start("on_upstream_change", tmp_path / "log", **settings)
    try:
        assert post_event(server, make_object_data()).status == 401
    finally:
        server.stop()


@pytest.mark.integration
def test_an_event_must_be_sent_again_while_dagster_is_unavailable(tmp_path: Path) -> None:
    settings = {"MBTA_DAGSTER_URL": f"http://127.0.0.1:{free_port()}", "MBTA_EVENT_TOKEN": EVENT_TOKEN}
    server = FunctionServer.start("on_upstream_change", tmp_path / "log", **settings)
    try:
        assert post_event(server, make_object_data()).status == 503
        assert "does not answer" in server.log_entries()[-1]["error"]
    finally:
        server.stop()


def make_verified_token(**claims: Any) -> str:
    """Return an identity token as Cloud Run passes it on after it has verified it, without its signature."""
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "RS256"}, claims)
    )
    return f"{header}.{payload}.SIGNATURE_REMOVED_BY_GOOGLE"


@pytest.fixture
def metadata_server() -> Iterator[str]:
    """Run the metadata server of a machine on Google Cloud, which issues identity tokens; yield its host and port."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path.endswith("/identity"):
                audience = parse_qs(query)["audience"][0]
                token = make_verified_token(aud=audience, exp=int(time.time()) + 600)
                self.respond(200, token.encode(), Metadata_Flavor="Google", Content_Type="text/plain")
            else:
                account = json.dumps({"email": "events@p.iam.gserviceaccount.com"}).encode()
                self.respond(200, account, Metadata_Flavor="Google", Content_Type="application/json")

    with serve_http(Handler) as address:
        yield address


@pytest.mark.integration
def test_a_webserver_behind_iam_gets_an_identity_token_for_its_audience(
    webserver: FakeWebserver, metadata_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    machine = {"GCE_METADATA_HOST": metadata_server, "GCE_METADATA_IP": metadata_server}

    def report_with_audience(audience: str, log: Path) -> int:
        settings = {"MBTA_DAGSTER_URL": webserver.address, "MBTA_DAGSTER_AUDIENCE": audience}
        server = FunctionServer.start("on_upstream_change", log, MBTA_EVENT_TOKEN=EVENT_TOKEN, **machine, **settings)
        try:
            return post_event(server, make_object_data()).status
        finally:
            server.stop()

    webserver.required_audience = "https://dagster.example"
    assert report_with_audience("https://dagster.example", tmp_path / "accepted") == 200
    assert [path for path, _ in webserver.reports] == ["/report_asset_observation/vehicle"]
    assert report_with_audience("https://other.example", tmp_path / "refused") == 503
    assert "MBTA_DAGSTER_AUDIENCE must be the webserver's address" in (tmp_path / "refused").read_text()
    assert len(webserver.reports) == 1


def test_without_an_identity_token_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata.ping", lambda *_, **__: False)
    change = TableChange("trip", None, "v")
    with pytest.raises(ReportFailed, match="MBTA_DAGSTER_AUDIENCE requires one"):
        report_change("http://127.0.0.1:9", change, "id-1", "source", "https://dagster.example")


SENDER = "eventarc@p.iam.gserviceaccount.com"
AUDIENCE = "https://events.example"


def test_a_token_verified_by_cloud_run_is_accepted_from_the_configured_sender_only() -> None:
    settings = Settings(event_check="cloud-run", event_sender=SENDER)
    valid = {"email": SENDER, "email_verified": True}
    token = make_verified_token(**valid)
    assert find_refusal_reason(f"Bearer {token}", settings) is None
    for claims in ({"email": "somebody@p.iam"}, {"email_verified": False}, {"email": None}):
        invalid_token = make_verified_token(**{**valid, **claims})
        assert find_refusal_reason(f"Bearer {invalid_token}", settings), claims
    assert find_refusal_reason("Bearer no-token-at-all", settings)
    verified_by_function = Settings(event_audience=AUDIENCE, event_sender=SENDER)
    assert find_refusal_reason(f"Bearer {token}", verified_by_function)
    without_sender = Settings(event_check="cloud-run")
    assert "MBTA_EVENT_SENDER" in (find_refusal_reason(f"Bearer {token}", without_sender) or "")


@pytest.fixture
def sign_token(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that signs identity tokens with a test key, whose certificate replaces those of Google."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "accounts")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    certificates = json.dumps({"k1": certificate.public_bytes(serialization.Encoding.PEM).decode()}).encode()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    signer = crypt.RSASigner.from_string(pem, "k1")

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.respond(200, certificates)

    def sign(**claims: Any) -> str:
        valid = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": SENDER, "email_verified": True}
        times = {"iat": int(time.time()), "exp": int(time.time()) + 600}
        return jwt.encode(signer, {**valid, **times, **claims}).decode()

    with serve_http(Handler) as address:
        monkeypatch.setattr(id_token, "_GOOGLE_OAUTH2_CERTS_URL", f"http://{address}/certs")
        yield sign


@pytest.mark.integration
def test_an_identity_token_is_accepted_for_the_audience_and_from_the_configured_sender_only(
    sign_token: Callable[..., str],
) -> None:
    settings = Settings(event_audience=AUDIENCE, event_sender=SENDER)
    assert find_refusal_reason(f"Bearer {sign_token()}", settings) is None
    for claims in (
        {"aud": "https://other.example"},
        {"email": "somebody@p.iam.gserviceaccount.com"},
        {"email_verified": False},
        {"exp": int(time.time()) - 600, "iat": int(time.time()) - 900},
        {"iss": "https://elsewhere.example"},
    ):
        assert find_refusal_reason(f"Bearer {sign_token(**claims)}", settings), claims
    forged = sign_token()[:-6] + "AAAAAA"
    assert find_refusal_reason(f"Bearer {forged}", settings)
    without_sender = Settings(event_audience=AUDIENCE)
    assert "MBTA_EVENT_SENDER" in (find_refusal_reason(f"Bearer {sign_token()}", without_sender) or "")
