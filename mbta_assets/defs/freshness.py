"""How old an asset may be before Dagster warns of it, and before it says that it is too old."""

from datetime import timedelta

import dagster as dg

EVERY_NIGHT = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=36))
"""A night may take two hours longer than the one before, and be made up for during the day."""
EVERY_WEEK = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""Of the decision on the model in production: a model that stays there because none is better is not old."""
