"""The lineage: a module a group. Assets are thin: they read, call one function of the platform, and describe."""

import warnings

import dagster as dg

warnings.filterwarnings("ignore", message="Function `observable_source_asset`", category=dg.BetaWarning)
# Every asset has a backfill policy, which Dagster calls beta each time; the release of Dagster is pinned.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)
