"""The production model: a candidate that passes the gate replaces it, and a job goes back to an earlier version."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import dagster as dg
from dagster._check import CheckError
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from pydantic import Field

from mbta_assets.defs.freshness import EVERY_WEEK
from mbta_assets.defs.metadata import OWNERS, markdown_table
from mbta_assets.defs.training import labelled, rows_of
from mbta_assets.ml.evaluation import promotion_gate
from mbta_assets.ml.evaluation.promotion_gate import Contender, Decision, Gate, Rule
from mbta_assets.ml.inference import model
from mbta_assets.ml.inference.run_time import RuntimeLookup
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import ModelRegistry, Move, PointerMoved

ASSET = "production_model"
TRIES = 5
ROLLED_BACK = "rolled back"
FEWEST_DIGITS = 6


class GateConfig(dg.Config):
    """The gate; why each default is what it is stands beside it in `mbta_assets.ml.evaluation.promotion_gate`."""

    margin_over_production: float = Field(
        Gate.margin_over_production, ge=0, lt=1, description="Share of the production model's MAE that is saved."
    )
    margin_over_lookup: float = Field(
        Gate.margin_over_lookup, ge=0, lt=1, description="Share of the run-time lookup's MAE that is saved."
    )
    route_bound: float = Field(
        Gate.route_bound, ge=0, description="Share by which the MAE on any route may be above either's."
    )
    route_rows: int = Field(Gate.route_rows, ge=1, description="Routes with fewer test rows are not judged.")
    standard_errors: float = Field(
        Gate.standard_errors, ge=0, description="A difference on a route within so many standard errors is noise."
    )
    test_rows: int = Field(Gate.test_rows, ge=1, description="Fewest rows that no model learned from to decide on.")
    size_bytes: int = Field(Gate.size_bytes, ge=1, description="Most bytes of the bundle.")
    latency_microseconds: float = Field(Gate.latency_microseconds, gt=0, description="Most microseconds for one row.")


@dg.asset(
    group_name="production",
    description="The trusted model: a candidate replaces it only if it passes the gate; the reasons are its metadata.",
    deps=["model_leaderboard"],
    owners=OWNERS,
    kinds={"onnx"},
    pool="cores",
    freshness_policy=EVERY_WEEK,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def production_model(
    context: dg.AssetExecutionContext,
    config: GateConfig,
    bundle_store: dg.ResourceParam[ModelRegistry],
    training_set: Bundle,
    runtime_lookup: Bundle,
    quantized_student: Bundle,
) -> dg.MaterializeResult:
    gate = Gate(**config.model_dump())
    test = labelled(rows_of(training_set), "test")
    opened = model.Model(quantized_student)
    latency = promotion_gate.latency_microseconds(opened.predict, test)
    candidate = Contender(quantized_student, opened.predict(test), latency)
    lookup = RuntimeLookup.from_bytes(runtime_lookup.file(model.LOOKUP))
    baseline = Contender(runtime_lookup, lookup.delay(test))
    others = [_checked(context), *_learned_elsewhere(quantized_student, training_set)]

    def judge(production: Bundle | None) -> Decision:
        rival = Contender(production, model.Model(production).predict(test)) if production else None
        withdrawn = _withdrawn(bundle_store.moves(ASSET), quantized_student.digest)
        return promotion_gate.decide(gate, test, candidate, baseline, rival, [*others, *withdrawn])

    decision = promote_if_better(bundle_store, quantized_student, judge)
    moves = bundle_store.moves(ASSET)
    if not decision.promoted:
        context.log.warning("Not promoted: " + " ".join(decision.reasons))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(moves[0].digest if moves else "none"),
        metadata={
            "promoted": decision.promoted,
            "decision": _describe(decision, quantized_student, moves),
            "comparison": markdown_table(decision.comparison) if decision.comparison else "not compared",
            "candidate": quantized_student.digest,
            **{f"{name}_mae_seconds": mae for name, mae in _overall(decision).items()},
            **_state(moves),
        },
    )


def promote_if_better(
    store: ModelRegistry, candidate: Bundle, judge: Callable[[Bundle | None], Decision], tries: int = TRIES
) -> Decision:
    """Make a candidate the production model if `judge` decides so against the one that is; judge again if that changed.

    Raises dagster.Failure where it changed at every try.
    """
    for _ in range(tries):
        current = store.current_digest(ASSET)
        if current == candidate.digest:
            store.put(ASSET, candidate)  # mends a damaged copy, leaves a whole one alone
        decision = judge(store.get(ASSET, current) if current else None)
        if not decision.promoted:
            return decision
        stored = store.put(ASSET, candidate)
        try:
            store.point(ASSET, stored.digest, expected=current, why=f"promoted: {decision.figures}")
        except PointerMoved:
            continue
        return decision
    raise dg.Failure(
        f"The current version of {ASSET} changed during each of {tries} decisions; nothing was promoted. "
        f"See which runs promote at the same time, then materialize {ASSET} again."
    )


class RollbackConfig(dg.Config):
    """Which version to go back to."""

    version: str = Field(
        "",
        description=f"Digest of an earlier version or its first digits, {FEWEST_DIGITS} or more. "
        "Empty: the one before the current version first became current.",
    )


@dg.op(description="Makes an earlier version the production model again, after verifying its bytes.")
def roll_back(
    context: dg.OpExecutionContext, config: RollbackConfig, bundle_store: dg.ResourceParam[ModelRegistry]
) -> None:
    moves = bundle_store.moves(ASSET)
    version = earlier_version(moves, config.version)
    current = moves[0].digest
    why = f"{ROLLED_BACK} to {version[:16]} from {current[:16]}"
    bundle_store.point(ASSET, version, expected=current, why=why)
    context.log_event(
        dg.AssetMaterialization(
            ASSET,
            description=why,
            metadata={"promoted": False, "decision": why, **_state(bundle_store.moves(ASSET))},
            tags={DATA_VERSION_TAG: version},
        )
    )


def earlier_version(moves: Sequence[Move], version: str) -> str:
    """The digest of an earlier version that these digits begin; with none given, see `RollbackConfig`.

    Raises dagster.Failure, which lists the versions there are.
    """
    history = [move.digest for move in moves]
    if version:
        fitting = {digest for digest in history[1:] if digest.startswith(version)} - set(history[:1])
        if len(version) >= FEWEST_DIGITS and len(fitting) == 1:
            return fitting.pop()
        wrong = f"{version!r} does not name one earlier version of {ASSET} by {FEWEST_DIGITS} digits or more."
    else:
        # After a rollback the version just left is the one before the current; going back again must not return to it.
        first = len(history) - 1 - history[::-1].index(history[0]) if history else 0
        if history[first + 1 :]:
            return history[first + 1]
        wrong = f"{ASSET} has no version before the current one."
    versions = [f"{move.digest[:16]} ({move.at or 'time unknown'}, {move.why or 'why unknown'})" for move in moves]
    there_are = "; ".join(versions) or "none"
    raise dg.Failure(f"{wrong} Its versions, the current one first: {there_are}.", allow_retries=False)


def failed_checks(instance: dg.DagsterInstance, graph: BaseAssetGraph, asset: dg.AssetKey) -> tuple[int, list[str]]:
    """How many blocking checks there are upstream of an asset, and which of them failed when they last ran."""
    upstream = graph.get_ancestor_asset_keys(asset)
    blocking = sorted(key for key in graph.get_check_keys_for_assets(upstream) if graph.get(key).blocking)
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(blocking)
    failed = [key.to_user_string() for key in blocking if key in latest and _failed(instance, latest[key])]
    return len(blocking), failed


def _failed(instance: dg.DagsterInstance, latest: AssetCheckExecutionRecord) -> bool:
    if latest.status == AssetCheckExecutionRecordStatus.PLANNED:
        run = instance.get_run_by_id(latest.run_id)
        return run is not None and run.is_failure  # the run ended before the check did
    severe = latest.evaluation is None or latest.evaluation.severity == dg.AssetCheckSeverity.ERROR
    return latest.status == AssetCheckExecutionRecordStatus.FAILED and severe


def _checked(context: dg.AssetExecutionContext) -> Rule:
    try:
        graph: BaseAssetGraph = context.repository_def.asset_graph
    except CheckError:  # `execute_in_process` has no repository, only the job's own checks
        graph = context.job_def.asset_layer.asset_graph
    blocking, failed = failed_checks(context.instance, graph, context.asset_key)
    if failed:
        return Rule(False, f"Blocking checks upstream failed when they last ran: {', '.join(failed)}.")
    return Rule(True, f"Of {blocking} blocking checks upstream none failed when it last ran.")


def _learned_elsewhere(candidate: Bundle, training_set: Bundle) -> list[Rule]:
    learned_from = candidate.manifest["training_set"]
    if learned_from == training_set.digest:
        return []
    here = f"{learned_from[:16]}, not from {training_set.digest[:16]} whose test rows judge it"
    return [Rule(True, f"It learned from training set {here}; rows that it may have seen are left out.")]


def _withdrawn(moves: Sequence[Move], candidate: str) -> list[Rule]:
    """Against a version that somebody rolled back from: on the same rows it would come back at the next run."""
    left = [newer for newer, older in pairwise(moves) if older.digest == candidate and _is_rollback(newer)]
    return [
        Rule(
            False,
            f"It was in production and was rolled back from at {newer.at}. To use it all the same, run the job "
            f"rollback_production with version {candidate[:16]}.",
        )
        for newer in left[:1]
    ]


def _is_rollback(move: Move) -> bool:
    return move.why is not None and move.why.startswith(ROLLED_BACK)


def _overall(decision: Decision) -> dict[str, float]:
    """The MAE of each contender, for Dagster's charts, which know finite numbers only."""
    overall = decision.comparison[0] if decision.comparison else {}
    names = (promotion_gate.CANDIDATE, promotion_gate.PRODUCTION, promotion_gate.LOOKUP)
    return {name: overall[name] for name in names if name in overall and math.isfinite(overall[name])}


def _describe(decision: Decision, candidate: Bundle, moves: Sequence[Move]) -> dg.MarkdownMetadataValue:
    version = candidate.digest[:16]
    if decision.promoted:
        outcome = f"**Promoted:** {version}."
    elif moves:
        outcome = f"**Not promoted:** {version}. {moves[0].digest[:16]} stays in production."
    else:
        outcome = (
            f"**Not promoted:** {version}, and nothing is in production yet. Train a better candidate on more service "
            f"days, or change the gate in the launchpad, then materialize {ASSET} again."
        )
    rules = [f"- {'✓' if rule.holds else '✗'} {rule.says}" for rule in decision.rules]
    return dg.MetadataValue.md("\n".join([outcome, "", *rules]))


def _state(moves: Sequence[Move]) -> dict[str, dg.MetadataValue]:
    if not moves:
        return {"current_version": dg.MetadataValue.text("none"), "history": dg.MetadataValue.text("none")}
    history = [{"version": move.digest[:16], "since": move.at, "why": move.why} for move in moves]
    return {"current_version": dg.MetadataValue.text(moves[0].digest), "history": markdown_table(history)}
