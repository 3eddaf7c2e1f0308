"""Jobs: the selections of assets that are run together, the rollback of the production model, and pruning."""

import dagster as dg

from mbta_assets.defs.automation import pruning
from mbta_assets.defs.dagster_internals import BaseAssetGraph
from mbta_assets.defs.freshness import EXPECTED_NIGHTLY, NEWEST_DAY_PUBLISHED
from mbta_assets.defs.production import promotion, rollback
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry

daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=dg.AssetSelection.groups("upstream", "transit"),
    description="Make the tables of a service day: upstream tables, join and features.",
)

service_day = dg.define_asset_job(
    "service_day",
    selection=dg.AssetSelection.groups("upstream", "transit", "monitoring"),
    description="Make everything of a service day: its tables, predictions, their accuracy and the snapshot.",
)

training = dg.define_asset_job(
    "training",
    selection=dg.AssetSelection.groups("training", "models", "production"),
    description="Train all models on the stored features, score them, and promote a candidate that passes the gate.",
)

judge_candidate = dg.define_asset_job(
    "judge_candidate",
    selection=dg.AssetSelection.assets(promotion.ASSET),
    description="Judge the latest candidate again, and promote it if it passes the gate.",
)

daily_predictions = dg.define_asset_job(
    "daily_predictions",
    selection=dg.AssetSelection.groups("monitoring"),
    description="Make the production model's predictions of a service day, and score them.",
)


@dg.job(description="Make an earlier version the production model again: the previous one, or the one that is named.")
def rollback_production() -> None:
    rollback.roll_back()


@dg.job(description="Remove versions and refused service days that nothing needs any more, as MBTA_KEEP_… say.")
def prune_versions() -> None:
    pruning.prune()


freshness = dg.define_asset_job(
    "freshness",
    selection=dg.AssetSelection.checks(
        *(dg.AssetCheckKey(dg.AssetKey(table), NEWEST_DAY_PUBLISHED) for table in EXPECTED_NIGHTLY)
    ),
    description="Check that the service day that ended last is published.",
)


JOBS = (
    freshness,
    daily_tables,
    service_day,
    training,
    judge_candidate,
    daily_predictions,
    rollback_production,
    prune_versions,
)


def select_downstream_assets(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, model_registry: ModelRegistry
) -> list[str]:
    """Return the names of the assets that are made of a service day's upstream tables, in topological order.

    The graph alone says which these are: all of the group `transit`, and all of `monitoring` once there is a production
    model. Raises ValueError if the context has no code location.
    """
    if context.repository_def is None:
        raise ValueError("Sensors and schedules need the definitions of their code location; there are none.")
    graph: BaseAssetGraph = context.repository_def.asset_graph
    groups = ("transit", "monitoring") if model_registry.current_digest(promotion.ASSET) else ("transit",)
    selected = dg.AssetSelection.groups(*groups).resolve(graph)
    return [key.to_user_string() for key in graph.toposorted_asset_keys if key in selected]


def default_sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Return the status of sensors that start runs, until somebody changes it in the UI."""
    return dg.DefaultSensorStatus.RUNNING if settings.automation == "on" else dg.DefaultSensorStatus.STOPPED


def default_schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Return the status of schedules, until somebody changes it in the UI."""
    return dg.DefaultScheduleStatus.RUNNING if settings.automation == "on" else dg.DefaultScheduleStatus.STOPPED
