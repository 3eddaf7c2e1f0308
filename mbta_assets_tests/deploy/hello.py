"""A quick job for tests that execute a run in another process."""

import dagster as dg


@dg.op
def greet() -> None:
    """Print a line to the compute log."""
    print("good morning, Boston")


@dg.job
def hello() -> None:
    """Print a greeting."""
    greet()
