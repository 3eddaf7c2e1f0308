"""What the tests of this folder share: what must be installed, and a store that the users' workflow has filled."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets_tests.conftest import required
from mbta_assets_tests.running import small_upstream
from mbta_assets_tests.running.dagster_dev import DagsterDev, environment
from mbta_assets_tests.running.workflow import commands_of

POSTGRES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path()))


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
