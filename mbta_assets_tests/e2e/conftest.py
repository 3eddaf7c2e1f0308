"""What the tests of this folder share: a store that the users' workflow has filled."""

from collections.abc import Iterator

import pytest

from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import DagsterDev, environment
from mbta_assets_tests.support.workflow import commands_of


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a store in which the users' workflow has made a service day, models and a leaderboard."""
    root = tmp_path_factory.mktemp("trained")
    small_network.write(root / "upstream", small_network.DAYS)
    variables = environment(root / "store", root / "upstream", MBTA_POLL_SECONDS="5", MBTA_RETRAIN_AT="* * * * *")
    for command in commands_of("materialize.yml"):
        command.run(variables | {"SERVICE_DAY": str(small_network.DAYS[0])})
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
