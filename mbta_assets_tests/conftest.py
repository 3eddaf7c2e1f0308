"""What tests of several packages share."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets_tests.support.dagster_dev import ROOT, free_port
from mbta_assets_tests.support.days import Simulation

pytest_plugins = ["mbta_assets_tests.support.google_fixtures"]

POSTGRES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path()))
NOBODY = "nobody"
PASSWORD = "tram"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a machine that is busy may take its time


@pytest.fixture(scope="session")
def seed_upstream() -> Path:
    """The four upstream tables of a real day, 2023-10-03 on the Red Line; where they are absent, the test is skipped.

    They are the MBTA's and stay outside the repository: beside it, or where MBTA_SEED_UPSTREAM says.
    """
    directory = Path(os.environ.get("MBTA_SEED_UPSTREAM", ROOT.parent / "shared/data/seed_upstream"))
    if not directory.is_dir():
        pytest.skip(f"no real upstream tables in {directory}; set MBTA_SEED_UPSTREAM")
    return directory


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Ten simulated days; tests must not change them."""
    return Simulation.of(tmp_path_factory.mktemp("simulation"))


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
