"""The lock of a directory: a thread that takes it twice gets an error, and everyone else waits."""

import threading
from pathlib import Path

import pytest

from mbta_assets.storage.atomic import lock_directory


def test_a_thread_that_takes_a_lock_twice_gets_an_error_instead_of_waiting_for_itself(tmp_path: Path) -> None:
    same = tmp_path / "elsewhere" / ".."
    (tmp_path / "elsewhere").mkdir()
    with lock_directory(tmp_path):
        with pytest.raises(RuntimeError, match=f"already holds the lock of {tmp_path}"), lock_directory(same):
            pass
        with lock_directory(tmp_path / "elsewhere"):
            pass
    with lock_directory(tmp_path):  # the failed attempt has left nothing behind
        pass


def test_another_thread_waits_until_the_lock_is_released(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def take() -> None:
        waiting.set()
        with lock_directory(tmp_path):
            order.append("second")

    thread = threading.Thread(target=take)
    with lock_directory(tmp_path):
        thread.start()
        assert waiting.wait(10)
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_is_released_when_its_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no luck"), lock_directory(tmp_path):
        raise ValueError("no luck")
    with lock_directory(tmp_path):
        pass
