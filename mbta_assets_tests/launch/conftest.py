"""A fake of Vertex AI's REST API."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

VERSION_TOKENS = {"trip": "2024-04-01@v1", "training_set": "@v2", "dnn_teacher": "@v3"}
REASONS = {
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


@dataclass
class FakeVertexAI:
    """The requests of Vertex AI's REST API that the package sends, with responses in Vertex AI's form."""

    address: str = ""
    created: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Ids and bodies of the created jobs."""
    states: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """State of the job and of each of its tasks at each poll; the last one stays."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the responses to the next requests; 0 closes the connection, 200 is no failure."""
    loses_response: bool = False
    """Whether the response to the next created job is lost."""
    lists_jobs: bool = True
    """Whether a list has the jobs, as it has after a moment."""

    def post(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        kind = path.rpartition("/")[2]
        job_id = query["pipelineJobId"][0] if kind == "pipelineJobs" else str(1000 + len(self.created))
        if any(job_id == created for created, _ in self.created):
            return error(409, f"The PipelineJob {job_id} already exists.")
        self.created.append((job_id, body))
        return 200, {**body, "name": f"{path.removeprefix('/v1/')}/{job_id}", "state": "PIPELINE_STATE_PENDING"}

    def get(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        name = path.removeprefix("/v1/")
        if name.endswith("/pipelineJobs"):
            label, _, value = query["filter"][0].removeprefix("labels.").partition("=")
            listed = [
                {"name": f"{name}/{job_id}"}
                for job_id, job in reversed(self.created)
                if self.lists_jobs and job["labels"].get(label) == value.strip('"')
            ]
            return 200, {"pipelineJobs": listed[: int(query["pageSize"][0])]}
        job_id = name.rpartition("/")[2]
        if all(job_id != created for created, _ in self.created):
            return error(404, f"{name} is not found.")
        labels = next(job.get("labels", {}) for created, job in self.created if created == job_id)
        state, tasks = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if "customJobs" in name:
            failure = {"error": {"code": 3, "message": "The replica exited with 1."}} if "FAILED" in state else {}
            return 200, {"name": name, "state": state, **failure}
        details = [task_detail(index, *task) for index, task in enumerate(tasks.items())]
        return 200, {"name": name, "state": state, "labels": labels, "jobDetail": {"taskDetails": details}}


def task_detail(index: int, asset: str, state: str) -> dict[str, Any]:
    """Return the detail of a task as Vertex AI has it, with the metadata of its execution once it has succeeded."""
    detail: dict[str, Any] = {"taskId": str(index), "taskName": asset, "state": state}
    if state in ("SUCCEEDED", "SKIPPED"):
        detail["execution"] = {"metadata": {"input:asset": asset, "output:Output": VERSION_TOKENS.get(asset, "")}}
    if state == "FAILED":
        detail["error"] = {"code": 9, "message": f"The replica workerpool0-0 of {asset} ran out of memory."}
    return detail


def error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    """Return the response of a failed request."""
    return status, {"error": {"code": status, "message": message, "status": REASONS[status]}}


@pytest.fixture
def server() -> Iterator[FakeVertexAI]:
    fake = FakeVertexAI(states=[("PIPELINE_STATE_RUNNING", {})])

    class Handler(BaseHTTPRequestHandler):
        def _respond(self, method: str) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            failure = fake.failures.pop(0) if fake.failures else None
            if failure == 0:
                self.connection.close()
                return
            if failure not in (None, 200):
                status, content = error(failure, f"No luck: {failure}.")
            elif method == "POST":
                status, content = fake.post(url.path, parse_qs(url.query), json.loads(body))
                if fake.loses_response:
                    fake.loses_response = False
                    self.connection.close()
                    return
            else:
                status, content = fake.get(url.path, parse_qs(url.query))
            response = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def do_GET(self) -> None:
            self._respond("GET")

        def do_POST(self) -> None:
            self._respond("POST")

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    fake.address = f"http://127.0.0.1:{http.server_port}"
    yield fake
    http.shutdown()
    http.server_close()
