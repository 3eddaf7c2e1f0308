"""What the tests of this folder share: a store that the users' workflow has filled, and `dagster dev` on it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mbta_assets_tests.support import real_day
from mbta_assets_tests.support.dagster_dev import ROOT, DagsterDev, environment
from mbta_assets_tests.support.workflow import read_commands

MONITORED = ("--select", "group:monitoring", "--partition", str(real_day.DAY))


def materialize(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dagster asset materialize` as people do."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    return subprocess.run([*command, *arguments], cwd=ROOT, env=dict(variables), capture_output=True, text=True)


def succeed(variables: Mapping[str, str], *arguments: str) -> None:
    """Run `dagster asset materialize`. Raises AssertionError with what it said where it fails."""
    run = materialize(variables, *arguments)
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-4000:]}"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a store in which the users' workflow has made the real day, models and a leaderboard.

    Its predictions are made too, as the README says. Of the days that follow there are files only. Tests must not
    change what is in it.
    """
    root = tmp_path_factory.mktemp("trained")
    real_day.write_days(root / "upstream", real_day.DAYS)
    variables = environment(root / "store", root / "upstream", MBTA_START_DATE=str(real_day.DAY))
    for command in read_commands("materialize.yml"):
        command.run(variables | {"SERVICE_DAY": str(real_day.DAY)})
    succeed(variables, *MONITORED)
    return variables


def copy_store(trained: Mapping[str, str], root: Path, **changes: str) -> dict[str, str]:
    """Copy the trained store with its files and DAGSTER_HOME below `root`, and return the environment of the copy."""
    shutil.copytree(Path(trained["MBTA_STORE"]).parent, root)
    store = root / Path(trained["MBTA_STORE"]).name
    upstream = root / Path(trained["MBTA_FILES_DIR"]).name
    places = {"MBTA_STORE": str(store), "MBTA_FILES_DIR": str(upstream), "DAGSTER_HOME": str(store / "dagster_home")}
    return {**trained, **places, **changes}


@pytest.fixture(scope="session")
def dev(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """`dagster dev` on a copy of that store; tests may add to it and change it."""
    root = tmp_path_factory.mktemp("dev") / "copy"
    sensitive = {"MBTA_POLL_SECONDS": "2", "MBTA_RETRAIN_AT": "* * * * *"}
    running = DagsterDev(copy_store(trained, root, **sensitive))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def store(trained: dict[str, str]) -> Path:
    """The store that the workflow has filled, to be read."""
    return Path(trained["MBTA_STORE"])
