"""What an asset is to run on where steps have machines of their own: tags, which `mbta_assets.launch` reads."""

MACHINE_TYPE, ACCELERATOR, ACCELERATORS = "mbta/machine_type", "mbta/accelerator", "mbta/accelerators"
"""A machine type of Google's, such as n1-standard-8; an accelerator, such as NVIDIA_TESLA_T4; how many of them."""

SEARCHES = {MACHINE_TYPE: "n1-standard-8"}
"""Of assets that are searched for or trained side by side, a core each."""
