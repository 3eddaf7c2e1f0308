"""docker-compose.yaml: what it says, and its commands as processes on a real PostgreSQL."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mbta_assets_tests.deploy import compose, known
from mbta_assets_tests.deploy.conftest import DOCKERFILE
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, DagsterDev, eventually, free_port
from mbta_assets_tests.support.image import Image, instructions

PASSWORD = "DAGSTER_POSTGRES_PASSWORD"
DAY = small_network.DAYS[0]
SERVICES = ("postgres", "daemon", "webserver", "predictor")


@pytest.fixture
def services() -> dict[str, Any]:
    found = compose.services(**{PASSWORD: "tram"})
    assert tuple(found) == SERVICES
    return found


def test_there_is_no_password_but_that_of_whoever_starts_it(services: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match=PASSWORD):
        compose.services()
    other = compose.services(**{PASSWORD: "another"})
    assert {name for name in SERVICES if services[name] != other[name]} == {"postgres", "daemon", "webserver"}
    for name, service in compose.raw()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|KEY|POSTGRES_URL", variable):
                assert f"${{{PASSWORD}:?" in value, (name, variable)
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().split()
    assert ".env" not in re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)


def test_nothing_is_open_to_other_machines(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_ui_only_reads_unless_it_is_told_otherwise(services: dict[str, Any]) -> None:
    switch = "DAGSTER_WEBSERVER_READ_ONLY"
    assert services["webserver"]["environment"][switch] == "true"
    written = compose.services(**{PASSWORD: "tram", switch: "false"})
    assert written["webserver"]["environment"][switch] == "false"


def test_nobody_is_root(services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" in service:
            assert service["build"]["context"] == ".."
            users = [one.rest for one in instructions(ROOT / service["build"]["dockerfile"]) if one.name == "USER"]
            assert int(users[-1]) > 0
        else:
            assert service["user"] == "postgres"
            assert re.fullmatch(r"postgres:\d+\.\d+-\w+", service["image"])


def test_every_variable_is_read_by_somebody(services: dict[str, Any]) -> None:
    named = {variable for service in services.values() for variable in service.get("environment", {})}
    assert {"DAGSTER_POSTGRES_URL", "MBTA_AUTOMATION", "MBTA_MODEL"} <= named
    assert named <= known.variables()


def test_every_volume_is_declared_and_used_and_the_predictor_only_reads(services: dict[str, Any]) -> None:
    mounts = {name: [volume.split(":") for volume in services[name]["volumes"]] for name in SERVICES}
    assert {mount[0] for of_one in mounts.values() for mount in of_one} == set(compose.raw()["volumes"])
    assert mounts["predictor"] == [["store", "/store", "ro"]]
    assert mounts["daemon"] == mounts["webserver"]
    inside = {mount[1] for mount in mounts["daemon"]}
    made = " ".join(one.rest for one in instructions(DOCKERFILE) if one.name == "RUN")
    assert all(path in made for path in inside - {"/tmp"})


def session_of(process: int) -> int | None:
    """The id of a process's session; None where it has ended."""
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return None


class OneServer(DagsterDev):
    """Daemon and webserver by the commands of the compose file, on the files of the image."""

    def __init__(self, image: Image, services: dict[str, Any], directory: Path, **variables: str) -> None:
        self.image, self.services, self.directory = image, services, directory
        self.variables = {"PYTHONPATH": str(ROOT), "HOME": str(directory), **variables}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment_of(self, name: str) -> dict[str, str]:
        """The variables of a service, where paths and PostgreSQL are those here."""
        own = {key: self.image.here(str(value)) for key, value in self.services[name]["environment"].items()}
        return {**self.image.variables, **own, **self.variables}

    def begin(self, name: str, **variables: str) -> None:
        """Start a service."""
        program, *arguments = shlex.split(self.services[name]["entrypoint"])
        command = [shutil.which(program, path=self.image.variables["PATH"]) or program, *arguments]
        if "--port" in command:
            self.port = free_port()
            command[command.index("--port") + 1] = str(self.port)
            command[command.index("--host") + 1] = "127.0.0.1"
        with (self.directory / f"{name}.log").open("a") as log:
            self.processes[name] = self._process = subprocess.Popen(
                command,
                cwd=self.image.directory,
                env=self.environment_of(name) | variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self) -> None:
        """Kill every service with what it has begun."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def processes_of(self, name: str) -> set[int]:
        """The processes that a service has begun, as far as they have not left its session."""
        ids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        return {one for one in ids if session_of(one) == self.processes[name].pid}

    def process_of(self, run: str) -> int:
        """The process that has executed a run."""
        query = """query ($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events {
            ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } } } } } } } }"""
        events = self.ask(query, run=run)["eventConnection"]["events"]
        entries = [entry for event in events for entry in event.get("metadataEntries", [])]
        return int(next(entry["text"] for entry in entries if entry["label"] == "pid"))

    def log(self, name: str) -> str:
        """What a service has said."""
        return (self.directory / f"{name}.log").read_text()

    def is_loaded(self) -> bool:
        """Whether the webserver has the code location."""
        return self._is_loaded()


@pytest.fixture
def one_server(
    dagster_image: Image, services: dict[str, Any], postgres: dict[str, str], tmp_path: Path
) -> Iterator[OneServer]:
    small_network.write(tmp_path / "upstream", [DAY])
    files = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(tmp_path / "upstream"), "MBTA_START_DATE": str(DAY)}
    server = OneServer(dagster_image, services, tmp_path, **postgres, **files, MBTA_POLL_SECONDS="2")
    yield server
    server.end()


@pytest.mark.timeout(300)
def test_the_daemon_makes_what_is_asked_for_and_the_webserver_shows_it_and_lets_nothing_be_changed(
    one_server: OneServer,
) -> None:
    one_server.begin("daemon")
    one_server.begin("webserver")
    eventually("the code location is loaded", 90, one_server.is_loaded)

    query = """mutation ($run: ExecutionParams!) { launchRun(executionParams: $run) { __typename } }"""
    selector = {"repositoryLocationName": "mbta_assets", "repositoryName": "__repository__", "pipelineName": "training"}
    refused = one_server.ask(query, run={"selector": selector, "mode": "default"})
    assert refused["__typename"] == "UnauthorizedError"
    assert one_server.runs() == []

    asked = ["job", "backfill", "-w", "workspace.yaml", "-l", "mbta_assets", "-j", "daily_tables", "--noprompt"]
    program = str(shutil.which("dagster", path=one_server.image.variables["PATH"]))
    command = [program, *asked, "--partitions", str(DAY)]
    ran = subprocess.run(
        command, cwd=one_server.image.directory, env=one_server.environment_of("daemon"), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    seen: set[int] = set()

    def ended() -> list[dict[str, Any]]:
        seen.update(one_server.processes_of("daemon"))
        return [run for run in one_server.runs() if run["endTime"]]

    [run] = eventually("the run has ended", 120, ended)
    assert run["status"] == "SUCCESS", one_server.log("daemon")[-4000:]
    assert one_server.process_of(run["runId"]) in seen, "the daemon's health check could not see it in its container"
