"""A day of a table and a model are replaced whole or not at all, in spite of killed processes and of faults."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from google.api_core.exceptions import PermissionDenied, ServiceUnavailable

from mbta_assets.gcp import CloudError
from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bigquery_tables import STAGING_LIFETIME, BigQueryTables
from mbta_assets.storage.bundle import MANIFEST, BundleError
from mbta_assets.storage.gcs import GCSModelRegistry
from mbta_assets.storage.model_registry import PointerMoved
from mbta_assets.storage.tables import content_version, to_arrow
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR, eventually
from mbta_assets_tests.support.fault_proxy import FaultProxy, RecordedRequest, Rule, google_error
from mbta_assets_tests.support.writers import (
    DAY,
    PROCESSES,
    clear_model,
    make_draft,
    make_rows,
    publish_model,
    start_process,
    write_day,
)

pytestmark = pytest.mark.xdist_group("google")

DAYS = [DAY + timedelta(days=n) for n in range(8)]
PATIENT_SECONDS = 3 * BUSY_FACTOR
"""A third of it may be one request; one that hangs longer is repeated."""
HANG_SECONDS = PATIENT_SECONDS / 3 + 0.1

GET_TABLE: dict[str, Any] = {"method": "GET", "path": "/tables/toy"}
CREATE_STAGING: dict[str, Any] = {"method": "POST", "path": r"/tables\?", "body": b"staging_"}
START_UPLOAD: dict[str, Any] = {"method": "POST", "path": "^/upload/bigquery"}
UPLOAD: dict[str, Any] = {"method": "PUT", "path": "^/upload/bigquery"}
POLL_LOAD: dict[str, Any] = {"method": "GET", "path": r"/projects/test/jobs/"}
TRANSACTION: dict[str, Any] = {"method": "POST", "path": r"^/bigquery.*/jobs\?", "body": b"BEGIN TRANSACTION"}
POLL_QUERY: dict[str, Any] = {"method": "GET", "path": "/queries/"}
DELETE_STAGING: dict[str, Any] = {"method": "DELETE", "path": "/tables/staging_"}
WRITE_REQUESTS = {
    "get table": GET_TABLE,
    "create staging": CREATE_STAGING,
    "start upload": START_UPLOAD,
    "upload": UPLOAD,
    "poll load": POLL_LOAD,
    "transaction": TRANSACTION,
    "poll query": POLL_QUERY,
}
SELECT: dict[str, Any] = {"method": "POST", "path": r"^/bigquery.*/jobs\?", "body": b"SELECT"}
FETCH_ROWS: dict[str, Any] = {"method": "GET", "path": "(/queries/(?!.*maxResults=0)|/data)"}
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429},
    "500": {"status": 500},
    "503 twice": {"status": 503, "times": 2},
    "403 rateLimitExceeded": {"status": 403, "reason": "rateLimitExceeded"},
    "cut before": {"cut": True},
    "cut after": {"cut": True, "when": "after"},
}
PUT_OBJECT: dict[str, Any] = {"method": "POST", "path": "^/upload/storage"}
POINTER_BODY = b'"previous"'

each_request = pytest.mark.parametrize("request_", WRITE_REQUESTS.values(), ids=list(WRITE_REQUESTS))
each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry calls almost without delay."""
    original: Any = Account.retry
    monkeypatch.setattr(Account, "retry", property(lambda account: original.fget(account).with_delay(0.02, 0.2)))


def respond_running(_: str, response: bytes) -> tuple[int, Any]:
    """Return a finished job as one that still runs, so that the client polls it."""
    job = json.loads(response)
    job["status"] = {"state": "RUNNING"}
    return 200, job


STILL_RUNNING = (
    Rule(**UPLOAD, when="after", respond=respond_running, times=None),
    Rule(method="POST", path=r"^/bigquery.*/jobs\?", when="after", respond=respond_running, times=None),
)


def with_account(tables: BigQueryTables, **fields: Any) -> BigQueryTables:
    """Return the same tables, called by an account with other values of some fields."""
    account = replace(tables.bigquery.account, **fields)
    return BigQueryTables(BigQuery(account, tables.bigquery.max_bytes_billed), tables.dataset)


def assert_stored(tables: BigQueryTables, value: int) -> None:
    """Assert that the day has every row of a value once, and that the ledger has their content version."""
    read = tables.read("toy", [DAY])
    assert read == make_rows(value)
    assert tables.versions("toy", [DAY]) == {DAY: content_version(read)}


def staging_tables(tables: BigQueryTables) -> list[str]:
    """Return the names of staging tables that were left."""
    names = [table.table_id for table in tables.bigquery.client.list_tables(tables.dataset_path)]
    return [name for name in names if name.startswith("staging_")]


def wait_for_responses(proxy: FaultProxy) -> None:
    """Wait until the server has served every request, also those of clients that are gone."""
    eventually(
        "the server has served every request",
        30,
        lambda: all(request.status is not None for request in list(proxy.requests)),
        every=0.01,
    )


def submitted_jobs(proxy: FaultProxy) -> list[RecordedRequest]:
    """Return the requests that submitted a query job."""
    return [
        request
        for request in proxy.requests
        if request.method == "POST"
        and "/v2/projects/test/jobs?" in request.path
        and not request.path.startswith("/upload")
    ]


# Killed processes


@pytest.mark.parametrize(
    ("kill_at", "value"),
    [
        ({**CREATE_STAGING, "cut": True}, 1),
        ({**CREATE_STAGING, "when": "after"}, 1),
        ({**UPLOAD, "cut": True}, 1),
        ({**UPLOAD, "when": "after"}, 1),
        ({**TRANSACTION, "cut": True}, 1),
        ({**TRANSACTION}, 2),  # the request was already sent
        ({**TRANSACTION, "when": "after"}, 2),
        ({**DELETE_STAGING, "cut": True}, 2),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_a_killed_writer_leaves_the_old_day_or_the_new(
    tables: BigQueryTables,
    bigquery_proxy: FaultProxy,
    google_environment: dict[str, str],
    kill_at: dict[str, Any],
    value: int,
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.inject(Rule(**kill_at, call=lambda: writer.kill()))
    writer = start_process(write_day, google_environment, DAY, [2])
    writer.join(60)
    assert writer.exitcode == -9
    if not kill_at.get("cut"):
        wait_for_responses(bigquery_proxy)
    assert_stored(tables, value)
    tables.write("toy", DAY, make_rows(3))
    assert_stored(tables, 3)


def test_the_staging_table_of_a_killed_writer_expires_within_hours(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    created: list[dict[str, Any]] = []

    def record_table(_: str, body: bytes) -> None:
        created.append(json.loads(body))

    bigquery_proxy.inject(Rule(**CREATE_STAGING, respond=record_table))
    bigquery_proxy.inject(Rule(**TRANSACTION, cut=True, call=lambda: writer.kill()))
    writer = start_process(write_day, google_environment, DAY, [1])
    writer.join(60)
    (remaining,) = staging_tables(tables)
    assert remaining == created[0]["tableReference"]["tableId"]
    lifetime = datetime.fromtimestamp(int(created[0]["expirationTime"]) / 1000, UTC) - datetime.now(UTC)
    assert timedelta(0) < lifetime <= STAGING_LIFETIME
    tables.write("toy", DAY, make_rows(2))
    assert tables.days("toy") == [DAY]
    assert staging_tables(tables) == [remaining]


def test_a_killed_run_of_dagster_leaves_the_old_partition_and_the_next_run_completes(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    old, new = (to_arrow("trip", SyntheticSource(seed).read("trip", DAY).rows) for seed in (1, 0))
    tables.write("trip", DAY, old)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    command += ["--select", "trip", "--partition", str(DAY)]
    environment = os.environ | google_environment | {"MBTA_SEED": "0"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        bigquery_proxy.inject(Rule(**TRANSACTION, cut=True, call=run.kill))
        output, _ = run.communicate()
    assert run.returncode == -9, output.decode()
    assert tables.read("trip", [DAY]) == old
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert tables.read("trip", [DAY]) == new
    assert tables.versions("trip", [DAY]) == {DAY: content_version(new)}


@pytest.mark.parametrize(
    ("kill_at", "published"),
    [
        ({**PUT_OBJECT, "body": b"b.bin", "cut": True}, False),
        ({**PUT_OBJECT, "body": b"manifest.json", "cut": True}, False),
        ({**PUT_OBJECT, "body": b"manifest.json", "when": "after"}, False),
        ({**PUT_OBJECT, "body": POINTER_BODY, "cut": True}, False),
        ({**PUT_OBJECT, "body": POINTER_BODY, "when": "after"}, True),
    ],
    ids=["between files", "before the manifest", "after the manifest", "before the pointer", "after the pointer"],
)
def test_a_killed_publisher_leaves_the_old_model_or_the_new(
    model_registry: GCSModelRegistry,
    storage_proxy: FaultProxy,
    google_environment: dict[str, str],
    tmp_path: Path,
    kill_at: dict[str, Any],
    published: bool,
) -> None:
    old = model_registry.put("model", make_draft(1))
    model_registry.set_current("model", old.digest, None)
    storage_proxy.inject(Rule(**kill_at, call=lambda: publisher.kill()))
    publisher = start_process(publish_model, google_environment, tmp_path / "killed", 2, old.digest)
    publisher.join(60)
    assert publisher.exitcode == -9
    storage_proxy.clear()

    current = GCSModelRegistry(model_registry.bucket, tmp_path / "elsewhere").current("model")
    assert current.file("a.bin") == bytes([2 if published else 1])
    again = GCSModelRegistry(model_registry.bucket, tmp_path / "killed")
    again.set_current("model", again.put("model", make_draft(2)).digest, current.digest)
    assert model_registry.current("model").file("b.bin") == b"\x02\x02"


@pytest.mark.parametrize(("moment", "cleared"), [({"cut": True}, False), ({"when": "after"}, True)])
def test_a_writer_that_is_killed_while_it_clears_the_pointer_has_cleared_it_or_not(
    model_registry: GCSModelRegistry,
    storage_proxy: FaultProxy,
    google_environment: dict[str, str],
    tmp_path: Path,
    moment: dict[str, Any],
    cleared: bool,
) -> None:
    stored = model_registry.put("model", make_draft(1)).digest
    model_registry.set_current("model", stored, None)
    storage_proxy.inject(Rule(**PUT_OBJECT, body=POINTER_BODY, **moment, call=lambda: writer.kill()))
    writer = start_process(clear_model, google_environment, tmp_path / "killed", stored)
    writer.join(60)
    assert writer.exitcode == -9
    storage_proxy.clear()
    assert model_registry.current_digest("model") == (None if cleared else stored)
    model_registry.make_current("model", None)
    assert [move.digest for move in model_registry.moves("model")] == ["", stored]
    assert model_registry.get("model", stored).digest == stored


# Faults of the network and the service


@each_request
@each_fault
def test_a_write_overcomes_a_fault_and_stores_each_row_once(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], fault: dict[str, Any]
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.requests.clear()
    bigquery_proxy.inject(Rule(**request_, **fault), *STILL_RUNNING)
    tables.write("toy", DAY, make_rows(2))
    assert {request.status for request in bigquery_proxy.requests} & {fault.get("status")}, "no request met the fault"
    bigquery_proxy.clear()
    assert_stored(tables, 2)
    assert staging_tables(tables) == []


@each_fault
def test_a_write_succeeds_although_its_staging_table_cannot_be_deleted(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, fault: dict[str, Any]
) -> None:
    bigquery_proxy.inject(Rule(**DELETE_STAGING, **{**fault, "times": None}))
    tables.write("toy", DAY, make_rows(2))
    assert_stored(tables, 2)


@pytest.mark.parametrize(
    ("request_", "when"),
    [
        (GET_TABLE, "before"),
        (START_UPLOAD, "before"),
        (UPLOAD, "before"),
        (UPLOAD, "after"),
        (TRANSACTION, "before"),
        (TRANSACTION, "after"),
        (POLL_QUERY, "before"),
    ],
)
def test_a_request_that_hangs_is_retried_and_does_no_harm_when_it_arrives_late(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], when: Literal["before", "after"]
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.inject(Rule(**request_, when=when, hang=HANG_SECONDS))
    with_account(tables, retry_seconds=PATIENT_SECONDS).write("toy", DAY, make_rows(2))
    wait_for_responses(bigquery_proxy)
    assert_stored(tables, 2)


@pytest.mark.parametrize(
    ("request_", "fault", "action"),
    [
        (GET_TABLE, {"status": 503}, "Get the metadata of"),
        (CREATE_STAGING, {"status": 503}, f"Load service day {DAY} of"),
        (START_UPLOAD, {"status": 503}, f"Load service day {DAY} of"),
        (UPLOAD, {"status": 503}, f"Load service day {DAY} of"),
        (UPLOAD, {"cut": True}, f"Load service day {DAY} of"),
        (TRANSACTION, {"status": 503}, f"Replace service day {DAY} of"),
        (TRANSACTION, {"cut": True}, f"Replace service day {DAY} of"),
        (TRANSACTION, {"hang": 0.9, "cut": True}, f"Replace service day {DAY} of"),
    ],
    ids=str,
)
def test_a_server_that_stays_broken_fails_the_write_and_the_old_day_stays(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], fault: dict[str, Any], action: str
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.inject(Rule(**request_, **fault, times=None))
    started_at = datetime.now(UTC)
    with pytest.raises(CloudError) as failure:
        with_account(tables, retry_seconds=2).write("toy", DAY, make_rows(2))
    assert datetime.now(UTC) - started_at < timedelta(seconds=8)
    text = str(failure.value)
    assert text.startswith(f"{action} {tables.path('toy')}: ")
    assert "did not work within 2 s (GCP_RETRY_SECONDS); the last failure: " in text
    assert ("injected fault" in text) == ("status" in fault)
    assert "Run it again later." in text
    bigquery_proxy.clear()
    assert_stored(tables, 1)


def test_the_error_of_a_write_with_unknown_outcome_does_not_claim_that_the_old_day_stays(
    tables: BigQueryTables, bigquery_proxy: FaultProxy
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.inject(Rule(**TRANSACTION, when="after", cut=True, times=None))
    with pytest.raises(CloudError) as failure:
        with_account(tables, retry_seconds=2).write("toy", DAY, make_rows(2))
    assert "is as it was" not in str(failure.value)
    assert "Nothing is half stored." in str(failure.value)
    bigquery_proxy.clear()
    assert_stored(tables, 2)


@pytest.mark.parametrize("request_", [GET_TABLE, SELECT, POLL_QUERY, FETCH_ROWS])
@each_fault
def test_a_read_by_query_overcomes_a_fault(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], fault: dict[str, Any]
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.requests.clear()
    bigquery_proxy.inject(Rule(**request_, **fault))
    assert with_account(tables, read_api_emulator=None).read("toy", [DAY]) == make_rows(1)
    assert {request.status for request in bigquery_proxy.requests} & {fault.get("status")}, "no request met the fault"


def test_a_read_that_is_cut_within_its_rows_is_complete_after_a_retry(
    tables: BigQueryTables, bigquery_proxy: FaultProxy
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.inject(Rule(**FETCH_ROWS, truncate=2000))
    assert with_account(tables, read_api_emulator=None).read("toy", [DAY]) == make_rows(1)


class FailingReadClient:
    """A client of the Storage Read API that fails before it works."""

    def __init__(self, client: Any, *failures: Exception) -> None:
        self.client = client
        self.failures = list(failures)

    def create_read_session(self, **arguments: Any) -> Any:
        """Raise the next failure, or call the real client when there is none left."""
        if self.failures:
            raise self.failures.pop()
        return self.client.create_read_session(**arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


@pytest.mark.parametrize(
    ("failure", "queries"),
    [(ServiceUnavailable("overloaded"), 0), (PermissionDenied("bigquery.readsessions.create"), 1)],
)
def test_the_storage_read_api_is_retried_and_replaced_by_a_query_where_it_is_not_permitted(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, failure: Exception, queries: int
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.requests.clear()
    tables.bigquery.__dict__["read_client"] = FailingReadClient(tables.bigquery.read_client, failure)
    assert tables.read("toy", [DAY]) == make_rows(1)
    assert sum(request.method == "POST" for request in bigquery_proxy.requests) == queries


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503, "times": 2},
        {"cut": True},
        {"cut": True, "when": "after"},
        {"hang": HANG_SECONDS},
        {"hang": HANG_SECONDS, "when": "after"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "request_",
    [{**PUT_OBJECT, "body": b"b.bin"}, {**PUT_OBJECT, "body": POINTER_BODY}, {"method": "GET", "path": "alt=media"}],
    ids=["file", "pointer", "download"],
)
def test_a_model_is_published_and_read_in_spite_of_a_fault(
    account: Account,
    bucket: Bucket,
    storage_proxy: FaultProxy,
    tmp_path: Path,
    fault: dict[str, Any],
    request_: dict[str, Any],
) -> None:
    bucket = Bucket(replace(account, retry_seconds=PATIENT_SECONDS), bucket.name)
    publisher, reader = GCSModelRegistry(bucket, tmp_path / "a"), GCSModelRegistry(bucket, tmp_path / "b")
    storage_proxy.inject(Rule(**request_, **fault))
    digest = publisher.put("model", make_draft(1)).digest
    publisher.set_current("model", digest, None)
    assert reader.current("model").file("b.bin") == b"\x01\x01"
    assert reader.history("model") == [digest]


@pytest.mark.parametrize("body", [b"b.bin", b"manifest.json", POINTER_BODY])
def test_a_bucket_that_stays_broken_fails_publishing_and_the_old_model_stays(
    account: Account, model_registry: GCSModelRegistry, storage_proxy: FaultProxy, tmp_path: Path, body: bytes
) -> None:
    old = model_registry.put("model", make_draft(1))
    model_registry.set_current("model", old.digest, None)
    storage_proxy.inject(Rule(**PUT_OBJECT, body=body, status=503, times=None))
    bucket = Bucket(replace(account, retry_seconds=1), model_registry.bucket.name)
    publisher = GCSModelRegistry(bucket, tmp_path / "b")
    with pytest.raises(CloudError, match=rf"Write {model_registry.bucket.uri('models')}/.*injected fault.*later"):
        publisher.set_current("model", publisher.put("model", make_draft(2)).digest, old.digest)
    assert GCSModelRegistry(model_registry.bucket, tmp_path / "c").current("model").digest == old.digest


# Jobs that BigQuery refuses


def refuse_jobs(
    reason: str, message: str, how: str, times: int | None, body: bytes = b"BEGIN TRANSACTION"
) -> list[Rule]:
    """Return rules by which BigQuery refuses a job: when it is submitted, as a failed job, or as one that fails later.

    A job that fails later still runs when it is first polled. The call that waits for its result then fails with the
    same reason, as often as it is made.
    """
    status = 403 if reason in ("accessDenied", "rateLimitExceeded") else 400
    refused: set[str] = set()
    ended: set[str] = set()
    failed = {"state": "DONE", "errorResult": {"reason": reason, "message": message}}

    def submit(_: str, request: bytes) -> tuple[int, Any]:
        job = json.loads(request)
        refused.add(job["jobReference"]["jobId"])
        return 200, {**job, "status": failed if how == "failed" else {"state": "RUNNING"}}

    def wait(path: str, _: bytes) -> tuple[int, Any] | None:
        jobs = {job for job in refused if job in path}
        ended.update(jobs)
        return (status, google_error(status, message, reason)) if jobs else None

    def get(path: str, _: bytes) -> tuple[int, Any] | None:
        job = next((job for job in refused if job in path), None)
        if job is None:
            return None
        reference = {"projectId": "test", "jobId": job, "location": "US"}
        state = failed if job in ended else {"state": "RUNNING"}
        return 200, {"jobReference": reference, "configuration": {"query": {}}, "status": state}

    if how == "at once":
        return [Rule(**{**TRANSACTION, "body": body}, status=status, reason=reason, message=message, times=times)]
    return [
        Rule(**{**TRANSACTION, "body": body}, respond=submit, times=times),
        Rule(**POLL_QUERY, respond=wait, times=None),
        Rule(method="GET", path="/jobs/", respond=get, times=None),
    ]


each_way = pytest.mark.parametrize("how", ["at once", "failed", "fails"])
ABORTED = "Transaction is aborted due to concurrent update against table test:ds.toy. Transaction ID: 6f1b"


@each_way
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("invalidQuery", ABORTED),
        ("rateLimitExceeded", "Exceeded rate limits: too many table update operations for this table."),
        ("jobRateLimitExceeded", "Job exceeded rate limits"),
        ("backendError", "Error encountered during execution. Retrying may solve the problem."),
    ],
)
def test_a_transaction_that_conflicts_or_exceeds_a_rate_limit_is_run_again(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, how: str, reason: str, message: str
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.requests.clear()
    bigquery_proxy.inject(*refuse_jobs(reason, message, how, times=2))
    tables.write("toy", DAY, make_rows(2))
    bigquery_proxy.clear()
    assert len(submitted_jobs(bigquery_proxy)) == 3
    assert_stored(tables, 2)


@each_way
@pytest.mark.parametrize(
    ("reason", "message", "remedy"),
    [
        ("invalidQuery", "Unrecognized name: valeu at [3:7]", ""),
        (
            "accessDenied",
            "Access Denied: Permission bigquery.jobs.create denied",
            "mbta-assets check",
        ),
        (
            "bytesBilledLimitExceeded",
            "Query exceeded limit for bytes billed: 10000000. 20971520 or higher required.",
            "BIGQUERY_MAXIMUM_BYTES_BILLED",
        ),
    ],
)
def test_a_job_that_is_refused_for_good_is_submitted_once_and_the_error_has_a_remedy(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, how: str, reason: str, message: str, remedy: str
) -> None:
    tables.write("toy", DAY, make_rows(1))
    bigquery_proxy.requests.clear()
    bigquery_proxy.inject(*refuse_jobs(reason, message, how, times=None))
    with pytest.raises(CloudError) as failure:
        tables.write("toy", DAY, make_rows(2))
    bigquery_proxy.clear()
    assert len(submitted_jobs(bigquery_proxy)) == 1
    assert message.rstrip(".") in str(failure.value) and remedy in str(failure.value)
    assert_stored(tables, 1)
    assert staging_tables(tables) == []


# Concurrent processes


def test_eight_processes_replace_eight_days_of_a_table_at_once(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    bigquery_proxy.inject(*refuse_jobs("invalidQuery", ABORTED, "fails", times=10))
    writers = [start_process(write_day, google_environment, day, [n]) for n, day in enumerate(DAYS)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * len(DAYS)
    bigquery_proxy.clear()
    assert tables.days("toy") == DAYS
    read = {day: tables.read("toy", [day]) for day in DAYS}
    assert read == {day: make_rows(n, day) for n, day in enumerate(DAYS)}
    assert tables.versions("toy", DAYS) == {day: content_version(stored) for day, stored in read.items()}
    assert staging_tables(tables) == []


def test_the_rows_of_two_processes_that_replace_the_same_day_never_mix(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    tables.write("toy", DAY, make_rows(0))
    bigquery_proxy.inject(*refuse_jobs("invalidQuery", ABORTED, "at once", times=3))
    writers = [start_process(write_day, google_environment, DAY, [n] * 8) for n in (1, 2)]
    while any(writer.exitcode is None for writer in writers):
        read = tables.read("toy", [DAY])
        assert read in (make_rows(0), make_rows(1), make_rows(2))
    assert [writer.exitcode for writer in writers] == [0, 0]
    last = tables.read("toy", [DAY])["value"][0].as_py()
    assert last in (1, 2)
    assert_stored(tables, last)


@pytest.mark.parametrize("writers", [2, 4])
@pytest.mark.parametrize("first", [True, False], ids=["the first pointer", "a later pointer"])
def test_of_concurrent_publishers_exactly_one_wins_and_the_others_raise_pointer_moved(
    model_registry: GCSModelRegistry,
    storage_proxy: FaultProxy,
    google_environment: dict[str, str],
    tmp_path: Path,
    writers: int,
    first: bool,
) -> None:
    before = None
    if not first:
        before = model_registry.put("model", make_draft(0)).digest
        model_registry.set_current("model", before, None)
    all_have_read_it = threading.Barrier(writers, timeout=300)
    storage_proxy.inject(Rule(**PUT_OBJECT, body=POINTER_BODY, call=all_have_read_it.wait, times=writers))
    with ProcessPoolExecutor(writers, PROCESSES) as pool:
        runs = [
            pool.submit(publish_model, google_environment, tmp_path / str(n), n, before) for n in range(1, 1 + writers)
        ]
        errors = [run.result() for run in runs]
    (winner,) = [n for n, error in enumerate(errors, 1) if error is None]
    for error in errors:
        assert error is None or "Somebody else has just made another version of model current" in error
    assert model_registry.current("model").file("a.bin") == bytes([winner])
    assert len(model_registry.history("model")) == (1 if first else 2)


@pytest.mark.parametrize("first", [True, False], ids=["the first pointer", "a later pointer"])
def test_a_pointer_whose_response_was_lost_counts_as_moved(
    model_registry: GCSModelRegistry, storage_proxy: FaultProxy, first: bool
) -> None:
    old, new = (model_registry.put("model", make_draft(n)).digest for n in (1, 2))
    if not first:
        model_registry.set_current("model", old, None)
    storage_proxy.inject(Rule(**PUT_OBJECT, body=POINTER_BODY, when="after", cut=True))
    model_registry.set_current("model", new, None if first else old)
    assert model_registry.history("model") == ([new] if first else [new, old])
    with pytest.raises(PointerMoved):
        model_registry.set_current("model", old, None if first else old)


# Content of the bucket


def test_a_model_stored_again_is_not_uploaded_again(
    model_registry: GCSModelRegistry, storage_proxy: FaultProxy
) -> None:
    model_registry.put("model", make_draft(1))
    storage_proxy.requests.clear()
    model_registry.put("model", make_draft(1))
    assert {request.method for request in storage_proxy.requests} == {"GET"}


@pytest.mark.parametrize("name", ["b.bin", MANIFEST])
@pytest.mark.parametrize("damage", [None, b"damaged"], ids=["missing", "damaged"])
def test_a_damaged_object_is_refused_by_readers_and_repaired_by_storing_it_again(
    model_registry: GCSModelRegistry, tmp_path: Path, name: str, damage: bytes | None
) -> None:
    stored = model_registry.put("model", make_draft(1))
    model_registry.set_current("model", stored.digest, None)
    path = f"models/model/{stored.digest[:16]}/{name}"
    blob = model_registry.bucket.client.bucket(model_registry.bucket.name).blob(path)
    if damage is None:
        blob.delete()
    else:
        blob.upload_from_string(damage)
    with pytest.raises(BundleError, match=name):
        GCSModelRegistry(model_registry.bucket, tmp_path / "b").current("model")
    with pytest.raises(BundleError, match=f"{name} is missing or damaged"):
        model_registry.set_current("model", stored.digest, stored.digest)
    model_registry.put("model", make_draft(1))
    assert GCSModelRegistry(model_registry.bucket, tmp_path / "c").current("model").digest == stored.digest


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".."])
def test_a_manifest_that_names_a_file_elsewhere_is_refused_before_anything_is_fetched(
    model_registry: GCSModelRegistry, storage_proxy: FaultProxy, tmp_path: Path, name: str
) -> None:
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0}
    manifest = json.dumps({"format_version": 1, "kind": "toy", "files": {name: entry}}).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    for file, content in ((MANIFEST, manifest), (name, b"")):
        model_registry.bucket.put(f"models/model/{digest[:16]}/{file}", content, 0)
    storage_proxy.requests.clear()
    with pytest.raises(BundleError, match="outside"):
        model_registry.get("model", digest)
    assert len(storage_proxy.requests) == 1
    assert not list(tmp_path.rglob("x"))


def test_nothing_is_listed_to_write_or_read(
    tables: BigQueryTables, model_registry: GCSModelRegistry, bigquery_proxy: FaultProxy, storage_proxy: FaultProxy
) -> None:
    tables.write("toy", DAY, make_rows(1))
    tables.read("toy", [DAY])
    model_registry.set_current("model", model_registry.put("model", make_draft(1)).digest, None)
    model_registry.current("model")
    for request in bigquery_proxy.requests:
        assert not (request.method == "GET" and request.path.partition("?")[0].endswith("/tables")), request
    for request in storage_proxy.requests:
        assert not (request.method == "GET" and request.path.partition("?")[0].endswith("/o")), request
