"""The retry policy of assets that read sources and store tables, which fail for transient reasons.

A table that is missing or cannot be read is no such reason: its service day is refused, and the others go on. Training
has no policy: it is long, and its failures are not transient.
"""

import dagster as dg

READ_RETRY_POLICY = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""Retries after about 10, 20 and 40 seconds."""
