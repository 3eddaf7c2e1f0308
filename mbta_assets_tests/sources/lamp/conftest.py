"""An archive on this machine, and the source that reads it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mbta_assets_tests.support.lamp_archive import ServedArchive, serve_archive


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ServedArchive]:
    """Serve an archive without files."""
    with serve_archive(tmp_path / "lamp") as served:
        yield served
