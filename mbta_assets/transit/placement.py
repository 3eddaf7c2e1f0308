"""The placement of reports at stop visits, where a trip serves a stop more than once.

A report names a stop, but a loop serves it twice. Which visit is meant follows from the feed's stop sequence, else from
how far the vehicle has come along the trip and how late it is. The same rule is in `raw_transit_data.sql`; the features
and the stream call this one. Times and delays are epoch microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_GAP_SECONDS = 120
"""A report that repeats the one before within this time is about the same visit."""
MAX_STRETCHES = 400
"""Number of stretches of like reports after which a vehicle's progress is forgotten. BigQuery has a limit of 500."""
EARLINESS_WEIGHT = 2
"""Weight of a loss of delay against a gain: vehicles are late, or skipped in the reports, rather than early."""
ON_TIME_SECONDS = 120
"""Delay up to which a vehicle without earlier reports is on time."""
LATE_START_SECONDS = 1500
"""Delay up to which a vehicle that is nowhere on time is taken to be late rather than far along its trip."""
RETURN_SECONDS = 120
"""Weight of a return to an earlier visit, as a change of delay: reports of the stop before may be a little stale."""
MAX_RETURN_SECONDS = 90
"""A return that changes the delay by more is one only if the report can be about no other visit."""
_MICROSECONDS = 1_000_000


class Candidate(NamedTuple):
    """A stop visit that a report may be about, with the time at which the schedule expects the report's status."""

    position: int
    """Position of the visit in the trip, ascending with its order."""
    begins: int | None
    """Begin of that time; None at the trip's first stop, where a vehicle may wait for any time."""
    ends: int
    """End of that time, not before the begin."""
    stop_sequence: int | None = None
    """Stop sequence of the visit as in the feed; None where the feed has none that identifies visits."""


class ReportedState(NamedTuple):
    """What a report says of the vehicle, and the visits that it may be about."""

    stop: Any
    moving: bool
    stop_sequence: int | None
    candidates: tuple[int, ...]
    """Positions of the candidates."""


@dataclass(slots=True)
class Progress:
    """How far a vehicle has come along its trip, by its reports so far."""

    position: int = -1
    """Position of the visit of the latest report."""
    delay: int = 0
    """Delay that all of the reports agree with best."""
    state: ReportedState | None = None
    time: int = 0
    """Time of the latest report."""
    stretches: int = 0
    """Number of stretches of like reports."""

    def place(
        self, time: int, stop: Any, moving: bool, stop_sequence: int | None, candidates: Sequence[Candidate]
    ) -> int:
        """Return the position of the visit that the next report is about, and take it in.

        Reports come in the order of (time, moving, stop, stop_sequence). `candidates` are the visits, one or more in
        order, at which the vehicle can be at that time. The report is about

        1. the visit of the report before it, if it repeats that one within `MAX_GAP_SECONDS`;
        2. else the candidate with the feed's `stop_sequence`, if there is one;
        3. else the candidate that changes the vehicle's delay least, the earliest one if several do. A loss of delay
           counts `EARLINESS_WEIGHT` times, and a candidate behind the vehicle `RETURN_SECONDS` more; it is left out if
           its change is above `MAX_RETURN_SECONDS`, unless all are. A vehicle without earlier reports is where it is
           on time, else where it is late by up to `LATE_START_SECONDS`.
        """
        state = ReportedState(stop, moving, stop_sequence, tuple(candidate.position for candidate in candidates))
        if state == self.state and time - self.time <= MAX_GAP_SECONDS * _MICROSECONDS:
            chosen = next(candidate for candidate in candidates if candidate.position == self.position)
        else:
            if self.stretches % MAX_STRETCHES == 0:
                self.position, self.delay = -1, 0
            self.stretches += 1
            chosen = self._choose(time, stop_sequence, candidates)
        self.position, self.state, self.time = chosen.position, state, time
        self.delay = max(self.delay, time - chosen.ends)
        if chosen.begins is not None:
            self.delay = min(self.delay, time - chosen.begins)
        return chosen.position

    def _choose(self, time: int, stop_sequence: int | None, candidates: Sequence[Candidate]) -> Candidate:
        """Return the candidate of the first report of a stretch."""
        if stop_sequence is not None:
            for candidate in candidates:
                if candidate.stop_sequence == stop_sequence:
                    return candidate
        return min(candidates, key=lambda candidate: self._rank(time, candidate))

    def _rank(self, time: int, candidate: Candidate) -> tuple[bool, int, int]:
        """Return the sort key of a candidate: whether it is to be left out, its weighted change, its position."""
        change = self._change_of_delay(time, candidate)
        if candidate.position >= self.position:
            return False, change, candidate.position
        is_left_out = change > MAX_RETURN_SECONDS * _MICROSECONDS
        return is_left_out, change + RETURN_SECONDS * _MICROSECONDS, candidate.position

    def _change_of_delay(self, time: int, candidate: Candidate) -> int:
        """Return by how much the delay would change if a report was about a visit, weighted."""
        gain = time - candidate.ends - self.delay
        if self.state is None:
            late = max(1, gain - LATE_START_SECONDS * _MICROSECONDS)
            gain = 0 if gain <= ON_TIME_SECONDS * _MICROSECONDS else late
        loss = 0 if candidate.begins is None else self.delay - (time - candidate.begins)
        return max(gain, EARLINESS_WEIGHT * loss, 0)
