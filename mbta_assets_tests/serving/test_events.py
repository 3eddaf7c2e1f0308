"""Upstream events: who may send them, what they say, and that the service day is then made again, once."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from mbta_assets.serving.reporting import AUDITED, FINALIZED, Change, NotReported, changes, report
from mbta_assets_tests.serving.conftest import Answer, Server
from mbta_assets_tests.support.dagster_dev import eventually, free_port

TOKEN = "a-token-of-thirty-two-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NAMES = {"vehicle": "vehicle", "up.vehicle.df": "vehicle", "trip": "trip"}


def finalized(table: str = "vehicle", day: object = "2024-04-01", generation: str = "17", **more: Any) -> Any:
    """The data of an event that an object is there."""
    name = f"upstream/{table}/service_date={day}/part.parquet"
    return {"bucket": "loads", "name": name, "generation": generation, **more}


def audited(**payload: Any) -> dict[str, Any]:
    """The data of an audit log entry of BigQuery."""
    return {"insertId": "abc", "protoPayload": {"serviceName": "bigquery.googleapis.com", **payload}}


def loaded_into(table: str, change: str = "jobChange", **status: Any) -> dict[str, Any]:
    """The payload of an entry about a job that loads a table."""
    job = {"jobConfig": {"loadConfig": {"destinationTable": table}}, "jobStatus": {"jobState": "DONE", **status}}
    return {"metadata": {change: {"job": job}}}


TRIP = "projects/p/datasets/d/tables/trip"
DF = "projects/up/datasets/vehicle/tables/df"
READ = {"resourceName": f"{TRIP}$20240401", "metadata": {"tableDataRead": {"reason": "CREATE_READ_SESSION"}}}
SESSION = "google.cloud.bigquery.storage.v1.BigQueryRead.CreateReadSession"


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (
            FINALIZED,
            finalized(),
            ("vehicle", date(2024, 4, 1), "gs://loads/upstream/vehicle/service_date=2024-04-01/part.parquet#17"),
        ),
        (
            FINALIZED,
            finalized(name="trip/service_date=2024-04-02/x.parquet"),
            ("trip", date(2024, 4, 2), "gs://loads/trip/service_date=2024-04-02/x.parquet#17"),
        ),
        (FINALIZED, finalized(name="up/stop.csv"), ("stop", None, "gs://loads/up/stop.csv#17")),
        (
            AUDITED,
            audited(resourceName=f"{DF}$20240401", metadata={"tableDataChange": {"reason": "JOB"}}),
            ("vehicle", date(2024, 4, 1), "bigquery://up.vehicle.df$20240401#abc"),
        ),
        (
            AUDITED,
            audited(**loaded_into(f"{TRIP}$20240402")),
            ("trip", date(2024, 4, 2), "bigquery://p.d.trip$20240402#abc"),
        ),
        (AUDITED, audited(resourceName=TRIP), ("trip", None, "bigquery://p.d.trip#abc")),
    ],
)
def test_an_event_says_which_table_of_which_service_day_has_changed(kind, data, expected):
    assert changes(kind, "id-1", data, NAMES) == [Change(*expected)]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (FINALIZED, finalized(table="parking")),
        (FINALIZED, finalized(name="notes.txt")),
        (AUDITED, audited(resourceName="projects/p/datasets/d/tables/other$20240401")),
        (
            AUDITED,
            audited(metadata={"tableDataRead": {"reason": "JOB"}}, queriedTable="projects/p/datasets/d/tables/trip"),
        ),
        ("google.cloud.pubsub.topic.v1.messagePublished", {"message": {}}),
        ("something.else", None),
    ],
)
def test_an_event_about_something_else_says_nothing(kind, data):
    assert changes(kind, "id-1", data, NAMES) == []


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (FINALIZED, None),
        (FINALIZED, {"bucket": "b"}),
        (FINALIZED, finalized(name=5)),
        (FINALIZED, finalized(day="2024-02-31")),
        (AUDITED, {"insertId": "x"}),
        (AUDITED, audited(resourceName="projects/p/datasets/d/tables/trip$20241301")),
    ],
)
def test_an_event_that_is_not_as_google_describes_it_is_an_error(kind, data):
    with pytest.raises(ValueError, match=r"needs|no service day"):
        changes(kind, "id-1", data, NAMES)


def audience(authorization: str) -> str | None:
    """Whom a bearer's identity token is for."""
    scheme, _, token = authorization.partition(" ")
    parts = token.split(".")
    if scheme != "Bearer" or len(parts) != 3:
        return None
    return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))).get("aud")


class Dagster:
    """Listens where reports go, and answers as it is told to."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.demanded: str | None = None
        """The audience of the identity token without which nobody is let in."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                let_in = outer.demanded in (None, audience(self.headers["Authorization"] or ""))
                if let_in:
                    outer.reports.append((self.path, json.loads(body)))
                self.send_response(outer.status if let_in else 403)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def dagster() -> Iterator[Dagster]:
    listening = Dagster()
    yield listening
    listening.stop()


@pytest.fixture(scope="module")
def function(dagster: Dagster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("events") / "log"
    server = Server.start("on_upstream_change", log, MBTA_DAGSTER_URL=dagster.address, MBTA_EVENT_TOKEN=TOKEN)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _nothing_reported(dagster: Dagster) -> None:
    dagster.reports.clear()
    dagster.status = 200
    dagster.demanded = None


def send(function: Server, data: Any, kind: str = FINALIZED, event_id: str = "id-1", **headers: str) -> Answer:
    """Post an event in CloudEvents' binary mode, with the right token unless another one is given."""
    event = {"ce-id": event_id, "ce-source": "//storage.googleapis.com/projects/_/buckets/loads", "ce-type": kind}
    return function.ask("/", data, **{**event, "ce-specversion": "1.0", **BEARER, **headers})


def test_an_event_is_reported_as_an_observation_of_its_partition(function: Server, dagster: Dagster) -> None:
    answer = send(function, finalized())
    assert (answer.status, answer.json()["reported"][0]["partition"]) == (200, "2024-04-01")
    [(path, observation)] = dagster.reports
    assert path == "/report_asset_observation/vehicle"
    assert observation["partition"] == "2024-04-01"
    assert observation["data_version"] == "gs://loads/upstream/vehicle/service_date=2024-04-01/part.parquet#17"
    assert observation["metadata"]["cloud_event"] == "id-1"


def test_a_structured_event_says_the_same_as_a_binary_one(function: Server, dagster: Dagster) -> None:
    event = {"specversion": "1.0", "id": "id-2", "source": "s", "type": FINALIZED, "data": finalized()}
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    assert function.ask("/", json.dumps(event).encode(), **structured, **BEARER).status == 200
    assert send(function, finalized(), event_id="id-2").status == 200
    assert dagster.reports[0][1]["data_version"] == dagster.reports[1][1]["data_version"]


@pytest.mark.parametrize("authorization", [None, "", TOKEN, f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", "Bearer ü"])
def test_a_forged_event_is_refused(function: Server, dagster: Dagster, authorization: str | None) -> None:
    headers = {"Authorization": authorization.encode().decode("latin-1")} if authorization is not None else {}
    event = {"ce-id": "1", "ce-source": "s", "ce-type": FINALIZED, "ce-specversion": "1.0"}
    answer = function.ask("/", finalized(), **event, **headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert dagster.reports == []


def test_an_event_about_something_else_is_acknowledged_and_not_reported(function: Server, dagster: Dagster) -> None:
    answer = send(function, finalized(table="parking"))
    assert (answer.status, answer.json()) == (200, {"reported": []})
    assert dagster.reports == []


def test_what_is_no_event_is_refused(function: Server, dagster: Dagster) -> None:
    assert send(function, {"bucket": "b"}).status == 400
    assert send(function, finalized(), event_id="").status == 400
    assert (
        function.ask("/", b"{no json", **BEARER, **{"ce-id": "1", "ce-source": "s", "ce-type": FINALIZED}).status == 400
    )
    assert function.ask("/", b"[]", **BEARER, **{"Content-Type": "application/cloudevents+json"}).status == 400
    assert function.ask("/", b"[" * 100_000, **BEARER, **{"Content-Type": "application/cloudevents+json"}).status == 400
    assert function.ask("/", finalized(padding="x" * 1_000_000), **BEARER).status == 413
    assert function.ask("/", method="GET").status == 405
    assert dagster.reports == []
    assert not [line for line in function.logged() if "stack_trace" in line]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_where_dagster_refuses_the_event_is_to_be_sent_again(function: Server, dagster: Dagster, status: int) -> None:
    dagster.status = status
    assert send(function, finalized()).status == 503
    said = eventually("it is logged", 5, lambda: [line for line in function.logged() if line["severity"] == "ERROR"])
    assert f"answered {status}" in said[-1]["problem"]
    dagster.status = 200
    assert send(function, finalized()).status == 200


def test_nobody_is_let_in_until_it_is_said_who_and_nothing_is_lost_while_dagster_is_away(tmp_path: Path) -> None:
    closed = Server.start("on_upstream_change", tmp_path / "closed", MBTA_DAGSTER_URL="http://127.0.0.1:9")
    try:
        assert send(closed, finalized()).status == 401
    finally:
        closed.stop()
    away = f"http://127.0.0.1:{free_port()}"
    alone = Server.start("on_upstream_change", tmp_path / "alone", MBTA_DAGSTER_URL=away, MBTA_EVENT_TOKEN=TOKEN)
    try:
        assert send(alone, finalized()).status == 503
        assert "does not answer" in alone.logged()[-1]["problem"]
    finally:
        alone.stop()


def unsigned(**claims: Any) -> str:
    """An identity token as Cloud Run hands it on once it has verified it."""
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "RS256"}, claims)
    )
    return f"{header}.{payload}.SIGNATURE_REMOVED_BY_GOOGLE"


@pytest.fixture
def metadata() -> Iterator[str]:
    """The metadata server of a machine on Google Cloud: its host and port. Its tokens name whom they are for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path.endswith("/identity"):
                body = unsigned(aud=parse_qs(query)["audience"][0], exp=int(time.time()) + 600).encode()
            else:
                body = json.dumps({"email": "events@p.iam.gserviceaccount.com"}).encode()
            self.send_response(200)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", "text/plain" if path.endswith("/identity") else "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_webserver_behind_iam_is_shown_an_identity_token_for_it(
    dagster: Dagster, metadata: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)

    def told(audience: str) -> tuple[int, str]:
        log = tmp_path / str(len(audience))
        machine = {"GCE_METADATA_HOST": metadata, "GCE_METADATA_IP": metadata}
        webserver = {"MBTA_DAGSTER_URL": dagster.address, "MBTA_DAGSTER_AUDIENCE": audience}
        function = Server.start("on_upstream_change", log, MBTA_EVENT_TOKEN=TOKEN, **machine, **webserver)
        try:
            return send(function, finalized()).status, log.read_text()
        finally:
            function.stop()

    dagster.demanded = "https://dagster.example"
    assert told("https://dagster.example")[0] == 200
    assert [path for path, _ in dagster.reports] == ["/report_asset_observation/vehicle"]
    status, log = told("https://other.example")
    assert status == 503
    assert "MBTA_DAGSTER_AUDIENCE has to be the webserver's address" in log
    assert len(dagster.reports) == 1


def test_where_there_is_no_identity_token_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata.ping", lambda *_, **__: False)
    with pytest.raises(NotReported, match="MBTA_DAGSTER_AUDIENCE asks for one"):
        report("http://127.0.0.1:9", Change("trip", None, "v"), "id-1", "source", "https://dagster.example")


def test_what_cloud_run_has_verified_is_let_in_if_it_is_from_whom_we_said() -> None:
    from mbta_assets.serving.events import refusal
    from mbta_assets.settings import Settings

    sender = "eventarc@p.iam.gserviceaccount.com"
    verified = Settings(event_check="cloud-run", event_sender=sender)
    assert refusal(f"Bearer {unsigned(email=sender, email_verified=True)}", verified) is None
    for claims in ({"email": "somebody@p.iam"}, {"email_verified": False}, {"email": None}):
        assert refusal(f"Bearer {unsigned(**{'email': sender, 'email_verified': True, **claims})}", verified), claims
    assert refusal("Bearer no-token-at-all", verified)
    own = Settings(event_audience="https://events.example", event_sender=sender)
    assert refusal(f"Bearer {unsigned(email=sender, email_verified=True)}", own)
    nobody = Settings(event_check="cloud-run")
    assert "MBTA_EVENT_SENDER" in (refusal(f"Bearer {unsigned(email=sender, email_verified=True)}", nobody) or "")


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Signs identity tokens with a key of our own, whose certificate is served where Google's would be."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from google.auth import crypt, jwt
    from google.oauth2 import id_token

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "accounts")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    certificates = json.dumps({"k1": certificate.public_bytes(serialization.Encoding.PEM).decode()}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(certificates)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(id_token, "_GOOGLE_OAUTH2_CERTS_URL", f"http://127.0.0.1:{server.server_port}/certs")
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    signer = crypt.RSASigner.from_string(pem, "k1")

    def sign(**claims: Any) -> str:
        ours = {"iss": "https://accounts.google.com", "aud": "https://events.example", "email_verified": True}
        ours |= {"email": "eventarc@p.iam.gserviceaccount.com", "iat": int(time.time()), "exp": int(time.time()) + 600}
        return jwt.encode(signer, {**ours, **claims}).decode()

    yield sign
    server.shutdown()
    server.server_close()


def test_an_identity_token_is_let_in_if_it_is_for_us_and_from_whom_we_said(identity: Any) -> None:
    from mbta_assets.serving.events import refusal
    from mbta_assets.settings import Settings

    settings = Settings(event_audience="https://events.example", event_sender="eventarc@p.iam.gserviceaccount.com")
    assert refusal(f"Bearer {identity()}", settings) is None
    for claims in (
        {"aud": "https://other.example"},
        {"email": "somebody@p.iam.gserviceaccount.com"},
        {"email_verified": False},
        {"exp": int(time.time()) - 600, "iat": int(time.time()) - 900},
        {"iss": "https://elsewhere.example"},
    ):
        assert refusal(f"Bearer {identity(**claims)}", settings), claims
    forged = identity()[:-6] + "AAAAAA"
    assert refusal(f"Bearer {forged}", settings)
    nobody = Settings(event_audience="https://events.example")
    assert "MBTA_EVENT_SENDER" in (refusal(f"Bearer {identity()}", nobody) or "")
