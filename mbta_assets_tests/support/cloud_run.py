"""A Cloud Run server for tests: the requests of its REST API that the package sends, about one job."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMPLETED = "2026-11-25T09:00:00Z"


@dataclass
class CloudRunServer:
    """A running server, with the executions of its job, the latest last, and all requests."""

    url: str
    job: str
    executions: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and body of each request."""

    def add_execution(self, environment: list[dict[str, str]], created_at: datetime | None = None) -> dict[str, Any]:
        """Begin an execution, and return it."""
        execution = {
            "name": f"{self.job}/executions/mbta-run-{len(self.executions):05}",
            "createTime": (created_at or datetime.now(UTC)).isoformat().replace("+00:00", "000Z"),
            "template": {"containers": [{"image": "mbta", "env": [{"name": "MBTA_SOURCE"}, *environment]}]},
            "runningCount": 1,
        }
        self.executions.append(execution)
        return execution

    def finish(self, number: int, outcome: str) -> None:
        """End an execution; the outcome is `succeeded`, `failed` or `cancelled`."""
        self.executions[number] |= {"completionTime": COMPLETED, "runningCount": 0, f"{outcome}Count": 1}

    def has_ended(self, number: int) -> bool:
        """Return whether an execution has ended."""
        return "completionTime" in self.executions[number]

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Return the status and the content of a response."""
        if (method, path) == ("POST", f"{self.job}:run"):
            [container] = body["overrides"]["containerOverrides"]
            return 200, {"metadata": self.add_execution(container.get("env", []))}
        if (method, path) == ("GET", f"{self.job}/executions"):
            start, size = int(query.get("pageToken", ["0"])[0]), int(query["pageSize"][0])
            latest_first = self.executions[::-1]
            more = {"nextPageToken": str(start + size)} if len(latest_first) > start + size else {}
            return 200, {"executions": latest_first[start : start + size], **more}
        name, _, action = path.partition(":")
        numbers = [number for number, execution in enumerate(self.executions) if execution["name"] == name]
        if not numbers:
            return _error(404, f"{path} is not found.")
        if action == "cancel":
            if self.has_ended(numbers[0]):
                return _error(400, "The execution has already completed.")
            self.finish(numbers[0], "cancelled")
        return 200, self.executions[numbers[0]]


def _error(status: int, message: str) -> tuple[int, Any]:
    """Return the response of a failed request."""
    return status, {"error": {"code": status, "message": message}}


@contextmanager
def cloud_run_server(job: str) -> Iterator[CloudRunServer]:
    """Run a server that has one job without executions."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            url = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(text) if text else None
            path = url.path.removeprefix("/v2/")
            server.requests.append((self.command, path, body))
            status, content = server.respond(self.command, path, parse_qs(url.query), body)
            response = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        do_GET = do_POST = respond

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = CloudRunServer(f"http://127.0.0.1:{http.server_port}", job)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
