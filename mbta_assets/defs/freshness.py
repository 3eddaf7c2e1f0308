"""Freshness: how old an asset may be before the Dagster UI warns about it, and whether the latest service day is there.

Dagster's policies look at an asset's last materialization, whichever partition it was: a backfill of last January
would hide that last night is missing. The check `newest_day_published` looks at the service days themselves.
"""

from datetime import timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from mbta_assets.defs.dagster_internals import get_current_datetime
from mbta_assets.defs.partitions import service_days
from mbta_assets.settings import Settings
from mbta_assets.storage.tables import TableStore
from mbta_assets.transit.service_day import SERVICE_DAY_START_HOUR, TIME_ZONE

NIGHTLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=36))
"""For daily tables: a nightly run may take two hours longer than the one before, and be repeated during the day."""
WEEKLY = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""For the decision about the production model, which is fresh even if the model stays because none is better."""
NEWEST_DAY_PUBLISHED = "newest_day_published"
EXPECTED_NIGHTLY = ("transit_features", "delay_predictions")
"""Tables whose newest service day is checked."""
HOURS_AFTER_NIGHTLY = 3
"""Hours after the nightly run begins within which it has published its service days."""


def newest_day_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """Return the checks that the latest service day that should be published is, whichever days a run made."""
    return [_newest_day_check(table, settings) for table in EXPECTED_NIGHTLY]


def _newest_day_check(table: str, settings: Settings) -> dg.AssetChecksDefinition:
    days = service_days(settings)
    since_end = timedelta(hours=settings.nightly_hour - SERVICE_DAY_START_HOUR + HOURS_AFTER_NIGHTLY)

    @dg.asset_check(
        asset=table,
        name=NEWEST_DAY_PUBLISHED,
        description="Require the service day that ended last to be published within "
        f"{HOURS_AFTER_NIGHTLY} hours of the nightly run's beginning.",
    )
    def check(table_store: dg.ResourceParam[TableStore]) -> dg.AssetCheckResult:
        # Schedules run by the clock on the wall, and so does the difference of two local times. One that is skipped, as
        # the clock goes forward, is taken as earlier than those that follow.
        time = (get_current_datetime().astimezone(ZoneInfo(TIME_ZONE)) - since_end).replace(fold=1)
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
