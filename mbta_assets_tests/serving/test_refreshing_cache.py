"""A cached value is never older than its interval, nobody waits long for it, and a failure leaves it in use."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mbta_assets.serving import refreshing_cache
from mbta_assets.serving.refreshing_cache import LoadError, RefreshingCache, Unavailable
from mbta_assets_tests.support.dagster_dev import eventually

# Starts no process, but waits for time to pass.
pytestmark = pytest.mark.integration

INTERVAL = 0.4


class Place:
    """A place whose value changes, from which reading may take long or fail."""

    def __init__(self) -> None:
        self.value, self.reads, self.seconds = 0, 0, 0.0
        self.error: Exception | None = None

    def read(self, _: int | None) -> int:
        """Return the value as it was at the beginning of the reading."""
        self.reads += 1
        value = self.value
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return value


@pytest.fixture
def place() -> Place:
    """Return a place with the value 0."""
    return Place()


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started_at = time.monotonic()
    call()
    return time.monotonic() - started_at


def test_the_first_value_after_idle_time_is_the_current_one(place: Place) -> None:
    cache = RefreshingCache("number", place.read, INTERVAL)
    assert cache.get() == 0
    for value in (1, 2):
        place.value = value
        time.sleep(INTERVAL)
        assert cache.get() == value


def test_without_an_interval_every_value_is_the_current_one(place: Place) -> None:
    cache = RefreshingCache("number", place.read, 0)
    for value in range(50):
        place.value = value
        assert cache.get() == value


def test_with_an_interval_most_values_are_not_read_again(place: Place) -> None:
    cache = RefreshingCache("number", place.read, 3600)
    assert {cache.get() for _ in range(1000)} == {0}
    assert place.reads == 1


def test_under_steady_traffic_nobody_waits_although_the_value_is_followed(place: Place) -> None:
    cache = RefreshingCache("number", place.read, 1.0)
    cache.get()
    place.seconds, place.value = 0.3, 1
    waits, end = [], time.monotonic() + 3
    while time.monotonic() < end:
        waits.append(seconds_of(cache.get))
        time.sleep(0.01)
    assert cache.value == 1
    assert place.reads >= 4
    assert sum(wait > 0.2 for wait in waits) <= 1, "one, if the machine has stopped for half an interval"


def test_threads_wait_for_the_same_reading(place: Place) -> None:
    cache = RefreshingCache("number", place.read, INTERVAL)
    cache.get()
    time.sleep(INTERVAL)
    place.value, place.seconds = 1, 0.2
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: cache.get(), range(8))) == [1] * 8
    assert place.reads == 2


def test_a_place_that_does_not_answer_delays_one_request_for_a_bounded_time(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = RefreshingCache("number", place.read, INTERVAL, max_wait_seconds=0.3)
    cache.get()
    time.sleep(INTERVAL)
    place.value, place.seconds = 1, 2
    assert 0.25 < seconds_of(cache.get) < 1.5
    assert cache.value == 0
    assert seconds_of(cache.get) < 0.2
    assert capsys.readouterr().out.count("number not refreshed in time") == 1
    place.seconds = 0
    eventually("the late value is used", 5, lambda: cache.get() == 1)


def test_a_failure_leaves_the_value_in_use_and_the_next_requests_do_not_wait(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = RefreshingCache("number", place.read, INTERVAL)
    cache.get()
    time.sleep(INTERVAL)
    place.error, place.seconds, place.value = LoadError("away"), 0.3, 1
    assert cache.get() == 0
    assert "LoadError: away" in capsys.readouterr().out
    time.sleep(INTERVAL)
    assert seconds_of(cache.get) < 0.2
    place.error = None
    eventually("the value is read", 5, lambda: cache.get() == 1)
    monkeypatch.setattr(refreshing_cache, "FAILURE_PAUSE_SECONDS", 0.1)
    place.value = 2
    time.sleep(2 * INTERVAL)
    assert cache.get() == 2, "after the pause requests wait again"


def test_without_a_value_the_reason_is_repeated_until_there_is_one(place: Place) -> None:
    place.error = LoadError("Make one first.")
    cache = RefreshingCache("number", place.read, INTERVAL)
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"Make one first\."):
            cache.get()
    assert place.reads == 1
    place.error = None

    def has_value() -> bool:
        try:
            return cache.get() == 0
        except Unavailable:
            return False

    eventually("the value is there", 5, has_value)


def test_an_unexpected_failure_is_named_by_its_type_only(place: Place) -> None:
    place.error = RuntimeError("a secret")
    with pytest.raises(Unavailable, match="RuntimeError while the number was loaded") as raised:
        RefreshingCache("number", place.read, INTERVAL).get()
    assert "secret" not in str(raised.value)


def test_readings_of_many_threads_never_overlap(place: Place) -> None:
    running: list[int] = []
    overlaps: list[int] = []

    def read(cached: int | None) -> int:
        running.append(1)
        overlaps.extend([1] * (len(running) > 1))
        value = place.read(cached)
        running.pop()
        return value

    cache = RefreshingCache("number", read, 0)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: cache.get(), range(400))) == {0}
    assert place.reads > 1
    assert not overlaps
