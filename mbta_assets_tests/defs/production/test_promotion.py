"""Promotion as Dagster runs it: what is in production afterwards, what the run says, and the way back."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from onnx import TensorProto, helper, numpy_helper

from mbta_assets.defs.automation.jobs import rollback_production
from mbta_assets.defs.io_managers import BundleIOManager
from mbta_assets.defs.production import promotion
from mbta_assets.ml.evaluation.promotion_gate import Decision, Gate, Rule
from mbta_assets.ml.inference import onnx_session
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ENCODER, LOOKUP, ONNX, Inputs
from mbta_assets.ml.inference.run_time import RuntimeLookup
from mbta_assets.storage.bundle import Bundle, BundleError, Draft
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets_tests.support.dagster_dev import ROOT

NAME = "production_model"
SECONDS_FOR_CHANGE = 30.0
KEY = dg.AssetKey(NAME)
QUICK = {"latency_microseconds": 1e6}
"""No test fails because the machine is busy."""


def transit_rows(n: int) -> pd.DataFrame:
    """n updates of two routes in two days: a change in delay goes on, which no table of medians knows."""
    random = np.random.default_rng(0)
    change, late = random.uniform(-3, 3, n), random.normal(60, 40, n)
    begin = pd.Timestamp("2024-09-10 12:00", tz="UTC")
    return pd.DataFrame(
        {
            "service_date": np.where(np.arange(n) < n / 2, "2024-09-10", "2024-09-11"),
            "trip_id": (np.arange(n) // 5).astype(str),
            "time_stamp": begin + pd.to_timedelta(np.arange(n) * (86_400 * 2 // n), unit="s"),
            "route_id": np.where(np.arange(n) // 5 % 2, "Red", "Blue"),
            "stops_ahead": 1 + np.arange(n) % 2 * 2,
            "current_status": "IN_TRANSIT_TO",
            "current_stop_id": "a",
            "stop_id": "b",
            "stops_behind": 3.0,
            "seconds_in_state": 0.0,
            "scheduled_seconds_ahead": 300.0,
            "departure_delay_seconds": late,
            "last_delay_seconds": late,
            "last_change_seconds": change,
            "delay_seconds": SECONDS_FOR_CHANGE * change + random.normal(0, 10, n),
            "part": np.select([np.arange(n) < 0.4 * n, np.arange(n) < 0.5 * n], ["train", "validation"], "test"),
        }
    )


ROWS = transit_rows(8_000)
SEEN = ROWS[ROWS["part"] != "test"]
PARTS = [
    {"part": part, "rows": len(of), "from": str(of["time_stamp"].min()), "to": str(of["time_stamp"].max())}
    for part, of in ROWS.groupby("part")
]
ENCODED = Encoder.fit(SEEN, ["last_change_seconds"], ["route_id"])
MEDIANS = RuntimeLookup.fit(SEEN)


def linear(learned: float, red_is_off_seconds: float = 0.0) -> Draft:
    """A candidate that has learned so much of what a change in delay does, from nothing (0) to all (1).

    On one route it may be off by so many seconds.
    """
    inputs = Inputs(ENCODED, MEDIANS, {1: 1.0, 3: 1.0})
    weights = np.array([[SECONDS_FOR_CHANGE * learned], [0], [0]], dtype=np.float32)
    by_route = np.array([0, 0, red_is_off_seconds], dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["numeric", "weights"], ["learned"]),
        helper.make_node("Gather", ["by_route", "codes"], ["off"]),
        helper.make_node("Add", ["learned", "off"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], [onnx_session.OUTPUT]),
    ]
    values = {"weights": weights, "by_route": by_route, "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("codes", TensorProto.INT64, ["n", 1]),
        ],
        [helper.make_tensor_value_info(onnx_session.OUTPUT, TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Draft(
        "onnx",
        {ONNX: network.SerializeToString(), **inputs.files()},
        {
            "training_set": "this one",
            "training_window": PARTS,
            "parity": {"max_seconds": 0.01, "bound_seconds": 0.1, "rows": 100},
            "residual_to": "lookup",
        },
    )


@dg.asset
def digest_in_use(production_model: Bundle) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"digest": production_model.digest})


def assets() -> list[Any]:
    """The production model, what is upstream of it, and one asset that is made with it."""

    def upstream(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, io_manager_key="bundles")
        def stored() -> None: ...

        return stored

    names = ("training_set", "runtime_lookup", "quantized_student", "model_leaderboard")
    return [*map(upstream, names), promotion.production_model, digest_in_use]


def resources(store: BundleStore) -> dict[str, Any]:
    return {"bundle_store": store, "bundles": BundleIOManager(store)}


class Line:
    """A store with a training set and its lookup, and the assets as a code location has them."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.store, self.instance = BundleStore(root), instance
        buffer = io.BytesIO()
        ROWS.to_parquet(buffer)
        files = {"rows.parquet": buffer.getvalue(), ENCODER: ENCODED.to_json()}
        self.make_current("training_set", Draft("training_set", files, {"parts": PARTS}))
        lookup = Draft("runtime_lookup", {LOOKUP: MEDIANS.to_bytes()}, {"training_window": PARTS})
        self.make_current("runtime_lookup", lookup)

    def make_current(self, asset: str, draft: Draft) -> None:
        stored = self.store.put(asset, draft)
        self.store.point(asset, stored.digest, self.store.current_digest(asset))

    def run(self, *selection: str, **gate: Any) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            assets(),
            selection=selection,
            resources=resources(self.store),
            run_config={"ops": {NAME: {"config": {**QUICK, **gate}}}} if NAME in selection else None,
            instance=self.instance,
        )

    def promote(self, candidate: Draft, **gate: Any) -> dict[str, Any]:
        """Materialize the production model with a candidate; what the run says of it."""
        self.make_current("quantized_student", candidate)
        (event,) = self.run(NAME, **gate).asset_materializations_for_node(NAME)
        return {name: value.value for name, value in event.metadata.items()}

    def roll_back(self, version: str = "", raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        return rollback_production.execute_in_process(
            run_config={"ops": {"roll_back": {"config": {"version": version}}}},
            resources={"bundle_store": self.store},
            instance=self.instance,
            raise_on_error=raise_on_error,
        )

    def data_version(self) -> str:
        event = self.instance.get_latest_materialization_event(KEY)
        assert event and event.asset_materialization and event.asset_materialization.tags
        return event.asset_materialization.tags["dagster/data_version"]

    def stale(self) -> StaleStatus:
        """Of the asset that is made with the production model."""
        graph = dg.Definitions(assets(), resources=resources(self.store)).resolve_asset_graph()
        return CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance)).get_status(
            dg.AssetKey("digest_in_use")
        )

    def in_production(self) -> str | None:
        return self.store.current_digest(NAME)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Line(tmp_path, instance)


def test_the_first_candidate_that_beats_the_lookup_is_promoted(line: Line) -> None:
    said = line.promote(linear(0.5))
    stored = line.store.current("quantized_student")
    assert said["promoted"]
    assert line.in_production() == said["current_version"] == line.data_version() == stored.digest
    assert said["decision"].startswith("**Promoted:**")
    assert said["candidate_mae_seconds"] < said["runtime_lookup_mae_seconds"]
    assert "| all | 4000 |" in said["comparison"]
    (move,) = line.store.moves(NAME)
    assert move.why and move.why.startswith("promoted: MAE on 4,000 rows: candidate ")
    assert move.why in said["history"]


def test_a_better_candidate_replaces_the_production_model(line: Line) -> None:
    line.promote(linear(0.5))
    first = line.in_production()
    said = line.promote(linear(0.9))
    assert said["promoted"]
    assert said["candidate_mae_seconds"] < said["production_model_mae_seconds"]
    assert line.store.history(NAME) == [line.store.current_digest("quantized_student"), first]


def test_a_worse_candidate_leaves_the_production_model_and_says_why(line: Line) -> None:
    line.promote(linear(0.9))
    kept = line.in_production()
    assert kept
    said = line.promote(linear(0.5))
    assert not said["promoted"]
    assert "✗ MAE" in said["decision"] and f"{kept[:16]} stays in production" in said["decision"]
    assert line.store.history(NAME) == [kept]
    assert line.data_version() == kept == said["current_version"]


def test_a_candidate_worse_on_one_route_is_refused_and_the_route_named(line: Line) -> None:
    line.promote(linear(0.4))
    kept = line.in_production()
    said = line.promote(linear(0.9, red_is_off_seconds=36.0))
    assert said["candidate_mae_seconds"] < 0.9 * said["production_model_mae_seconds"]
    assert not said["promoted"]
    assert "✗ Worse than production_model on Red" in said["decision"]
    assert line.in_production() == kept


def test_with_nothing_in_production_a_refusal_succeeds_and_says_what_to_do(line: Line) -> None:
    said = line.promote(linear(0.0))
    assert not said["promoted"]
    assert line.in_production() is None
    assert line.data_version() == said["current_version"] == "none"
    assert "nothing is in production yet. Train a better candidate" in said["decision"]


def test_the_gate_is_the_one_of_the_launchpad(line: Line) -> None:
    said = line.promote(linear(0.9), size_bytes=1)
    assert not said["promoted"]
    assert "bytes; 1 is the budget" in said["decision"]
    assert line.promote(linear(0.9))["promoted"]


def test_the_launchpad_starts_from_the_defaults_of_the_gate() -> None:
    # A default that pydantic's Field is given by position is not one to a type checker.
    assert Gate(**promotion.GateConfig().model_dump()) == Gate()  # type: ignore[call-arg]


def test_the_candidate_in_production_changes_nothing_but_mends_its_damaged_copy(line: Line) -> None:
    line.promote(linear(0.5))
    moves = line.store.moves(NAME)
    (line.store.current(NAME).path / LOOKUP).write_bytes(b"")
    with pytest.raises(BundleError):
        line.store.current(NAME)
    said = line.promote(linear(0.5))
    assert not said["promoted"] and "nothing changes" in said["decision"]
    assert line.store.current(NAME).digest == moves[0].digest
    assert line.store.moves(NAME) == moves


def test_a_candidate_that_learned_from_another_training_set_is_judged_and_the_decision_says_so(line: Line) -> None:
    here = line.store.current_digest("training_set")
    assert here
    said = line.promote(linear(0.5))
    assert said["promoted"]
    assert f"✓ It learned from training set this one, not from {here[:16]}" in said["decision"]
    better = linear(0.9)
    from_here = Draft(better.kind, better.files, {**better.fields, "training_set": here})
    assert "It learned from" not in line.promote(from_here)["decision"]


def checked(*checks: dg.AssetChecksDefinition) -> dg.Definitions:
    """A table with checks, a model made of it, and a check of the model."""

    @dg.asset
    def table() -> None: ...

    @dg.asset(deps=[table])
    def made_of_it() -> None: ...

    @dg.asset_check(asset=made_of_it, blocking=True)
    def of_the_model_itself() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    return dg.Definitions([table, made_of_it], asset_checks=[of_the_model_itself, *checks])


def outcome(name: str, result: dg.AssetCheckResult | None, blocking: bool = True) -> dg.AssetChecksDefinition:
    """A check of the table that ends so; None: it does not end."""

    @dg.asset_check(asset="table", name=name, blocking=blocking)
    def check() -> dg.AssetCheckResult:
        if result is None:
            raise RuntimeError("no end")
        return result

    return check


PASSED, FAILED = dg.AssetCheckResult(passed=True), dg.AssetCheckResult(passed=False)
WARNED = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)


@pytest.mark.parametrize(
    ("check", "failed"),
    [
        (outcome("sound", PASSED), []),
        (outcome("sound", FAILED), ["table:sound"]),
        (outcome("sound", None), ["table:sound"]),
        (outcome("sound", WARNED), []),
        (outcome("sound", FAILED, blocking=False), []),
    ],
)
def test_a_check_counts_when_it_blocks_and_failed_or_did_not_end(
    check: dg.AssetChecksDefinition, failed: list[str]
) -> None:
    defs = checked(check)
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, raise_on_error=False)
        found = promotion.failed_checks(instance, defs.resolve_asset_graph(), dg.AssetKey("made_of_it"))
    assert found[1] == failed


def test_a_check_that_failed_once_and_passes_now_is_no_obstacle() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for result in (FAILED, PASSED):
            defs = checked(outcome("sound", result))
            defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, raise_on_error=False)
        graph = defs.resolve_asset_graph()
        assert promotion.failed_checks(instance, graph, dg.AssetKey("made_of_it")) == (1, [])


CODE_LOCATION = """
import sys
from pathlib import Path
import dagster as dg
sys.path.insert(0, {tests!r})
from mbta_assets_tests.defs.production.test_promotion import assets, resources
from mbta_assets.storage.model_registry import BundleStore

@dg.asset_check(asset="training_set", blocking=True)
def sound():
    return dg.AssetCheckResult(passed=False)

defs = dg.Definitions(assets(), asset_checks=[sound], resources=resources(BundleStore(Path({store!r}))))
"""


def test_a_run_of_its_own_refuses_by_name_what_failed_in_an_earlier_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    location = tmp_path / "location.py"
    location.write_text(CODE_LOCATION.format(tests=str(ROOT), store=str(tmp_path)))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        line = Line(tmp_path, instance)
        line.make_current("quantized_student", linear(0.9))
        failing = dg.asset_check(asset="training_set", name="sound", blocking=True)(lambda: FAILED)
        dg.materialize(
            [*assets(), failing], selection=dg.AssetSelection.checks(failing), resources=resources(line.store),
            instance=instance, raise_on_error=False,
        )  # fmt: skip
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", str(location), "--select", NAME]
        ran = subprocess.run(command, env=os.environ | {"DAGSTER_HOME": str(home)}, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        event = instance.get_latest_materialization_event(KEY)
    assert event and event.asset_materialization
    decision = event.asset_materialization.metadata["decision"].value
    assert isinstance(decision, str)
    assert "✗ Blocking checks upstream failed when they last ran: training_set:sound." in decision
    assert line.in_production() is None


def test_rollback_restores_the_earlier_bytes_and_everything_downstream_learns_of_it(line: Line) -> None:
    line.promote(linear(0.5))
    first = line.store.current(NAME)
    weights = first.file(ONNX)
    line.promote(linear(0.9))
    second = line.in_production()
    assert second
    line.run("digest_in_use")
    assert line.stale() == StaleStatus.FRESH

    (event,) = line.roll_back().asset_materializations_for_node("roll_back")
    assert event.asset_key == KEY
    assert line.store.current(NAME).file(ONNX) == weights
    assert line.in_production() == line.data_version() == first.digest
    assert line.store.moves(NAME)[0].why == f"rolled back to {first.digest[:16]} from {second[:16]}"
    assert line.stale() == StaleStatus.STALE

    used = line.run("digest_in_use").asset_materializations_for_node("digest_in_use")
    assert used[0].metadata["digest"].value == first.digest


def test_rollback_goes_to_any_earlier_version_by_its_first_digits(line: Line) -> None:
    versions = [line.promote(linear(learned))["candidate"] for learned in (0.2, 0.5, 0.9)]
    line.roll_back(versions[0][:6])
    assert line.store.history(NAME) == [versions[0], *reversed(versions)]


def test_rollback_after_rollback_goes_further_back(line: Line) -> None:
    versions = [line.promote(linear(learned))["candidate"] for learned in (0.2, 0.5, 0.9)]
    line.roll_back()
    assert line.in_production() == versions[1]
    line.roll_back()
    assert line.in_production() == versions[0]
    assert not line.roll_back(raise_on_error=False).success
    assert line.in_production() == versions[0]


@pytest.mark.parametrize("asked", ["abcdef", "{current}", "{earlier:.5}"])
def test_a_version_that_cannot_be_gone_back_to_is_an_error_that_lists_those_that_can(line: Line, asked: str) -> None:
    earlier, current = (line.promote(linear(learned))["candidate"] for learned in (0.2, 0.9))
    with pytest.raises(dg.Failure, match=f"{current[:16]} .*promoted: MAE.*; {earlier[:16]} "):
        line.roll_back(asked.format(current=current, earlier=earlier))
    assert line.in_production() == current


def test_a_damaged_version_is_not_gone_back_to(line: Line) -> None:
    versions = [line.promote(linear(learned))["candidate"] for learned in (0.2, 0.9)]
    (line.store.get(NAME, versions[0]).path / LOOKUP).write_bytes(b"")
    with pytest.raises(BundleError, match=LOOKUP):
        line.roll_back()
    assert line.in_production() == versions[1]


def test_what_was_rolled_back_from_does_not_come_back_by_itself(line: Line) -> None:
    line.promote(linear(0.2))
    kept = line.in_production()
    line.promote(linear(0.9))
    line.roll_back()
    said = line.promote(linear(0.9))
    assert not said["promoted"]
    assert "was rolled back from" in said["decision"]
    assert line.in_production() == kept
    assert line.promote(linear(0.7))["promoted"]


def toy(n: int) -> Draft:
    """One of many small bundles; the gate of these tests prefers the higher n."""
    return Draft("toy", {"weights.bin": bytes([n])}, {"n": n})


def test_a_decision_is_made_again_against_what_became_current_meanwhile(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    candidate, meanwhile = store.put("candidate", toy(2)), store.put(NAME, toy(3))
    judged = []

    def judge(production: Bundle | None) -> Decision:
        judged.append(production and production.manifest["n"])
        if production is None:
            store.point(NAME, meanwhile.digest, expected=None)
        return Decision((Rule(production is None, "higher"),))

    assert not promotion.promote_if_better(store, candidate, judge).promoted
    assert judged == [None, 3]
    assert store.history(NAME) == [meanwhile.digest]


def test_when_the_pointer_moves_during_every_decision_promotion_gives_up_and_says_so(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    others = iter([store.put(NAME, toy(n)).digest for n in range(3)])

    def judge(production: Bundle | None) -> Decision:
        store.point(NAME, next(others), expected=production.digest if production else None)
        return Decision((Rule(True, "always"),))

    with pytest.raises(dg.Failure, match="changed during each of 3 decisions"):
        promotion.promote_if_better(store, store.put("candidate", toy(9)), judge, tries=3)
    assert len(store.history(NAME)) == 3


PROMOTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mbta_assets.defs.production.promotion import promote_if_better
from mbta_assets.storage.bundle import Draft
from mbta_assets.ml.evaluation.promotion_gate import Decision, Rule
from mbta_assets.storage.model_registry import BundleStore
store = BundleStore(Path.cwd())
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[2]), 40, 2):
    candidate = store.put(sys.argv[2], Draft("toy", {"weights.bin": bytes([n])}, {"n": n}))
    def judge(production):
        return Decision((Rule(production is None or production.manifest["n"] < n, "higher"),))
    if promote_if_better(store, candidate, judge, tries=1000).promoted:
        print(candidate.digest)
"""


def test_two_promoters_at_once_leave_one_pointer_and_a_history_of_every_promotion_once(tmp_path: Path) -> None:
    root = str(ROOT)
    promoters = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, root, first],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first in ("0", "1")
    ]  # fmt: skip
    for promoter in promoters:
        assert promoter.stdout is not None
        assert promoter.stdout.readline() == "ready\n"
    for promoter in promoters:
        assert promoter.stdin is not None
        promoter.stdin.write("go\n")
        promoter.stdin.flush()
    promoted = [digest for promoter in promoters for digest in promoter.communicate()[0].split()]
    assert [promoter.returncode for promoter in promoters] == [0, 0]

    store = BundleStore(tmp_path)
    history = store.history(NAME)
    assert sorted(history) == sorted(promoted)
    numbers = [store.get(NAME, digest).manifest["n"] for digest in history]
    # Whoever was promoted beat the one before: no decision was made against one that had gone.
    assert numbers == sorted(set(numbers), reverse=True)
    assert store.current(NAME).manifest["n"] == 39
    assert {n % 2 for n in numbers} == {0, 1}
