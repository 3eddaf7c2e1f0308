"""Freshness policies: how old an asset may be before the Dagster UI warns about it, and before it fails."""

from datetime import timedelta

import dagster as dg

NIGHTLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=36))
"""For daily tables: a nightly run may take two hours longer than the one before, and be repeated during the day."""
WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""For the decision about the production model, which is fresh even if the model stays because none is better."""
