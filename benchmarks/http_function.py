"""The HTTP function beside a function of the same framework that only answers with the JSON it was sent.

Both are served as the image serves them, one process after the other on the first core, while the client has the last.
`performance.py` makes a table of it.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mbta_assets.serving.openapi_description import build_openapi

ROOT = Path(__file__).parents[1]
ECHO = """
import json

from flask import Response


def predict(request):
    return Response(json.dumps(request.get_json()), content_type="application/json")
"""
HEADERS = {"Content-Type": "application/json"}
START_SECONDS = 60.0


def example_body() -> bytes:
    """Return the request with one query that the description of the interface has as its example."""
    content = build_openapi()["paths"]["/predict"]["post"]["requestBody"]["content"]
    return json.dumps(content["application/json"]["example"]).encode()


@contextmanager
def serve(source: Path, store: Path) -> Iterator[int]:
    """Serve a function on the first core, and yield the port, at which it may not answer yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    core = min(os.sched_getaffinity(0))
    program = Path(sys.executable).with_name("functions-framework")
    command = [program, "--source", source, "--target", "predict", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        ["taskset", "--cpu-list", str(core), *command],
        env={**os.environ, "MBTA_MODEL": str(store), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield port
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def ask(port: int, path: str, body: bytes | None = None) -> None:
    """Ask until there is an answer with the status 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
            connection.request("GET" if body is None else "POST", path, body, HEADERS)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.005)
    raise TimeoutError(f"{path} did not answer within {START_SECONDS:.0f} s")


@contextmanager
def open_requests(store: Path) -> Iterator[dict[str, Callable[[], None]]]:
    """Serve both functions, and yield calls that make one request of each over a connection that stays open."""
    body = example_body()

    def request(connection: http.client.HTTPConnection, path: str) -> None:
        connection.request("POST", path, body, HEADERS)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise ValueError(f"{path} answers {response.status}")

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        echo = Path(scratch) / "main.py"
        echo.write_text(ECHO)
        calls = {}
        for name, source, path in (("echo", echo, "/"), ("predict", ROOT / "deploy/functions/main.py", "/predict")):
            port = servers.enter_context(serve(source, store))
            ask(port, path, body)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
            calls[name] = lambda connection=connection, path=path: request(connection, path)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        try:
            yield calls
        finally:
            os.sched_setaffinity(0, cores)


def start(store: Path, *, echo: bool = False, path: str = "/healthz") -> float:
    """Return the seconds from the start of a process until it has answered at a path."""
    with tempfile.TemporaryDirectory() as scratch:
        source = ROOT / "deploy/functions/main.py"
        if echo:
            source, path = Path(scratch) / "main.py", "/"
            source.write_text(ECHO)
        began = time.perf_counter()
        with serve(source, store) as port:
            ask(port, path, example_body() if path in ("/", "/predict") else None)
            return time.perf_counter() - began
