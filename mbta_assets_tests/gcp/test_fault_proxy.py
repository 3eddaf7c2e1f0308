"""The proxy injects the faults of its rules, as a real client of a real server observes them."""

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from google.api_core.exceptions import PreconditionFailed, RetryError, TooManyRequests
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, fault_proxy
from mbta_assets_tests.support.storage_emulator import StorageServer, open_client

QUICK_RETRY = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.01)
UPLOAD = r"^/upload/"
BUCKET = "proxied"

pytestmark = pytest.mark.xdist_group("google")


@pytest.fixture(scope="module")
def server(storage_emulator: StorageServer) -> StorageServer:
    """Create the bucket of this module and return its server."""
    open_client(storage_emulator.url).create_bucket(BUCKET)
    return storage_emulator


@pytest.fixture
def proxy(server: StorageServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server, without rules."""
    # Otherwise each new client also looks up its bucket in a thread, at any time.
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    with fault_proxy(server.url) as proxy:
        yield proxy


def open_bucket(url: str) -> storage.Bucket:
    """Return the bucket, through a new client of a URL."""
    return open_client(url).bucket(BUCKET)


def test_a_service_unavailable_twice_is_overcome_by_the_third_attempt(proxy: FaultProxy) -> None:
    proxy.inject(Rule(method="POST", path=UPLOAD, status=503, times=2))
    open_bucket(proxy.url).blob("a").upload_from_string(b"a", retry=QUICK_RETRY)
    assert [request.status for request in proxy.requests] == [503, 503, 200]


def test_a_rule_skips_requests_matches_bodies_and_responds_like_google(proxy: FaultProxy) -> None:
    proxy.inject(Rule(body=b"poison", status=429, reason="quotaExceeded", skip=1, times=None))
    bucket = open_bucket(proxy.url)
    for data in (b"poison", b"food"):
        bucket.blob("b").upload_from_string(data)
    for _ in range(2):
        with pytest.raises(TooManyRequests) as failure:
            bucket.blob("b").upload_from_string(b"poison", retry=None)
    assert failure.value.response.json()["error"] == {
        "code": 429,
        "message": "injected fault",
        "errors": [{"domain": "global", "reason": "quotaExceeded", "message": "injected fault"}],
        "status": "RESOURCE_EXHAUSTED",
    }
    proxy.clear()
    bucket.blob("b").upload_from_string(b"poison", retry=None)


def test_an_upload_cut_before_forwarding_never_happened(server: StorageServer, proxy: FaultProxy) -> None:
    proxy.inject(Rule(path=UPLOAD, cut=True))
    with pytest.raises(requests.ConnectionError):
        open_bucket(proxy.url).blob("cut before").upload_from_string(b"", if_generation_match=0, retry=None)
    assert not open_bucket(server.url).blob("cut before").exists()


def test_an_upload_cut_after_forwarding_happened_without_a_response(proxy: FaultProxy) -> None:
    proxy.inject(Rule(path=UPLOAD, when="after", cut=True))
    blob = open_bucket(proxy.url).blob("cut after")
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"mine", if_generation_match=0, retry=QUICK_RETRY)
    assert [request.status for request in proxy.requests] == [None, 412]
    assert blob.download_as_bytes() == b"mine"


def test_a_download_cut_halfway_is_resumed(proxy: FaultProxy) -> None:
    data, blob = os.urandom(100_000), open_bucket(proxy.url).blob("half")
    blob.upload_from_string(data)
    blob.reload()  # gets a mediaLink, which must not bypass the proxy
    proxy.inject(Rule(method="GET", path="alt=media", truncate=50_000))
    assert blob.download_as_bytes(retry=QUICK_RETRY) == data
    assert [request.status for request in proxy.requests[-2:]] == [200, 206]


@pytest.mark.parametrize("rule", [Rule(hang=600, times=None), Rule(when="after", hang=600, times=None)])
def test_a_request_that_hangs_times_out_and_the_proxy_still_ends(server: StorageServer, rule: Rule) -> None:
    started = time.monotonic()
    with fault_proxy(server.url) as proxy:
        proxy.inject(rule)
        with pytest.raises(RetryError) as failure:
            open_bucket(proxy.url).blob("c").exists(timeout=0.2, retry=QUICK_RETRY.with_timeout(0.5))
        assert isinstance(failure.value.cause, requests.ReadTimeout)
        assert len(proxy.requests) > 1
    assert time.monotonic() - started < 5


def test_a_callback_runs_before_or_after_the_server_has_acted(server: StorageServer, proxy: FaultProxy) -> None:
    bucket, exists = open_bucket(server.url), []

    def record_existence() -> None:
        exists.append(bucket.blob("uploaded").exists())

    for rule in (Rule(path=UPLOAD, call=record_existence), Rule(path=UPLOAD, when="after", call=record_existence)):
        proxy.inject(rule)
        open_bucket(proxy.url).blob("uploaded").upload_from_string(b"", retry=None)
    assert exists == [False, True]


def test_ten_megabytes_in_chunks_all_go_through_the_proxy(proxy: FaultProxy, tmp_path: Path) -> None:
    data = os.urandom(10 << 20)
    (tmp_path / "large").write_bytes(data)
    proxy.inject(Rule(method="PUT", path=UPLOAD, status=503, skip=2))
    blob = open_bucket(proxy.url).blob("large", chunk_size=1 << 20)
    blob.upload_from_filename(tmp_path / "large", if_generation_match=0, retry=QUICK_RETRY)
    assert [request.method for request in proxy.requests].count("PUT") >= 11
    assert blob.download_as_bytes() == data


def test_a_chunked_request_and_a_second_one_on_the_same_connection_go_through(proxy: FaultProxy) -> None:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name=chunked"
    for chunks in ([b"one, ", b"two"], [b"three"]):
        connection.request(
            "POST", path, body=iter(chunks), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        assert connection.getresponse().read()
        connection.request("GET", f"/download/storage/v1/b/{BUCKET}/o/chunked?alt=media")
        assert connection.getresponse().read() == b"".join(chunks)
    connection.request("HEAD", f"/download/storage/v1/b/{BUCKET}/o/chunked?alt=media")
    assert connection.getresponse().getheader("Content-Length") == "5"
    connection.close()
