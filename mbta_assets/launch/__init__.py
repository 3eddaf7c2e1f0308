"""Asset selections as Kubeflow pipelines, run on this machine or on Vertex AI and recorded in Dagster's event log.

`lineage` turns a selection into steps, `pipeline` turns steps into a pipeline, `step` materializes one asset, `record`
hands its events to whoever follows the pipeline, `vertex` submits and follows jobs, and `commands` is what the command
line calls. Assets, dependencies and partitions come from the definitions; no list of them is kept here.
"""


class LaunchError(Exception):
    """Failure of a pipeline or job, or of its launch; the message says where it failed and what to do."""
