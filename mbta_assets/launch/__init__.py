"""Asset selections as Kubeflow pipelines, run on this machine or on Vertex AI and recorded in Dagster's event log.

`lineage` turns a selection into steps, `pipeline` turns steps into a pipeline, `step` materializes one asset, `record`
hands its events to whoever follows the pipeline, `vertex` submits and follows jobs, and `commands` is what the command
line calls. Assets, dependencies and partitions come from the definitions; no list of them is kept here.
"""


class LaunchError(Exception):
    """A pipeline or job that could not be launched, or failed; the message says where and what to do."""
