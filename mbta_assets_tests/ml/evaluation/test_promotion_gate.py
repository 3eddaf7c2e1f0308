"""The gate: each rule refuses what it is there to refuse, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import promotion_gate
from mbta_assets.ml.evaluation.promotion_gate import Contender, Decision, Gate, Rule
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import BundleStore

N = 6_000
GATE = Gate()
LEARNED = pd.Timestamp("2024-09-10 06:00", tz="UTC")


@pytest.fixture
def rows() -> pd.DataFrame:
    """Labelled rows a second apart, newer than what was learned from, of 600 trips on two routes and a short one."""
    trip = np.arange(N) // 10
    route = np.where(np.arange(N) < 100, "Mattapan", np.where(trip % 2, "Red", "Blue"))
    return pd.DataFrame(
        {
            "service_date": pd.Timestamp("2024-09-10"),
            "trip_id": trip.astype(str),
            "time_stamp": LEARNED + pd.to_timedelta(1 + np.arange(N), unit="s"),
            "route_id": route,
            "stops_ahead": 1 + np.arange(N) % 2,
            "delay_seconds": np.random.default_rng(0).normal(0, 100, N),
        }
    )


class Gates:
    """Models as the gate sees them, each off by some seconds, this way or that."""

    def __init__(self, store: Path, rows: pd.DataFrame) -> None:
        self.store, self.rows = BundleStore(store), rows

    def model(self, off: float | np.ndarray, until: pd.Timestamp = LEARNED, **fields: Any) -> Contender:
        parts = [
            {"part": part, "rows": 10, "from": str(until), "to": str(to)}
            for part, to in (("train", until - pd.Timedelta("1h")), ("validation", until), ("test", "2030-01-01"))
        ]
        manifest = {
            "parity": {"max_seconds": 0.01, "bound_seconds": 0.1, "rows": 500},
            "training_window": parts,
            "off_seconds": float(np.mean(off)),
            **fields,
        }
        draft = Draft("toy", {"weights.bin": bytes(100)}, manifest)
        sign = np.where(np.random.default_rng(1).random(N) < 0.5, 1, -1)
        return Contender(self.store.put("toy", draft), self.rows["delay_seconds"].to_numpy() + sign * off, 500.0)

    def decide(self, candidate: Contender, production: Contender | None, gate: Gate = GATE, **more: Any) -> Decision:
        return promotion_gate.decide(gate, self.rows, candidate, self.model(50.0), production, **more)


@pytest.fixture
def gates(tmp_path: Path, rows: pd.DataFrame) -> Gates:
    return Gates(tmp_path, rows)


def refused_for(decision: Decision, *said: str) -> None:
    """It is refused, by as many reasons as are given, each of which says so."""
    assert not decision.promoted
    assert len(decision.reasons) == len(said), decision.reasons
    for reason, expected in zip(decision.reasons, said, strict=True):
        assert expected in reason


def test_a_better_candidate_is_promoted_and_the_reasons_have_the_figures(gates):
    decision = gates.decide(gates.model(30.0), gates.model(40.0))
    assert decision.promoted
    said = "MAE 30.00 s against 40.00 s of production_model on 6,000 rows: 25.00% less; it must be over 0.50% less."
    assert said in decision.reasons
    assert len(decision.reasons) == len(decision.rules)


def test_the_first_candidate_has_only_the_lookup_to_beat(gates):
    assert gates.decide(gates.model(45.0), None).promoted
    refused_for(gates.decide(gates.model(49.8), None), "50.00 s of runtime_lookup")


@pytest.mark.parametrize(("off", "promoted"), [(39.7, True), (39.9, False)])
def test_a_candidate_has_to_beat_production_by_the_margin(gates, off, promoted):
    assert gates.decide(gates.model(off), gates.model(40.0)).promoted is promoted


def test_a_candidate_that_beats_a_bad_production_model_but_not_the_lookup_is_refused(gates):
    decision = gates.decide(gates.model(55.0), gates.model(70.0))
    refused_for(decision, "10.00% more", "Worse than runtime_lookup on Blue by 10.0%")
    assert "Red by 10.0%" in decision.reasons[1]


def test_a_candidate_better_on_the_whole_and_worse_on_one_route_is_refused_with_the_route(gates, rows):
    off = np.where(rows["route_id"] == "Red", 42.0, 20.0)
    decision = gates.decide(gates.model(off), gates.model(40.0))
    refused_for(decision, "Worse than production_model on Red by 5.0% (42.00 s against 40.00 s, 2,950 rows")


def test_a_route_of_few_rows_is_not_judged(gates, rows):
    off = np.where(rows["route_id"] == "Mattapan", 80.0, 20.0)
    production = gates.model(40.0)
    assert gates.decide(gates.model(off), production).promoted
    refused_for(gates.decide(gates.model(off), production, Gate(route_rows=100)), "on Mattapan", "on Mattapan")


def test_a_route_worse_by_the_bad_luck_of_one_trip_is_not_held_against_a_candidate(gates, rows):
    unlucky = rows["trip_id"] == rows.loc[rows["route_id"] == "Red", "trip_id"].iloc[0]
    blue = rows["route_id"] == "Blue"
    candidate = gates.model(np.where(unlucky, 640.0, np.where(blue, 20.0, 39.0)))
    decision = gates.decide(candidate, gates.model(40.0))
    by_route = {row["rows"]: row for row in decision.comparison}
    assert by_route["route Red"]["candidate"] > 1.02 * by_route["route Red"]["production_model"]
    assert decision.promoted
    assert not gates.decide(candidate, gates.model(40.0), Gate(standard_errors=0)).promoted


@pytest.mark.parametrize("learner", ["candidate", "production", "lookup"])
def test_rows_that_any_of_the_three_learned_from_do_not_count(gates, rows, learner):
    until = rows["time_stamp"].iloc[N // 2 - 1]
    windows = {name: until if name == learner else LEARNED for name in ("candidate", "production", "lookup")}
    # On the rows learned from the candidate is perfect, on the others it is the worst.
    candidate = gates.model(np.where(np.arange(N) < N // 2, 0.0, 60.0), windows["candidate"])
    lookup, production = gates.model(50.0, windows["lookup"]), gates.model(40.0, windows["production"])
    decision = promotion_gate.decide(Gate(), rows, candidate, lookup, production)
    assert decision.comparison[0] == {
        "rows": "all",
        "n": N // 2,
        "candidate": pytest.approx(60),
        "production_model": pytest.approx(40),
        "runtime_lookup": pytest.approx(50),
    }
    assert not decision.promoted


def test_too_few_rows_that_nobody_learned_from_decide_nothing(gates, rows):
    decision = gates.decide(gates.model(1.0, rows["time_stamp"].iloc[-500]), gates.model(40.0))
    refused_for(decision, "499 labelled rows are newer than 2024-09-10 07:31:41 UTC")
    assert decision.comparison == ()


def test_a_candidate_without_an_answer_for_every_row_is_refused(gates):
    off = np.full(N, 10.0)
    off[:3] = np.nan, np.inf, -np.inf
    refused_for(gates.decide(replace(gates.model(0.0), predicted=off), None), "5,997 of 6,000 predictions are finite")


def test_a_production_model_without_an_answer_for_a_row_is_infinitely_wrong_there(gates):
    production, candidate = gates.model(40.0), gates.model(40.1)
    assert not gates.decide(candidate, production).promoted
    production.predicted[0] = np.nan
    assert gates.decide(candidate, production).promoted


@pytest.mark.parametrize(
    ("parity", "said"),
    [
        ({"max_seconds": 0.3, "bound_seconds": 0.1, "rows": 500}, "by up to 0.3 s; 0.1 s is the bound"),
        ({"max_seconds": 0.0, "bound_seconds": 0.1, "rows": 0}, "On 0 rows"),
        (None, "says nothing of parity"),
    ],
)
def test_a_candidate_that_does_not_show_parity_is_refused(gates, parity, said):
    refused_for(gates.decide(gates.model(10.0, parity=parity), None), said)


def test_a_candidate_over_the_budget_of_size_is_refused(gates):
    candidate = gates.model(10.0)
    size = candidate.stored.size_bytes
    assert gates.decide(candidate, None, Gate(size_bytes=size)).promoted
    refused_for(gates.decide(candidate, None, Gate(size_bytes=size - 1)), f"Its bundle has {size:,} bytes")


def test_a_candidate_over_the_budget_of_latency_is_refused(gates):
    slow = replace(gates.model(10.0), latency_microseconds=2_001.0)
    refused_for(gates.decide(slow, None), "One row takes 2,001 microseconds; 2,000 is the budget.")


def test_every_reason_is_listed_not_only_the_first(gates):
    candidate = replace(gates.model(60.0, parity=None), latency_microseconds=9_000.0)
    decision = gates.decide(
        candidate, None, Gate(size_bytes=10), others=[Rule(False, "A check failed."), Rule(True, "x")]
    )
    refused_for(
        decision, "MAE 60.00 s", "Worse than runtime_lookup", "parity", "bytes", "microseconds", "A check failed."
    )


def test_the_version_in_production_already_changes_nothing(gates):
    production = gates.model(40.0)
    refused_for(gates.decide(production, production), "in production already: nothing changes")


def test_the_comparison_is_over_all_rows_then_by_stops_ahead_then_by_route(gates, rows):
    off = np.where(rows["stops_ahead"] == 2, 10.0, 30.0)
    compared = gates.decide(gates.model(off), None).comparison
    assert [row["rows"] for row in compared] == [
        "all", "1 stops ahead", "2 stops ahead", "route Blue", "route Mattapan", "route Red"
    ]  # fmt: skip
    assert [round(row["candidate"], 6) for row in compared[:3]] == [20, 30, 10]
    assert sum(row["n"] for row in compared[3:]) == compared[0]["n"] == N
