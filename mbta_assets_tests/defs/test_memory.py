"""What is collected while service days are made one after the other."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from mbta_assets.defs.memory import collect_new_objects, release_memory


class Node:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def make_garbage() -> "weakref.ref[Node]":
    """Return a reference to an object that nothing else refers to."""
    return weakref.ref(Node())


@pytest.fixture(autouse=True)
def no_automatic_collections() -> Iterator[None]:
    """Let nothing but the tests start a collection."""
    gc.disable()
    yield
    gc.enable()


def test_only_objects_made_within_are_collected_and_all_others_afterwards() -> None:
    earlier = make_garbage()
    with collect_new_objects():
        new = make_garbage()
        release_memory()
        assert new() is None and earlier() is not None
    release_memory()
    assert earlier() is None


def test_earlier_objects_are_collected_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="wrong"), collect_new_objects():
        raise ValueError("wrong")
    assert gc.get_freeze_count() == 0
