"""Run launchers: a process of this machine, an execution of a Cloud Run job."""
