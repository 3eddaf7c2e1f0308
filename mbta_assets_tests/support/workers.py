"""Share costly data between the processes of pytest-xdist."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mbta_assets.storage.atomic import lock_directory

COMPLETE = "complete"


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a directory of this test run that `make` has filled, in the process that asks first; the others wait.

    Tests must not change the files in it.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    directory = root / f"shared-{name}"
    with lock_directory(root / f"lock-{name}"):
        if not (directory / COMPLETE).exists():
            directory.mkdir()
            make(directory)
            (directory / COMPLETE).touch()
    return directory
