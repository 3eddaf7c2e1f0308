"""A day of a table and a model are replaced whole or not at all, whoever dies, and whatever goes wrong on the way."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import PermissionDenied, ServiceUnavailable

from mbta_assets.gcp import Account, CloudError
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bigquery_tables import STAGING_LIFE, BigQueryTables
from mbta_assets.storage.bundle import MANIFEST, BundleError
from mbta_assets.storage.gcs import GCSBundleStore
from mbta_assets.storage.model_registry import PointerMoved
from mbta_assets.storage.tables import content_version, to_arrow
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, google_error
from mbta_assets_tests.support.writers import DAY, PROCESSES, draft, publish, rows, started, write

DAYS = [DAY + timedelta(days=n) for n in range(8)]

LOOK_AT_TABLE: dict[str, Any] = {"method": "GET", "path": "/tables/toy"}
MAKE_STAGING: dict[str, Any] = {"method": "POST", "path": r"/tables\?", "body": b"staging_"}
START_UPLOAD: dict[str, Any] = {"method": "POST", "path": "^/upload/bigquery"}
UPLOAD: dict[str, Any] = {"method": "PUT", "path": "^/upload/bigquery"}
ASK_FOR_LOAD: dict[str, Any] = {"method": "GET", "path": r"/projects/test/jobs/"}
TRANSACTION: dict[str, Any] = {"method": "POST", "path": r"^/bigquery.*/jobs\?", "body": b"BEGIN TRANSACTION"}
ASK_FOR_RESULT: dict[str, Any] = {"method": "GET", "path": "/queries/"}
REMOVE_STAGING: dict[str, Any] = {"method": "DELETE", "path": "/tables/staging_"}
OF_A_WRITE = {
    "look at table": LOOK_AT_TABLE,
    "make staging": MAKE_STAGING,
    "start upload": START_UPLOAD,
    "upload": UPLOAD,
    "ask for load": ASK_FOR_LOAD,
    "transaction": TRANSACTION,
    "ask for result": ASK_FOR_RESULT,
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
STORE: dict[str, Any] = {"method": "POST", "path": "^/upload/storage"}
POINTER_BODY = b'"previous"'

each_request = pytest.mark.parametrize("request_", OF_A_WRITE.values(), ids=list(OF_A_WRITE))
each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are tried again at once."""
    as_it_is: Any = Account.retry
    monkeypatch.setattr(Account, "retry", property(lambda account: as_it_is.fget(account).with_delay(0.02, 0.2)))


def running(_: str, answer: bytes) -> tuple[int, Any]:
    """A finished job as one that still runs, so that the client has to ask for it."""
    job = json.loads(answer)
    job["status"] = {"state": "RUNNING"}
    return 200, job


STILL_RUNNING = (
    Rule(**UPLOAD, when="after", answer=running, times=None),
    Rule(method="POST", path=r"^/bigquery.*/jobs\?", when="after", answer=running, times=None),
)


def with_seconds(tables: BigQueryTables, seconds: float, **account: Any) -> BigQueryTables:
    """The same tables for somebody who is less patient."""
    impatient = replace(tables.account, retry_seconds=seconds, **account)
    return BigQueryTables(impatient, tables.dataset, tables.bigquery.maximum_bytes_billed)


def holds(tables: BigQueryTables, value: int) -> None:
    """Assert that the day has every row of this value once, and that the ledger says so."""
    read = tables.read("toy", [DAY])
    assert read == rows(value)
    assert tables.versions("toy", [DAY]) == {DAY: content_version(read)}


def staging_tables(tables: BigQueryTables) -> list[str]:
    """What was left behind."""
    found = tables.account.bigquery.list_tables(tables.where)
    return [table.table_id for table in found if table.table_id.startswith("staging_")]


def await_answers(proxy: FaultProxy) -> None:
    """Return once the server has done all that it was asked, also by clients that are gone."""
    deadline = time.monotonic() + 30
    while any(seen.status is None for seen in list(proxy.seen)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Killed


@pytest.mark.parametrize(
    ("moment", "value"),
    [
        ({**MAKE_STAGING, "cut": True}, 1),
        ({**MAKE_STAGING, "when": "after"}, 1),
        ({**UPLOAD, "cut": True}, 1),
        ({**UPLOAD, "when": "after"}, 1),
        ({**TRANSACTION, "cut": True}, 1),
        ({**TRANSACTION}, 2),  # the request had left
        ({**TRANSACTION, "when": "after"}, 2),
        ({**REMOVE_STAGING, "cut": True}, 2),
    ],
    ids=lambda moment: "-".join(map(str, moment.values())) if isinstance(moment, dict) else str(moment),
)
def test_a_killed_writer_leaves_the_old_day_or_the_new(
    tables: BigQueryTables,
    bigquery_proxy: FaultProxy,
    google_environment: dict[str, str],
    moment: dict[str, Any],
    value: int,
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.inject(Rule(**moment, call=lambda: writer.kill()))
    writer = started(write, google_environment, DAY, [2])
    writer.join(60)
    assert writer.exitcode == -9
    if not moment.get("cut"):
        await_answers(bigquery_proxy)
    holds(tables, value)
    tables.write("toy", DAY, rows(3))
    holds(tables, 3)


def test_what_a_killed_writer_leaves_expires_within_hours(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    made: list[dict[str, Any]] = []
    bigquery_proxy.inject(Rule(**MAKE_STAGING, answer=lambda _, body: made.append(json.loads(body))))
    bigquery_proxy.inject(Rule(**TRANSACTION, cut=True, call=lambda: writer.kill()))
    writer = started(write, google_environment, DAY, [1])
    writer.join(60)
    (left,) = staging_tables(tables)
    assert left == made[0]["tableReference"]["tableId"]
    life = datetime.fromtimestamp(int(made[0]["expirationTime"]) / 1000, UTC) - datetime.now(UTC)
    assert timedelta(0) < life <= STAGING_LIFE
    tables.write("toy", DAY, rows(2))
    assert tables.days("toy") == [DAY]
    assert staging_tables(tables) == [left]


def test_a_killed_run_of_dagster_leaves_the_old_partition_and_the_next_run_completes(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    old, new = (to_arrow("trip", SyntheticSource(seed).read("trip", DAY)) for seed in (1, 0))
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
    ("moment", "published"),
    [
        ({**STORE, "body": b"b.bin", "cut": True}, False),
        ({**STORE, "body": b"manifest.json", "cut": True}, False),
        ({**STORE, "body": b"manifest.json", "when": "after"}, False),
        ({**STORE, "body": POINTER_BODY, "cut": True}, False),
        ({**STORE, "body": POINTER_BODY, "when": "after"}, True),
    ],
    ids=["between files", "before the manifest", "after the manifest", "before the pointer", "after the pointer"],
)
def test_a_killed_publisher_leaves_the_old_model_or_the_new(
    bundle_store: GCSBundleStore,
    storage_proxy: FaultProxy,
    google_environment: dict[str, str],
    tmp_path: Path,
    moment: dict[str, Any],
    published: bool,
) -> None:
    old = bundle_store.put("model", draft(1))
    bundle_store.point("model", old.digest, None)
    storage_proxy.inject(Rule(**moment, call=lambda: publisher.kill()))
    publisher = started(publish, google_environment, tmp_path / "killed", 2, old.digest)
    publisher.join(60)
    assert publisher.exitcode == -9
    storage_proxy.clear()

    current = GCSBundleStore(bundle_store.bucket, tmp_path / "elsewhere").current("model")
    assert current.file("a.bin") == bytes([2 if published else 1])
    again = GCSBundleStore(bundle_store.bucket, tmp_path / "killed")
    again.point("model", again.put("model", draft(2)).digest, current.digest)
    assert bundle_store.current("model").file("b.bin") == b"\x02\x02"


# Faults on the way


@each_request
@each_fault
def test_a_write_overcomes_a_fault_and_stores_each_row_once(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], fault: dict[str, Any]
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.seen.clear()
    bigquery_proxy.inject(Rule(**request_, **fault), *STILL_RUNNING)
    tables.write("toy", DAY, rows(2))
    assert {seen.status for seen in bigquery_proxy.seen} & {fault.get("status")}, "it did not come to the fault"
    bigquery_proxy.clear()
    holds(tables, 2)
    assert staging_tables(tables) == []


@each_fault
def test_staging_that_cannot_be_removed_fails_nothing(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, fault: dict[str, Any]
) -> None:
    bigquery_proxy.inject(Rule(**REMOVE_STAGING, **{**fault, "times": None}))
    tables.write("toy", DAY, rows(2))
    holds(tables, 2)


@pytest.mark.parametrize(
    ("request_", "when"),
    [
        (LOOK_AT_TABLE, "before"),
        (START_UPLOAD, "before"),
        (UPLOAD, "before"),
        (UPLOAD, "after"),
        (TRANSACTION, "before"),
        (TRANSACTION, "after"),
        (ASK_FOR_RESULT, "before"),
    ],
)
def test_a_server_that_hangs_is_asked_again_and_what_comes_late_does_no_harm(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], when: Any
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.inject(Rule(**request_, when=when, hang=1.1))
    with_seconds(tables, 3).write("toy", DAY, rows(2))
    await_answers(bigquery_proxy)
    holds(tables, 2)


@pytest.mark.parametrize(
    ("request_", "fault", "wanted"),
    [
        (LOOK_AT_TABLE, {"status": 503}, "Look at"),
        (MAKE_STAGING, {"status": 503}, f"Load service day {DAY} of"),
        (START_UPLOAD, {"status": 503}, f"Load service day {DAY} of"),
        (UPLOAD, {"status": 503}, f"Load service day {DAY} of"),
        (UPLOAD, {"cut": True}, f"Load service day {DAY} of"),
        (TRANSACTION, {"status": 503}, f"Replace service day {DAY} of"),
        (TRANSACTION, {"cut": True}, f"Replace service day {DAY} of"),
        (TRANSACTION, {"hang": 0.9, "cut": True}, f"Replace service day {DAY} of"),
    ],
    ids=str,
)
def test_a_server_that_stays_broken_fails_the_write_and_the_old_day_is_there(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], fault: dict[str, Any], wanted: str
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.inject(Rule(**request_, **fault, times=None))
    begun = datetime.now(UTC)
    with pytest.raises(CloudError) as failure:
        with_seconds(tables, 2).write("toy", DAY, rows(2))
    assert datetime.now(UTC) - begun < timedelta(seconds=8)
    text = str(failure.value)
    assert text.startswith(f"{wanted} {tables.path('toy')}: ")
    assert "did not work within 2 s (GCP_RETRY_SECONDS); the last failure: " in text
    assert ("injected fault" in text) == ("status" in fault)
    assert "Run it again later." in text
    bigquery_proxy.clear()
    holds(tables, 1)


def test_a_write_whose_outcome_is_not_known_does_not_say_that_the_old_day_is_there(
    tables: BigQueryTables, bigquery_proxy: FaultProxy
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.inject(Rule(**TRANSACTION, when="after", cut=True, times=None))
    with pytest.raises(CloudError) as failure:
        with_seconds(tables, 2).write("toy", DAY, rows(2))
    assert "is as it was" not in str(failure.value)
    assert "Nothing is half stored." in str(failure.value)
    bigquery_proxy.clear()
    holds(tables, 2)


@pytest.mark.parametrize("request_", [LOOK_AT_TABLE, SELECT, ASK_FOR_RESULT, FETCH_ROWS])
@each_fault
def test_a_read_by_query_overcomes_a_fault(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, request_: dict[str, Any], fault: dict[str, Any]
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.seen.clear()
    bigquery_proxy.inject(Rule(**request_, **fault))
    assert with_seconds(tables, 30, reader_emulator=None).read("toy", [DAY]) == rows(1)
    assert {seen.status for seen in bigquery_proxy.seen} & {fault.get("status")}, "it did not come to the fault"


def test_a_read_cut_within_its_rows_is_whole(tables: BigQueryTables, bigquery_proxy: FaultProxy) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.inject(Rule(**FETCH_ROWS, truncate=2000))
    assert with_seconds(tables, 30, reader_emulator=None).read("toy", [DAY]) == rows(1)


class Reader:
    """The Storage Read API, which fails first."""

    def __init__(self, real: Any, *failures: Exception) -> None:
        self.real = real
        self.failures = list(failures)

    def create_read_session(self, **asked: Any) -> Any:
        """Fail, or ask the real one."""
        if self.failures:
            raise self.failures.pop()
        return self.real.create_read_session(**asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize(
    ("failure", "queries"),
    [(ServiceUnavailable("away"), 0), (PermissionDenied("bigquery.readsessions.create"), 1)],
)
def test_the_storage_read_api_is_asked_again_and_where_it_is_not_allowed_a_query_reads(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, failure: Exception, queries: int
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.seen.clear()
    tables.account.__dict__["reader"] = Reader(tables.account.reader, failure)
    assert tables.read("toy", [DAY]) == rows(1)
    assert sum(seen.method == "POST" for seen in bigquery_proxy.seen) == queries


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503, "times": 2},
        {"cut": True},
        {"cut": True, "when": "after"},
        {"hang": 1.1},
        {"hang": 1.1, "when": "after"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "request_",
    [{**STORE, "body": b"b.bin"}, {**STORE, "body": POINTER_BODY}, {"method": "GET", "path": "alt=media"}],
    ids=["file", "pointer", "download"],
)
def test_a_model_is_published_and_read_in_spite_of_a_fault(
    account: Account, bucket: Bucket, storage_proxy: FaultProxy, tmp_path: Path, fault: Any, request_: Any
) -> None:
    bucket = Bucket(replace(account, retry_seconds=3), bucket.name)
    store, elsewhere = GCSBundleStore(bucket, tmp_path / "a"), GCSBundleStore(bucket, tmp_path / "b")
    storage_proxy.inject(Rule(**request_, **fault))
    digest = store.put("model", draft(1)).digest
    store.point("model", digest, None)
    assert elsewhere.current("model").file("b.bin") == b"\x01\x01"
    assert elsewhere.history("model") == [digest]


@pytest.mark.parametrize("body", [b"b.bin", b"manifest.json", POINTER_BODY])
def test_a_bucket_that_stays_broken_fails_publishing_and_the_old_model_is_there(
    account: Account, bundle_store: GCSBundleStore, storage_proxy: FaultProxy, tmp_path: Path, body: bytes
) -> None:
    old = bundle_store.put("model", draft(1))
    bundle_store.point("model", old.digest, None)
    storage_proxy.inject(Rule(**STORE, body=body, status=503, times=None))
    impatient = GCSBundleStore(Bucket(replace(account, retry_seconds=1), bundle_store.bucket.name), tmp_path / "b")
    with pytest.raises(CloudError, match=rf"Write {bundle_store.bucket.uri('models')}/.*injected fault.*later"):
        impatient.point("model", impatient.put("model", draft(2)).digest, old.digest)
    assert GCSBundleStore(bundle_store.bucket, tmp_path / "c").current("model").digest == old.digest


# What BigQuery refuses


def refused(reason: str, message: str, how: str, times: int | None, body: bytes = b"BEGIN TRANSACTION") -> list[Rule]:
    """Rules by which BigQuery refuses a job: when it is asked for it, as a job that has failed, or as one that fails.

    A job that fails still runs when it is looked at first. The call that waits for its result then fails with the same
    reason, as often as it is made.
    """
    codes = {"accessDenied": 403, "rateLimitExceeded": 403}
    status = codes.get(reason, 400)
    doomed: set[str] = set()
    ended: set[str] = set()
    over = {"state": "DONE", "errorResult": {"reason": reason, "message": message}}

    def begin(_: str, asked: bytes) -> tuple[int, Any]:
        job = json.loads(asked)
        doomed.add(job["jobReference"]["jobId"])
        return 200, {**job, "status": over if how == "failed" else {"state": "RUNNING"}}

    def ask(path: str, _: bytes) -> tuple[int, Any] | None:
        asked = {job for job in doomed if job in path}
        ended.update(asked)
        return (status, google_error(status, message, reason)) if asked else None

    def look(path: str, _: bytes) -> tuple[int, Any] | None:
        job = next((job for job in doomed if job in path), None)
        reference = {"projectId": "test", "jobId": job, "location": "US"}
        state = over if job in ended else {"state": "RUNNING"}
        return (200, {"jobReference": reference, "configuration": {"query": {}}, "status": state}) if job else None

    if how == "at once":
        return [Rule(**{**TRANSACTION, "body": body}, status=status, reason=reason, message=message, times=times)]
    return [
        Rule(**{**TRANSACTION, "body": body}, answer=begin, times=times),
        Rule(**ASK_FOR_RESULT, answer=ask, times=None),
        Rule(method="GET", path="/jobs/", answer=look, times=None),
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
def test_a_transaction_that_lost_or_came_too_often_is_begun_again(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, how: str, reason: str, message: str
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.seen.clear()
    bigquery_proxy.inject(*refused(reason, message, how, times=2))
    tables.write("toy", DAY, rows(2))
    bigquery_proxy.clear()
    jobs = [seen for seen in bigquery_proxy.seen if seen.method == "POST" and "/v2/projects/test/jobs?" in seen.path]
    assert len([seen for seen in jobs if not seen.path.startswith("/upload")]) == 3
    holds(tables, 2)


@each_way
@pytest.mark.parametrize(
    ("reason", "message", "remedy"),
    [
        ("invalidQuery", "Unrecognized name: valeu at [3:7]", ""),
        (
            "accessDenied",
            "Access Denied: Permission bigquery.jobs.create denied",
            "python -m mbta_assets.storage.permissions",
        ),
        (
            "bytesBilledLimitExceeded",
            "Query exceeded limit for bytes billed: 10000000. 20971520 or higher required.",
            "BIGQUERY_MAXIMUM_BYTES_BILLED",
        ),
    ],
)
def test_what_is_refused_for_good_is_asked_once_and_says_what_to_do(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, how: str, reason: str, message: str, remedy: str
) -> None:
    tables.write("toy", DAY, rows(1))
    bigquery_proxy.seen.clear()
    bigquery_proxy.inject(*refused(reason, message, how, times=None))
    with pytest.raises(CloudError) as failure:
        tables.write("toy", DAY, rows(2))
    bigquery_proxy.clear()
    jobs = [seen for seen in bigquery_proxy.seen if seen.method == "POST" and "/v2/projects/test/jobs?" in seen.path]
    assert len([seen for seen in jobs if not seen.path.startswith("/upload")]) == 1
    assert message.rstrip(".") in str(failure.value) and remedy in str(failure.value)
    holds(tables, 1)
    assert staging_tables(tables) == []


# Together


def test_eight_processes_replace_eight_days_of_a_table_at_once(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    bigquery_proxy.inject(*refused("invalidQuery", ABORTED, "fails", times=10))
    writers = [started(write, google_environment, day, [n]) for n, day in enumerate(DAYS)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * len(DAYS)
    bigquery_proxy.clear()
    assert tables.days("toy") == DAYS
    read = {day: tables.read("toy", [day]) for day in DAYS}
    assert read == {day: rows(n, day) for n, day in enumerate(DAYS)}
    assert tables.versions("toy", DAYS) == {day: content_version(rows_) for day, rows_ in read.items()}
    assert staging_tables(tables) == []


def test_two_processes_that_replace_the_same_day_never_mix(
    tables: BigQueryTables, bigquery_proxy: FaultProxy, google_environment: dict[str, str]
) -> None:
    tables.write("toy", DAY, rows(0))
    bigquery_proxy.inject(*refused("invalidQuery", ABORTED, "at once", times=3))
    writers = [started(write, google_environment, DAY, [n] * 8) for n in (1, 2)]
    while any(writer.exitcode is None for writer in writers):
        read = tables.read("toy", [DAY])
        assert read in (rows(0), rows(1), rows(2))
    assert [writer.exitcode for writer in writers] == [0, 0]
    last = tables.read("toy", [DAY])["value"][0].as_py()
    assert last in (1, 2)
    holds(tables, last)


@pytest.mark.parametrize("writers", [2, 4])
@pytest.mark.parametrize("first", [True, False], ids=["the first pointer", "a later pointer"])
def test_of_publishers_at_once_exactly_one_wins_and_the_others_are_told(
    bundle_store: GCSBundleStore,
    storage_proxy: FaultProxy,
    google_environment: dict[str, str],
    tmp_path: Path,
    writers: int,
    first: bool,
) -> None:
    before = None
    if not first:
        before = bundle_store.put("model", draft(0)).digest
        bundle_store.point("model", before, None)
    all_have_seen_it = threading.Barrier(writers, timeout=60)
    storage_proxy.inject(Rule(**STORE, body=POINTER_BODY, call=all_have_seen_it.wait, times=writers))
    with ProcessPoolExecutor(writers, PROCESSES) as pool:
        runs = [pool.submit(publish, google_environment, tmp_path / str(n), n, before) for n in range(1, 1 + writers)]
        said = [run.result() for run in runs]
    (won,) = [n for n, text in enumerate(said, 1) if text is None]
    for text in said:
        assert text is None or "Somebody else has just made another version of model current" in text
    assert bundle_store.current("model").file("a.bin") == bytes([won])
    assert len(bundle_store.history("model")) == (1 if first else 2)


@pytest.mark.parametrize("first", [True, False], ids=["the first pointer", "a later pointer"])
def test_a_pointer_whose_answer_was_lost_counts_as_won(
    bundle_store: GCSBundleStore, storage_proxy: FaultProxy, first: bool
) -> None:
    old, new = (bundle_store.put("model", draft(n)).digest for n in (1, 2))
    if not first:
        bundle_store.point("model", old, None)
    storage_proxy.inject(Rule(**STORE, body=POINTER_BODY, when="after", cut=True))
    bundle_store.point("model", new, None if first else old)
    assert bundle_store.history("model") == ([new] if first else [new, old])
    with pytest.raises(PointerMoved):
        bundle_store.point("model", old, None if first else old)


# What is in the bucket


def test_a_model_stored_again_is_not_uploaded_again(bundle_store: GCSBundleStore, storage_proxy: FaultProxy) -> None:
    bundle_store.put("model", draft(1))
    storage_proxy.seen.clear()
    bundle_store.put("model", draft(1))
    assert {seen.method for seen in storage_proxy.seen} == {"GET"}


@pytest.mark.parametrize("name", ["b.bin", MANIFEST])
@pytest.mark.parametrize("damage", [None, b"damaged"], ids=["missing", "damaged"])
def test_a_damaged_object_is_refused_by_readers_and_repaired_by_storing_it_again(
    bundle_store: GCSBundleStore, tmp_path: Path, name: str, damage: bytes | None
) -> None:
    stored = bundle_store.put("model", draft(1))
    bundle_store.point("model", stored.digest, None)
    path = f"models/model/{stored.digest[:16]}/{name}"
    blob = bundle_store.bucket.account.storage.bucket(bundle_store.bucket.name).blob(path)
    if damage is None:
        blob.delete()
    else:
        blob.upload_from_string(damage)
    with pytest.raises(BundleError, match=name):
        GCSBundleStore(bundle_store.bucket, tmp_path / "b").current("model")
    with pytest.raises(BundleError, match=f"{name} is missing or damaged"):
        bundle_store.point("model", stored.digest, stored.digest)
    bundle_store.put("model", draft(1))
    assert GCSBundleStore(bundle_store.bucket, tmp_path / "c").current("model").digest == stored.digest


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".."])
def test_a_manifest_that_names_a_file_elsewhere_is_refused_before_anything_is_fetched(
    bundle_store: GCSBundleStore, storage_proxy: FaultProxy, tmp_path: Path, name: str
) -> None:
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0}
    manifest = json.dumps({"format_version": 1, "kind": "toy", "files": {name: entry}}).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    for file, content in ((MANIFEST, manifest), (name, b"")):
        bundle_store.bucket.put(f"models/model/{digest[:16]}/{file}", content, 0)
    storage_proxy.seen.clear()
    with pytest.raises(BundleError, match="outside"):
        bundle_store.get("model", digest)
    assert len(storage_proxy.seen) == 1
    assert not list(tmp_path.rglob("x"))


def test_nothing_is_listed_to_write_or_read(
    tables: BigQueryTables, bundle_store: GCSBundleStore, bigquery_proxy: FaultProxy, storage_proxy: FaultProxy
) -> None:
    tables.write("toy", DAY, rows(1))
    tables.read("toy", [DAY])
    bundle_store.point("model", bundle_store.put("model", draft(1)).digest, None)
    bundle_store.current("model")
    for seen in bigquery_proxy.seen:
        assert not (seen.method == "GET" and seen.path.partition("?")[0].endswith("/tables")), seen
    for seen in storage_proxy.seen:
        assert not (seen.method == "GET" and seen.path.partition("?")[0].endswith("/o")), seen
