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
Said = dict[tuple[Any, Any], Any]
"""Predicted arrivals by visit and time, in minutes."""
VISITS = [(f"t{trip}", stop) for trip in range(3) for stop in (1, 2)]


def to_time(minutes: float) -> pd.Timestamp:
    return START + pd.Timedelta(seconds=round(60 * minutes))


def make_frame(said: Said, time: str) -> pd.DataFrame:
    """Return predicted arrivals, in minutes by visit and minute; None is one that is missing."""
    rows = [
        (*visit, "arrival", to_time(at), pd.NaT if predicted is None else to_time(predicted))
        for (visit, at), predicted in said.items()
    ]
    frame = pd.DataFrame(rows, columns=["trip_id", "stop_sequence", "event", time, "predicted_arrival"])
    for name in (time, "predicted_arrival"):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    return frame


def make_features(arrived: dict[Any, float]) -> pd.DataFrame:
    """Return two rows about each visit, some with an arrival."""
    visits = [(*visit, f"s{visit[1]}", "Red", 0, "arrival") for visit in VISITS]
    features = pd.DataFrame(
        visits, columns=["trip_id", "stop_sequence", "stop_id", "route_id", "direction_id", "event"]
    )
    times = [to_time(arrived[visit]) if visit in arrived else pd.NaT for visit in VISITS]
    features["actual_arrival_time"] = pd.Series(times, dtype="datetime64[us, UTC]")
    return pd.concat([features, features], ignore_index=True)


def measure(said: Said, arrived: dict[Any, float], agency: Said | None = None) -> tuple[Values, Values, Values]:
    """Return the count and value of each measure: of ours, of ours beside the agency, and of the agency."""
    predictions = make_frame(said, "published_at"), make_features(arrived), make_frame(agency or {}, "predicted_at")
    ours, of_agency = measure_service(*predictions)
    parts = [row for row in ours if row.dimension == "all"], [row for row in ours if row.dimension != "all"], of_agency
    on_all, beside, by_agency = ({row.measure: (row.n, row.value) for row in part} for part in parts)
    return on_all, beside, by_agency


def say_as_agency(agency: Said, times: list[float]) -> Said:
    """Return what the agency said at each of some minutes, of the visits whose predicted arrival is not over."""
    said = {}
    for visit in {visit for visit, _ in agency}:
        for time in times:
            known = [(at, predicted) for (of, at), predicted in agency.items() if of == visit]
            latest = max(((at, p) for at, p in known if to_time(at) <= to_time(time)), default=(0, None))[1]
            if latest is not None and to_time(latest) >= to_time(time):
                said[visit, time] = latest
    return said


def measure_plainly(said: Said, arrived: dict[Any, float], end: float | None = None) -> Values:
    """Return the same measures, visit by visit; `end` is the last publication, in minutes."""
    by_visit: dict[Any, list[tuple[float, float]]] = {}
    for (visit, at), predicted in said.items():
        by_visit.setdefault(visit, []).append((60 * at, round(60 * predicted)))
    for of_visit in by_visit.values():
        of_visit.sort()
    come = {visit: round(60 * minutes) for visit, minutes in arrived.items()}
    end = max((at for of in by_visit.values() for at, _ in of), default=0) if end is None else 60 * end
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


def agree(measured: Values, plain: Values) -> bool:
    """Return whether two sides have the same measures."""
    return measured.keys() == plain.keys() and all(
        measured[name] == (n, None if value is None else pytest.approx(value)) for name, (n, value) in plain.items()
    )


minutes = st.floats(0, 40)
publications = st.dictionaries(st.tuples(st.sampled_from(VISITS), st.integers(0, 30)), minutes, max_size=40)
arrivals = st.dictionaries(st.sampled_from(VISITS), minutes)
changes = st.dictionaries(
    st.tuples(st.sampled_from([*VISITS, ("t9", 1)]), st.integers(-30, 90).map(lambda n: n / 2)),
    st.none() | minutes,
    max_size=20,
)


@given(publications, arrivals)
def test_they_are_those_of_visits_and_minutes_one_by_one(said: Said, arrived: dict[Any, float]) -> None:
    ours, beside, of_agency = measure(said, arrived)
    assert agree(ours, measure_plainly(said, arrived))
    assert beside == of_agency == {}


@given(publications, arrivals, changes)
def test_the_agency_counts_as_if_it_had_published_when_we_did(
    said: Said, arrived: dict[Any, float], agency: Said
) -> None:
    ours, beside, of_agency = measure(said, arrived, agency)
    assert ours == measure(said, arrived)[0]
    times = sorted({at for _, at in said})
    on_its_own = say_as_agency(agency, times)
    on_both = {key: predicted for key, predicted in on_its_own.items() if key in said}
    shares = measure_plainly(on_its_own, arrived, max(times, default=0))
    trust = measure_plainly(on_both, arrived)
    expected = {name: (shares if name.endswith("share") else trust)[name] for name in shares}
    assert of_agency == {} if not agency else agree(of_agency, expected)
    ours_on_both = measure_plainly({key: said[key] for key in on_both}, arrived)
    expected = {name: value for name, value in ours_on_both.items() if not name.endswith("share")}
    assert beside == {} if not agency else agree(beside, expected)


@given(publications, arrivals)
def test_an_agency_that_says_what_we_say_has_the_same_measures(said: Said, arrived: dict[Any, float]) -> None:
    said = {key: max(predicted, key[1]) for key, predicted in said.items()}
    every = {(visit, at) for visit in VISITS for at in range(31)}
    agency = {key: said.get(key) for key in every}  # it takes back what we say no longer
    ours, beside, of_agency = measure(said, arrived, agency)
    assert agree(of_agency, ours)
    assert agree(beside, {name: value for name, value in ours.items() if name in beside})


def test_a_rider_who_trusts_a_late_prediction_misses_the_vehicle_and_waits_for_the_next() -> None:
    first, second = VISITS[0], VISITS[2]
    said = {(first, 0): 14.0}  # it says 12:14, the rider comes at 12:13, and it came at 12:11
    assert measure(said, {first: 11.0, second: 20.0})[0]["extra_wait_seconds"] == (1, 6 * 60.0)
    assert measure(said, {first: 15.5, second: 20.0})[0]["extra_wait_seconds"] == (1, 90.0)
    assert measure(said, {first: 11.0})[0]["extra_wait_seconds"] == (0, None)


def test_what_was_said_and_never_came_is_counted_once_it_is_due() -> None:
    said = {(VISITS[0], 0): 5.0, (VISITS[2], 0): 50.0, (VISITS[4], 8): 9.0}
    assert measure(said, {VISITS[4]: 9.0})[0]["never_came_share"] == (1, 1.0)


def test_a_trip_that_only_the_agency_predicts_and_no_vehicle_serves_never_came() -> None:
    said, ghost = {(VISITS[0], minute): 9.0 for minute in range(20)}, ("t9", 1)
    ours, beside, of_agency = measure(said, {VISITS[0]: 9.0}, {(ghost, 0.5): 12.0, (VISITS[2], 2.0): 40.0})
    assert of_agency["never_came_share"] == (1, 1.0) and of_agency["unpredicted_share"] == (1, 1.0)
    assert ours["never_came_share"] == (1, 0.0) and ours["unpredicted_share"] == (1, 0.0)
    assert of_agency["extra_wait_seconds"] == beside["extra_wait_seconds"] == (0, None)
