"""Run `dg dev` as a group of processes, query it over GraphQL, end it in order or kill it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
BUSY_FACTOR = 4
"""How many times as long as on a quiet machine something may take: a wait that is long enough costs nothing."""
LOCATION = {"repositoryLocationName": "mbta_assets", "repositoryName": "__repository__"}
ASSET_JOB = LOCATION | {"pipelineName": "__ASSET_JOB"}


def eventually(condition: str, seconds: float, look: Callable[[], T], every: float = 0.3) -> T:
    """Poll until `look` returns something true, and return it.

    Raise AssertionError after `BUSY_FACTOR` times `seconds`, which a quiet machine needs at most.
    """
    seconds *= BUSY_FACTOR
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := look():
            return result
        time.sleep(every)
    raise AssertionError(f"not within {seconds:.0f} s: {condition}")


def environment(store: Path, upstream: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a command that materializes assets from files, with its own store and DAGSTER_HOME."""
    home = store / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    settings = {
        "DAGSTER_HOME": str(home),
        "MBTA_STORE": str(store),
        "MBTA_SOURCE": "files",
        "MBTA_FILES_DIR": str(upstream),
        "MBTA_START_DATE": "2024-04-01",
        "MBTA_TUNE_TRIALS": "1",
        "MBTA_TRAINING_THREADS": "1",  # tests run side by side
        "WANDB_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **settings, **variables}


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def poll_quickly(configuration: str) -> str:
    """Return the text of dagster.yaml with shorter intervals.

    A run that starts after its timeout is retried and goes on nevertheless, so the timeout is one of a busy machine.
    """
    for written, quick in (
        ("poll_interval_seconds: 30", "poll_interval_seconds: 2"),
        ("start_timeout_seconds: 180", f"start_timeout_seconds: {30 * BUSY_FACTOR}"),
    ):
        assert written in configuration
        configuration = configuration.replace(written, quick)
    return configuration


class DagsterDev:
    """Webserver, daemon and code server on a DAGSTER_HOME; restarted, they continue with what is stored there."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.home = Path(environment["DAGSTER_HOME"])

    def start(self) -> None:
        """Start the processes and wait until the code location is loaded."""
        (self.home / "dagster.yaml").write_text(poll_quickly((ROOT / "dagster.yaml").read_text()))
        self.port = free_port()
        command = [sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / "workspace.yaml")]
        with (self.home / "dev.log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=self.home,
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually("the code location is loaded", 90, self._is_loaded)

    def kill(self) -> None:
        """Kill every process at once, the runs with them, as when the machine goes down."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End the processes in order, or kill them after some seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            self.kill()

    @property
    def address(self) -> str:
        """Return the address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, query: str, **variables: Any) -> Any:
        """Run a GraphQL query and return its only field. Raise AssertionError if the answer is an error."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30 * BUSY_FACTOR) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        assert "errors" not in answer, answer
        [field] = answer["data"].values()
        return field

    def runs(self) -> list[dict[str, Any]]:
        """Return every run: its id, status, tags, times, and the run that it retries."""
        query = """{ runsOrError { ... on Runs { results {
            runId status parentRunId endTime tags { key value }
            stats { ... on RunStatsSnapshot { launchTime } } } } } }"""
        return self.ask(query)["results"]

    def backfill(self, assets: Sequence[str], days: Sequence[date]) -> str:
        """Launch a backfill and return its id."""
        query = """mutation ($backfill: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $backfill) {
            __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
        backfill = {
            "assetSelection": [{"path": [asset]} for asset in assets],
            "partitionNames": [str(day) for day in days],
        }
        launched = self.ask(query, backfill=backfill)
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def backfill_status(self, backfill: str) -> str:
        """Return the status of a backfill, as Dagster names it."""
        query = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
            ... on PartitionBackfill { status } } }"""
        return self.ask(query, id=backfill)["status"]

    def materialize(self, assets: Sequence[str], day: date | None = None) -> str:
        """Launch a run of assets and return its id."""
        query = """mutation ($run: ExecutionParams!) { launchRun(executionParams: $run) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
        tags = [{"key": "dagster/partition", "value": str(day)}] if day else []
        selection = ASSET_JOB | {"assetSelection": [{"path": [asset]} for asset in assets]}
        run = {"selector": selection, "mode": "default", "executionMetadata": {"tags": tags}}
        launched = self.ask(query, run=run)
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def succeed(self, run: str, seconds: float) -> None:
        """Wait until a run has succeeded. Raise AssertionError if it fails."""

        def ended() -> str | None:
            [status] = [other["status"] for other in self.runs() if other["runId"] == run]
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        assert eventually(f"run {run} has ended", seconds, ended) == "SUCCESS"

    def start_sensor(self, name: str) -> None:
        """Switch on a sensor."""
        query = """mutation ($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) {
            __typename ... on PythonError { message } } }"""
        started = self.ask(query, sensor=LOCATION | {"sensorName": name})
        assert started["__typename"] == "Sensor", started

    def reset_sensor(self, name: str) -> None:
        """Put a sensor back to its default, which is off."""
        query = """mutation ($sensor: SensorSelector!) { resetSensor(sensorSelector: $sensor) {
            __typename ... on PythonError { message } } }"""
        reset = self.ask(query, sensor=LOCATION | {"sensorName": name})
        assert reset["__typename"] == "Sensor", reset

    @contextlib.contextmanager
    def sensors_on(self, *names: str) -> Iterator[None]:
        """Switch on sensors, wait until each has looked around once, and put them back afterwards."""
        before = {name: len(self.ticks(name)) for name in names}
        for name in names:
            self.start_sensor(name)
        try:
            eventually(
                f"{names} have looked around",
                90,
                lambda: all(len(self.ticks(name)) > before[name] for name in names),
            )
            yield
        finally:
            for name in names:
                self.reset_sensor(name)

    def ticks(self, sensor: str) -> list[str]:
        """Return the status of each finished tick of a sensor. Raise AssertionError if one has failed."""
        query = """query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor {
            sensorState { ticks { status error { message } } } } } }"""
        ticks = self.ask(query, sensor=LOCATION | {"sensorName": sensor})["sensorState"]["ticks"]
        assert all(tick["status"] != "FAILURE" for tick in ticks), ticks
        return [tick["status"] for tick in ticks if tick["status"] != "STARTED"]

    def _is_loaded(self) -> bool:
        assert self._process.poll() is None, (self.home / "dev.log").read_text()[-4000:]
        query = """{ workspaceOrError { ... on Workspace { locationEntries {
            loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
        try:
            entries = self.ask(query)["locationEntries"]
        except OSError:
            return False
        locations = [entry["locationOrLoadError"] for entry in entries if entry["loadStatus"] == "LOADED"]
        assert all(location["__typename"] != "PythonError" for location in locations), locations
        return bool(locations)
