"""Freshness: how old an asset may be before the Dagster UI warns about it, and whether the latest service day is there.

Dagster's policies look at an asset's last materialization, whichever partition it was: a backfill of last January
would hide that last night is missing. The check `newest_day_published` looks at the service days themselves.
"""

from datetime import timedelta

import dagster as dg

from mbta_assets.defs.dagster_internals import get_current_datetime
from mbta_assets.defs.partitions import ServiceDays
from mbta_assets.storage.tables import TableStore

NIGHTLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=36))
"""For daily tables: a nightly run may take two hours longer than the one before, and be repeated during the day."""
WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""For the decision about the production model, which is fresh even if the model stays because none is better."""
NEWEST_DAY_PUBLISHED = "newest_day_published"
MAX_HOURS_TO_PUBLISH = 5
"""Hours after the end of a service day within which it is published: the nightly run begins after one or more."""


def newest_day_check(table: str, days: ServiceDays) -> dg.AssetChecksDefinition:
    """Return the check that the latest service day that should be published is, whichever days a run made."""

    @dg.asset_check(
        asset=table,
        name=NEWEST_DAY_PUBLISHED,
        description=f"Require the service day that ended last to be published within {MAX_HOURS_TO_PUBLISH} hours.",
    )
    def check(table_store: dg.ResourceParam[TableStore]) -> dg.AssetCheckResult:
        time = get_current_datetime() - timedelta(hours=MAX_HOURS_TO_PUBLISH)
        expected = days.get_partition_keys(current_time=time)[-1:]
        published = [str(day) for day in table_store.days(table)]
        # Before a table is made for the first time, none of its service days is expected.
        missing = [day for day in expected if day not in published] if published else []
        newest = published[-1] if published else "none"
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"Service day {missing[0]} has ended and is not published; the newest is {newest}."
            if missing
            else None,
            metadata={"newest_published": newest, "service_days_published": len(published)},
        )

    return check
