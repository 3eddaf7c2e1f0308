"""The placement of reports of trips that serve a stop more than once: each is about the visit that is meant."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mbta_assets.transit.placement import Candidate, Progress
from mbta_assets_tests.support.random_trips import (
    MAX_LATE_SECONDS,
    SHAPES,
    STEP,
    Manner,
    RandomTrip,
    TrueReport,
    make_course,
    manners,
    run_trip,
    trips,
)

MICROSECONDS = 1_000_000
MAX_EARLY_SECONDS = 1800


def place(trip: RandomTrip) -> list[tuple[TrueReport, int]]:
    """Return the reports of a trip, each once, with the position at which it is placed."""
    progress: defaultdict[str, Progress] = defaultdict(Progress)
    placed = []
    for report in sorted(set(trip.reports), key=_order):
        moving = report.status != "STOPPED_AT"
        candidates = [
            _expect(trip, n, moving)
            for n, stop in enumerate(trip.course)
            if stop == report.stop and _can_be_there(trip, n, report)
        ]
        if candidates:
            time = report.seconds * MICROSECONDS
            position = progress[report.vehicle].place(time, report.stop, moving, report.stop_sequence, candidates)
            placed.append((report, position))
    return placed


def _order(report: TrueReport) -> tuple[int, bool, str, int]:
    return (report.seconds, report.status != "STOPPED_AT", report.stop, report.stop_sequence or -1)


def _expect(trip: RandomTrip, n: int, moving: bool) -> Candidate:
    """Return the visit number `n` as a candidate."""
    ends = trip.arrivals[n] if moving else trip.departures[n]
    begins = None if n == 0 else trip.departures[n - 1] if moving else trip.arrivals[n]
    return Candidate(n + 1, None if begins is None else begins * MICROSECONDS, ends * MICROSECONDS, (n + 1) * STEP)


def _can_be_there(trip: RandomTrip, n: int, report: TrueReport) -> bool:
    """Return whether a report is not too early for the visit number `n`."""
    if n == 0:
        return True
    expected = trip.departures[n - 1] if report.status != "STOPPED_AT" else trip.arrivals[n]
    return report.seconds >= expected - MAX_EARLY_SECONDS


def find_wrong(trip: RandomTrip) -> list[tuple[TrueReport, int]]:
    """Return the reports that are placed at another visit than they are about."""
    return [(report, position) for report, position in place(trip) if report.position != position]


def longest_gap(trip: RandomTrip) -> int:
    """Return the longest time without a report of a vehicle."""
    times = defaultdict(list)
    for report in sorted(trip.reports, key=_order):
        times[report.vehicle].append(report.seconds)
    return max(
        (b - a for of_vehicle in times.values() for a, b in zip(of_vehicle, of_vehicle[1:], strict=False)), default=0
    )


def shortest_return(trip: RandomTrip) -> int:
    """Return the shortest scheduled time between two visits of a stop."""
    last: dict[str, int] = {}
    shortest = 1 << 30
    for stop, arrival in zip(trip.course, trip.arrivals, strict=True):
        shortest = min(shortest, arrival - last.get(stop, -(1 << 30)))
        last[stop] = arrival
    return shortest


true_sequences = manners(st.just("true"), max_skipped=0.9).map(lambda manner: replace(manner, unseen_share=0.3))


@given(trip=trips(true_sequences))
@settings(max_examples=100)
def test_a_report_with_its_stop_sequence_is_about_that_visit(trip: RandomTrip) -> None:
    assert find_wrong(trip) == []


@given(trip=trips(manners(st.sampled_from(["none", "wrong", "some"]), max_skipped=0.5)))
@settings(max_examples=200)
def test_without_stop_sequences_reports_without_long_gaps_are_placed_right(trip: RandomTrip) -> None:
    assume(3 * longest_gap(trip) <= shortest_return(trip))
    assert find_wrong(trip) == []


def _late_start(rng: random.Random) -> Manner:
    return Manner(late_seconds=rng.randint(0, MAX_LATE_SECONDS), change_seconds=60)


def _many_skipped(rng: random.Random) -> Manner:
    late = rng.randint(0, MAX_LATE_SECONDS)
    return Manner(late_seconds=late, layover_seconds=late, change_seconds=60, skipped_share=0.5, unseen_share=0.1)


def _begins_on_the_way(rng: random.Random) -> Manner:
    return Manner(late_seconds=rng.randint(0, 120), change_seconds=60, skipped_share=0.9)


@pytest.mark.parametrize(
    ("make", "min_share"), [(_late_start, 0.98), (_many_skipped, 0.99), (_begins_on_the_way, 0.98)]
)
def test_most_reports_are_placed_right_where_little_is_known(
    make: Callable[[random.Random], Manner], min_share: float
) -> None:
    counts: Counter[bool] = Counter()
    for seed in range(200):
        rng = random.Random(seed)
        for shape in SHAPES:
            course = make_course(shape, rng.randint(1, 4), rng.randint(2, 6))
            trip = run_trip(course, [rng.randint(60, 300) for _ in course], [make(rng)], seed)
            counts.update(report.position == position for report, position in place(trip))
    assert counts[True] / counts.total() >= min_share, counts


def test_a_stale_report_of_the_stop_before_is_of_the_visit_before() -> None:
    course = make_course("out and back", 1, 4)
    trip = run_trip(course, [180] * len(course), [Manner(layover_seconds=60)], 0)
    departed = max(report for report in trip.reports if report.position == 3)
    stale = departed._replace(seconds=departed.seconds + 40)
    assert find_wrong(replace(trip, reports=(*trip.reports, stale))) == []


def test_a_vehicle_that_stands_still_is_where_it_is_however_late_it_gets() -> None:
    course = make_course("two laps", 1, 3)
    trip = run_trip(course, [120] * len(course), [Manner(layover_seconds=60)], 0)
    stood = max(report for report in trip.reports if report.position == 3)
    later = tuple(
        report._replace(seconds=report.seconds + (1200 if report.position > 3 else 0)) for report in trip.reports
    )
    standing = tuple(stood._replace(seconds=stood.seconds + seconds) for seconds in range(30, 1200, 30))
    assert find_wrong(replace(trip, reports=later + standing)) == []


def test_two_vehicles_of_a_trip_are_followed_each_by_itself() -> None:
    course = make_course("loop", 1, 5)
    both = [Manner(layover_seconds=60), Manner(late_seconds=1200, layover_seconds=1260)]
    trip = run_trip(course, [240] * len(course), both, 0)
    assert find_wrong(trip) == [] and len({report.vehicle for report in trip.reports}) == 2
