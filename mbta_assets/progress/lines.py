"""The progress of one piece of work as lines of a log: what is done, at which rate, and how long the rest will take."""

import logging
import time
from collections.abc import Callable

LINE_SECONDS = 10.0
"""Time between two lines, and before the first one."""

logger = logging.getLogger(__name__)


class ProgressLog:
    """Counts what is done of some work, and logs a line at most every `LINE_SECONDS`."""

    def __init__(
        self,
        work: str,
        unit: str,
        log: Callable[[str], object] = logger.info,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin now. `unit` is what is counted, in the plural, such as "epochs"."""
        self._work, self._unit, self._log, self._clock = work, unit, log, clock
        self._began = self._logged_at = clock()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Log that so much is done of a total, if that is known; `note` ends the line."""
        now = self._clock()
        if now - self._logged_at < LINE_SECONDS:
            return
        self._logged_at = now
        self._log(f"{self._work}: {describe_progress(done, total, now - self._began, self._unit, note)}")

    def end(self, done: float, note: str = "") -> None:
        """Log that the work is over, and how long it took."""
        took = format_duration(self._clock() - self._began)
        self._log(f"{self._work}: {join_parts(f'{format_number(done)} {self._unit} in {took}', note)}")


def describe_progress(done: float, total: float | None, seconds: float, unit: str, note: str = "") -> str:
    """Return what is done of a total after some seconds, with the rate, the time left and a note."""
    rate = done / seconds if seconds > 0 else 0.0
    of_total = f" of {format_number(total)}" if total is not None else ""
    left = f"{format_duration((total - done) / rate)} left" if total is not None and rate and total >= done else ""
    return join_parts(f"{format_number(done)}{of_total} {unit}", format_rate(rate, unit), left, note)


def join_parts(*parts: str) -> str:
    """Join the parts of a line that are not empty."""
    return ", ".join(part for part in parts if part)


def format_rate(rate: float, unit: str) -> str:
    """Return a rate per second as a text, per minute or per hour if it is less than one; empty if it is nothing."""
    for seconds, name in ((1, "a second"), (60, "a minute"), (3600, "an hour")):
        if rate * seconds >= 1:
            return f"{format_number(rate * seconds)} {unit} {name}"
    return ""


def format_number(number: float) -> str:
    """Return a number as a text; with a digit behind the point if it is small and no integer."""
    return f"{number:.1f}" if number < 10 and number != int(number) else f"{number:,.0f}"


def format_duration(seconds: float) -> str:
    """Return a duration as a text, in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
