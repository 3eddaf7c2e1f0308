"""Wrong names, absent or expired credentials, lacking permissions: a clear error, before any work is lost."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mbta_assets.gcp import Account, CloudError, Identity
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSBundleStore
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule
from mbta_assets_tests.support.google_fixtures import MAXIMUM_BYTES_BILLED

DAY = "2024-09-09"


@contextmanager
def answering(status: int, answer: dict[str, str]) -> Iterator[str]:
    """A server that answers everything alike: what hands out tokens, when it does not."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
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
    """A real key, that nobody knows."""
    key = rsa.generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


@pytest.fixture
def key_file(tmp_path: Path, private_key: str) -> Path:
    """The key file of a service account whose tokens come from nowhere."""
    return written(tmp_path, private_key, "http://127.0.0.1:9/token")


def written(directory: Path, private_key: str, token_uri: str) -> Path:
    path = directory / "key.json"
    account = {
        "type": "service_account", "project_id": "transit-1", "private_key_id": "1", "private_key": private_key,
        "client_email": "runner@transit-1.iam.gserviceaccount.com", "client_id": "1", "token_uri": token_uri,
    }  # fmt: skip
    path.write_text(json.dumps(account))
    return path


def real(identity: Identity) -> Account:
    """An account with credentials, which has no emulator."""
    return Account("transit-1", identity, "US", retry_seconds=3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ('{"type": "service_account"}', "was not in the expected format"),
    ],
    ids=["not there", "no JSON", "no key"],
)
def test_a_key_file_that_is_none_is_named(tmp_path, content, said):
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CloudError, match=said) as error:
        _ = real(Identity(path)).bigquery
    assert f"Tried the key file {path}" in str(error.value)
    assert "gcloud auth application-default login" in str(error.value)


def test_without_any_credentials_it_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(CloudError, match="Tried application default credentials") as error:
        _ = real(Identity()).storage
    assert "gcloud auth application-default login" in str(error.value)


@pytest.mark.parametrize("opened", ["tables", "bundles"])
def test_credentials_that_are_expired_are_told_apart_and_no_key_is_shown(tmp_path, private_key, opened):
    refusal = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    with answering(400, refusal) as token_uri:
        account = real(Identity(written(tmp_path, private_key, token_uri)))
        tables = BigQueryTables(account, "delays", MAXIMUM_BYTES_BILLED)
        bundles = GCSBundleStore(Bucket(account, "delay-models"), tmp_path)
        with pytest.raises(CloudError, match="expired or revoked") as error:
            (tables if opened == "tables" else bundles).begin()
    said = str(error.value)
    assert f"The credentials are the key file {tmp_path / 'key.json'}" in said
    assert "PRIVATE KEY" not in said and private_key[40:80] not in said


def test_who_may_not_be_impersonated_is_named(key_file, monkeypatch, tmp_path, private_key):
    account = "other@transit-1.iam.gserviceaccount.com"
    refusal = {"error": {"code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied"}}
    with answering(200, {"access_token": "t", "expires_in": 3600}) as tokens, answering(403, refusal) as iam:  # type: ignore[dict-item, arg-type]
        monkeypatch.setattr("google.auth.iam._IAM_ENDPOINT", iam + "/{}")
        identity = Identity(written(tmp_path, private_key, tokens), account)
        tables = BigQueryTables(real(identity), "delays", MAXIMUM_BYTES_BILLED)
        with pytest.raises(CloudError, match="Unable to acquire impersonated credentials") as error:
            tables.begin()
    assert f"{account}, impersonated with the key file" in str(error.value)


def test_an_emulator_needs_no_credentials(account):
    tables = BigQueryTables(replace(account, identity=Identity(Path("/nowhere"))), "open", MAXIMUM_BYTES_BILLED)
    tables.begin()
    assert tables.days("toy") == []


def test_a_bucket_that_is_not_there_is_named_before_anything_is_made(account, tmp_path):
    with pytest.raises(CloudError, match="There is no bucket no-such-bucket to open"):
        GCSBundleStore(Bucket(account, "no-such-bucket"), tmp_path).begin()


def test_permissions_that_a_bucket_does_not_give_are_named(bundle_store, monkeypatch):
    # The emulator knows no permissions; the real bucket answers with those that one has.
    monkeypatch.setattr("google.cloud.storage.Bucket.test_iam_permissions", lambda *_, **__: ["storage.objects.get"])
    with pytest.raises(CloudError, match="storage.objects.create, storage.objects.delete are lacking"):
        bundle_store.begin()


def test_a_dataset_that_one_may_not_make_is_named(account, bigquery_proxy: FaultProxy):
    denied = Rule(method="POST", path=r"/datasets(\?|$)", status=403, reason="accessDenied", times=None)
    bigquery_proxy.inject(denied)
    with pytest.raises(CloudError, match="BigQuery has no dataset test.forbidden, and it could not be made") as error:
        BigQueryTables(account, "forbidden", MAXIMUM_BYTES_BILLED).begin()
    assert "python -m mbta_assets.storage.permissions" in str(error.value)


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        (404, "notFound", "GCP_PROJECT"),
        (403, "accessDenied", "python -m mbta_assets.storage.permissions"),
        (401, "authError", "expired"),
    ],
    ids=["another project", "permission denied", "credentials refused"],
)
def test_a_project_that_refuses_says_so_before_anything_is_made(account, bigquery_proxy, status, reason, said):
    bigquery_proxy.inject(Rule(method="POST", path="/jobs", status=status, reason=reason, times=None))
    with pytest.raises(CloudError, match=said):
        BigQueryTables(account, "refusing", MAXIMUM_BYTES_BILLED).begin()


def materialize(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def test_a_run_stops_before_its_first_step(google_environment, bigquery_proxy: FaultProxy):
    run = materialize(google_environment | {"GCS_BUCKET": "no-such-bucket"}, "runtime_lookup")
    assert run.returncode != 0
    assert "There is no bucket no-such-bucket to open" in run.stderr
    assert "STEP_START" not in run.stderr


def test_a_run_says_nothing_of_keys(google_environment, key_file, private_key):
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


def check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mbta_assets.storage.permissions"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_check_lists_each_permission_and_leaves_nothing(google_environment, account, dataset, bucket_name):
    run = check(google_environment)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()[2:]
    assert all(line.endswith(" ok") for line in lines)
    permissions = {line.split()[0] for line in lines}
    assert {"bigquery.jobs.create", "bigquery.tables.updateData", "storage.objects.delete"} <= permissions
    assert [table.table_id for table in account.bigquery.list_tables(dataset)] == ["stored_days"]
    assert (
        BigQueryTables(account, dataset, MAXIMUM_BYTES_BILLED)
        .bigquery.rows("", f"SELECT * FROM `{dataset}.stored_days`")
        .num_rows
        == 0
    )
    assert list(account.storage.list_blobs(bucket_name)) == []


def test_the_check_says_what_is_lacking_and_tries_the_rest(google_environment):
    run = check(google_environment | {"GCS_BUCKET": "no-such-bucket"})
    assert run.returncode == 1
    ok = [line.endswith(" ok") for line in run.stdout.splitlines()[2:]]
    assert ok.count(False) == 4 and all(ok[:-4])
    assert "LACKING: Write gs://no-such-bucket" in run.stdout
    assert check({"MBTA_DEPLOYMENT": "gcp", "GCP_PROJECT": ""}).returncode == 1
