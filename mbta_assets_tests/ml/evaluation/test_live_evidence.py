"""Live evidence compares two models on the same stop visits and minutes, whatever else was published."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.ml.evaluation.live_evidence import VISIT, LiveEvidence, compare_live, require_live_evidence

BEGIN = pd.Timestamp("2024-09-10 06:00", tz="UTC")
Row = tuple[str, int, int, int, float]
rows_of_models = st.lists(
    st.tuples(
        st.sampled_from(["shadow", "production"]),
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(0, 240),
        st.floats(-600, 600, allow_nan=False),
    ),
    max_size=40,
)
"""Role, trip, stop, seconds and predicted delay."""


def make_predictions(rows: list[Row]) -> pd.DataFrame:
    """Return the rows as `delay_predictions`, of two service days."""
    frame = pd.DataFrame(rows, columns=["role", "trip", "stop_sequence", "second", "predicted_delay_seconds"])
    return pd.DataFrame(
        {
            "service_date": pd.Timestamp("2024-09-10") + pd.to_timedelta(frame["trip"].astype(int) % 2, unit="D"),
            "trip_id": frame["trip"].astype(str),
            "vehicle_id": "v" + frame["trip"].astype(str),
            "stop_sequence": frame["stop_sequence"].astype("int64"),
            "event": "arrival",
            "role": frame["role"].astype(object),
            "model_version": frame["role"].map({"shadow": "new", "production": "old"}).astype(object),
            "published_at": BEGIN + pd.to_timedelta(frame["second"].astype("int64"), unit="s"),
            "predicted_delay_seconds": frame["predicted_delay_seconds"].astype(float),
        }
    )


def make_arrivals(known: int = 4) -> pd.DataFrame:
    """Return the delay 10 s at each stop of so many trips, and none of the others."""
    visits = make_predictions([("shadow", trip, stop, 0, 0.0) for trip in range(4) for stop in (1, 2, 3)])
    return visits[VISIT].assign(delay_seconds=np.where(visits["trip_id"].astype(int) < known, 10.0, np.nan))


@given(rows_of_models, st.integers(0, 4))
def test_equals_a_count_by_hand(rows: list[Row], known: int) -> None:
    latest: dict[str, dict[tuple[int, int, int], float]] = {"shadow": {}, "production": {}}
    for role, trip, stop, second, delay in sorted(rows, key=lambda row: row[3]):
        latest[role][trip, stop, second // 60] = delay
    pairs = [key for key in latest["shadow"] if key in latest["production"] and key[0] < known]

    evidence = compare_live(make_predictions(rows), make_arrivals(known), "new", "old")

    assert evidence.predictions == len(pairs)
    assert evidence.arrivals == len({key[:2] for key in pairs})
    if pairs:
        assert evidence.days == len({key[0] % 2 for key in pairs})
        for role, mae in (("shadow", evidence.candidate_mae), ("production", evidence.production_mae)):
            assert mae == pytest.approx(np.mean([abs(latest[role][key] - 10) for key in pairs]))


@settings(max_examples=25)
@given(rows_of_models)
def test_a_model_is_not_worse_than_itself_and_other_versions_do_not_count(rows: list[Row]) -> None:
    once = make_predictions([("production", *row[1:]) for row in rows]).drop_duplicates([*VISIT, "published_at"])
    both = pd.concat([once, once.assign(role="shadow", model_version="new")])

    evidence = compare_live(both, make_arrivals(), "new", "old")

    assert not evidence.is_worse(2.0)
    if rows:
        assert evidence.difference == 0
    assert compare_live(both, make_arrivals(), "newer", "old").arrivals == LiveEvidence().arrivals == 0


def test_a_candidate_that_is_worse_on_every_trip_is_worse_and_the_better_one_is_not() -> None:
    offsets = {"shadow": 40.0, "production": 20.0}
    rows = [
        (role, trip, stop, 0, 10 + off + trip) for role, off in offsets.items() for trip in range(4) for stop in (1, 2)
    ]

    assert compare_live(make_predictions(rows), make_arrivals(), "new", "old").is_worse(2.0)

    swapped = [("production" if row[0] == "shadow" else "shadow", *row[1:]) for row in rows]
    assert not compare_live(make_predictions(swapped), make_arrivals(), "new", "old").is_worse(2.0)


@pytest.mark.parametrize(
    ("arrivals", "candidate_mae", "passed", "message"),
    [
        (99, 10.0, False, "Waits for live evidence (99 of 100 arrivals)."),
        (100, 21.9, True, "Not worse live"),
        (100, 22.1, False, "Worse live"),
        (100, float("nan"), False, "Worse live"),
    ],
)
def test_evidence_is_awaited_then_judged_beyond_the_noise(
    arrivals: int, candidate_mae: float, passed: bool, message: str
) -> None:
    evidence = LiveEvidence(arrivals, 200, 2, candidate_mae, 20.0, 1.0)

    rule = require_live_evidence(evidence, 100, 2.0)

    assert rule.passed == passed
    assert rule.message.startswith(message)
