"""The service day as Dagster's partition. It begins at an hour of the agency's and is named by its date."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import dagster as dg

from mbta_assets.settings import Settings
from mbta_assets.transit.service_day import SERVICE_DAY_START_HOUR, TIME_ZONE


class UnknownServiceDay(Exception):
    """A partition is asked for that is no service day of the deployment; the message says which ones are."""


class ServiceDays(dg.DailyPartitionsDefinition):
    """The service days of a deployment, from MBTA_START_DATE to the latest that has ended."""

    def validate_partition_key(self, partition_key: str, context: Any = None) -> None:
        """Raise UnknownServiceDay unless a partition is one of the service days."""
        if self.has_partition_key(partition_key):
            return
        first, last = self.get_first_partition_key(), self.get_last_partition_key()
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", partition_key):
            raise UnknownServiceDay(f"{partition_key!r} is no service day; write it YYYY-MM-DD, such as {last}.")
        if first is None or partition_key < first:
            raise UnknownServiceDay(
                f"Service day {partition_key} is before the first one, {self.start:%Y-%m-%d}. "
                "Set MBTA_START_DATE to an earlier day."
            )
        raise UnknownServiceDay(
            f"Service day {partition_key} has not ended; the latest that has is {last}. It ends at "
            f"{SERVICE_DAY_START_HOUR} am of the next day in {TIME_ZONE}."
        )


def service_days(settings: Settings) -> ServiceDays:
    """Return the service days of a deployment."""
    return ServiceDays(
        start_date=settings.start_date.isoformat(), timezone=TIME_ZONE, hour_offset=SERVICE_DAY_START_HOUR
    )


DailyDefinition: TypeAlias = dg.AssetsDefinition | dg.AssetChecksDefinition | dg.SourceAsset | dg.AssetSpec


@dataclass(frozen=True)
class DailyAsset:
    """An asset that is partitioned by the service days of a deployment, which are known when it is built."""

    name: str
    build: Callable[..., Sequence[DailyDefinition]]
    """Returns the asset and what belongs to it, such as its checks.

    Takes the service days, the backfill policy, and the upstream tables of the deployment, on which an asset may depend
    that needs not all of them.
    """


def daily_asset(**options: Any) -> Callable[[Callable[..., Any]], DailyAsset]:
    """Make a DailyAsset of a function that stores its results itself; takes the arguments of `dagster.asset`."""

    def decorate(function: Callable[..., Any]) -> DailyAsset:
        def build(days: ServiceDays, backfill_policy: dg.BackfillPolicy, tables: object = ()) -> list[DailyDefinition]:
            return [dg.asset(partitions_def=days, backfill_policy=backfill_policy, **options)(function)]

        return DailyAsset(function.__name__, build)

    return decorate


def requested_days(context: dg.AssetExecutionContext) -> list[date]:
    """Return the service days that the run makes of a daily asset, in order."""
    return to_days(context.partition_keys)


def to_days(partition_keys: Iterable[str]) -> list[date]:
    """Convert partition keys to service days."""
    return [date.fromisoformat(key) for key in partition_keys]
