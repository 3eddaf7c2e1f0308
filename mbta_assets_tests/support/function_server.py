"""Run one of the functions under functions-framework in its own process, and send it requests."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR, ROOT, eventually, free_port


@dataclass(frozen=True)
class Response:
    """A response of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body as JSON. Raises AssertionError if its content type is another one."""
        assert self.headers["Content-Type"] == "application/json", self
        return json.loads(self.body)


class FunctionServer:
    """A process that serves one of the functions on a local port and logs to a file."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self._process, self.port, self.log = process, port, log

    @classmethod
    def start(cls, target: str, log: Path, prefix: Sequence[str] = (), **variables: str) -> "FunctionServer":
        """Start functions-framework with settings in its environment, and wait until it listens.

        `prefix` is a command that executes another, with its options.
        """
        port = free_port()
        program = Path(sys.executable).with_name("functions-framework")
        command = [*prefix, str(program), "--source", str(ROOT / "deploy/functions/main.py"), "--target", target]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = cls(process, port, log)
        try:
            eventually(f"{target} listens", 60, server.is_listening)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def address(self) -> str:
        """Return the base URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Response:
        """Send a request on a new connection; a body other than bytes or an iterator is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30 * BUSY_FACTOR)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes | Iterator):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            response = connection.getresponse()
            return Response(response.status, dict(response.getheaders()), response.read())

    def log_entries(self) -> list[dict[str, Any]]:
        """Return the entries of the log. Raises ValueError if a line is not JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def is_listening(self) -> bool:
        """Return whether the server responds. Raises AssertionError if its process has ended."""
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.request("/healthz").status in (200, 405)
        except OSError:
            return False


@contextlib.contextmanager
def serve_predictions(store: Path, log: Path, **variables: str) -> Iterator[FunctionServer]:
    """Serve the model of a store with the function `predict`."""
    settings = {"MBTA_STORE": str(store), "MBTA_REFRESH_SECONDS": "1", **variables}
    server = FunctionServer.start("predict", log, **settings)
    try:
        yield server
    finally:
        server.stop()
