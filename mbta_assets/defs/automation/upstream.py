"""The sensor that follows the source: what changed there is made again here, those service days and no others.

The source tells a version of each table and service day (`Source.poll`). Noted in the cursor are the versions that a
run has taken care of; whatever has another one is a change. So nothing depends on clocks or on the order of events,
and what one tick leaves for later is still a change at the next.

A version counts as taken care of only when the run that was asked for it has succeeded. Until then the run is in the
cursor: if none has come of it, it is asked for again by the same key; if it failed, by another key, some minutes later
and some times. The version is the one that was seen before the run: what is overwritten while it reads is seen as the
next change. No run is asked for while another one makes the same service day, lest the older one write last.

What others report of a table (`automation.reports`) is a version beside the polled one, and a change in the same way:
whoever loads a day need not wait until it is noticed, nor need the source be one that can tell.

When first asked, the sensor takes what is there as known: the years before are yours to backfill. It follows days that
are stored, and days newer than all that was stored then, but then no more of them than models are trained on.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from typing import Self

import dagster as dg
from dagster._time import get_current_timestamp

from mbta_assets.defs.automation.jobs import sensor_status, service_day
from mbta_assets.defs.automation.reports import made_since, reported_after
from mbta_assets.defs.automation.runs import ATTEMPTS, days_of, may_be_tried_again, unfinished
from mbta_assets.defs.partitions import service_days
from mbta_assets.settings import Settings
from mbta_assets.sources import Source
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema

MOST_RUNS = 20
"""So many at once: thousands of changes must not fill the queue before anything else that is to run."""
KEY_TAG = "mbta_assets/upstream_change"
REPORTED = "reported "
"""Begins the name that a table's reported version has beside its polled one."""
TABLES = ("raw_transit_data", "transit_features")
MONITORING = ("delay_predictions", "prediction_accuracy", "network_snapshot")

Versions = dict[str, str]
"""By table; what was reported of it is a version beside that."""


@dataclass(frozen=True)
class Asked:
    """A run that was asked for: by which key, how often before, and the versions it is to take care of."""

    key: str
    attempt: int
    assets: Sequence[str]
    versions: Versions


@dataclass
class Cursor:
    """What the sensor remembers from one tick to the next."""

    epoch: int
    """When it began, so that keys of an earlier cursor do not come again."""
    floor: str
    """Newer days are followed though they are not stored."""
    count: int = 0
    """Of the keys so far."""
    handled: dict[str, Versions] = field(default_factory=dict)
    """By service day, what a run has taken care of or was there before."""
    asked: dict[str, Asked] = field(default_factory=dict)
    """By service day."""
    failed: dict[str, Asked] = field(default_factory=dict)
    """By service day, the latest attempt where it failed and another is to follow."""
    reported: dict[str, Versions] = field(default_factory=dict)
    """By service day, what was reported last and no run has taken care of."""
    read_until: int = -1
    """The last entry of the event log that was looked at for reports."""

    def to_text(self) -> str:
        """As it is kept: four versions of thousands of days, so it is packed."""
        packed = zlib.compress(json.dumps(asdict(self), separators=(",", ":")).encode(), 9)
        return base64.b85encode(packed).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """As it was kept."""
        stored = json.loads(zlib.decompress(base64.b85decode(text)))
        for runs in ("asked", "failed"):
            stored[runs] = {day: Asked(**one) for day, one in stored[runs].items()}
        return cls(**stored)


class Seen:
    """The world as a tick finds it; the store is asked only where something has changed."""

    def __init__(self, source: Source, warehouse: Warehouse, handled: Mapping[str, Versions], in_place: bool) -> None:
        """Ask the source for its versions. Raises SourceError."""
        self._warehouse, self._in_place = warehouse, in_place
        ended = set(service_days.get_partition_keys())
        self.listed: dict[str, Versions] = {}
        """By service day, the version of each table that the source has."""
        for table in schema.UPSTREAM:
            known = {date.fromisoformat(day): of_day[table] for day, of_day in handled.items() if table in of_day}
            for day, version in source.poll(table, known).items():
                if str(day) in ended:
                    self.listed.setdefault(str(day), {})[table] = version

    def add(self, reported: Mapping[str, Versions]) -> None:
        """Count what was reported as versions of their own."""
        ended = set(service_days.get_partition_keys())
        for day, versions in reported.items():
            if day in ended:
                self.listed.setdefault(day, {}).update(versions)

    @cached_property
    def stored(self) -> set[str]:
        """Service days that were made here, by the sensor or otherwise."""
        return set(map(str, self._warehouse.tables.days(TABLES[0])))

    def lacking(self, day: str) -> list[str]:
        """The upstream tables of a service day that the join could not read."""
        return [table for table in schema.UPSTREAM if day not in self._readable[table]]

    @cached_property
    def _readable(self) -> dict[str, set[str]]:
        if self._in_place:
            return {table: {day for day, of_day in self.listed.items() if table in of_day} for table in schema.UPSTREAM}
        return {table: set(map(str, self._warehouse.upstream.days(table))) for table in schema.UPSTREAM}


def upstream_changes(settings: Settings) -> dg.SensorDefinition:
    """The sensor of a deployment; where upstream tables are read in place, it says what changed and copies nothing."""
    in_place = settings.source == "bigquery"

    @dg.sensor(
        name="upstream_changes",
        job=service_day,
        description="Makes the service days again whose upstream tables have changed, and makes new ones.",
        default_status=sensor_status(settings),
        minimum_interval_seconds=settings.poll_seconds,
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        source: dg.ResourceParam[Source],
        warehouse: dg.ResourceParam[Warehouse],
        bundle_store: dg.ResourceParam[ModelRegistry],
    ) -> dg.SensorResult:
        # Runs are looked at before files: what one stores after that is not mistaken for something nobody is at.
        busy = [span for run in unfinished(context.instance) for span in days_of(run)]
        earlier = Cursor.from_text(context.cursor) if context.cursor else None
        seen = Seen(source, warehouse, earlier.handled if earlier else {}, in_place)
        cursor = earlier or begin(seen, settings.training_days)
        again = settle(cursor, context)
        hear(cursor, context.instance)
        seen.add(cursor.reported)
        monitoring = MONITORING if bundle_store.current_digest("production_model") else ()
        new = ask(cursor, seen, busy, (*TABLES, *monitoring), in_place)
        requests = [_request(day, cursor.asked[day]) for day in (*again, *new)]
        observed = [
            _observation(day, *one)
            for day in new
            for one in cursor.asked[day].versions.items()
            if in_place and not one[0].startswith(REPORTED)
        ]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else f"Nothing to do; {len(cursor.asked)} runs are under way.",
            cursor=cursor.to_text(),
            asset_events=observed,
        )

    return sensor


def begin(seen: Seen, most_new_days: int) -> Cursor:
    """The first cursor: what is there is known, but for some days newer than what is stored."""
    days = sorted(seen.listed) or service_days.get_partition_keys()[-1:]
    floor = max(max(seen.stored, default=""), *days[-most_new_days - 1 :][:1]) if seen.stored else max(days, default="")
    known = {day: dict(versions) for day, versions in seen.listed.items() if day <= floor}
    return Cursor(epoch=int(get_current_timestamp()), floor=floor, handled=known)


def hear(cursor: Cursor, instance: dg.DagsterInstance) -> None:
    """Note what was reported since the tick before; at first, what no run has made its service day again since."""
    first = cursor.read_until < 0
    for report in reported_after(instance, cursor.read_until):
        cursor.read_until = max(cursor.read_until, report.storage_id)
        name = REPORTED + report.table
        if first and made_since(instance, report, TABLES[0]):
            cursor.handled.setdefault(report.day, {})[name] = report.version
        cursor.reported.setdefault(report.day, {})[name] = report.version
    for day, versions in list(cursor.reported.items()):
        handled = cursor.handled.get(day, {})
        cursor.reported[day] = {name: version for name, version in versions.items() if handled.get(name) != version}
        if not cursor.reported[day]:
            del cursor.reported[day]


def settle(cursor: Cursor, context: dg.SensorEvaluationContext) -> list[str]:
    """Note what has come of the runs that were asked for; the days of those of which nothing came."""
    lost = []
    for day, asked in list(cursor.asked.items()):
        found = context.instance.get_run_records(dg.RunsFilter(tags={KEY_TAG: asked.key}), limit=1)
        if not found:
            lost.append(day)
            continue
        run = found[0].dagster_run
        if not run.is_finished:
            continue
        if run.is_success:
            _done(cursor, day, asked)
        elif asked.attempt >= ATTEMPTS:
            context.log.error(f"Service day {day} is given up after {ATTEMPTS} failed runs, until it changes again.")
            _done(cursor, day, asked)
        elif may_be_tried_again(found[0], asked.attempt, get_current_timestamp()):
            cursor.failed[day] = cursor.asked.pop(day)
    return lost


def ask(
    cursor: Cursor, seen: Seen, busy: Sequence[tuple[str, str]], downstream: Sequence[str], in_place: bool
) -> list[str]:
    """Ask for runs of days that have changed, the newest first and not too many; the days.

    `busy` has the first and the last service day of each run that is not finished.
    """
    new: list[str] = []
    for day in sorted(seen.listed, reverse=True):
        listed, handled = seen.listed[day], cursor.handled.get(day, {})
        changed = {table: version for table, version in listed.items() if handled.get(table) != version}
        if not changed or day in cursor.asked:
            continue
        if day <= cursor.floor and day not in seen.stored:
            # Noted as it was at first and not since: once it is stored, it may be from before its latest change.
            cursor.handled[day] = listed | handled
            continue
        if len(cursor.asked) >= MOST_RUNS or any(first <= day <= last for first, last in busy):
            continue
        lacking = seen.lacking(day)
        if not set(lacking) <= set(listed) or (in_place and lacking):
            continue  # a table has not been delivered yet
        touched = {name.removeprefix(REPORTED) for name in changed} | set(lacking)
        copied = [] if in_place else [table for table in schema.UPSTREAM if table in touched]
        failed = cursor.failed.pop(day, None)
        attempt = failed.attempt + 1 if failed and failed.versions == changed else 1
        cursor.count += 1
        key = f"{day} {cursor.epoch}.{cursor.count}"
        cursor.asked[day] = Asked(key, attempt, [*copied, *downstream], changed)
        new.append(day)
    return new


def _done(cursor: Cursor, day: str, asked: Asked) -> None:
    cursor.handled.setdefault(day, {}).update(asked.versions)
    del cursor.asked[day]


def _request(day: str, asked: Asked) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=asked.key,
        partition_key=day,
        asset_selection=[dg.AssetKey(name) for name in asked.assets],
        tags={KEY_TAG: asked.key},
    )


def _observation(day: str, table: str, version: str) -> dg.AssetObservation:
    return dg.AssetObservation(table, partition=day, tags={"dagster/data_version": version})
