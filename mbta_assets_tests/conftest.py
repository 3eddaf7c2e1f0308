"""What tests of several packages share."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets_tests.support.dagster_dev import free_port
from mbta_assets_tests.support.days import Simulation
from mbta_assets_tests.support.real_day import SEED_UPSTREAM
from mbta_assets_tests.support.workers import made_once

pytest_plugins = ["mbta_assets_tests.support.google_fixtures"]

POSTGRES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path()))
NOBODY = "nobody"
PASSWORD = "tram"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a machine that is busy may take its time

E2E_FIXTURES = {"trained", "dev", "chromium", "postgres", "one_server", "image"}
INTEGRATION_FIXTURES = {"bigquery_emulator", "storage_emulator", "server", "production", "whole_store", "ray", "proxy"}
"""A test that uses one of these is of that kind; a module that starts processes otherwise says so by `pytestmark`."""
FIRST_GROUPS = ("trained", "ray", "backfills", "google")
"""What takes longest begins first, so that no process is left with it at the end."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test as `unit`, `integration` or `e2e`, and keep tests of one module or group in one process."""
    for item in items:
        kinds = {mark.name for mark in item.iter_markers()} & {"integration", "e2e"}
        used = set(getattr(item, "fixturenames", ()))
        if not kinds:
            kind = "e2e" if used & E2E_FIXTURES else "integration" if used & INTEGRATION_FIXTURES else "unit"
            item.add_marker(kind)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=_first)


def _first(item: pytest.Item) -> int:
    group = item.get_closest_marker("xdist_group")
    name = group.args[0] if group and group.args else ""
    return FIRST_GROUPS.index(name) if name in FIRST_GROUPS else len(FIRST_GROUPS)


@pytest.fixture(scope="session")
def seed_upstream() -> Path:
    """The four upstream tables of a real day, 2023-10-03 on the Red Line."""
    return SEED_UPSTREAM


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Ten simulated days; tests must not change them."""
    return Simulation.read(made_once(tmp_path_factory, "simulation", Simulation.write))


def required(found: str | Path | None, what: str, package: str) -> str:
    """Where a program is. Where it is not, the test is skipped, and fails where everything has to run."""
    if found:
        return str(found)
    said = f"{what} is not installed: sudo apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(said)
    pytest.skip(said)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is."""
    return required(next(filter(None, map(shutil.which, BROWSERS)), None), "Chromium", "chromium")


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The directory of `initdb` and `pg_ctl`, which Debian keeps off the path."""
    found = next((path for path in POSTGRES if (path / "initdb").exists()), None)
    return Path(required(found, "PostgreSQL", "postgresql"))


@pytest.fixture
def postgres(postgres_programs: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL server of its own, and the variable of deploy/postgres.yaml that says where it is."""
    # Its server refuses to run as root, and a directory of pytest's is closed to everyone else.
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = {"user": NOBODY, "group": pwd.getpwnam(NOBODY).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    if as_user:
        shutil.chown(directory, NOBODY)
    port, data, password = free_port(), directory / "data", directory / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)

    def run(program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [str(postgres_programs / program), *arguments], cwd=directory, capture_output=True, text=True, **as_user
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    try:
        run("initdb", "-D", str(data), "-U", "dagster", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
        settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "-D", str(data), "-o", settings, "-l", str(directory / "log"), "--wait", "start")
        try:
            yield {"DAGSTER_POSTGRES_URL": f"postgresql+psycopg2://dagster:{PASSWORD}@127.0.0.1:{port}/postgres"}
        finally:
            run("pg_ctl", "-D", str(data), "--mode=immediate", "stop")
    finally:
        shutil.rmtree(directory)
