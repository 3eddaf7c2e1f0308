"""Every command of every document is run as it is written, except in blocks that say what they need.

They run in a directory that looks like a clone after its installation, on free ports. The days of the demo are those of
a small network.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from zipfile import ZipFile

import pytest

from mbta_assets.defs.demo import DAYS as DEMO_DAYS
from mbta_assets.defs.demo import FIRST_DAY
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, Reply, feed_server
from mbta_assets_tests.support import gtfs_day, real_day, small_network
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR, ROOT, free_port
from mbta_assets_tests.support.documents import DOCUMENTS, read_blocks

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("documents")]

NEEDS = {"a Ray cluster", "cloud", "docker", "internet"}
"""What blocks may say that they need."""
FIRST = ("README.md", "tutorial.md")
"""Documents whose commands are run before those of others, which go on from what they have stored."""
ONCE = ("make demo", "dg launch")
"""Commands that are not run again where another document repeats them word by word."""
SERVERS = {"make dev": 3000, "make serve": 8080, "mbta-assets live": 8090, "mbta-assets collect": 9464}
"""Commands that go on until they are stopped, and the ports that they listen at."""
ANSWERS = {3000: "/server_info", 8080: "/healthz", 8090: "/healthz", 9464: "/health"}
"""Paths at which they answer once they run."""
OF_LIBRARIES = re.compile(r"site-packages|^\s+warnings.warn\(")
"""Warnings of other packages: Kubeflow's runner is not isolated, and Dagster prefers `dg launch` to `dagster`."""
PROLOGUE = """
set -euo pipefail
serve() {  # a port, the path that answers, and a command, which goes on behind those that follow
    local port=$1 path=$2
    shift 2
    "$@" > "$port.log" 2>&1 &
    local process=$!
    until curl --silent --output answer "http://127.0.0.1:$port$path"; do
        kill -0 $process 2> kill.log || { cat "$port.log"; exit 1; }
        sleep 0.3
    done
}
"""


def end_group(group: int) -> None:
    """End the processes of a group, in order or after some seconds at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        for _ in range(50):
            time.sleep(0.1)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


@dataclass
class Clone:
    """A directory that looks like a clone after its installation, and what has been run in it."""

    root: Path
    variables: dict[str, str]
    ports: dict[int, int] = field(default_factory=lambda: {port: free_port() for port in ANSWERS})
    ran: set[str] = field(default_factory=set)

    def run(self, script: str) -> str:
        """Run a script and return what it printed; then end all that it has started. Fail unless it succeeds."""
        process = subprocess.Popen(
            ["bash", "-c", PROLOGUE + script],
            cwd=self.root,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=600 * BUSY_FACTOR)
        finally:
            end_group(process.pid)
        assert process.returncode == 0, f"{script}\n{output[-6000:]}"
        return output

    def translate(self, script: str) -> str:
        """Return a script of a document with free ports, without what has been run, and with servers in the back."""
        lines = []
        for line in script.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command.startswith(ONCE):
                if command in self.ran:
                    continue
                self.ran.add(command)
            server = next((name for name in SERVERS if command.startswith(name)), None)
            if server is not None:
                port = SERVERS[server]
                given = f"PORT={self.ports[port]}" if server.startswith("make") else f"--port {self.ports[port]}"
                command = f"serve {self.ports[port]} {ANSWERS[port]} {command} {given}"
            lines.append(command)
        script = "\n".join(lines)
        for port, free in self.ports.items():
            script = script.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        return script


@pytest.fixture(scope="module")
def feeds() -> Iterator[FeedServer]:
    """Serve a snapshot of vehicle positions."""
    with feed_server() as server:
        with ZipFile(gtfs_day.WMATA / gtfs_day.SNAPSHOTS) as snapshots:
            content = snapshots.read(snapshots.namelist()[-1])
        server.plays["/positions.pb"] = lambda request: Reply(content)
        yield server


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, feeds: FeedServer) -> Clone:
    """Make the directory: links to what is in the repository, a virtual environment, and data."""
    root = tmp_path_factory.mktemp("clone")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {path.split("/")[0] for path in tracked.splitlines()}:
        (root / name).symlink_to(ROOT / name)
    (root / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (root / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (root / ".venv/.installed").touch()
    real_day.write_days(root / "DIR", real_day.DAYS)
    small_network.write(root / "small", small_network.days_from(FIRST_DAY, DEMO_DAYS), every=4)
    (root / ".feeds").mkdir()
    for name in (gtfs_day.SNAPSHOTS, gtfs_day.STATIC):
        shutil.copy(gtfs_day.WMATA / name, root / ".feeds")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MBTA_", "DAGSTER_"))}
    variables = {
        "PATH": f"{root}/.venv/bin{os.pathsep}{kept['PATH']}",
        "DAGSTER_HOME": f"{root}/.dagster",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MBTA_SOURCE": "files",
        "MBTA_FILES_DIR": f"{root}/small",
        "MBTA_TUNE_TRIALS": "1",
        "MBTA_TRAINING_THREADS": "1",
        "MBTA_VEHICLE_POSITIONS": f"{feeds.url}/positions.pb",
        "MBTA_GTFS_STATIC": str(gtfs_day.WMATA / gtfs_day.STATIC),
    }
    return Clone(root, {**kept, **variables})


def order_documents() -> list[Path]:
    """Return the documents that have commands, in the order in which these are run."""
    documents = [path for path in DOCUMENTS if any(not block.need for block in read_blocks(path, "sh"))]
    return sorted(documents, key=lambda path: FIRST.index(path.name) if path.name in FIRST else len(FIRST))


def test_blocks_need_what_a_test_cannot_have() -> None:
    assert {block.need for document in DOCUMENTS for block in read_blocks(document, "sh")} == NEEDS | {""}


@pytest.mark.parametrize("document", order_documents(), ids=lambda path: path.name)
def test_the_commands_of_a_document_succeed(document: Path, clone: Clone) -> None:
    blocks = read_blocks(document, "sh")
    script = "\n".join(block.text for block in blocks if not block.need)
    output = clone.run(clone.translate(substitute(script, clone.root)))
    warnings = [line for line in output.splitlines() if re.search("warning", line, re.IGNORECASE)]
    assert not [line for line in warnings if not OF_LIBRARIES.search(line)]


def substitute(script: str, root: Path) -> str:
    """Return a script with the trip and the version of this store in place of those that a document names."""
    if "mbta-assets explain" in script:
        script = re.sub(r"(explain) .*", rf"\1 {find_visit(root / '.local', date(2024, 9, 18))}", script)
    if "rollback_production" in script:
        script = script.replace("0123abcd", add_versions(root / ".local")[:8])
    return script


def find_visit(store: Path, day: date) -> str:
    """Return the arguments of a visit of a stored day that was predicted."""
    row = ParquetTables(store).read("delay_predictions", [day]).slice(0, 1).to_pylist()[0]
    at = row["time_stamp"].isoformat()
    return shlex.join([str(day), row["trip_id"], str(row["stop_sequence"]), "--at", at])


def add_versions(store: Path) -> str:
    """Promote two versions more of the model of a store, and return the digest of the first one."""
    registry = ModelRegistry(store)
    first = registry.current("production_model")
    for number in (1, 2):
        fields = {key: value for key, value in first.manifest.items() if key not in ("format_version", "kind", "files")}
        files = {name: first.file(name) for name in first.manifest["files"]}
        again = registry.put("production_model", Draft(first.manifest["kind"], files, {**fields, "seed": 100 + number}))
        registry.make_current("production_model", again.digest)
    return first.digest
