"""The measures of published predictions, against ones that go through visits and minutes one by one."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.evaluation.service_quality import LOOK_SECONDS, MARGIN_SECONDS, measure_service
from mbta_assets.ml.evaluation.steadiness import MAX_GAP_SECONDS

START = pd.Timestamp("2024-03-06 17:00", tz="UTC")
Values = dict[str, tuple[int, float | None]]
"""Count and value by measure."""
VISITS = [(f"t{trip}", stop) for trip in range(3) for stop in (1, 2)]


def to_time(minutes: float) -> pd.Timestamp:
    return START + pd.Timedelta(seconds=round(60 * minutes))


def make_tables(said: dict[tuple[Any, int], float], arrived: dict[Any, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what was published, in minutes by visit and minute, and rows about each visit, some with an arrival."""
    published = pd.DataFrame(
        [(*visit, "arrival", to_time(at), to_time(predicted)) for (visit, at), predicted in said.items()],
        columns=["trip_id", "stop_sequence", "event", "published_at", "predicted_arrival"],
    )
    visits = [(*visit, f"s{visit[1]}", "Red", 0, "arrival") for visit in VISITS]
    features = pd.DataFrame(
        visits, columns=["trip_id", "stop_sequence", "stop_id", "route_id", "direction_id", "event"]
    )
    times = [to_time(arrived[visit]) if visit in arrived else pd.NaT for visit in VISITS]
    features["actual_arrival_time"] = pd.Series(times, dtype="datetime64[us, UTC]")
    for name in ("published_at", "predicted_arrival"):
        published[name] = pd.to_datetime(published[name], utc=True).astype("datetime64[us, UTC]")
    return published, pd.concat([features, features], ignore_index=True)


def measure(said: dict[tuple[Any, int], float], arrived: dict[Any, float]) -> Values:
    """Return the count and value of each measure."""
    return {row.measure: (row.n, row.value) for row in measure_service(*make_tables(said, arrived))}


def measure_plainly(said: dict[tuple[Any, int], float], arrived: dict[Any, float]) -> Values:
    """Return the same measures, visit by visit."""
    by_visit: dict[Any, list[tuple[float, float]]] = {}
    for (visit, at), predicted in said.items():
        by_visit.setdefault(visit, []).append((60 * at, round(60 * predicted)))
    for of_visit in by_visit.values():
        of_visit.sort()
    come = {visit: round(60 * minutes) for visit, minutes in arrived.items()}
    end = max((at for of in by_visit.values() for at, _ in of), default=0)
    unpredicted = [
        not any(time - LOOK_SECONDS <= at < time for at, _ in by_visit.get(visit, ())) for visit, time in come.items()
    ]
    never = [visit not in come for visit, of in by_visit.items() if of[-1][1] < end]
    neighbours = [pair for of in by_visit.values() for pair in zip(of, of[1:], strict=False)]
    pairs = [(a, b) for a, b in neighbours if b[0] - a[0] <= MAX_GAP_SECONDS]
    change, minutes = (sum(abs(b[n] - a[n]) for a, b in pairs) for n in (1, 0))
    change_per_minute = change / (minutes / 60) if minutes else None
    waits = []
    for visit, time in come.items():
        earlier = [predicted for at, predicted in by_visit.get(visit, ()) if at <= time - LOOK_SECONDS]
        if earlier:
            comes = earlier[-1] - MARGIN_SECONDS
            of_stop = sorted(other for key, other in come.items() if key[1] == visit[1] and other >= comes)
            taken = time if time >= comes else next(iter(of_stop), None)
            waits += [] if taken is None else [max(taken - comes - MARGIN_SECONDS, 0)]
    mean = lambda values: sum(values) / len(values) if values else None  # noqa: E731
    return {
        "unpredicted_share": (len(unpredicted), mean(unpredicted)),
        "never_came_share": (len(never), mean(never)),
        "change_per_minute_seconds": (len(pairs), change_per_minute),
        "extra_wait_seconds": (len(waits), mean(waits)),
    }


minutes = st.floats(0, 40)


@given(
    st.dictionaries(st.tuples(st.sampled_from(VISITS), st.integers(0, 30)), minutes, max_size=40),
    st.dictionaries(st.sampled_from(VISITS), minutes),
)
def test_they_are_those_of_visits_and_minutes_one_by_one(
    said: dict[tuple[Any, int], float], arrived: dict[Any, float]
) -> None:
    measured, plain = measure(said, arrived), measure_plainly(said, arrived)
    assert {name: n for name, (n, _) in measured.items()} == {name: n for name, (n, _) in plain.items()}
    for name, (_, value) in plain.items():
        assert measured[name][1] == (None if value is None else pytest.approx(value)), name


def test_a_rider_who_trusts_a_late_prediction_misses_the_vehicle_and_waits_for_the_next() -> None:
    first, second = VISITS[0], VISITS[2]
    said = {(first, 0): 14.0}  # it says 12:14, the rider comes at 12:13, and it came at 12:11
    assert measure(said, {first: 11.0, second: 20.0})["extra_wait_seconds"] == (1, 6 * 60.0)
    assert measure(said, {first: 15.5, second: 20.0})["extra_wait_seconds"] == (1, 90.0)
    assert measure(said, {first: 11.0})["extra_wait_seconds"] == (0, None)


def test_what_was_said_and_never_came_is_counted_once_it_is_due() -> None:
    said = {(VISITS[0], 0): 5.0, (VISITS[2], 0): 50.0, (VISITS[4], 8): 9.0}
    assert measure(said, {VISITS[4]: 9.0})["never_came_share"] == (1, 1.0)
