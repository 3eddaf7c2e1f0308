"""Share what is costly to make between the processes of pytest-xdist."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mbta_assets.storage.atomic import locked

COMPLETE = "complete"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the directory `name` of this test run, filled by `make` in whichever process asks first.

    The others wait for it. They must not change what is in it.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    directory = root / f"shared-{name}"
    with locked(root / f"lock-{name}"):
        if not (directory / COMPLETE).exists():
            directory.mkdir()
            make(directory)
            (directory / COMPLETE).touch()
    return directory
