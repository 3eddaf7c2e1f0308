"""Exclusive and durable writes to a directory."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _HeldLocks(threading.local):
    """The directories whose locks a thread holds, by device and inode: one directory may have several paths."""

    def __init__(self) -> None:
        self.identities: set[tuple[int, int]] = set()


_held = _HeldLocks()


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Create a directory if needed, hold its exclusive lock, and flush it to disk at the end.

    The kernel releases the lock of a process that dies, so unfinished files found under the lock are abandoned ones.
    Other threads and processes wait. Raises RuntimeError if this thread already holds the lock: it would wait for
    itself for ever. The lock is not reentrant because whoever holds it may have files in the directory half written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        identity = status.st_dev, status.st_ino
        if identity in _held.identities:
            raise RuntimeError(
                f"This thread already holds the lock of {directory}. Do what needs it again before or after the block."
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _held.identities.add(identity)
        try:
            yield
            os.fsync(descriptor)
        finally:
            _held.identities.discard(identity)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
