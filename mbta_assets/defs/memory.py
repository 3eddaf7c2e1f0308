"""The memory of a process that makes many service days one after the other."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as arrow


def release_memory() -> None:
    """Return freed memory to the operating system, as far as its C library can.

    Without this, what allocators keep for later grew by 20 to 30 MB a simulated day, as large arrays of one day do not
    fit into what the one before has left.
    """
    gc.collect()
    arrow.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def collect_new_objects() -> Iterator[None]:
    """Let collections of garbage within look at new objects only; those of a code location take 0.2 s each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
