"""What runs by itself, or under one name: jobs, schedules, sensors, conditions."""

import dagster as dg

from mbta_assets.assets.production import promotion

daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=dg.AssetSelection.groups("upstream", "transit"),
    description="The tables of a service day: upstream, joined, with features.",
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


JOBS = (daily_tables, training, daily_predictions, rollback_production)
