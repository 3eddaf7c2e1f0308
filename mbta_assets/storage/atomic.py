"""Files and directories that appear whole: kill the writer at any instant, and readers see the old or the new."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Be the only writer of a directory; others wait, readers do not.

    The system releases the lock when the process ends, however it ends, so nothing is ever left locked.
    Whatever lies aside in the directory then belongs to a dead writer and may be overwritten.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Put a file in place of the one at `path`. Only under `exclusive(path.parent)`.

    `write` is given the path aside to write to; its name is hidden and no glob for the file matches it.
    """
    aside = path.with_name(f".{path.name}.aside")
    try:
        write(aside)
        flush(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    flush(path.parent)


def create_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Make a directory of files that is not there yet. Only under `exclusive(path.parent)`."""
    aside = path.with_name(".directory.aside")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        write(aside)
        for file in aside.iterdir():
            flush(file)
        flush(aside)
        os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Have the system put a file, or the names in a directory, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
