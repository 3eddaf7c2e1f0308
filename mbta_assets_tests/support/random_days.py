"""Random service days whose trips serve stops more than once, small enough to compute row by row, and odd in all ways.

Several trips run one behind the other on two courses that may share stops. Their timetables may lack times and stop
sequences, and their vehicles may be two on one trip; see `random_trips` for what these report.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from hypothesis import strategies as st

from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, Row, Rows
from mbta_assets_tests.support.random_trips import SHAPES, STEP, Manner, RandomTrip, Sequences, make_course, run_trip

ScheduledSequences = Literal["all", "none", "some", "repeated"]


@dataclass(frozen=True)
class DayPlan:
    """What is drawn of a random day; all else follows from the seed."""

    seed: int
    n_trips: int = 2
    shapes: tuple[str, str] = ("loop", "lollipop")
    sequences: Sequences = "none"
    """Stop sequences that reports have."""
    scheduled_sequences: ScheduledSequences = "all"
    """Stop sequences that the timetables have: all of them, none, some, or one of them twice."""
    max_change_seconds: int = 60
    skipped_share: float = 0.2
    blank_share: float = 0.0
    """Share of stop times without times."""
    tied_share: float = 0.0
    """Share of stop times that have the times of the stop before."""
    n_odd: int = 0
    """Number of reports that are odd: of another stop, platform, trip or time, or without a stop or a trip."""
    has_second_vehicle: bool = False


def plans(max_trips: int = 3) -> st.SearchStrategy[DayPlan]:
    """Return a strategy for plans of days."""
    shares = st.sampled_from([0.0, 0.1, 0.4])
    return st.builds(
        DayPlan,
        seed=st.integers(0, 10_000),
        n_trips=st.integers(1, max_trips),
        shapes=st.tuples(st.sampled_from(SHAPES), st.sampled_from(SHAPES)),
        sequences=st.sampled_from(["true", "none", "wrong", "some"]),
        scheduled_sequences=st.sampled_from(["all", "none", "some", "repeated"]),
        max_change_seconds=st.sampled_from([0, 60, 300]),
        skipped_share=shares,
        blank_share=shares,
        tied_share=st.sampled_from([0.0, 0.2]),
        n_odd=st.sampled_from([0, 3, 15]),
        has_second_vehicle=st.booleans(),
    )


def make_day(plan: DayPlan) -> Rows:
    """Return the rows of the upstream tables of a random day."""
    rng = random.Random(plan.seed)
    courses = [make_course(shape, rng.randint(1, 3), rng.randint(2, 5)) for shape in plan.shapes]
    rows: Rows = {"vehicle": [], "trip": [], "stop": _make_stops(rng, courses), "schedule": []}
    for number in range(plan.n_trips):
        trip, begin = f"t{number}", BEGIN + timedelta(seconds=rng.choice([0, 240, 400]) * number)
        run = _run(rng, courses[number % 2], plan)
        route = f"route {number % 2}"
        rows["trip"].append(plain_day.make_trip(trip, route))
        rows["schedule"] += _spoil(rng, run.make_stop_times(trip, begin), plan)
        rows["vehicle"] += [report | {"id": f"{trip} {report['id']}"} for report in run.make_reports(trip, begin)]
    rows["vehicle"] += _make_odd_reports(rng, rows, plan.n_odd)
    rng.shuffle(rows["vehicle"])
    rng.shuffle(rows["schedule"])
    return rows


def _make_stops(rng: random.Random, courses: list[tuple[str, ...]]) -> list[Row]:
    """Return the stops of the courses and two more berths, some in stations, a few without a position."""
    stops = plain_day.make_stops(sorted({stop for course in courses for stop in course}))
    for stop in stops:
        stop["longitude"] += rng.randint(0, 20) / 500
        stop["parent_station"] = rng.choice([None, "station 0", "station 1"])
        if rng.random() < 0.05:
            stop["latitude"] = None
    stops += [{"id": f"berth {n}", "parent_station": f"station {n}"} for n in range(2)]
    return stops


def _run(rng: random.Random, course: tuple[str, ...], plan: DayPlan) -> RandomTrip:
    """Return a trip on a course with its reports."""
    manners = [
        Manner(
            late_seconds=rng.choice([0, 30, 600, 1500, -200]),
            change_seconds=plan.max_change_seconds,
            layover_seconds=rng.choice([0, 100, 900]),
            interval_seconds=rng.choice([30, 60, 150]),
            skipped_share=plan.skipped_share,
            unseen_share=rng.choice([0.0, 0.2]),
            repeated_share=0.1,
            reports_arrival=rng.random() < 0.8,
            sequences=plan.sequences,
        )
        for _ in range(1 + plan.has_second_vehicle)
    ]
    return run_trip(course, [rng.choice([60, 120, 200, 300]) for _ in course], manners, rng.randrange(10_000))


def _spoil(rng: random.Random, stop_times: list[Row], plan: DayPlan) -> list[Row]:
    """Return the stop times of a trip with some times and sequences missing, tied or repeated."""
    for n, row in enumerate(stop_times):
        row["timepoint"] = rng.choice([None, 0, 1])
        if n and rng.random() < plan.tied_share:
            before = stop_times[n - 1]
            row |= {name: before[name] or before["departure_time"] for name in ("arrival_time", "departure_time")}
        elif row["arrival_time"] and row["departure_time"] and rng.random() < 0.3:
            row["departure_time"] += timedelta(seconds=rng.choice([20, 60]))
    for row in stop_times:
        if rng.random() < plan.blank_share:
            row |= {"arrival_time": None, "departure_time": None}
        if plan.scheduled_sequences == "none" or (plan.scheduled_sequences == "some" and rng.random() < 0.2):
            row["stop_sequence"] = None
    if plan.scheduled_sequences == "repeated":
        stop_times[-1]["stop_sequence"] = rng.choice([STEP, 2 * STEP])
    return stop_times + [dict(row) for row in stop_times if rng.random() < 0.05]


def _make_odd_reports(rng: random.Random, rows: Rows, n_odd: int) -> list[Row]:
    """Return reports like others with something else in one respect."""
    stops = [stop["id"] for stop in rows["stop"]]
    odd = []
    for row in rng.choices(rows["vehicle"], k=n_odd) if rows["vehicle"] else []:
        at: datetime = row["updated_at"]
        changes: list[Row] = [
            {"stop_id": rng.choice(stops)},
            {"stop_id": None},
            {"stop_id": None, "current_stop_sequence": rng.randint(1, 9) * STEP},
            {"stop_id": f"berth {rng.randrange(2)}"},
            {"stop_id": "elsewhere"},
            {"trip_id": None, "id": "no trip"},
            {"trip_id": "unscheduled"},
            {"trip_id": " "},
            {"updated_at": at + timedelta(minutes=rng.randint(-60, 60))},
            {"updated_at": at + timedelta(hours=rng.choice([-14, -12, 11, 12, 13]))},
            {"updated_at": at + timedelta(seconds=1)},
            {"current_status": rng.choice(["IN_TRANSIT_TO", "STOPPED_AT"])},
            {"latitude": 0.0, "longitude": 0.1},
            {"latitude": None},
            {"direction_id": None, "route_id": None, "updated_at": at + timedelta(seconds=2)},
        ]
        odd.append(row | rng.choice(changes))
    return odd
