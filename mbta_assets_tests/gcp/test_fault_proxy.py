"""The proxy fails as it is told, seen from a real client in front of a real server."""

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from google.api_core.exceptions import PreconditionFailed, RetryError, TooManyRequests
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, fault_proxy
from mbta_assets_tests.support.storage_emulator import StorageServer, storage_server

QUICK = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.01)
UPLOAD = r"^/upload/"


@pytest.fixture(scope="module")
def server() -> Iterator[StorageServer]:
    """One real server for all."""
    with storage_server("lake") as running:
        yield running


@pytest.fixture
def proxy(server: StorageServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of it, without rules yet."""
    # Otherwise each new client also looks up its bucket in a thread, at any moment.
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    with fault_proxy(server.url) as running:
        yield running


def bucket(url: str) -> storage.Bucket:
    """The bucket, as seen by a new client of that URL."""
    return storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url}).bucket("lake")


def test_a_service_unavailable_twice_is_overcome_by_the_third_try(proxy: FaultProxy) -> None:
    proxy.inject(Rule(method="POST", path=UPLOAD, status=503, times=2))
    bucket(proxy.url).blob("a").upload_from_string(b"a", retry=QUICK)
    assert [seen.status for seen in proxy.seen] == [503, 503, 200]


def test_a_rule_skips_matches_looks_into_bodies_and_answers_like_google(proxy: FaultProxy) -> None:
    proxy.inject(Rule(body=b"poison", status=429, reason="quotaExceeded", skip=1, times=None))
    lake = bucket(proxy.url)
    for data in (b"poison", b"food"):
        lake.blob("b").upload_from_string(data)
    for _ in range(2):
        with pytest.raises(TooManyRequests) as failure:
            lake.blob("b").upload_from_string(b"poison", retry=None)
    assert failure.value.response.json()["error"] == {
        "code": 429,
        "message": "injected fault",
        "errors": [{"domain": "global", "reason": "quotaExceeded", "message": "injected fault"}],
        "status": "RESOURCE_EXHAUSTED",
    }
    proxy.clear()
    lake.blob("b").upload_from_string(b"poison", retry=None)


def test_an_upload_cut_before_forwarding_never_happened(server: StorageServer, proxy: FaultProxy) -> None:
    proxy.inject(Rule(path=UPLOAD, cut=True))
    with pytest.raises(requests.ConnectionError):
        bucket(proxy.url).blob("cut before").upload_from_string(b"", if_generation_match=0, retry=None)
    assert not bucket(server.url).blob("cut before").exists()


def test_an_upload_cut_after_forwarding_happened_unheard(proxy: FaultProxy) -> None:
    proxy.inject(Rule(path=UPLOAD, when="after", cut=True))
    blob = bucket(proxy.url).blob("cut after")
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"mine", if_generation_match=0, retry=QUICK)
    assert [seen.status for seen in proxy.seen] == [None, 412]
    assert blob.download_as_bytes() == b"mine"


def test_a_download_cut_halfway_is_resumed(proxy: FaultProxy) -> None:
    data, blob = os.urandom(100_000), bucket(proxy.url).blob("half")
    blob.upload_from_string(data)
    blob.reload()  # and so gets a mediaLink, which must not lead around the proxy
    proxy.inject(Rule(method="GET", path="alt=media", truncate=50_000))
    assert blob.download_as_bytes(retry=QUICK) == data
    assert [seen.status for seen in proxy.seen[-2:]] == [200, 206]


@pytest.mark.parametrize("rule", [Rule(hang=600, times=None), Rule(when="after", hang=600, times=None)])
def test_a_request_that_hangs_times_out_and_the_proxy_still_ends(server: StorageServer, rule: Rule) -> None:
    started = time.monotonic()
    with fault_proxy(server.url) as proxy:
        proxy.inject(rule)
        with pytest.raises(RetryError) as failure:
            bucket(proxy.url).blob("c").exists(timeout=0.2, retry=QUICK.with_timeout(0.5))
        assert isinstance(failure.value.cause, requests.ReadTimeout)
        assert len(proxy.seen) > 1
    assert time.monotonic() - started < 5


def test_a_callback_runs_before_or_after_the_server_has_acted(server: StorageServer, proxy: FaultProxy) -> None:
    direct, there = bucket(server.url), []

    def look() -> None:
        there.append(direct.blob("looked for").exists())

    for rule in (Rule(path=UPLOAD, call=look), Rule(path=UPLOAD, when="after", call=look)):
        proxy.inject(rule)
        bucket(proxy.url).blob("looked for").upload_from_string(b"", retry=None)
    assert there == [False, True]


def test_ten_megabytes_in_chunks_all_go_through_the_proxy(proxy: FaultProxy, tmp_path: Path) -> None:
    data = os.urandom(10 << 20)
    (tmp_path / "large").write_bytes(data)
    proxy.inject(Rule(method="PUT", path=UPLOAD, status=503, skip=2))
    blob = bucket(proxy.url).blob("large", chunk_size=1 << 20)
    blob.upload_from_filename(tmp_path / "large", if_generation_match=0, retry=QUICK)
    assert [seen.method for seen in proxy.seen].count("PUT") >= 11
    assert blob.download_as_bytes() == data


def test_a_chunked_request_and_a_second_one_on_the_same_connection_go_through(proxy: FaultProxy) -> None:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
    path = "/upload/storage/v1/b/lake/o?uploadType=media&name=chunked"
    for chunks in ([b"one, ", b"two"], [b"three"]):
        connection.request(
            "POST", path, body=iter(chunks), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        assert connection.getresponse().read()
        connection.request("GET", "/download/storage/v1/b/lake/o/chunked?alt=media")
        assert connection.getresponse().read() == b"".join(chunks)
    connection.request("HEAD", "/download/storage/v1/b/lake/o/chunked?alt=media")
    assert connection.getresponse().getheader("Content-Length") == "5"
    connection.close()
