"""Everything that imports Dagster: assets and their checks in a module for each group, and what runs and shows them.

Assets are thin: they read their inputs, call one function of `transit`, `ml` or `serving`, and describe the result.
"""

import warnings

import dagster as dg

# Both are beta in Dagster, whose minor release is pinned, and would warn for every asset.
warnings.filterwarnings("ignore", message="Function `observable_source_asset`", category=dg.BetaWarning)
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)
