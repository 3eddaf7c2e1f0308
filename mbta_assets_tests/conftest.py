"""What tests of several packages share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = ("running", "test_lineage.py", "test_lineage_on_google.py")
"""What to begin with, so that no worker is left with it at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `pytest -n 2 --dist loadgroup` the tests of a file stay together, and all those of `dagster dev`."""
    items.sort(key=lambda item: min((i for i, name in enumerate(LONGEST) if name in item.path.parts), default=9))
    for item in items:
        together = "running" if "running" in item.path.parts else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))


@pytest.fixture(scope="session")
def seed_upstream() -> Path:
    """The four upstream tables of a real day, 2023-10-03 on the Red Line; where they are absent, the test is skipped.

    They are the MBTA's and stay outside the repository: beside it, or where MBTA_SEED_UPSTREAM says.
    """
    directory = Path(os.environ.get("MBTA_SEED_UPSTREAM", ROOT.parent / "shared/data/seed_upstream"))
    if not directory.is_dir():
        pytest.skip(f"no real upstream tables in {directory}; set MBTA_SEED_UPSTREAM")
    return directory
