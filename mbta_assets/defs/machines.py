"""Tags that say which machine an asset needs if each step of a pipeline runs on one of its own.

`mbta_assets.launch` reads them.
"""

MACHINE_TYPE = "mbta/machine_type"
"""Machine type of Google Cloud, such as n1-standard-8."""
ACCELERATOR = "mbta/accelerator"
"""Type of accelerator, such as NVIDIA_TESLA_T4."""
ACCELERATORS = "mbta/accelerators"
"""Number of accelerators."""

PARALLEL_TRIALS = {MACHINE_TYPE: "n1-standard-8"}
"""Tags of assets that run trials or candidates in parallel, a core each."""
