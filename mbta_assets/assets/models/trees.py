"""Gradient-boosted trees.

Those that validation has chosen are stored as `xgboost_held_out`: they have not learned from the validation part, so
that validation may say what they are worth as teachers.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import numpy as np
from pydantic import Field

from mbta_assets.assets.described import OWNERS, markdown_table, picture
from mbta_assets.assets.training import labelled, provenance, rows_of
from mbta_assets.bundle import Bundle, Draft, library_versions
from mbta_assets.learning import boosting, tune
from mbta_assets.learning.encode import Encoder
from mbta_assets.learning.lookup import RuntimeLookup, cross_fitted_delay
from mbta_assets.learning.model import ENCODER, LOOKUP, Inputs, learning_parts
from mbta_assets.resources.cluster import Cluster
from mbta_assets.resources.tracker import Tracker
from mbta_assets.settings import Settings
from mbta_assets.storage.bundles import BundleStore

REFIT_THREADS = 2


class XGBoostConfig(dg.Config):
    """How long the trees are searched for and trained."""

    rounds: int = Field(250, ge=1, description="Most boosting rounds; early stopping on validation ends before.")
    trial_rows: int = Field(40_000, ge=100, description="Training rows of a trial; the refit uses all.")
    trial_rounds: int = Field(120, ge=20, description="Most boosting rounds of a trial.")


@dg.asset(
    group_name="models",
    description="Gradient-boosted trees on the residual, tuned on the validation part with Ray Tune.",
    owners=OWNERS,
    kinds={"xgboost", "ray"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def xgboost_model(
    context: dg.AssetExecutionContext,
    config: XGBoostConfig,
    settings: dg.ResourceParam[Settings],
    tracker: dg.ResourceParam[Tracker],
    bundle_store: dg.ResourceParam[BundleStore],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
) -> Draft:
    import xgboost

    encoder = Encoder.from_json(training_set.file(ENCODER))
    rows = rows_of(training_set)
    own_inputs, parts = learning_parts(encoder, rows, settings.seed)
    parts = parts.labelled()
    configurations = boosting.Space().configurations(settings.tune_trials, settings.seed)
    steps = config.trial_rounds // boosting.ROUNDS_PER_STEP
    results = cluster.search(
        boosting.trial,
        configurations,
        (parts.smaller(config.trial_rows), config.trial_rounds),
        tune.Halving(grace=max(1, steps // 4), steps=steps),
    )
    best = tune.winner(results).configuration
    residual_to = best["residual_to"]
    chosen = boosting.fit(best, parts, config.rounds, REFIT_THREADS)
    validation = parts.validation[residual_to]
    error = (validation.target - chosen.inplace_predict(boosting.inputs(validation))) * validation.scale
    mae = float(np.abs(error).mean())

    # What is fixed by validation is trained once more with the validation part; the test part stays unseen.
    seen = labelled(rows, "train", "validation")
    cross_fitted = cross_fitted_delay(seen)
    inputs = Inputs.fit(encoder, RuntimeLookup.from_bytes(runtime_lookup.file(LOOKUP)), seen, cross_fitted)
    booster = boosting.refit(
        best,
        inputs.arrays(seen, residual_to, cross_fitted),
        inputs.names,
        chosen.num_boosted_rounds(),
        settings.seed,
        REFIT_THREADS,
    )
    importance = boosting.importance(booster, inputs.names)

    fields = {
        **provenance(training_set),
        "residual_to": residual_to,
        "configuration": best,
        "features": inputs.names,
        "seed": settings.seed,
        "threads": REFIT_THREADS,
        "validation": {"mae": mae, "n": len(validation)},
        "libraries": {"xgboost": xgboost.__version__, **library_versions("numpy")},
    }
    held_out = bundle_store.put("xgboost_held_out", _draft(chosen, own_inputs, fields))
    group = f"xgboost_model-{datetime.now(UTC):%Y-%m-%d}"
    context.add_output_metadata(
        {
            "validation_mae_seconds": mae,
            "rounds": booster.num_boosted_rounds(),
            "residual_to": residual_to,
            "trials": markdown_table(
                [
                    {"trial": r.index, "best_error": r.best, "rounds": len(r.curve) * boosting.ROUNDS_PER_STEP}
                    | {k: v if isinstance(v, str) else round(v, 3) for k, v in r.configuration.items()}
                    for r in sorted(results, key=lambda r: r.best)
                ]
            ),
            "learning_curves": picture(lambda axes: _draw_curves(axes, results)),
            "importance": markdown_table([{"input": k, "share_of_gain": v} for k, v in list(importance.items())[:15]]),
            "experiments": tracker.log_search(
                "xgboost_model", group, results, {"training_set": training_set.digest, "seed": settings.seed}
            )
            or "not logged",
        }
    )
    return _draft(booster, inputs, {**fields, "held_out": held_out.digest})


def _draft(booster: Any, inputs: Inputs, fields: Mapping[str, Any]) -> Draft:
    files = {boosting.WEIGHTS: bytes(booster.save_raw("ubj")), **inputs.files()}
    return Draft("xgboost", files, {**fields, "parameters": boosting.leaf_count(booster)})


def _draw_curves(axes: Any, results: Sequence[tune.Result]) -> None:
    for result in results:
        rounds = np.arange(1, len(result.curve) + 1) * boosting.ROUNDS_PER_STEP
        axes.plot(rounds, result.curve, label=f"trial {result.index}")
    axes.set(
        xlabel="boosting rounds", ylabel="validation error (of the lookup's)", title="Trials, stopped ones cut short"
    )
    axes.legend(fontsize="small", ncols=2)
