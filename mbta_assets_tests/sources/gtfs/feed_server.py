"""A real HTTP server that plays feeds: one content after another, conditional requests, and faults."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Play = Callable[["Request"], "Reply"]


@dataclass(frozen=True)
class Request:
    """A request, and how many there were for this path before."""

    path: str
    number: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What the server answers: `sent` is the part of the content that it sends before it hangs up."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sent: float = 1.0


@dataclass
class FeedServer:
    """A running server; `plays` says by path what is answered, and may be changed at any time."""

    url: str
    plays: dict[str, Play] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def paths(self, path: str) -> list[Request]:
        """Return the requests of a path so far."""
        with self.lock:
            return [request for request in self.requests if request.path == path]


def conditional(content: bytes) -> Play:
    """Answer with a content and its ETag, and with 304 if the client has it."""
    etag = f'"{sha256(content).hexdigest()[:8]}"'

    def play(request: Request) -> Reply:
        if request.headers.get("if-none-match") == etag:
            return Reply(status=304)
        return Reply(content, headers={"ETag": etag})

    return play


def in_turn(replies: list[Reply]) -> Play:
    """Answer with one reply after the other, and with the last one for ever."""
    return lambda request: replies[min(request.number, len(replies) - 1)]


@contextmanager
def feed_server() -> Iterator[FeedServer]:
    """Run a server on this machine."""
    server = FeedServer("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            with server.lock:
                number = sum(request.path == self.path for request in server.requests)
                request = Request(self.path, number, headers)
                server.requests.append(request)
            play = server.plays.get(self.path)
            reply = play(request) if play else Reply(status=404)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 304:
                self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content[: round(len(reply.content) * reply.sent)])
            if reply.sent < 1:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of clients that were killed."""

    socketserver.TCPServer.allow_reuse_address = True
    with Server(("127.0.0.1", 0), Handler) as running:
        server.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, args=[0.02], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
