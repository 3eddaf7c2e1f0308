"""Each rule of the promotion gate refuses the candidates that it is meant to refuse, and no others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.evaluation import promotion_gate
from mbta_assets.ml.evaluation.promotion_gate import Contender, Decision, Gate, Rule
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry

N = 6_000
GATE = Gate()
TRAINING_END = pd.Timestamp("2024-09-10 06:00", tz="UTC")


@pytest.fixture
def rows() -> pd.DataFrame:
    """Return labelled rows a second apart, newer than the training data, of 600 trips on two routes and a short one."""
    trip = np.arange(N) // 10
    route = np.where(np.arange(N) < 100, "Mattapan", np.where(trip % 2, "Red", "Blue"))
    return pd.DataFrame(
        {
            "service_date": pd.Timestamp("2024-09-10"),
            "trip_id": trip.astype(str),
            "time_stamp": TRAINING_END + pd.to_timedelta(1 + np.arange(N), unit="s"),
            "route_id": route,
            "stops_ahead": 1 + np.arange(N) % 2,
            "delay_seconds": np.random.default_rng(0).normal(0, 100, N),
        }
    )


class Contenders:
    """Makes contenders with given errors and decides about them."""

    def __init__(self, root: Path, rows: pd.DataFrame) -> None:
        self.registry, self.rows = ModelRegistry(root), rows

    def make(
        self,
        error_seconds: float | np.ndarray,
        training_end: pd.Timestamp = TRAINING_END,
        test_begin: pd.Timestamp | None = None,
        **fields: Any,
    ) -> Contender:
        """Store a model whose predictions are off by so many seconds, early or late at random."""
        parts: list[dict[str, Any]] = [
            {"part": part, "rows": 10, "from": str(training_end), "to": str(to)}
            for part, to in (
                ("train", training_end - pd.Timedelta("1h")),
                ("validation", training_end),
                ("test", "2030-01-01"),
            )
        ]
        if test_begin is not None:
            parts[-1]["from"] = str(test_begin)
        manifest = {
            "parity": {"max_seconds": 0.01, "bound_seconds": 0.1, "rows": 500},
            "training_window": parts,
            "error_seconds": float(np.mean(error_seconds)),
            **fields,
        }
        draft = Draft("toy", {"weights.bin": bytes(100)}, manifest)
        sign = np.where(np.random.default_rng(1).random(N) < 0.5, 1, -1)
        predicted = self.rows["delay_seconds"].to_numpy() + sign * error_seconds
        return Contender(self.registry.put("toy", draft), predicted, 500.0)

    def decide(
        self, candidate: Contender, production: Contender | None, gate: Gate = GATE, extra_rules: tuple[Rule, ...] = ()
    ) -> Decision:
        """Decide about a candidate beside a run-time lookup whose predictions are off by 50 s."""
        return promotion_gate.decide_promotion(gate, self.rows, candidate, self.make(50.0), production, extra_rules)


@pytest.fixture
def contenders(tmp_path: Path, rows: pd.DataFrame) -> Contenders:
    """Return contenders in a registry of their own."""
    return Contenders(tmp_path, rows)


def assert_refused(decision: Decision, *messages: str) -> None:
    """Assert that a candidate is refused for as many reasons as there are messages, each of which contains one."""
    assert not decision.promoted
    assert len(decision.reasons) == len(messages), decision.reasons
    for reason, message in zip(decision.reasons, messages, strict=True):
        assert message in reason


def test_a_better_candidate_is_promoted_and_the_reasons_have_the_figures(contenders: Contenders) -> None:
    decision = contenders.decide(contenders.make(30.0), contenders.make(40.0))
    assert decision.promoted
    reason = (
        "MAE 30.00 s against 40.00 s of production_model on 6,000 rows: 25.00% less; more than 0.50% less is required."
    )
    assert reason in decision.reasons
    assert len(decision.reasons) == len(decision.rules)


def test_the_first_candidate_has_only_the_lookup_to_beat(contenders: Contenders) -> None:
    assert contenders.decide(contenders.make(45.0), None).promoted
    assert_refused(contenders.decide(contenders.make(49.8), None), "50.00 s of runtime_lookup")


@pytest.mark.parametrize(("error", "promoted"), [(39.7, True), (39.9, False)])
def test_a_candidate_has_to_beat_production_by_the_minimum_gain(
    contenders: Contenders, error: float, promoted: bool
) -> None:
    assert contenders.decide(contenders.make(error), contenders.make(40.0)).promoted is promoted


def test_a_candidate_that_beats_a_bad_production_model_but_not_the_lookup_is_refused(contenders: Contenders) -> None:
    decision = contenders.decide(contenders.make(55.0), contenders.make(70.0))
    assert_refused(decision, "10.00% more", "Worse than runtime_lookup on Blue by 10.0%")
    assert "Red by 10.0%" in decision.reasons[1]


def test_a_candidate_better_on_the_whole_and_worse_on_one_route_is_refused_with_the_route(
    contenders: Contenders, rows: pd.DataFrame
) -> None:
    error = np.where(rows["route_id"] == "Red", 42.0, 20.0)
    decision = contenders.decide(contenders.make(error), contenders.make(40.0))
    assert_refused(decision, "Worse than production_model on Red by 5.0% (42.00 s against 40.00 s, 2,950 rows")


def test_a_route_of_few_rows_is_not_judged(contenders: Contenders, rows: pd.DataFrame) -> None:
    error = np.where(rows["route_id"] == "Mattapan", 80.0, 20.0)
    production = contenders.make(40.0)
    assert contenders.decide(contenders.make(error), production).promoted
    decision = contenders.decide(contenders.make(error), production, Gate(min_route_rows=100))
    assert_refused(decision, "on Mattapan", "on Mattapan")


def test_a_route_worse_by_the_bad_luck_of_one_trip_does_not_refuse_a_candidate(
    contenders: Contenders, rows: pd.DataFrame
) -> None:
    unlucky = rows["trip_id"] == rows.loc[rows["route_id"] == "Red", "trip_id"].iloc[0]
    blue = rows["route_id"] == "Blue"
    candidate = contenders.make(np.where(unlucky, 640.0, np.where(blue, 20.0, 39.0)))
    decision = contenders.decide(candidate, contenders.make(40.0))
    by_route = {row["rows"]: row for row in decision.comparison}
    assert by_route["route Red"]["candidate"] > 1.02 * by_route["route Red"]["production_model"]
    assert decision.promoted
    assert not contenders.decide(candidate, contenders.make(40.0), Gate(standard_errors=0)).promoted


def test_a_candidate_better_on_the_whole_and_worse_on_one_day_is_refused_with_the_day(
    contenders: Contenders, rows: pd.DataFrame
) -> None:
    stormy = np.arange(N) >= N - 1_000
    rows["service_date"] = pd.to_datetime(np.where(stormy, "2024-09-11", "2024-09-10"))
    candidate, production = contenders.make(np.where(stormy, 44.0, 20.0)), contenders.make(40.0)
    decision = contenders.decide(candidate, production)
    assert_refused(decision, "Worse than production_model on 2024-09-11 by 10.0% (44.00 s against 40.00 s, 1,000 rows")
    by_day = {row["rows"]: row["candidate"] for row in decision.comparison if row["rows"].startswith("day")}
    assert by_day == {"day 2024-09-10": pytest.approx(20), "day 2024-09-11": pytest.approx(44)}
    assert contenders.decide(candidate, production, Gate(max_day_regression=0.11)).promoted
    assert contenders.decide(candidate, production, Gate(min_route_rows=1_001)).promoted
    unlucky = stormy & (np.arange(N) < N - 990)
    assert contenders.decide(contenders.make(np.where(unlucky, 900.0, 20.0)), production).promoted


@pytest.mark.parametrize("trained_longest", ["candidate", "production", "lookup"])
def test_rows_that_any_of_the_three_was_trained_on_do_not_count(
    contenders: Contenders, rows: pd.DataFrame, trained_longest: str
) -> None:
    half = rows["time_stamp"].iloc[N // 2 - 1]
    ends = {name: half if name == trained_longest else TRAINING_END for name in ("candidate", "production", "lookup")}
    # On the rows of the first half the candidate is perfect, on the others it is the worst.
    candidate = contenders.make(np.where(np.arange(N) < N // 2, 0.0, 60.0), ends["candidate"])
    lookup, production = contenders.make(50.0, ends["lookup"]), contenders.make(40.0, ends["production"])
    decision = promotion_gate.decide_promotion(GATE, rows, candidate, lookup, production)
    assert decision.comparison[0] == {
        "rows": "all",
        "n": N // 2,
        "candidate": pytest.approx(60),
        "production_model": pytest.approx(40),
        "runtime_lookup": pytest.approx(50),
    }
    assert not decision.promoted


@pytest.mark.parametrize("seen_longest", ["candidate", "production"])
def test_rows_before_a_test_part_do_not_count_as_their_arrivals_may_be_known(
    contenders: Contenders, rows: pd.DataFrame, seen_longest: str
) -> None:
    begin = rows["time_stamp"].iloc[N // 2]
    candidate = contenders.make(10.0, test_begin=begin if seen_longest == "candidate" else None)
    production = contenders.make(40.0, test_begin=begin if seen_longest == "production" else None)
    assert contenders.decide(candidate, production).comparison[0]["n"] == N // 2


def test_too_few_rows_that_no_contender_was_trained_on_decide_nothing(
    contenders: Contenders, rows: pd.DataFrame
) -> None:
    decision = contenders.decide(contenders.make(1.0, rows["time_stamp"].iloc[-500]), contenders.make(40.0))
    assert_refused(decision, "499 labelled rows are newer than 2024-09-10 07:31:41 UTC")
    assert decision.comparison == ()


def test_a_candidate_without_a_finite_prediction_for_every_row_is_refused(contenders: Contenders) -> None:
    predicted = np.full(N, 10.0)
    predicted[:3] = np.nan, np.inf, -np.inf
    decision = contenders.decide(replace(contenders.make(0.0), predicted=predicted), None)
    assert_refused(decision, "5,997 of 6,000 predictions are finite")


def test_a_production_model_without_a_prediction_for_a_row_is_infinitely_wrong_there(contenders: Contenders) -> None:
    production, candidate = contenders.make(40.0), contenders.make(40.1)
    assert not contenders.decide(candidate, production).promoted
    production.predicted[0] = np.nan
    assert contenders.decide(candidate, production).promoted


@pytest.mark.parametrize(
    ("parity", "message"),
    [
        ({"max_seconds": 0.3, "bound_seconds": 0.1, "rows": 500}, "by up to 0.3 s; 0.1 s is the bound"),
        ({"max_seconds": 0.0, "bound_seconds": 0.1, "rows": 0}, "On 0 rows"),
        (None, "does not state parity"),
    ],
)
def test_a_candidate_that_does_not_show_parity_is_refused(
    contenders: Contenders, parity: dict[str, float] | None, message: str
) -> None:
    assert_refused(contenders.decide(contenders.make(10.0, parity=parity), None), message)


def test_a_candidate_over_the_maximum_size_is_refused(contenders: Contenders) -> None:
    candidate = contenders.make(10.0)
    size = candidate.bundle.size_bytes
    assert contenders.decide(candidate, None, Gate(max_size_bytes=size)).promoted
    decision = contenders.decide(candidate, None, Gate(max_size_bytes=size - 1))
    assert_refused(decision, f"The bundle has {size:,} bytes")


def test_a_candidate_over_the_maximum_latency_is_refused(contenders: Contenders) -> None:
    slow = replace(contenders.make(10.0), latency_us=2_001.0)
    assert_refused(contenders.decide(slow, None), "One row takes 2,001 microseconds; 2,000 is the maximum.")


def test_every_reason_is_listed_not_only_the_first(contenders: Contenders) -> None:
    candidate = replace(contenders.make(60.0, parity=None), latency_us=9_000.0)
    decision = contenders.decide(
        candidate, None, Gate(max_size_bytes=10), extra_rules=(Rule(False, "A check failed."), Rule(True, "x"))
    )
    assert_refused(
        decision, "MAE 60.00 s", "Worse than runtime_lookup", "parity", "bytes", "microseconds", "A check failed."
    )


def test_the_version_in_production_already_changes_nothing(contenders: Contenders) -> None:
    production = contenders.make(40.0)
    assert_refused(contenders.decide(production, production), "already the production model: nothing changes")


def test_the_comparison_is_over_all_rows_then_by_stops_ahead_route_and_day(
    contenders: Contenders, rows: pd.DataFrame
) -> None:
    error = np.where(rows["stops_ahead"] == 2, 10.0, 30.0)
    comparison = contenders.decide(contenders.make(error), None).comparison
    assert [row["rows"] for row in comparison] == [
        "all", "1 stops ahead", "2 stops ahead", "route Blue", "route Mattapan", "route Red", "day 2024-09-10"
    ]  # fmt: skip
    assert [round(row["candidate"], 6) for row in comparison[:3]] == [20, 30, 10]
    assert sum(row["n"] for row in comparison[3:6]) == comparison[6]["n"] == comparison[0]["n"] == N
