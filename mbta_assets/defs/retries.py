"""What of a run is tried again: reading and storing, which fail for reasons that pass; never learning."""

from collections.abc import Iterator
from typing import TypeVar

import dagster as dg

from mbta_assets.sources import SourceError
from mbta_assets.storage.tables import MissingPartition

RETRIED = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""After about 10, 20 and 40 seconds."""

T = TypeVar("T")


def what_can_be_read(days: Iterator[T]) -> Iterator[T]:
    """The same; what would be wrong with the tables next time too fails the run at once."""
    try:
        yield from days
    except (SourceError, MissingPartition) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
