"""What tests of several packages share."""

import os
import shutil
from pathlib import Path

import pytest

from mbta_assets_tests.transit.days import Simulation

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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
