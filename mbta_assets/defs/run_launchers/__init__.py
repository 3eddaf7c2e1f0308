"""Run launchers, which dagster.yaml names: a process of this machine, or an execution of a Cloud Run job."""
