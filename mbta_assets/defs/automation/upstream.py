"""The sensor that follows the source: service days whose upstream tables have changed are made again.

`Source.poll` returns a version of each table and service day. The cursor has the versions that a run has handled;
any other version is a change. Changes therefore do not depend on clocks or on the order of events, and what one tick
leaves is still a change at the next.

A version counts as handled only when the run that was requested for it has succeeded. Until then the run is in the
cursor: if Dagster never created it, it is requested again by the same key; if it failed, by another key, after a delay
and a limited number of times. A run that somebody has cancelled is not requested again. A day that is given up keeps
its unhandled versions: when it changes again, everything that no run has handled is copied. The version is the one that
was polled before the run, so what is overwritten while it reads is the next change. No run is requested while another
one makes the same service day, lest the older one write last.

Versions that others report (`automation.reports`) stand beside the polled ones and are handled in the same way: who
loads a day need not wait for the next poll, and the source need not be able to tell versions.

At the first tick everything that exists counts as handled: earlier years are backfilled by hand. The sensor follows
service days that are stored, and those newer than all that were stored then, at most as many as models are trained on.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cached_property

import dagster as dg

from mbta_assets.counts import format_count
from mbta_assets.defs.automation.cursor import Cursor, PendingRun, Versions, get_table, is_reported, reported_key
from mbta_assets.defs.automation.jobs import default_sensor_status, select_downstream_assets, service_day
from mbta_assets.defs.automation.reports import fetch_reports, is_materialized_since
from mbta_assets.defs.automation.runs import MAX_ATTEMPTS, is_retry_due, list_unfinished_runs, partition_ranges
from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG, get_current_timestamp
from mbta_assets.defs.partitions import service_days
from mbta_assets.defs.upstream import list_upstream_tables, reads_in_place
from mbta_assets.settings import Settings
from mbta_assets.sources import Source
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema

MAX_PENDING_RUNS = 20
"""Limits pending runs, so that thousands of changes do not fill the queue before other runs."""
KEY_TAG = "mbta_assets/upstream_change"
JOINED_TABLE = "raw_transit_data"
"""Stored for each service day that was made, by this sensor or otherwise."""


class UpstreamState:
    """Versions of the upstream tables at one tick, and the stored service days, which are listed only if needed."""

    def __init__(
        self,
        source: Source,
        tables: Iterable[str],
        warehouse: Warehouse,
        handled: Mapping[str, Versions],
        ended_days: Iterable[str],
        in_place: bool,
    ) -> None:
        """Poll the source for versions of tables on service days that have ended. Raises SourceError."""
        self._warehouse, self._in_place = warehouse, in_place
        self.ended_days = frozenset(ended_days)
        self.versions: dict[str, Versions] = {}
        """Polled and reported versions, by service day."""
        for table in tables:
            known_versions = {
                date.fromisoformat(day): versions[table] for day, versions in handled.items() if table in versions
            }
            for day, version in source.poll(table, known_versions).items():
                self._add(str(day), {table: version})

    def add_reported(self, reported: Mapping[str, Versions]) -> None:
        """Add reported versions, by service day."""
        for day, versions in reported.items():
            self._add(day, versions)

    @cached_property
    def stored_days(self) -> set[str]:
        """Return the service days that were made, by this sensor or otherwise, or refused while they were."""
        tables = self._warehouse.tables
        refused = [day for table in (*schema.UPSTREAM, JOINED_TABLE) for day in tables.refused_days(table)]
        return set(map(str, [*tables.days(JOINED_TABLE), *refused]))

    def missing_tables(self, day: str) -> list[str]:
        """Return the upstream tables of a service day that the join could not read; it reads no optional ones."""
        return [table for table in schema.UPSTREAM if day not in self._readable_days[table]]

    @cached_property
    def _readable_days(self) -> dict[str, set[str]]:
        if self._in_place:
            return {
                table: {day for day, versions in self.versions.items() if table in versions}
                for table in schema.UPSTREAM
            }
        return {table: set(map(str, self._warehouse.upstream.days(table))) for table in schema.UPSTREAM}

    def _add(self, day: str, versions: Versions) -> None:
        if day in self.ended_days:
            self.versions.setdefault(day, {}).update(versions)


def upstream_changes(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor. Where upstream tables are read in place, it reports what changed and copies nothing."""
    in_place, tables = reads_in_place(settings), list_upstream_tables(settings)

    @dg.sensor(
        name="upstream_changes",
        job=service_day,
        description="Make service days again whose upstream tables have changed, and make new ones.",
        default_status=default_sensor_status(settings),
        minimum_interval_seconds=settings.poll_seconds,
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        source: dg.ResourceParam[Source],
        warehouse: dg.ResourceParam[Warehouse],
        model_registry: dg.ResourceParam[ModelRegistry],
    ) -> dg.SensorResult:
        # Runs are listed before the source is polled: a day that a run stores in between is not taken for a change
        # that nobody works on.
        busy = [ends for run in list_unfinished_runs(context.instance) for ends in partition_ranges(run)]
        cursor = Cursor.from_text(context.cursor) if context.cursor else None
        ended_days = service_days(settings).get_partition_keys()
        state = UpstreamState(source, tables, warehouse, cursor.handled if cursor else {}, ended_days, in_place)
        cursor = cursor or start_cursor(state, settings.training_days)
        lost = reconcile_runs(cursor, context)
        ingest_reports(cursor, context.instance, tables)
        state.add_reported(cursor.reported)
        downstream = select_downstream_assets(context, model_registry)
        planned = plan_run_requests(cursor, state, busy, downstream, in_place)
        requests = [_build_request(day, cursor.pending[day]) for day in (*lost, *planned)]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else f"Nothing to do; {format_count(len(cursor.pending), 'pending run')}.",
            cursor=cursor.to_text(),
            asset_events=_build_observations(cursor, planned) if in_place else [],
        )

    return sensor


def start_cursor(state: UpstreamState, max_new_days: int) -> Cursor:
    """Return the first cursor, in which everything counts as handled but the newest days that are not stored yet."""
    days = sorted(state.versions) or sorted(state.ended_days)[-1:]
    floor = max(days, default="")
    if state.stored_days:
        floor = max([*state.stored_days, *days[-max_new_days - 1 :][:1]])
    handled = {day: dict(versions) for day, versions in state.versions.items() if day <= floor}
    return Cursor(epoch=int(get_current_timestamp()), floor=floor, handled=handled)


def ingest_reports(cursor: Cursor, instance: dg.DagsterInstance, tables: Iterable[str]) -> None:
    """Add the reports since the previous tick to the cursor.

    At the first tick, a report counts as handled if its service day was made after it.
    """
    is_first_tick = cursor.read_until < 0
    reports, cursor.read_until = fetch_reports(instance, tables, cursor.read_until)
    for report in reports:
        key = reported_key(report.table)
        if is_first_tick and is_materialized_since(instance, report, JOINED_TABLE):
            cursor.handled.setdefault(report.day, {})[key] = report.version
        cursor.reported.setdefault(report.day, {})[key] = report.version
    for day, versions in list(cursor.reported.items()):
        handled = cursor.handled.get(day, {})
        cursor.reported[day] = {key: version for key, version in versions.items() if handled.get(key) != version}
        if not cursor.reported[day]:
            del cursor.reported[day]


def reconcile_runs(cursor: Cursor, context: dg.SensorEvaluationContext) -> list[str]:
    """Move pending runs that have ended out of the pending ones, and return the days of runs that never started."""
    lost = []
    for day, pending in list(cursor.pending.items()):
        records = context.instance.get_run_records(dg.RunsFilter(tags={KEY_TAG: pending.key}), limit=1)
        if not records:
            lost.append(day)
            continue
        run = records[0].dagster_run
        if not run.is_finished:
            continue
        if run.is_success:
            cursor.mark_handled(day)
        elif run.status == dg.DagsterRunStatus.CANCELED:
            context.log.warning(
                f"Run {run.run_id} of service day {day} was cancelled; the day waits for its next change."
            )
            cursor.give_up(day)
        elif pending.attempt >= MAX_ATTEMPTS:
            context.log.error(
                f"Service day {day} is given up after {MAX_ATTEMPTS} failed runs, until it changes again."
            )
            cursor.give_up(day)
        elif is_retry_due(records[0], pending.attempt, get_current_timestamp()):
            cursor.failed[day] = cursor.pending.pop(day)
    return lost


def plan_run_requests(
    cursor: Cursor,
    state: UpstreamState,
    busy: Sequence[tuple[str, str]],
    downstream: Sequence[str],
    in_place: bool,
) -> list[str]:
    """Add a pending run for each service day that has changed, newest first, and return those days.

    `busy` has the first and the last service day of each run that is not finished, `downstream` the assets to make
    beside the upstream tables that are copied.
    """
    planned: list[str] = []
    for day in sorted(state.versions, reverse=True):
        versions, handled = state.versions[day], cursor.handled.get(day, {})
        changed = {key: version for key, version in versions.items() if handled.get(key) != version}
        if day in cursor.pending or cursor.is_given_up(day, changed) or not changed:
            continue
        if day <= cursor.floor and day not in state.stored_days:
            # The first version counts as handled, later ones do not: if the day is stored one day, its rows may be
            # older than the latest change, which must then be found.
            cursor.handled[day] = versions | handled
            continue
        if len(cursor.pending) >= MAX_PENDING_RUNS or any(first <= day <= last for first, last in busy):
            continue
        missing = state.missing_tables(day)
        if not set(missing) <= set(versions) or (in_place and missing):
            continue  # a table has not been delivered yet
        to_copy = set() if in_place else {get_table(key) for key in changed} | set(missing)
        copied = [table for table in schema.SOURCE_TABLES if table in to_copy]
        cursor.pending[day] = _next_attempt(cursor, day, [*copied, *downstream], changed)
        planned.append(day)
    return planned


def _next_attempt(cursor: Cursor, day: str, assets: Sequence[str], changed: Versions) -> PendingRun:
    """Return the next run for a service day: a further attempt if the previous one failed on the same versions."""
    failed = cursor.failed.pop(day, None)
    attempt = failed.attempt + 1 if failed and failed.versions == changed else 1
    cursor.count += 1
    return PendingRun(f"{day} {cursor.epoch}.{cursor.count}", attempt, assets, changed)


def _build_request(day: str, pending: PendingRun) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=pending.key,
        partition_key=day,
        asset_selection=[dg.AssetKey(name) for name in pending.assets],
        tags={KEY_TAG: pending.key},
    )


def _build_observations(cursor: Cursor, days: Sequence[str]) -> list[dg.AssetObservation]:
    """Return an observation of each polled version that changed, which Dagster shows where nothing is copied."""
    return [
        dg.AssetObservation(table, partition=day, tags={DATA_VERSION_TAG: version})
        for day in days
        for table, version in cursor.pending[day].versions.items()
        if not is_reported(table)
    ]
