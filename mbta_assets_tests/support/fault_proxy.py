"""An HTTP proxy in front of one server that goes wrong on demand, the way networks and clouds do."""

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

# How Google names what went wrong: the reason of the JSON APIs, and the status of gRPC.
ERRORS = {
    400: ("invalidQuery", "INVALID_ARGUMENT"),
    401: ("authError", "UNAUTHENTICATED"),
    403: ("forbidden", "PERMISSION_DENIED"),
    404: ("notFound", "NOT_FOUND"),
    412: ("conditionNotMet", "FAILED_PRECONDITION"),
    429: ("rateLimitExceeded", "RESOURCE_EXHAUSTED"),
    500: ("internalError", "INTERNAL"),
    503: ("backendError", "UNAVAILABLE"),
}


@dataclass(frozen=True)
class Rule:
    """Which requests go wrong, and how; of what is set, `call` comes first, then `hang`, then the outcome.

    With `when="after"` the server has done as asked before anything goes wrong, and only the client is left to find
    out. A request that hangs "before" reaches the server late even if its client has left, as on real networks.
    """

    method: str | None = None
    path: str = ""  # a regular expression, searched for in the path with its query
    body: bytes = b""  # what the request's body contains
    times: int | None = 1  # how many matching requests go wrong, None for all
    skip: int = 0  # how many matching requests go well before that

    when: Literal["before", "after"] = "before"
    call: Callable[[], object] | None = None  # e.g. kill the client, whose request goes on unless also cut
    hang: float = 0  # seconds
    status: int | None = None  # answered in Google's style
    reason: str | None = None  # in place of the status' usual one
    message: str = "injected fault"
    answer: Callable[[str, bytes], tuple[int, Any] | None] | None = None
    # the status and JSON for the path and the request's body, or after the server the body of its answer; None goes on
    cut: bool = False  # close the connection without an answer
    truncate: int | None = None  # close the connection after so many bytes of the server's answer

    def meets(self, method: str, path: str, body: bytes) -> bool:
        """Whether it is about this request."""
        return self.method in (None, method) and re.search(self.path, path) is not None and self.body in body


@dataclass
class Seen:
    """A request, and the status its client was sent: None if it was cut off, or still waits."""

    method: str
    path: str
    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """A response whose whole body is known."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class FaultProxy:
    """The running proxy: `inject` rules at any time; what clients asked is in `seen`."""

    url: str
    upstream: str
    seen: list[Seen] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _rules: list[tuple[Rule, Iterator[int]]] = field(default_factory=list)  # with what counts the matches
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, *rules: Rule) -> None:
        """Add rules, counting from now; where several are due, the first one injected acts."""
        with self._lock:
            self._rules += [(rule, count()) for rule in rules]

    def clear(self) -> None:
        """Let everything go well again."""
        with self._lock:
            self._rules.clear()

    def arrive(self, method: str, path: str, body: bytes) -> tuple[Seen, Rule | None]:
        """Note a request, and the rule to which it falls."""
        seen, due = Seen(method, path), None
        with self._lock:
            self.seen.append(seen)
            for rule, matches in self._rules:
                if rule.meets(method, path, body):
                    acted = next(matches) - rule.skip
                    if due is None and acted >= 0 and (rule.times is None or acted < rule.times):
                        due = rule
        return seen, due


def google_error(status: int, message: str, reason: str | None = None) -> dict[str, Any]:
    """An error as Google's JSON APIs answer it."""
    usual, grpc = ERRORS.get(status, ("injected", "UNKNOWN"))
    problem = {"domain": "global", "reason": reason or usual, "message": message}
    return {"error": {"code": status, "message": message, "errors": [problem], "status": grpc}}


class _Cut(Exception):
    """The client gets no answer, or no more of it."""


class _Handler(BaseHTTPRequestHandler):
    """Serves one client connection; bodies are held whole, so that rules can look into them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def answer(self) -> None:
        """Pass one request on and its response back, unless a rule is against it."""
        try:
            body = self._request_body()
            seen, rule = self.server.proxy.arrive(self.command, self.path, body)
            response = self._fail(rule, body) if rule and rule.when == "before" else None
            response = response or self._forward(body)
            if rule and rule.when == "after":
                response = self._fail(rule, response.body) or response
            seen.status = response.status
            self._send(response, rule.truncate if rule else None)
        except (_Cut, OSError, HTTPException):  # a server that is gone cuts its clients off too
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _request_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self._read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self._line().split(b";")[0], 16):
            chunks.append(self._read(size))
            self._line()
        while self._line().strip():  # trailers
            pass
        return b"".join(chunks)

    def _read(self, size: int) -> bytes:
        """So many bytes; the request of a client that left halfway goes nowhere."""
        data = self.rfile.read(size)
        if len(data) < size:
            raise _Cut
        return data

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise _Cut
        return line

    def _fail(self, rule: Rule, body: bytes) -> Answer | None:
        """Do as the rule says, and return the answer it has for the client."""
        if rule.call:
            rule.call()
        if self.server.proxy.closing.wait(rule.hang) or rule.cut:
            raise _Cut
        answer = rule.answer(self.path, body) if rule.answer else None
        if rule.status is not None:
            answer = rule.status, google_error(rule.status, rule.message, rule.reason)
        if answer is None:
            return None
        headers = [("Content-Type", "application/json; charset=UTF-8")]
        return Answer(answer[0], headers, json.dumps(answer[1]).encode())

    def _forward(self, body: bytes) -> Answer:
        proxy = self.server.proxy
        upstream = HTTPConnection(urlsplit(proxy.upstream).netloc)
        try:
            upstream.connect()
            # The client's Host goes along: from it both emulators build the URLs that clients are to use next.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length", "expect"}:
                    upstream.putheader(name, value)
            if body or self.command not in ("GET", "HEAD"):
                upstream.putheader("Content-Length", str(len(body)))
            with suppress(ConnectionError):  # a server may refuse before it has read all, and its answer counts
                upstream.endheaders(body)
            response = upstream.getresponse()
            headers, content = response.getheaders(), response.read()
        finally:
            upstream.close()
        # Not all are built so: the mediaLink of an object's metadata leads straight to the server. Media stay as is.
        is_metadata = (response.getheader("Content-Type") or "").startswith("application/json")
        if is_metadata and not response.getheader("Content-Encoding") and "alt=media" not in self.path:
            content = content.replace(proxy.upstream.encode(), proxy.url.encode())
        kept = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
        moved = [(n, v.replace(proxy.upstream, proxy.url) if n.lower() == "location" else v) for n, v in kept]
        return Answer(response.status, moved, content)

    def _send(self, answer: Answer, truncate: int | None) -> None:
        self.send_response_only(answer.status)
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        for name, value in answer.headers:
            if bodiless or name.lower() != "content-length":
                self.send_header(name, value)
        if not bodiless:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:truncate])
        if truncate is not None:
            raise _Cut


class _Server(ThreadingHTTPServer):
    """Knows its open connections, which a plain one would go on serving after its end."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = FaultProxy(f"http://127.0.0.1:{self.server_port}", upstream.rstrip("/"))
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End one connection."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what is not just a client that died."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """End everything, also what hangs."""
        self.proxy.closing.set()
        self.shutdown()
        self.server_close()
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Start a proxy in front of the server at this URL; end it afterwards."""
    server = _Server(upstream)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.proxy
    finally:
        server.close()
