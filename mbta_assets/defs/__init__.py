"""Everything that imports Dagster: assets and their checks in a module for each group, and what runs and shows them.

Assets are thin: they read their inputs, call one function of `transit`, `ml` or `serving`, and describe the result.
"""

import warnings

import dagster as dg

# Used here, and beta in Dagster, whose minor release is pinned: each would warn for every asset or sensor.
for beta in (
    "Function `observable_source_asset`",
    "Parameter `backfill_policy`",
    "Parameter `owners` of initializer `SensorDefinition",
    "Function `with_source_code_references`",
    "Class `LocalFileCodeReference`",
    "Class `CodeReferencesMetadataValue`",
    "Parameter `include_sources` of function `AssetSelection.groups`",  # by selections such as group:transit
):
    warnings.filterwarnings("ignore", message=beta, category=dg.BetaWarning)
