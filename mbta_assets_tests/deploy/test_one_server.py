"""docker-compose.yaml: its services as they are declared, and their commands as processes on a real PostgreSQL."""

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

from mbta_assets.settings import Settings
from mbta_assets_tests.deploy import compose
from mbta_assets_tests.deploy.conftest import DOCKERFILE
from mbta_assets_tests.deploy.variables import PREDICTOR_VARIABLES, list_variables
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, DagsterDev, eventually, free_port
from mbta_assets_tests.support.image import Image, read_instructions

PASSWORD = "DAGSTER_POSTGRES_PASSWORD"
DAY = small_network.DAYS[0]
SERVICES = ("postgres", "daemon", "webserver", "collector", "live", "predictor")


@pytest.fixture
def services() -> dict[str, Any]:
    services = compose.read_services(**{PASSWORD: "tram"})
    assert tuple(services) == SERVICES
    return services


def test_the_only_password_is_that_of_the_environment(services: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match=PASSWORD):
        compose.read_services()
    other = compose.read_services(**{PASSWORD: "another"})
    assert {name for name in SERVICES if services[name] != other[name]} == {"postgres", "daemon", "webserver"}
    for name, service in compose.read_file()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|KEY|POSTGRES_URL", variable):
                assert f"${{{PASSWORD}:?" in value, (name, variable)
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().split()
    assert ".env" not in re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)


def test_nothing_is_open_to_other_machines(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_ui_is_read_only_unless_a_variable_says_otherwise(services: dict[str, Any]) -> None:
    switch = "DAGSTER_WEBSERVER_READ_ONLY"
    assert services["webserver"]["environment"][switch] == "true"
    writable = compose.read_services(**{PASSWORD: "tram", switch: "false"})
    assert writable["webserver"]["environment"][switch] == "false"


def test_no_service_runs_as_root(services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" in service:
            assert service["build"]["context"] == ".."
            instructions = read_instructions(ROOT / service["build"]["dockerfile"])
            users = [instruction.arguments for instruction in instructions if instruction.name == "USER"]
            assert int(users[-1]) > 0
        else:
            assert service["user"] == "postgres"
            assert re.fullmatch(r"postgres:\d+\.\d+-\w+", service["image"])


def test_something_reads_every_variable(services: dict[str, Any]) -> None:
    names = {variable for service in services.values() for variable in service.get("environment", {})}
    assert {"DAGSTER_POSTGRES_URL", "MBTA_AUTOMATION", "MBTA_MODEL"} <= names
    assert names <= list_variables()


def test_the_predictor_gets_the_settings_that_it_reads_and_no_others() -> None:
    """Without those of the agency, it would refuse the model that the daemon has trained."""
    given = {name: f"value of {name}" for name in list_variables()} | {PASSWORD: "tram"}
    environment = compose.read_services(**given)["predictor"]["environment"]
    assert environment == {"MBTA_MODEL": "/store"} | {name: given[name] for name in PREDICTOR_VARIABLES}
    assert "env_file" not in compose.read_file()["services"]["predictor"], "it has secrets, and paths of other images"
    unset = compose.read_services(**{PASSWORD: "tram"})["predictor"]["environment"]
    assert Settings.from_environment(unset) == Settings(model="/store")


def test_every_volume_is_declared_and_used_and_the_predictor_only_reads(services: dict[str, Any]) -> None:
    mounts = {name: [volume.split(":") for volume in services[name]["volumes"]] for name in SERVICES}
    assert {mount[0] for of_service in mounts.values() for mount in of_service} == set(compose.read_file()["volumes"])
    assert mounts["predictor"] == [["store", "/store", "ro"]]
    assert mounts["daemon"] == mounts["webserver"]
    directories = {mount[1] for mount in mounts["daemon"]}
    commands = " ".join(step.arguments for step in read_instructions(DOCKERFILE) if step.name == "RUN")
    assert all(path in commands for path in directories - {"/tmp"})


def test_whichever_container_is_first_creates_the_store_for_the_user_of_all(services: dict[str, Any]) -> None:
    """A new volume has the content and the owner that the image of the first container has at its place."""
    owners = set()
    for name in ("daemon", "webserver", "predictor"):
        instructions = read_instructions(ROOT / services[name]["build"]["dockerfile"])
        last_stage = max(index for index, step in enumerate(instructions) if step.name == "FROM")
        commands = [
            command.split()
            for step in instructions[last_stage:]
            if step.name == "RUN"
            for command in step.arguments.split("&&")
        ]
        [user] = [command for command in commands if command[0] == "useradd"]
        assert any(command[0] == "mkdir" and "/store" in command for command in commands), name
        assert any(command[0] == "chown" and user[-1] in command and "/store" in command for command in commands), name
        owners.add(user[user.index("--uid") + 1])
    assert len(owners) == 1


def test_what_runs_beside_dagster_is_started_by_a_profile_and_is_healthy_if_it_answers(
    services: dict[str, Any],
) -> None:
    for name, path in (("collector", "/health"), ("live", "/healthz")):
        service = services[name]
        assert service["profiles"] == [name]
        words = shlex.split(service["entrypoint"])
        port = words[words.index("--port") + 1]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert f"http://127.0.0.1:{port}{path}'" in service["healthcheck"]["test"][-1]
        assert service["image"] == services["daemon"]["image"]
    assert services["live"]["depends_on"] == ["collector"]
    assert "--no-archive" in services["live"]["entrypoint"], "the collector alone writes snapshots"


def session_of(process: int) -> int | None:
    """Return the id of a process's session; None if the process has ended."""
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return None


class OneServer(DagsterDev):
    """Daemon and webserver, started by the commands of the compose file on the files of the image."""

    def __init__(self, image: Image, services: dict[str, Any], directory: Path, **variables: str) -> None:
        self.image, self.services, self.directory = image, services, directory
        self.variables = {"PYTHONPATH": str(ROOT), "HOME": str(directory), **variables}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment_of(self, name: str) -> dict[str, str]:
        """Return the variables of a service, with paths below the root of the image and the test's PostgreSQL."""
        own = {key: self.image.translate_paths(str(value)) for key, value in self.services[name]["environment"].items()}
        return {**self.image.variables, **own, **self.variables}

    def start_service(self, name: str, **variables: str) -> None:
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

    def kill_services(self) -> None:
        """Kill every service with its child processes."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def processes_of(self, name: str) -> set[int]:
        """Return the ids of a service's processes in its session."""
        ids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        return {pid for pid in ids if session_of(pid) == self.processes[name].pid}

    def process_of(self, run: str) -> int:
        """Return the id of the process that has executed a run."""
        query = """query ($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events {
            ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } } } } } } } }"""
        events = self.ask(query, run=run)["eventConnection"]["events"]
        entries = [entry for event in events for entry in event.get("metadataEntries", [])]
        return int(next(entry["text"] for entry in entries if entry["label"] == "pid"))

    def log(self, name: str) -> str:
        """Return the log of a service."""
        return (self.directory / f"{name}.log").read_text()

    def is_loaded(self) -> bool:
        """Return whether the webserver has loaded the code location."""
        return self._is_loaded()


@pytest.fixture
def one_server(
    dagster_image: Image, services: dict[str, Any], postgres: dict[str, str], tmp_path: Path
) -> Iterator[OneServer]:
    small_network.write(tmp_path / "upstream", [DAY])
    files = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(tmp_path / "upstream"), "MBTA_START_DATE": str(DAY)}
    server = OneServer(dagster_image, services, tmp_path, **postgres, **files, MBTA_POLL_SECONDS="2")
    yield server
    server.kill_services()


def test_the_daemon_executes_a_backfill_that_the_webserver_shows_but_does_not_launch(
    one_server: OneServer,
) -> None:
    one_server.start_service("daemon")
    one_server.start_service("webserver")
    eventually("the code location is loaded", 90, one_server.is_loaded)

    query = """mutation ($run: ExecutionParams!) { launchRun(executionParams: $run) { __typename } }"""
    selector = {"repositoryLocationName": "mbta_assets", "repositoryName": "__repository__", "pipelineName": "training"}
    refused = one_server.ask(query, run={"selector": selector, "mode": "default"})
    assert refused["__typename"] == "UnauthorizedError"
    assert one_server.runs() == []

    backfill = ["job", "backfill", "-w", "workspace.yaml", "-l", "mbta_assets", "-j", "daily_tables", "--noprompt"]
    program = str(shutil.which("dagster", path=one_server.image.variables["PATH"]))
    command = [program, *backfill, "--partitions", str(DAY)]
    process = subprocess.run(
        command, cwd=one_server.image.directory, env=one_server.environment_of("daemon"), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    seen: set[int] = set()

    def ended() -> list[dict[str, Any]]:
        seen.update(one_server.processes_of("daemon"))
        return [run for run in one_server.runs() if run["endTime"]]

    [run] = eventually("the run has ended", 120, ended)
    assert run["status"] == "SUCCESS", one_server.log("daemon")[-4000:]
    assert one_server.process_of(run["runId"]) in seen, "the daemon's health check could not see it in its container"
