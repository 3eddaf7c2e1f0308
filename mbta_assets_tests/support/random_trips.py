"""Random trips that serve stops more than once, and what their vehicles report, each report with the visit it is about.

A trip has a course, the stops in the order in which it serves them, and a timetable. Vehicles run it late, wait at the
origin, and report as real feeds do: several times on the way to a stop and at it, with and without a stop sequence,
with reports that are skipped, repeated and out of order. Seconds are counted from the trip's first departure.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from hypothesis import strategies as st

from mbta_assets_tests.support.plain_day import BEGIN, Row

Course = tuple[str, ...]
Sequences = Literal["true", "none", "wrong", "some"]
"""What `current_stop_sequence` is: the true one, missing, one that no visit of the stop has, or missing in places."""

INCOMING_SECONDS = 30
MAX_LATE_SECONDS = 25 * 60
STEP = 10
"""Stop sequences are multiples of it, so that there are wrong ones between them."""


class TrueReport(NamedTuple):
    """A report and the position, from 1, of the stop visit that it is about."""

    seconds: int
    status: str
    stop: str
    stop_sequence: int | None
    vehicle: str
    position: int


@dataclass(frozen=True)
class Manner:
    """How a vehicle runs a trip and reports."""

    late_seconds: int = 0
    """Delay at the departure from the origin."""
    change_seconds: int = 0
    """Largest change of delay, either way, over one stop."""
    dwell_seconds: int = 20
    layover_seconds: int = 0
    """Time for which it reports from the origin before it departs."""
    interval_seconds: int = 30
    """Time from report to report."""
    skipped_share: float = 0.0
    """Share of reports that are missing."""
    unseen_share: float = 0.0
    """Share of stop visits about which nothing is reported."""
    repeated_share: float = 0.0
    reports_arrival: bool = True
    """Whether there is a report at the very time of an arrival."""
    sequences: Sequences = "none"


@dataclass(frozen=True)
class RandomTrip:
    """A trip with its timetable and the reports of its vehicles, in random order."""

    course: Course
    arrivals: tuple[int, ...]
    departures: tuple[int, ...]
    reports: tuple[TrueReport, ...]

    def make_stop_times(self, trip: str = "1", begin: datetime = BEGIN, with_sequence: bool = True) -> list[Row]:
        """Return the rows of `schedule`."""
        last = len(self.course) - 1
        return [
            {
                "trip_id": trip,
                "stop_id": stop,
                "arrival_time": begin + timedelta(seconds=self.arrivals[n]) if n else None,
                "departure_time": begin + timedelta(seconds=self.departures[n]) if n < last else None,
                "stop_sequence": (n + 1) * STEP if with_sequence else None,
            }
            for n, stop in enumerate(self.course)
        ]

    def make_reports(self, trip: str = "1", begin: datetime = BEGIN) -> list[Row]:
        """Return the rows of `vehicle`."""
        return [
            {
                "id": report.vehicle, "updated_at": begin + timedelta(seconds=report.seconds),
                "current_status": report.status, "latitude": 42.39, "longitude": -71.12, "stop_id": report.stop,
                "trip_id": trip, "route_id": "Red", "direction_id": 0, "current_stop_sequence": report.stop_sequence,
            }
            for report in self.reports
        ]  # fmt: skip


def run_trip(course: Course, run_seconds: Sequence[int], manners: Sequence[Manner], seed: int) -> RandomTrip:
    """Return a trip with a run time to each of its stops, and the reports of a vehicle for each manner."""
    rng = random.Random(seed)
    arrivals = [0]
    for run in run_seconds[: len(course) - 1]:
        arrivals.append(arrivals[-1] + run)
    reports: list[TrueReport] = []
    for number, manner in enumerate(manners):
        reports += _report(rng, course, arrivals, manner, f"R-{number + 1}")
    rng.shuffle(reports)
    return RandomTrip(course, tuple(arrivals), tuple(arrivals), tuple(reports))


def _report(rng: random.Random, course: Course, due: Sequence[int], manner: Manner, vehicle: str) -> list[TrueReport]:
    """Return what a vehicle reports of its trip."""
    times = _run(rng, due, manner)
    unseen = {n for n in range(1, len(course)) if rng.random() < manner.unseen_share}
    reports = []
    phase = rng.randrange(manner.interval_seconds)
    moments = set(range(times[0][0] + phase, times[-1][1] + 1, manner.interval_seconds))
    if manner.reports_arrival:
        moments |= {arrived for arrived, _ in times}
    for now in sorted(moments):
        visit = next(n for n, (_, departed) in enumerate(times) if now <= departed)
        arrived = times[visit][0]
        status = (
            "STOPPED_AT" if now >= arrived else "INCOMING_AT" if arrived - now <= INCOMING_SECONDS else "IN_TRANSIT_TO"
        )
        if visit in unseen or rng.random() < manner.skipped_share:
            continue
        report = TrueReport(now, status, course[visit], _name_sequence(rng, visit, manner), vehicle, visit + 1)
        reports += [report] * (2 if rng.random() < manner.repeated_share else 1)
    return reports


def _run(rng: random.Random, due: Sequence[int], manner: Manner) -> list[tuple[int, int]]:
    """Return when a vehicle arrives at each stop and departs."""
    departed = manner.late_seconds
    times = [(departed - max(manner.layover_seconds, 1), departed)]
    delay = float(departed)
    for before, arrival in zip(due, due[1:], strict=False):
        delay = max(delay + rng.uniform(-manner.change_seconds, manner.change_seconds), min(manner.late_seconds, -60))
        arrived = max(arrival + round(delay), departed + max((arrival - before) // 3, 10))
        departed = arrived + manner.dwell_seconds
        times.append((arrived, departed))
    return times


def _name_sequence(rng: random.Random, visit: int, manner: Manner) -> int | None:
    """Return the stop sequence that a report has."""
    if manner.sequences == "none" or (manner.sequences == "some" and rng.random() < 0.5):
        return None
    return (visit + 1) * STEP + (1 if manner.sequences == "wrong" else 0)


def make_course(shape: str, n_stem: int, n_loop: int) -> Course:
    """Return the stops of a course of a shape: `n_stem` stops before it branches, `n_loop` stops around."""
    stem, loop = [f"s{n}" for n in range(n_stem)], [f"l{n}" for n in range(n_loop)]
    other = [f"m{n}" for n in range(n_loop)]
    shapes: dict[str, Callable[[], list[str]]] = {
        "loop": lambda: [*loop, loop[0]],
        "lollipop": lambda: [*stem, *loop, *stem[::-1]],
        "figure of eight": lambda: [*stem, "x", *loop, "x", *other, "x"],
        "out and back": lambda: [*stem, *loop, *stem[::-1]] if n_loop == 1 else [*loop, *loop[-2::-1]],
        "two laps": lambda: [*loop, *loop, loop[0]],
        "branch": lambda: [*stem, "x", loop[0], "x", *other],
    }
    return tuple(shapes[shape]())


SHAPES = ("loop", "lollipop", "figure of eight", "out and back", "two laps", "branch")


def manners(sequences: st.SearchStrategy[Sequences], max_skipped: float = 0.0) -> st.SearchStrategy[Manner]:
    """Return a strategy for vehicles, up to 25 minutes late, that report by the time at which they are due to depart.

    Their delay changes by up to a minute from stop to stop.
    """

    def make(late: int, before: int, change: int, dwell: int, interval: int, share: float, named: Sequences) -> Manner:
        return Manner(
            late_seconds=late, layover_seconds=late + before, change_seconds=change, dwell_seconds=dwell,
            interval_seconds=interval, skipped_share=share, repeated_share=0.1, sequences=named,
        )  # fmt: skip

    return st.builds(
        make,
        st.integers(0, MAX_LATE_SECONDS),
        st.integers(0, 900),
        st.integers(0, 60),
        st.integers(5, 60),
        st.integers(10, 60),
        st.floats(0, max_skipped),
        sequences,
    )


def trips(manner: st.SearchStrategy[Manner], max_vehicles: int = 2) -> st.SearchStrategy[RandomTrip]:
    """Return a strategy for trips of all shapes."""
    courses = st.builds(make_course, st.sampled_from(SHAPES), st.integers(1, 4), st.integers(2, 6))
    wandering = st.lists(st.sampled_from("abcd"), min_size=2, max_size=12).map(_without_repeats)
    return st.builds(
        run_trip,
        courses | wandering,
        st.lists(st.integers(60, 300), min_size=40, max_size=40),
        st.lists(manner, min_size=1, max_size=max_vehicles),
        st.integers(0, 10_000),
    )


def _without_repeats(stops: list[str]) -> Course:
    """Return a course without the stops that equal the one before."""
    return tuple(stop for n, stop in enumerate(stops) if n == 0 or stop != stops[n - 1])
