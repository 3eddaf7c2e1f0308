"""Group `production`: the production model. The op that rolls it back is in `rollback`.

A candidate that passes the gate replaces the production model; one that only waits for live evidence predicts in its
shadow. The rules of the gate are in `ml.evaluation.promotion_gate`; the rules here are those that need Dagster or the
registry's history.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from mbta_assets.defs.dagster_internals import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
    BaseAssetGraph,
    CheckError,
    latest_check_records,
)
from mbta_assets.defs.freshness import WEEKLY
from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.production.leaderboard import read_first_row
from mbta_assets.defs.production.model_report import History, store_report
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.defs.run_config import build_run_config
from mbta_assets.ml.evaluation import promotion_gate
from mbta_assets.ml.evaluation.live_evidence import VISIT, compare_live, require_live_evidence
from mbta_assets.ml.evaluation.promotion_gate import Contender, Decision, Gate, Rule
from mbta_assets.ml.inference.latency import measure_min_latency_us
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.ml.inference.run_time import MedianRunTime, OutdatedModel
from mbta_assets.ml.inference.transit_network import ForeignNetwork, list_served_stops, require_network
from mbta_assets.ml.training.dataset import read_labelled
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry, Move, PointerMoved
from mbta_assets.storage.reports import ReportStore, name_model_report
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema

ASSET = "production_model"
MAX_ATTEMPTS = 5
"""Decisions that are made again because another run promoted a model meanwhile."""
ROLLBACK_PREFIX = "rolled back"
"""Begins the reason of a rollback in the registry's history."""
LIVE_EVIDENCE_DAYS = 14
"""Number of the latest service days with predictions that live evidence is taken from."""


class GateConfig(dg.Config):
    """Thresholds of the promotion gate; `mbta_assets.ml.evaluation.promotion_gate.Gate` explains each default."""

    min_gain_over_production: float = Field(
        default=Gate.min_gain_over_production,
        ge=0,
        lt=1,
        description="Minimum reduction of the production model's MAE, as a share.",
    )
    min_gain_over_lookup: float = Field(
        default=Gate.min_gain_over_lookup,
        ge=0,
        lt=1,
        description="Minimum reduction of the run-time lookup's MAE, as a share.",
    )
    max_route_regression: float = Field(
        default=Gate.max_route_regression, ge=0, description="Maximum increase of the MAE on any route, as a share."
    )
    max_day_regression: float = Field(
        default=Gate.max_day_regression,
        ge=0,
        description="Maximum increase of the MAE on any service day, as a share.",
    )
    min_route_rows: int = Field(
        default=Gate.min_route_rows, ge=1, description="Routes and service days with fewer test rows are not judged."
    )
    standard_errors: float = Field(
        default=Gate.standard_errors,
        ge=0,
        description="Differences on a route or service day within this many standard errors are noise.",
    )
    min_test_rows: int = Field(
        default=Gate.min_test_rows, ge=1, description="Minimum number of rows that no compared model was trained on."
    )
    max_size_bytes: int = Field(default=Gate.max_size_bytes, ge=1, description="Maximum size of the bundle in bytes.")
    max_latency_us: float = Field(
        default=Gate.max_latency_us, gt=0, description="Maximum latency of a prediction for one row in microseconds."
    )
    live_arrivals: int | None = Field(
        default=None,
        ge=0,
        description="Minimum number of arrivals that the candidate has predicted live beside the production model; 0: "
        "no live evidence is asked for; unset: MBTA_LIVE_ARRIVALS.",
    )

    def build_gate(self, live_arrivals: int) -> Gate:
        """Return the gate, which asks for so many live arrivals where this configuration does not say."""
        return Gate(**{"live_arrivals": live_arrivals, **self.model_dump(exclude_none=True)})


@dg.asset(
    group_name="production",
    description="The model in production, which a candidate replaces only if it passes the gate.",
    deps=["model_leaderboard"],
    kinds={"onnx"},
    pool="cores",
    freshness_policy=WEEKLY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def production_model(
    context: dg.AssetExecutionContext,
    config: GateConfig,
    settings: dg.ResourceParam[TrainingSettings],
    model_registry: dg.ResourceParam[ModelRegistry],
    warehouse: dg.ResourceParam[Warehouse],
    reports: dg.ResourceParam[ReportStore],
    training_set: Bundle,
    runtime_lookup: Bundle,
    quantized_student: Bundle,
) -> dg.MaterializeResult:
    gate = config.build_gate(settings.live_arrivals)
    test = read_labelled(training_set, "test")
    candidate = _measure_candidate(quantized_student, test)
    lookup = MedianRunTime.from_bundle(runtime_lookup)
    baseline = Contender(runtime_lookup, lookup.predict_delay(test))
    passed_checks = _require_passed_checks(context)
    read_once = cache(lambda: read_live_days(warehouse, quantized_student.digest))

    def judge(production: Bundle | None) -> Decision:
        rival, outdated = _predict_rival(production, test)
        rules = [passed_checks, *outdated, *_refuse_rolled_back(model_registry.moves(ASSET), quantized_student.digest)]
        if gate.live_arrivals and rival is not None and rival.bundle.digest != quantized_student.digest:
            evidence = compare_live(*read_once(), quantized_student.digest, rival.bundle.digest)
            rules.append(require_live_evidence(evidence, gate.live_arrivals, gate.standard_errors))
        return promotion_gate.decide_promotion(gate, test, candidate, baseline, rival, rules)

    decision = promote_if_better(model_registry, quantized_student, judge)
    update_shadow(model_registry, quantized_student, decision)
    moves = model_registry.moves(ASSET)
    if decision.promoted:
        run_config = build_run_config(model_registry, "quantized_student", quantized_student.manifest)
        history = History(decision, moves, run_config)
        store_report(reports, quantized_student, baseline.predicted, test, history)
    else:
        context.log.warning("Not promoted: " + " ".join(decision.reasons))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(moves[0].digest if moves else "none"),
        metadata={
            "promoted": decision.promoted,
            "decision": _describe_decision(decision, quantized_student, moves),
            "comparison": table_metadata(decision.comparison) if decision.comparison else "not compared",
            "candidate": quantized_student.digest,
            "training_set": training_set.digest,
            **{f"{name}_mae_seconds": mae for name, mae in _overall_maes(decision).items()},
            **describe_history(moves, reports),
        },
    )


@dg.asset_check(
    asset=ASSET, description="Require the latest candidate to be in production, or to wait for that in the shadow."
)
def candidate_accepted(
    context: dg.AssetCheckExecutionContext, model_registry: dg.ResourceParam[ModelRegistry]
) -> dg.AssetCheckResult:
    event = context.instance.get_latest_materialization_event(dg.AssetKey(ASSET))
    made = event.asset_materialization.metadata if event and event.asset_materialization else {}
    if "candidate" not in made:
        return dg.AssetCheckResult(passed=True, description="No candidate was judged since the last rollback.")
    candidate = str(made["candidate"].value)
    places = {name: model_registry.current_digest(name) for name in (ASSET, SHADOW_MODEL)}
    accepted = candidate in places.values()
    return dg.AssetCheckResult(
        passed=accepted,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if accepted else str(made["decision"].value),
        metadata={"candidate": candidate, **{name: digest or "none" for name, digest in places.items()}},
    )


def read_live_days(warehouse: Warehouse, candidate: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the live predictions and the arrivals of the latest service days on which a candidate was in the shadow.

    `compare_live` says which columns they have. Days from which a model has learned are left out for that model.
    """
    predictions = [schema.empty_frame(schema.DelayPredictions)]
    arrivals = [schema.empty_frame(schema.TransitFeatures)[[*VISIT, "delay_seconds"]]]
    for day in warehouse.tables.days("delay_predictions")[-LIVE_EVIDENCE_DAYS:]:
        rows = warehouse.read("delay_predictions", day)
        if "role" not in rows:  # stored by an earlier release
            continue
        rows = rows[rows["role"].notna() & rows["out_of_sample"]]
        if ((rows["role"] == schema.SHADOW) & (rows["model_version"] == candidate)).any():
            predictions.append(rows)
            arrivals.append(warehouse.read("transit_features", day, [*VISIT, "delay_seconds"]))
    return pd.concat(predictions, ignore_index=True), pd.concat(arrivals, ignore_index=True)


def _measure_candidate(bundle: Bundle, rows: pd.DataFrame) -> Contender:
    """Return a candidate with its predictions for n rows and its latency."""
    model, first_row = load_model(bundle), read_first_row(rows)
    latency_us = measure_min_latency_us(lambda: model.predict_row(first_row))
    return Contender(bundle, _predict_published(model, rows), latency_us)


def _predict_published(model: Model, rows: pd.DataFrame) -> np.ndarray:
    """Return the delays (n,) in seconds that are published of a model: on no trip they run backwards."""
    return correct_delays(rows, model.predict(rows)).delay


def _predict_rival(production: Bundle | None, rows: pd.DataFrame) -> tuple[Contender | None, list[Rule]]:
    """Return the production model with its predictions for n rows; none, and why, if it can be used no longer."""
    if production is None:
        return None, []
    try:
        require_network(production, list_served_stops(rows))
        return Contender(production, _predict_published(load_model(production), rows)), []
    except (OutdatedModel, ForeignNetwork) as error:
        return None, [Rule(True, f"{production.digest[:16]} in production is not compared with. {error}")]


def promote_if_better(
    registry: ModelRegistry,
    candidate: Bundle,
    judge: Callable[[Bundle | None], Decision],
    max_attempts: int = MAX_ATTEMPTS,
) -> Decision:
    """Make a candidate the production model if `judge` decides so against the current one, None if there is none.

    Judges again if the current one changed meanwhile. Raises dagster.Failure if it changed at every attempt.
    """
    for _ in range(max_attempts):
        current = registry.current_digest(ASSET)
        if current == candidate.digest:
            registry.put(ASSET, candidate)  # repairs a damaged copy, leaves an intact one alone
        decision = judge(registry.get(ASSET, current) if current else None)
        if not decision.promoted:
            return decision
        stored = registry.put(ASSET, candidate)
        try:
            registry.set_current(ASSET, stored.digest, expected=current, why=f"promoted: {decision.summary}")
        except PointerMoved:
            continue
        return decision
    raise dg.Failure(
        f"The current version of {ASSET} changed during each of {max_attempts} decisions; nothing was promoted. "
        f"See which runs promote at the same time, then materialize {ASSET} again."
    )


def update_shadow(registry: ModelRegistry, candidate: Bundle, decision: Decision) -> None:
    """Put a candidate that only waits for live evidence into the shadow, or after any other decision nothing.

    So the shadow has the candidate of the latest decision, or none; a run that is killed before is followed by another
    decision.
    """
    reasons = " ".join(decision.reasons)
    if decision.waits:
        stored = registry.put(SHADOW_MODEL, candidate)
        registry.make_current(SHADOW_MODEL, stored.digest, why=reasons)
    elif registry.current_digest(SHADOW_MODEL):
        outcome = "promoted" if decision.promoted else "not promoted"
        registry.make_current(SHADOW_MODEL, None, why=f"{candidate.digest[:16]} {outcome}: {reasons}")


def find_failed_checks(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, asset: dg.AssetKey
) -> tuple[int, list[str]]:
    """Return the number of blocking checks upstream of an asset, and the names of those that failed most recently.

    Checks of daily tables do not count: a service day that fails one is not published, and nothing was made from it.
    """
    upstream = {key for key in graph.get_ancestor_asset_keys(asset) if not graph.get(key).is_partitioned}
    blocking = sorted(key for key in graph.get_check_keys_for_assets(upstream) if graph.get(key).blocking)
    latest = latest_check_records(instance, blocking)
    failed = [key.to_user_string() for key in blocking if key in latest and _has_failed(instance, latest[key])]
    return len(blocking), failed


def _has_failed(instance: dg.DagsterInstance, record: AssetCheckExecutionRecord) -> bool:
    """Return whether a check failed as an error, or its run failed before it."""
    if record.status == AssetCheckExecutionRecordStatus.PLANNED:
        run = instance.get_run_by_id(record.run_id)
        return run is not None and run.is_failure
    is_error = record.evaluation is None or record.evaluation.severity == dg.AssetCheckSeverity.ERROR
    return record.status == AssetCheckExecutionRecordStatus.FAILED and is_error


def _require_passed_checks(context: dg.AssetExecutionContext) -> Rule:
    """Require that no blocking check upstream failed when it last ran."""
    try:
        graph: BaseAssetGraph = context.repository_def.asset_graph
    except CheckError:  # `execute_in_process` has no code location, only the job's own checks
        graph = context.job_def.asset_layer.asset_graph
    blocking, failed = find_failed_checks(context.instance, graph, context.asset_key)
    if failed:
        return Rule(False, f"Blocking checks upstream failed when they last ran: {', '.join(failed)}.")
    return Rule(True, f"Of {blocking} blocking checks upstream none failed when it last ran.")


def _refuse_rolled_back(moves: Sequence[Move], candidate: str) -> list[Rule]:
    """Refuse a version that was rolled back from: on the same rows the next run would promote it again."""
    rollbacks = [newer for newer, older in pairwise(moves) if older.digest == candidate and _is_rollback(newer)]
    return [
        Rule(
            False,
            f"It was in production and was rolled back from at {rollback.at}. To use it all the same, run the job "
            f"rollback_production with version {candidate[:16]}.",
        )
        for rollback in rollbacks[:1]
    ]


def _is_rollback(move: Move) -> bool:
    return move.why is not None and move.why.startswith(ROLLBACK_PREFIX)


def _overall_maes(decision: Decision) -> dict[str, float]:
    """Return the finite MAEs over all rows by contender, which Dagster charts."""
    overall = decision.comparison[0] if decision.comparison else {}
    names = (promotion_gate.CANDIDATE, promotion_gate.PRODUCTION, promotion_gate.LOOKUP)
    return {name: overall[name] for name in names if name in overall and math.isfinite(overall[name])}


def _describe_decision(decision: Decision, candidate: Bundle, moves: Sequence[Move]) -> dg.MarkdownMetadataValue:
    version = candidate.digest[:16]
    if decision.promoted:
        outcome = f"**Promoted:** {version}."
    elif decision.waits:
        outcome = f"**Not promoted yet:** {version} predicts in the shadow of {moves[0].digest[:16]}."
    elif moves:
        outcome = f"**Not promoted:** {version}. {moves[0].digest[:16]} stays in production."
    else:
        outcome = (
            f"**Not promoted:** {version}, and nothing is in production yet. Train a better candidate on more service "
            f"days, or change the gate in the launchpad, then materialize {ASSET} again."
        )
    rules = [f"- {'✓' if rule.passed else '✗'} {rule.message}" for rule in decision.rules]
    return dg.MetadataValue.md("\n".join([outcome, "", *rules]))


def describe_history(moves: Sequence[Move], reports: ReportStore) -> dict[str, Any]:
    """Return the versions that were in production as a table, the current one, and the location of its report."""
    if not moves:
        return {"current_version": dg.MetadataValue.text("none"), "history": dg.MetadataValue.text("none")}
    history = [{"version": move.digest[:16], "since": move.at, "why": move.why} for move in moves]
    location = reports.find(name_model_report(moves[0].digest))
    return {
        "current_version": dg.MetadataValue.text(moves[0].digest),
        "history": table_metadata(history),
        **{f"report_{place}": value for place, value in location.items()},
    }
