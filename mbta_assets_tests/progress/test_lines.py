"""The lines that tell how far some work is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.progress.lines import LINE_SECONDS, ProgressLog, describe_progress, format_duration, format_rate


class Work:
    """Work whose clock a test sets, and the lines that it logged."""

    def __init__(self, unit: str = "epochs") -> None:
        self.now, self.lines = 100.0, list[str]()
        self.log = ProgressLog("network", unit, self.lines.append, lambda: self.now)

    def at(self, seconds: float) -> ProgressLog:
        """Set the clock to some seconds after the work began."""
        self.now = 100.0 + seconds
        return self.log


def test_a_line_has_what_is_done_the_rate_and_the_time_left() -> None:
    work = Work()
    work.at(20).update(5, 25, "validation error 61.2 s")
    assert work.lines == ["network: 5 of 25 epochs, 15 epochs a minute, 80 s left, validation error 61.2 s"]


def test_without_a_total_there_is_no_time_left() -> None:
    work = Work("MB")
    work.at(16).update(40)
    assert work.lines == ["network: 40 MB, 2.5 MB a second"]


def test_the_end_tells_how_long_it_took_however_short() -> None:
    work = Work()
    work.at(0.2).end(3, "validation error 61.2 s")
    assert work.lines == ["network: 3 epochs in 0 s, validation error 61.2 s"]


@given(st.lists(st.floats(0, 4), max_size=60))
def test_lines_are_never_closer_than_their_interval_and_tell_of_long_work(steps: list[float]) -> None:
    work, now, logged_at = Work(), 0.0, [0.0]
    for count, step in enumerate(steps, 1):
        now += step
        lines = len(work.lines)
        work.at(now).update(count, len(steps))
        if len(work.lines) > lines:
            logged_at.append(now)
    gaps = [later - earlier for earlier, later in zip(logged_at, logged_at[1:], strict=False)]
    assert all(gap >= LINE_SECONDS - 1e-9 for gap in gaps)
    assert now - logged_at[-1] < LINE_SECONDS + 1e-9


@given(st.floats(0, 1e9), st.none() | st.floats(0, 1e9), st.floats(0, 1e7))
def test_any_progress_is_described(done: float, total: float | None, seconds: float) -> None:
    text = describe_progress(done, total, seconds, "trials", "note")
    assert " trials" in text and text.endswith(", note")
    assert ("left" in text) == (total is not None and done > 0 and seconds > 0 and done / seconds > 0 and total >= done)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(1234.5, "1,234 rows a second"), (1.5, "1.5 rows a second"), (0.5, "30 rows a minute"), (0.01, "36 rows an hour"),
     (0.0001, ""), (0.0, "")],
)  # fmt: skip
def test_rates_have_the_unit_of_time_in_which_something_is_done(rate: float, text: str) -> None:
    assert format_rate(rate, "rows") == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (99.4, "99 s"), (150, "2 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
