"""What the tests of this folder share: what must be installed, and a store that the users' workflow has filled."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets_tests.running import small_upstream
from mbta_assets_tests.running.dagster_dev import DagsterDev, environment
from mbta_assets_tests.running.workflow import commands_of

POSTGRES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path()))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a store in which the users' workflow has made a service day, models and a leaderboard."""
    root = tmp_path_factory.mktemp("trained")
    small_upstream.write(root / "upstream", small_upstream.DAYS)
    variables = environment(root / "store", root / "upstream", MBTA_POLL_SECONDS="5", MBTA_RETRAIN_AT="* * * * *")
    for command in commands_of("materialize.yml"):
        command.run(variables | {"SERVICE_DAY": str(small_upstream.DAYS[0])})
    return variables


@pytest.fixture(scope="package")
def dev(trained: dict[str, str]) -> Iterator[DagsterDev]:
    """`dagster dev` on that store."""
    running = DagsterDev(trained)
    try:
        running.start()
        yield running
    finally:
        running.stop()
