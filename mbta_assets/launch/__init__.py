"""The lineage somewhere else: a selection of it as a Kubeflow pipeline, here or on Vertex AI, and what came of it.

In this room: the steps of a selection (`lineage`), the pipeline that has them (`pipeline`), what a step does (`step`),
what it leaves for Dagster to know (`record`), and Vertex AI (`vertex`). `python -m mbta_assets.launch` is the way in.
Not here: what an asset is made of. There is no second list of assets, and no second list of what follows from what.
"""


class LaunchError(Exception):
    """Something could not be launched, or failed where it ran; the message says what, where and what to do."""
