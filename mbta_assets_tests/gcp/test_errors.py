"""Wrong names, absent or expired credentials and missing permissions are clear errors before any work is lost."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mbta_assets.gcp import CloudError
from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSModelRegistry
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule
from mbta_assets_tests.support.google_fixtures import MAX_BYTES_BILLED

DAY = "2024-09-09"

pytestmark = pytest.mark.xdist_group("google")


@contextmanager
def token_server(status: int, response: Mapping[str, Any]) -> Iterator[str]:
    """Run a server that sends the same response to every request for a token, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(response).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def private_key() -> str:
    """Return a valid key of no account."""
    key = rsa.generate_private_key(65537, 2048)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*encoding).decode()


@pytest.fixture
def key_file(tmp_path: Path, private_key: str) -> Path:
    """Write the key file of a service account whose token server does not exist."""
    return write_key_file(tmp_path, private_key, "http://127.0.0.1:9/token")


def write_key_file(directory: Path, private_key: str, token_uri: str) -> Path:
    """Write the key file of a service account and return its path."""
    path = directory / "key.json"
    account = {
        "type": "service_account", "project_id": "transit-1", "private_key_id": "1", "private_key": private_key,
        "client_email": "runner@transit-1.iam.gserviceaccount.com", "client_id": "1", "token_uri": token_uri,
    }  # fmt: skip
    path.write_text(json.dumps(account))
    return path


def make_account(key_file: Path | None = None, impersonated_account: str | None = None) -> Account:
    """Return an account that uses credentials and no emulator."""
    return Account(project="transit-1", retry_seconds=3, key_file=key_file, impersonated_account=impersonated_account)


def open_tables(account: Account, dataset: str) -> BigQueryTables:
    """Return the tables of a dataset; nothing is called yet."""
    return BigQueryTables(BigQuery(account, MAX_BYTES_BILLED), dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ('{"type": "service_account"}', "was not in the expected format"),
    ],
    ids=["not there", "no JSON", "no key"],
)
def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CloudError, match=message) as error:
        _ = BigQuery(make_account(path), MAX_BYTES_BILLED).client
    assert f"Tried the key file {path}" in str(error.value)
    assert "gcloud auth application-default login" in str(error.value)


def test_the_error_of_absent_credentials_says_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(CloudError, match="Tried application default credentials") as error:
        _ = Bucket(make_account(), "delay-models").client
    assert "gcloud auth application-default login" in str(error.value)


@pytest.mark.integration
@pytest.mark.parametrize("store", ["tables", "models"])
def test_the_error_of_expired_credentials_names_them_and_shows_no_key(
    tmp_path: Path, private_key: str, store: str
) -> None:
    refusal = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    with token_server(400, refusal) as token_uri:
        account = make_account(write_key_file(tmp_path, private_key, token_uri))
        stores: dict[str, BigQueryTables | GCSModelRegistry] = {
            "tables": open_tables(account, "delays"),
            "models": GCSModelRegistry(Bucket(account, "delay-models"), tmp_path),
        }
        with pytest.raises(CloudError, match="expired or revoked") as error:
            stores[store].prepare()
    message = str(error.value)
    assert f"The credentials are the key file {tmp_path / 'key.json'}" in message
    assert "PRIVATE KEY" not in message and private_key[40:80] not in message


@pytest.mark.integration
def test_an_account_that_may_not_be_impersonated_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_key: str
) -> None:
    impersonated_account = "other@transit-1.iam.gserviceaccount.com"
    refusal = {"error": {"code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied"}}
    token = {"access_token": "t", "expires_in": 3600}
    with token_server(200, token) as token_uri, token_server(403, refusal) as iam_uri:
        monkeypatch.setattr("google.auth.iam._IAM_ENDPOINT", iam_uri + "/{}")
        account = make_account(write_key_file(tmp_path, private_key, token_uri), impersonated_account)
        with pytest.raises(CloudError, match="Unable to acquire impersonated credentials") as error:
            open_tables(account, "delays").prepare()
    assert f"{impersonated_account}, impersonated with the key file" in str(error.value)


def test_an_emulator_needs_no_credentials(account: Account) -> None:
    tables = open_tables(replace(account, key_file=Path("/nowhere")), "open")
    tables.prepare()
    assert tables.days("toy") == []


def test_a_bucket_that_does_not_exist_is_named_before_anything_is_made(account: Account, tmp_path: Path) -> None:
    with pytest.raises(CloudError, match="There is no bucket no-such-bucket to open"):
        GCSModelRegistry(Bucket(account, "no-such-bucket"), tmp_path).prepare()


def test_missing_permissions_on_a_bucket_are_named(
    model_registry: GCSModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator has no permissions; Cloud Storage responds with those that the account has.
    monkeypatch.setattr("google.cloud.storage.Bucket.test_iam_permissions", lambda *_, **__: ["storage.objects.get"])
    with pytest.raises(CloudError, match="does not have storage.objects.create, storage.objects.delete. Grant"):
        model_registry.prepare()


def test_a_dataset_that_may_not_be_created_is_named(account: Account, bigquery_proxy: FaultProxy) -> None:
    denied = Rule(method="POST", path=r"/datasets(\?|$)", status=403, reason="accessDenied", times=None)
    bigquery_proxy.inject(denied)
    with pytest.raises(CloudError, match="BigQuery has no dataset test.forbidden, and it could not be made") as error:
        open_tables(account, "forbidden").prepare()
    assert "mbta-assets check" in str(error.value)


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (404, "notFound", "GCP_PROJECT"),
        (403, "accessDenied", "mbta-assets check"),
        (401, "authError", "expired"),
    ],
    ids=["another project", "permission denied", "credentials refused"],
)
def test_a_project_that_refuses_queries_is_an_error_before_anything_is_made(
    account: Account, bigquery_proxy: FaultProxy, status: int, reason: str, message: str
) -> None:
    bigquery_proxy.inject(Rule(method="POST", path="/jobs", status=status, reason=reason, times=None))
    with pytest.raises(CloudError, match=message):
        open_tables(account, "refusing").prepare()


def materialize(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dagster asset materialize`."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=600
    )


def test_a_run_without_its_bucket_stops_before_its_first_step(google_environment: dict[str, str]) -> None:
    run = materialize(google_environment | {"GCS_BUCKET": "no-such-bucket"}, "runtime_lookup")
    assert run.returncode != 0
    assert "There is no bucket no-such-bucket to open" in run.stderr
    assert "STEP_START" not in run.stderr


def test_a_run_neither_prints_nor_stores_a_key(
    google_environment: dict[str, str], key_file: Path, private_key: str
) -> None:
    run = materialize(
        google_environment | {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)}, "trip", "--partition", DAY
    )
    assert run.returncode == 0, run.stderr[-3000:]
    stored = b"".join(
        path.read_bytes()
        for path in Path(google_environment["DAGSTER_HOME"]).rglob("*")
        if path.is_file() and path != key_file
    )
    secret = private_key.splitlines()[3]
    assert secret not in run.stderr + run.stdout
    assert secret.encode() not in stored


def check(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `mbta-assets check`."""
    return subprocess.run(
        [sys.executable, "-m", "mbta_assets", "check"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_check_lists_each_permission_and_leaves_nothing(
    google_environment: dict[str, str], account: Account, dataset: str, bucket: Bucket
) -> None:
    process = check(google_environment)
    assert process.returncode == 0, process.stdout + process.stderr
    lines = process.stdout.splitlines()[2:]
    assert all(line.endswith(" ok") for line in lines)
    permissions = {line.split()[0] for line in lines}
    assert {"bigquery.jobs.create", "bigquery.tables.updateData", "storage.objects.delete"} <= permissions
    bigquery = BigQuery(account, MAX_BYTES_BILLED)
    assert [table.table_id for table in bigquery.client.list_tables(dataset)] == ["stored_days"]
    assert bigquery.fetch_rows("", f"SELECT * FROM `{dataset}.stored_days`").num_rows == 0
    assert list(bucket.client.list_blobs(bucket.name)) == []


def test_the_check_names_missing_permissions_and_tests_the_rest(google_environment: dict[str, str]) -> None:
    process = check(google_environment | {"GCS_BUCKET": "no-such-bucket"})
    assert process.returncode == 1
    is_granted = [line.endswith(" ok") for line in process.stdout.splitlines()[2:]]
    assert is_granted.count(False) == 4 and all(is_granted[:-4])
    assert "MISSING: Write gs://no-such-bucket" in process.stdout


@pytest.mark.integration
def test_the_check_fails_where_a_setting_is_missing() -> None:
    assert check({"MBTA_DEPLOYMENT": "gcp", "GCP_PROJECT": ""}).returncode == 1
