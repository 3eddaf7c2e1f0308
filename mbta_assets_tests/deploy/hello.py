"""A job that takes no time, for whoever executes it somewhere else."""

import dagster as dg


@dg.op
def greet() -> None:
    """Say something where output is captured."""
    print("good morning, Boston")


@dg.job
def hello() -> None:
    """Greet."""
    greet()
