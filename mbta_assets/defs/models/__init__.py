"""Group `models`: what is learned from the training set, the trees and the family of networks."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg

from mbta_assets.defs.machines import SEARCHES
from mbta_assets.defs.metadata import OWNERS, markdown_table, picture
from mbta_assets.defs.resources.experiment_tracker import Tracker
from mbta_assets.ml.training.tuning import Result

model_asset = partial(
    dg.asset,
    group_name="models",
    owners=OWNERS,
    pool="cores",
    tags=SEARCHES,
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
"""An asset that is a model: stored as a bundle, trained with the cores to itself."""


def searched(
    name: str, results: Sequence[Result], tracker: Tracker, extra: Mapping[str, Any], step: str, per_step: int = 1
) -> dict[str, Any]:
    """What a search found, as metadata: its trials as a table and as curves, and where each is logged.

    A step of a curve is so many (`per_step`) of what `step` says; `extra` is logged with each trial.
    """
    trials = [
        {"trial": result.index, "best_error": result.best, step: len(result.curve) * per_step}
        | {key: str(value) if isinstance(value, list) else value for key, value in result.configuration.items()}
        for result in sorted(results, key=lambda result: result.best)
    ]
    columns = list(dict.fromkeys(key for trial in trials for key in trial))

    def draw(axes: Any) -> None:
        for result in results:
            steps = [(index + 1) * per_step for index in range(len(result.curve))]
            axes.plot(steps, result.curve, marker=".", label=f"trial {result.index}")
        axes.set(xlabel=step, ylabel="validation error (of the lookup's)", title="Trials, stopped ones cut short")
        axes.legend(fontsize="small", ncols=2)

    group = f"{name}-{datetime.now(UTC):%Y-%m-%d}"
    logged = tracker.log_search(name, group, results, extra)
    return {
        "trials": markdown_table([{column: trial.get(column) for column in columns} for trial in trials]),
        "learning_curves": picture(draw),
        "experiments": logged or "not logged",
    }
