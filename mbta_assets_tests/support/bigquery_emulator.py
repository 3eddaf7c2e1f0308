"""A BigQuery server for tests: bqemulator, which serves BigQuery's REST and gRPC APIs from DuckDB, offline."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from mbta_assets.storage.atomic import lock_directory

EXTENSIONS = ("spatial", "avro")
START_TIMEOUT_SECONDS = 240.0


@dataclass(frozen=True)
class BigQueryServer:
    """A running server: its REST address, its gRPC port on 127.0.0.1, and its process."""

    url: str
    grpc_port: int
    process: subprocess.Popen[bytes]


@contextmanager
def bigquery_server(project: str = "test") -> Iterator[BigQueryServer]:
    """Run an empty server; its content is lost at the end."""
    _install_extensions()
    with TemporaryDirectory(prefix="bqemulator-") as directory:
        log = Path(directory, "log")
        # The server chooses its ports and logs them: a port found free here might be another worker's by then.
        command = [
            sys.executable, "-m", "bqemulator", "start", "--ephemeral", "--project", project,
            "--rest-port", "0", "--grpc-port", "0", "--log-format", "json", "--log-level", "info",
        ]  # fmt: skip
        environment = os.environ | {
            "BQEMU_UPLOAD_STAGING_DIR": str(Path(directory, "uploads")),
            "BQEMU_WRITE_API_MAX_REQUEST_BYTES": str(2**29),  # also the largest message of the Storage Read API
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield _wait_until_ready(process, log)
        finally:
            # Nothing is worth saving, and a graceful shutdown would wait for clients that keep their connections.
            process.kill()
            process.wait()


def _install_extensions() -> None:
    """Install the DuckDB extensions that the server loads from their Python packages, without a download."""
    import duckdb
    from duckdb_extensions import import_extension

    # Workers of pytest-xdist start at once. An installed extension stays: another environment may have installed it,
    # and DuckDB refuses to install the same extension from a second place.
    with lock_directory(Path.home() / ".duckdb"), duckdb.connect() as connection:
        for name in EXTENSIONS:
            query = "SELECT installed FROM duckdb_extensions() WHERE extension_name = ?"
            if connection.execute(query, [name]).fetchone() != (True,):
                import_extension(name, con=connection)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> BigQueryServer:
    """Wait until the server answers, and return it. Raises RuntimeError with its log if it exits or never answers."""
    # A proxy that the environment names cannot reach this machine's loopback.
    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        ports = _read_ports(log)
        if len(ports) == 2:
            url = f"http://127.0.0.1:{ports['rest.listen']}"
            try:
                with opener.open(f"{url}/readyz", timeout=5):
                    return BigQueryServer(url, ports["grpc.listen"], process)
            except (URLError, TimeoutError):
                pass
        time.sleep(0.05)
    state = "did not answer" if process.poll() is None else f"exited with {process.returncode}"
    raise RuntimeError(f"bqemulator {state}:\n{log.read_text(errors='replace')}")


def _read_ports(log: Path) -> dict[str, int]:
    """Return the ports that the server has logged so far, by the event that names them."""
    ports = {}
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a warning in plain text, or a line that is not complete yet
            continue
        if isinstance(event, dict) and event.get("event") in ("rest.listen", "grpc.listen"):
            ports[event["event"]] = int(event["port"])
    return ports
