"""Jobs: the selections of assets that are run together, and the rollback of the production model."""

import dagster as dg

from mbta_assets.defs.production import promotion
from mbta_assets.settings import Settings

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

daily_predictions = dg.define_asset_job(
    "daily_predictions",
    selection=dg.AssetSelection.groups("monitoring"),
    description="Make the production model's predictions of a service day, and score them.",
)


@dg.job(description="Make an earlier version the production model again: the previous one, or the one that is named.")
def rollback_production() -> None:
    promotion.roll_back()


JOBS = (daily_tables, service_day, training, daily_predictions, rollback_production)


def default_sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Return the status of sensors that start runs, until somebody changes it in the UI."""
    return dg.DefaultSensorStatus.RUNNING if settings.automation == "on" else dg.DefaultSensorStatus.STOPPED


def default_schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Return the status of schedules, until somebody changes it in the UI."""
    return dg.DefaultScheduleStatus.RUNNING if settings.automation == "on" else dg.DefaultScheduleStatus.STOPPED
