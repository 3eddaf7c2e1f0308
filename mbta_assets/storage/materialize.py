"""The command that materializes assets, for error messages and pages: it can be typed as it is, in any directory."""

import shlex

ANY_DAY = "YYYY-MM-DD"
"""Partition in a command for whichever service day the reader wants."""


def materialize_command(selection: str, partition: str = "") -> str:
    """Return the command line that materializes a selection of assets.

    `partition` is a service day, or a range FIRST...LAST of them; empty for assets without partitions.
    """
    command = f"dagster asset materialize -m mbta_assets.definitions --select {shlex.quote(selection)}"
    if not partition:
        return command
    return f"{command} --partition{'-range' if '...' in partition else ''} {partition}"
