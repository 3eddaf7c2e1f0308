"""The progress of long work: as lines of a log, and as a bar in a terminal.

In a run the lines are in Dagster's event log, since the loggers of this package are among those that `dagster.yaml`
has it manage.
"""
