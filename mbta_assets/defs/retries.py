"""The retry policy of assets that read sources and store tables, which fail for transient reasons.

Training has none: it is long, and its failures are not transient.
"""

from collections.abc import Iterator
from typing import TypeVar

import dagster as dg

from mbta_assets.sources import SourceError
from mbta_assets.storage.tables import MissingPartition

READ_RETRY_POLICY = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""Retries after about 10, 20 and 40 seconds."""

T = TypeVar("T")


def no_retry_on_bad_input(days: Iterator[T]) -> Iterator[T]:
    """Yield from an iterator, and fail the step without a retry where a table is missing or cannot be read.

    Raises dagster.Failure: the next attempt would find the same table.
    """
    try:
        yield from days
    except (SourceError, MissingPartition) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
