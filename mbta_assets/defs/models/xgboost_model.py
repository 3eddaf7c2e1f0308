"""Gradient-boosted trees.

Those that validation has chosen are stored as `xgboost_held_out`: they have not learned from the validation part, so
that validation may say what they are worth as teachers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import numpy as np
from pydantic import Field

from mbta_assets.defs.metadata import markdown_table
from mbta_assets.defs.models import model_asset, searched
from mbta_assets.defs.resources.experiment_tracker import Tracker
from mbta_assets.defs.resources.ray_cluster import Cluster
from mbta_assets.defs.training import blocks_of, provenance, rows_of
from mbta_assets.ml.inference.arrays import Arrays, Parts, few
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ENCODER, LOOKUP, NEEDED, RESIDUALS, Encoding, Inputs
from mbta_assets.ml.inference.run_time import RuntimeLookup
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.settings import Settings
from mbta_assets.storage.bundle import Bundle, Draft, library_versions
from mbta_assets.storage.model_registry import ModelRegistry


class XGBoostConfig(dg.Config):
    """How long the trees are searched for and trained."""

    rounds: int = Field(250, ge=1, description="Most boosting rounds; early stopping on validation ends before.")
    trial_rows: int = Field(40_000, ge=100, description="Training rows of a trial; the refit uses all.")
    trial_rounds: int = Field(120, ge=20, description="Most boosting rounds of a trial.")


@model_asset(
    description="Gradient-boosted trees on the residual, tuned on the validation part with Ray Tune.",
    kinds={"xgboost", "ray"},
)
def xgboost_model(
    context: dg.AssetExecutionContext,
    config: XGBoostConfig,
    settings: dg.ResourceParam[Settings],
    tracker: dg.ResourceParam[Tracker],
    bundle_store: dg.ResourceParam[ModelRegistry],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
) -> Draft:
    import xgboost

    encoder = Encoder.from_json(training_set.file(ENCODER))
    rows = rows_of(training_set, NEEDED)
    known = rows["delay_seconds"].notna().to_numpy()
    train, validation = (known & (rows["part"] == part).to_numpy() for part in ("train", "validation"))
    held_out_encoding = Encoding.fit(encoder, rows, train)

    def arrays(wanted: np.ndarray, to: str) -> Iterator[Arrays]:
        """Rows as they are read: what is trained on need not fit into this process together."""
        return held_out_encoding.blocks(blocks_of(training_set), wanted, to)

    def sample(wanted: np.ndarray) -> dict[str, Arrays]:
        chosen = few(wanted, config.trial_rows, settings.seed)
        return {to: Arrays.concat(arrays(chosen, to)) for to in RESIDUALS}

    names = held_out_encoding.inputs.names
    configurations = xgboost_trainer.Space().configurations(settings.tune_trials, settings.seed)
    steps = config.trial_rounds // xgboost_trainer.ROUNDS_PER_STEP
    results = cluster.search(
        xgboost_trainer.trial,
        configurations,
        (Parts(sample(train), sample(validation), names, settings.seed), config.trial_rounds),
        tuning.Halving(grace=max(1, steps // 4), steps=steps),
    )
    best = tuning.winner(results).configuration
    residual_to = best["residual_to"]
    growth = xgboost_trainer.Growth(best, names, config.rounds, settings.seed)
    held_out_rows = Arrays.concat(arrays(validation, residual_to))
    chosen = cluster.grow_trees(growth, arrays(train, residual_to), held_out_rows)
    error = held_out_rows.target - chosen.inplace_predict(xgboost_trainer.inputs(held_out_rows))
    mae = float(np.abs(error * held_out_rows.scale).mean())

    # What is fixed by validation is trained once more with the validation part; the test part stays unseen.
    encoding = Encoding.fit(encoder, rows, train | validation, RuntimeLookup.from_bytes(runtime_lookup.file(LOOKUP)))
    booster = cluster.grow_trees(
        replace(growth, rounds=chosen.num_boosted_rounds()),
        encoding.blocks(blocks_of(training_set), train | validation, residual_to),
    )
    importance = xgboost_trainer.importance(booster, names)

    fields = {
        **provenance(training_set),
        "residual_to": residual_to,
        "configuration": best,
        "features": names,
        "seed": settings.seed,
        "workers": cluster.xgboost_workers,
        "validation": {"mae": mae, "n": len(held_out_rows)},
        "libraries": {"xgboost": xgboost.__version__, **library_versions("numpy")},
    }
    held_out = bundle_store.put("xgboost_held_out", _draft(chosen, held_out_encoding.inputs, fields))
    named = {"training_set": training_set.digest, "seed": settings.seed}
    context.add_output_metadata(
        {
            "validation_mae_seconds": mae,
            "rounds": booster.num_boosted_rounds(),
            "residual_to": residual_to,
            **searched("xgboost_model", results, tracker, named, "boosting rounds", xgboost_trainer.ROUNDS_PER_STEP),
            "importance": markdown_table([{"input": k, "share_of_gain": v} for k, v in list(importance.items())[:15]]),
        }
    )
    return _draft(booster, encoding.inputs, {**fields, "held_out": held_out.digest})


def _draft(booster: Any, inputs: Inputs, fields: Mapping[str, Any]) -> Draft:
    files = {xgboost_trainer.WEIGHTS: bytes(booster.save_raw("ubj")), **inputs.files()}
    return Draft("xgboost", files, {**fields, "parameters": xgboost_trainer.leaf_count(booster)})
