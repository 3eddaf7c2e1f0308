"""The leaderboard: every model and every baseline, scored on the same rows that none of them saw."""

import json
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from mbta_assets.defs.metadata import OWNERS, draw_sizes, markdown_table, picture
from mbta_assets.defs.training import labelled, rows_of
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.inference import intervals, model
from mbta_assets.ml.inference.latency import p50_microseconds
from mbta_assets.ml.inference.run_time import RuntimeLookup
from mbta_assets.sources import Source
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import LEADERBOARD, ReportStore

BASELINES = ("schedule", "persistence", "runtime_lookup", "oracle")
"""Rows that are no stored model."""


@dg.asset(
    group_name="production",
    description="Every model and baseline on the same untouched test rows, errors in seconds of delay.",
    owners=OWNERS,
    kinds={"json"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def model_leaderboard(
    reports: dg.ResourceParam[ReportStore],
    source: dg.ResourceParam[Source],
    bundle_store: dg.ResourceParam[ModelRegistry],
    training_set: Bundle,
    runtime_lookup: Bundle,
    xgboost_model: Bundle,
    dnn_teacher: Bundle,
    pruned_teacher: Bundle,
    distilled_student: Bundle,
    quantized_student: Bundle,
) -> dg.MaterializeResult:
    test = labelled(rows_of(training_set), "test")
    lookup = RuntimeLookup.from_bytes(runtime_lookup.file(model.LOOKUP))
    predicted = {**metrics.baselines(test), "runtime_lookup": lookup.delay(test)}
    oracle = _oracle(source, test)
    if oracle is not None:
        predicted["oracle"] = oracle
    models = {
        "xgboost_model": xgboost_model,
        "dnn_teacher": dnn_teacher,
        "pruned_teacher": pruned_teacher,
        "distilled_student": distilled_student,
        "quantized_student": quantized_student,
    }
    for taught in (pruned_teacher, distilled_student):
        control = taught.manifest["control"]
        models[control["asset"]] = bundle_store.get(control["asset"], control["digest"])
    leaderboard = [metrics.leaderboard_row(name, test, delay) for name, delay in predicted.items()]
    leaderboard += [_model_row(name, stored, test) for name, stored in models.items()]
    leaderboard.sort(key=lambda row: row["mae"])
    lookup_mae = next(row["mae"] for row in leaderboard if row["model"] == "runtime_lookup")
    for row in leaderboard:
        row["beats_runtime_lookup"] = row["mae"] < lookup_mae

    where = reports.write(LEADERBOARD, json.dumps(leaderboard, indent=1).encode())
    return dg.MaterializeResult(
        metadata={
            "leaderboard": markdown_table([_short(row) for row in leaderboard]),
            "error_by_stops_ahead": picture(lambda axes: _draw(axes, leaderboard)),
            "error_against_size": picture(lambda axes: _draw_sizes(axes, leaderboard)),
            "interval": markdown_table(_covered(leaderboard)),
            "losing_to_runtime_lookup": [
                row["model"] for row in models_of(leaderboard) if not row["beats_runtime_lookup"]
            ],
            **where,
            "test_rows": len(test),
            "best_model_mae_seconds": models_of(leaderboard)[0]["mae"],
        }
    )


def stored(reports: ReportStore) -> list[metrics.Row]:
    """The leaderboard as it was last written."""
    return json.loads(reports.read(LEADERBOARD))


def models_of(leaderboard: list[metrics.Row]) -> list[metrics.Row]:
    """The rows of stored models, baselines left out."""
    return [row for row in leaderboard if row["model"] not in BASELINES]


def _oracle(source: Source, test: pd.DataFrame) -> np.ndarray | None:
    """The best possible predictions, where the source knows the process behind every row; else None."""
    if not hasattr(source, "oracle"):
        return None
    best = source.oracle(test)
    return None if np.isnan(best).any() else best


def _model_row(name: str, stored: Bundle, test: pd.DataFrame) -> metrics.Row:
    opened = model.Model(stored)
    one = {str(column): values.to_numpy() for column, values in test[:1].items()}
    delay = opened.predict(test)
    return {
        **metrics.leaderboard_row(name, test, delay),
        "interval": intervals.scored(opened.interval, test, delay) if opened.interval else None,
        "version": stored.digest,
        "size_bytes": stored.size_bytes,
        "parameters": stored.manifest["parameters"],
        "latency_us_p50": p50_microseconds(lambda: opened.predict(one)),
    }


def _short(row: metrics.Row) -> dict[str, Any]:
    horizons = {f"{stops} ahead": errors["mae"] for stops, errors in row["by_stops_ahead"].items()}
    plain = ("mae", "rmse", "medae", "me", "smape", "r2", "size_bytes", "parameters", "latency_us_p50")
    lookup = {"beats_runtime_lookup": "yes" if row["beats_runtime_lookup"] else "no"}
    return {"model": row["model"], **horizons, **{name: row[name] for name in plain}, **lookup}


def _covered(leaderboard: list[metrics.Row]) -> list[dict[str, Any]]:
    """How often arrivals were within the interval of each model that has one, overall and by stops ahead."""
    return [
        {"model": row["model"], "stops ahead": stops, "promise": row["interval"]["promise"]}
        | {name: part[name] for name in ("coverage", "mean_width_seconds", "n")}
        for row in leaderboard
        if row["interval"]
        for stops, part in {"all": row["interval"], **row["interval"]["by_stops_ahead"]}.items()
    ]


def _draw(axes: Any, leaderboard: list[metrics.Row]) -> None:
    for row in leaderboard:
        stops = [int(name) for name in row["by_stops_ahead"]]
        axes.plot(stops, [errors["mae"] for errors in row["by_stops_ahead"].values()], marker="o", label=row["model"])
    axes.set(xlabel="stops ahead", ylabel="MAE (seconds)", title="Error by distance, test rows", yscale="log")
    axes.legend(fontsize="small")


def _draw_sizes(axes: Any, leaderboard: list[metrics.Row]) -> None:
    """Every stored model; the Pareto front is marked: those that no other beats in both size and error."""
    models = sorted(models_of(leaderboard), key=lambda row: row["size_bytes"])
    labels = [f"{row['model']}, {row['latency_us_p50']:.0f} µs a row" for row in models]
    points = {label: (row["size_bytes"], row["mae"]) for label, row in zip(labels, models, strict=True)}
    least = np.minimum.accumulate([mae for _, mae in points.values()])
    front = [label for (label, (_, mae)), best in zip(points.items(), least, strict=True) if mae == best]
    draw_sizes(axes, points, front, "MAE (seconds); diamonds: Pareto front")
