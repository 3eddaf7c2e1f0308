"""What runs by itself, or under one name: jobs, schedules, sensors, conditions."""

import dagster as dg

daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=dg.AssetSelection.groups("upstream", "transit"),
    description="The tables of a service day: upstream, joined, with features.",
)

training = dg.define_asset_job(
    "training",
    selection=dg.AssetSelection.groups("training", "models", "production"),
    description="From the stored features to the leaderboard.",
)

JOBS = [daily_tables, training]
