"""An HTTP proxy in front of one server that injects faults on demand, as networks and clouds have them."""

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Literal
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

ERRORS = {
    400: ("invalidQuery", "INVALID_ARGUMENT"),
    401: ("authError", "UNAUTHENTICATED"),
    403: ("forbidden", "PERMISSION_DENIED"),
    404: ("notFound", "NOT_FOUND"),
    409: ("aborted", "ABORTED"),
    412: ("conditionNotMet", "FAILED_PRECONDITION"),
    429: ("rateLimitExceeded", "RESOURCE_EXHAUSTED"),
    500: ("internalError", "INTERNAL"),
    503: ("backendError", "UNAVAILABLE"),
}
"""Google's names of an error by HTTP status: the reason in the JSON APIs, and the status in gRPC."""


@dataclass(frozen=True)
class Rule:
    """Which requests fail, and how: `call` comes first, then `hang`, then `status`, `respond`, `cut` or `truncate`.

    With `when="after"` the server has already served the request, which its client does not know. A request that hangs
    "before" reaches the server late even if its client has disconnected, as on real networks.
    """

    method: str | None = None
    path: str = ""  # regular expression, searched in the path and query
    body: bytes = b""  # part of the request's body
    times: int | None = 1  # how many matching requests fail, None for all
    skip: int = 0  # how many matching requests pass before that

    when: Literal["before", "after"] = "before"
    call: Callable[[], object] | None = None  # e.g. kill the client, whose request is forwarded unless it is also cut
    hang: float = 0  # seconds
    status: int | None = None  # sent as an error of Google's JSON APIs
    reason: str | None = None  # instead of the usual one of the status
    message: str = "injected fault"
    respond: Callable[[str, bytes], tuple[int, Any] | None] | None = None
    # status and JSON of the response, given the path and the body of the request ("before") or of the server's response
    # ("after"); None leaves the request as it is
    cut: bool = False  # close the connection without a response
    truncate: int | None = None  # close the connection after so many bytes of the response's body

    def matches(self, method: str, path: str, body: bytes) -> bool:
        """Return whether the rule applies to a request."""
        return self.method in (None, method) and re.search(self.path, path) is not None and self.body in body


@dataclass
class RecordedRequest:
    """A request, and the status that its client was sent: None if the connection was cut, or before the response."""

    method: str
    path: str
    status: int | None = None


@dataclass(frozen=True)
class Response:
    """A response with its whole body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class FaultProxy:
    """The running proxy: rules can be injected at any time; `requests` has every request."""

    url: str
    upstream: str
    requests: list[RecordedRequest] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _rules: list[tuple[Rule, Iterator[int]]] = field(default_factory=list)  # with a counter of matches
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, *rules: Rule) -> None:
        """Add rules, which count requests from now on; of several that are due, the first one injected applies."""
        with self._lock:
            self._rules += [(rule, count()) for rule in rules]

    def clear(self) -> None:
        """Remove all rules."""
        with self._lock:
            self._rules.clear()

    def record(self, method: str, path: str, body: bytes) -> tuple[RecordedRequest, Rule | None]:
        """Record a request, and return it with the rule that applies to it."""
        request, due = RecordedRequest(method, path), None
        with self._lock:
            self.requests.append(request)
            for rule, matches in self._rules:
                if rule.matches(method, path, body):
                    number = next(matches) - rule.skip
                    if due is None and number >= 0 and (rule.times is None or number < rule.times):
                        due = rule
        return request, due


def google_error(status: int, message: str, reason: str | None = None) -> dict[str, Any]:
    """Return the body of an error response of Google's JSON APIs."""
    usual_reason, grpc_status = ERRORS.get(status, ("injected", "UNKNOWN"))
    details = {"domain": "global", "reason": reason or usual_reason, "message": message}
    return {"error": {"code": status, "message": message, "errors": [details], "status": grpc_status}}


class _ConnectionCut(Exception):
    """The client gets no response, or no more of it."""


class _Handler(BaseHTTPRequestHandler):
    """Handler of one client connection; it reads whole bodies, which rules can match."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def handle_request(self) -> None:
        """Forward a request and send its response, or fail as a rule says."""
        try:
            body = self._read_body()
            request, rule = self.server.proxy.record(self.command, self.path, body)
            response = self._apply(rule, body) if rule and rule.when == "before" else None
            response = response or self._forward(body)
            if rule and rule.when == "after":
                response = self._apply(rule, response.body) or response
            request.status = response.status
            self._send(response, rule.truncate if rule else None)
        except (_ConnectionCut, OSError, HTTPException):  # a server that is gone cuts its clients' connections too
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_request

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _read_body(self) -> bytes:
        """Read the body of a request, of known length or in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self._read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self._read_line().split(b";")[0], 16):
            chunks.append(self._read(size))
            self._read_line()
        while self._read_line().strip():  # trailers
            pass
        return b"".join(chunks)

    def _read(self, size: int) -> bytes:
        """Read so many bytes; the request of a client that disconnected halfway is dropped."""
        data = self.rfile.read(size)
        if len(data) < size:
            raise _ConnectionCut
        return data

    def _read_line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise _ConnectionCut
        return line

    def _apply(self, rule: Rule, body: bytes) -> Response | None:
        """Apply a rule, and return the response that it has for the client, if any."""
        if rule.call:
            rule.call()
        if self.server.proxy.closing.wait(rule.hang) or rule.cut:
            raise _ConnectionCut
        if rule.status is not None:
            outcome: tuple[int, Any] | None = rule.status, google_error(rule.status, rule.message, rule.reason)
        else:
            outcome = rule.respond(self.path, body) if rule.respond else None
        if outcome is None:
            return None
        status, content = outcome
        headers = [("Content-Type", "application/json; charset=UTF-8")]
        return Response(status, headers, json.dumps(content).encode())

    def _forward(self, body: bytes) -> Response:
        """Send the request to the server and return its response, with the proxy's address instead of the server's."""
        proxy = self.server.proxy
        upstream = HTTPConnection(urlsplit(proxy.upstream).netloc)
        try:
            upstream.connect()
            # The client's Host is kept: both emulators build from it the URLs that clients use next.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length", "expect"}:
                    upstream.putheader(name, value)
            if body or self.command not in ("GET", "HEAD"):
                upstream.putheader("Content-Length", str(len(body)))
            with suppress(ConnectionError):  # a server may refuse before it has read everything; its response counts
                upstream.endheaders(body)
            response = upstream.getresponse()
            headers, content = response.getheaders(), response.read()
        finally:
            upstream.close()
        # Not every URL: the mediaLink in an object's metadata has the server's address. Media are not changed.
        is_metadata = (response.getheader("Content-Type") or "").startswith("application/json")
        if is_metadata and not response.getheader("Content-Encoding") and "alt=media" not in self.path:
            content = content.replace(proxy.upstream.encode(), proxy.url.encode())
        end_to_end = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
        rewritten = [
            (name, value.replace(proxy.upstream, proxy.url) if name.lower() == "location" else value)
            for name, value in end_to_end
        ]
        return Response(response.status, rewritten, content)

    def _send(self, response: Response, truncate: int | None) -> None:
        """Send a response, or the first bytes of its body."""
        self.send_response_only(response.status)
        has_no_body = self.command == "HEAD" or response.status in (204, 304)
        for name, value in response.headers:
            if has_no_body or name.lower() != "content-length":
                self.send_header(name, value)
        if not has_no_body:
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body[:truncate])
        if truncate is not None:
            raise _ConnectionCut


class _Server(ThreadingHTTPServer):
    """Server that knows its open connections and closes them at its end; its base class would go on serving them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = FaultProxy(f"http://127.0.0.1:{self.server_port}", upstream.rstrip("/"))
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of a connection."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error unless a client has only disconnected."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Close every connection, also those that hang."""
        self.proxy.closing.set()
        self.shutdown()
        self.server_close()
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server at a URL."""
    server = _Server(upstream)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.proxy
    finally:
        server.close()
