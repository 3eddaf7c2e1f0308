"""What is run under one name, and whether it runs by itself."""

import dagster as dg

from mbta_assets.defs.production import promotion
from mbta_assets.settings import Settings

daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=dg.AssetSelection.groups("upstream", "transit"),
    description="The tables of a service day: upstream, joined, with features.",
)

service_day = dg.define_asset_job(
    "service_day",
    selection=dg.AssetSelection.groups("upstream", "transit", "monitoring"),
    description="All of a service day: its tables, and what the production model says of it.",
)

training = dg.define_asset_job(
    "training",
    selection=dg.AssetSelection.groups("training", "models", "production"),
    description="From the stored features to the leaderboard, and to production where the gate lets a model through.",
)

daily_predictions = dg.define_asset_job(
    "daily_predictions",
    selection=dg.AssetSelection.groups("monitoring"),
    description="What the production model says of a service day, and what came true of it.",
)


@dg.job(description="Makes an earlier version the production model again: the one before, or the one that is named.")
def rollback_production() -> None:
    promotion.roll_back()


JOBS = (daily_tables, service_day, training, daily_predictions, rollback_production)


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Whether the sensors that start runs are on before anybody has said so."""
    return dg.DefaultSensorStatus.RUNNING if settings.automation == "on" else dg.DefaultSensorStatus.STOPPED


def schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Whether schedules are on before anybody has said so."""
    return dg.DefaultScheduleStatus.RUNNING if settings.automation == "on" else dg.DefaultScheduleStatus.STOPPED
