"""Fixtures that tests of several packages share, the kinds of tests, and the order in which they run."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mbta_assets_tests.support.dagster_dev import free_port
from mbta_assets_tests.support.days import Simulation
from mbta_assets_tests.support.real_day import SEED_UPSTREAM
from mbta_assets_tests.support.workers import make_once

pytest_plugins = ["mbta_assets_tests.support.google_fixtures"]

POSTGRES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path()))
NOBODY = "nobody"
PASSWORD = "tram"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# A machine that is busy may take its time. Other examples are tried each time, but for continuous integration, where
# whether a change passes must not depend on chance.
settings.register_profile("project", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("project")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")

# `make test` starts the tests, and some of them start make, which must be as in a user's terminal: a make within
# another one prints the directories that it enters.
for _variable in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS"):
    os.environ.pop(_variable, None)

E2E_FIXTURES = {"trained", "dev", "chromium", "postgres", "one_server", "image"}
INTEGRATION_FIXTURES = {"bigquery_emulator", "storage_emulator", "server", "trained_models", "ray", "proxy"}
"""A test that uses one of these fixtures is of that kind; other tests that start processes are marked as such."""
FIRST_GROUPS = ("trained", "ray", "trainings", "backfills", "google", "crashes")
"""The groups of tests that take longest start first, so that no process is left with one at the end."""


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
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    """Return the place of a test's group in `FIRST_GROUPS`."""
    group = item.get_closest_marker("xdist_group")
    name = group.args[0] if group and group.args else ""
    return FIRST_GROUPS.index(name) if name in FIRST_GROUPS else len(FIRST_GROUPS)


@pytest.fixture(scope="session")
def seed_upstream() -> Path:
    """Return the directory of the four upstream tables of a real day, 2023-10-03 on the Red Line."""
    return SEED_UPSTREAM


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Return ten simulated days; tests must not change them."""
    return Simulation.read(make_once(tmp_path_factory, "simulation", Simulation.write))


def require_program(path: str | Path | None, name: str, package: str) -> str:
    """Return the path of a program. Without it skip the test, or fail it in continuous integration."""
    if path:
        return str(path)
    message = f"{name} is not installed: sudo apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser."""
    return require_program(next(filter(None, map(shutil.which, BROWSERS)), None), "Chromium", "chromium")


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """Return the directory of `initdb` and `pg_ctl`, which Debian keeps off the path."""
    directory = next((path for path in POSTGRES if (path / "initdb").exists()), None)
    return Path(require_program(directory, "PostgreSQL", "postgresql"))


@pytest.fixture
def postgres(postgres_programs: Path) -> Iterator[dict[str, str]]:
    """Start a PostgreSQL server and yield the variable of deploy/postgres.yaml that names it."""
    # Its server refuses to run as root, and a directory of pytest's is closed to everyone else.
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        as_user = {"user": NOBODY, "group": pwd.getpwnam(NOBODY).pw_gid, "extra_groups": []}
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
