"""Dagster IO managers of daily tables.

Where tables are stored is up to `storage`; the resources in `defs.resources` choose it.

An asset returns a DailyOutput, of which every requested service day is made. A day that breaks a blocking check, or
that cannot be made, is not published: the version that was published before stays, and the other days go on. The step
fails if no day is published. A consumer receives a StoredTable, or the rows themselves if it is annotated with
`pd.DataFrame`: of the partitions mapped to it, or, if it is not partitioned, of all published service days.
`AssetIn(metadata={"columns": [...], "last_days": n})` narrows its input.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import dagster as dg
import pandas as pd
import pyarrow as arrow
from pydantic import Field

from mbta_assets.defs.dagster_internals import (
    find_materialization,
    report_check,
    report_materialization,
    suppress_final_report,
)
from mbta_assets.defs.daily_tables import (
    PUBLISHED,
    Audit,
    Check,
    DailyOutput,
    ServiceDay,
    unpublished_days_failure,
)
from mbta_assets.defs.memory import collect_new_objects, release_memory
from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.partitions import to_days
from mbta_assets.gcp import CloudError
from mbta_assets.ml.inference.transit_network import ForeignNetwork
from mbta_assets.settings import Settings
from mbta_assets.sources import SourceError
from mbta_assets.storage.materialize import ANY_DAY, materialize_command
from mbta_assets.storage.tables import DailyTables, MissingPartition, TableStore, to_arrow
from mbta_assets.transit import schema
from mbta_assets.transit.checks import Outcome

REJECTED_ROWS = "rejected_rows"
UPSTREAM_USAGE = "upstream_usage"


@dataclass(frozen=True)
class StoredTable:
    """Input of an asset: the service days of a table that it consumes, read when they are needed."""

    tables: DailyTables
    table: str
    days: Sequence[date]
    columns: Sequence[str] | None = None

    def read(self, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows of a service day; all columns of the input or some. Raises MissingPartition."""
        return schema.to_frame(self.tables.read(self.table, [day], columns or self.columns))

    def read_table(self, day: date, columns: Sequence[str] | None = None) -> arrow.Table:
        """Return the rows of a service day as Arrow; all columns of the input or some. Raises MissingPartition."""
        return self.tables.read(self.table, [day], columns or self.columns)

    def read_all(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows of all service days, in order. Raises MissingPartition."""
        return schema.to_frame(self.tables.read(self.table, self.days, columns or self.columns))

    def versions(self, days: Iterable[date]) -> dict[date, str]:
        """Return the content version of each of some service days. Raises MissingPartition."""
        return self.tables.versions(self.table, days)


TableInput: TypeAlias = StoredTable | pd.DataFrame


class TablesIOManager(dg.ConfigurableIOManager):
    """Daily tables, partitioned by service day: each day is made, audited and published by itself."""

    tables: dg.ResourceDependency[TableStore]
    min_labelled_share: float = Field(
        default=Settings.model_fields["min_labelled_share"].default,
        ge=0,
        le=1,
        description="A service day of features with a smaller share of labels is refused.",
    )
    min_matched_share: float = Field(
        default=Settings.model_fields["min_matched_share"].default,
        ge=0,
        le=1,
        description="A service day is refused if a smaller share of its vehicles' reports match the schedule.",
    )

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Check, before any asset of the run is made, that tables can be stored."""
        self.tables.prepare()

    def handle_output(  # type: ignore[override]
        self, context: dg.OutputContext, obj: DailyOutput
    ) -> Iterator[dg.DagsterEvent]:
        """Publish service days one after the other, and report each with its checks as soon as it is published."""
        table, days = context.asset_key.path[-1], to_days(context.asset_partition_keys)
        reasons: dict[str, str] = {}
        with collect_new_objects():
            for day in days:
                if reason := (yield from self._make_and_publish(context, table, day, obj)):
                    reasons[str(day)] = reason
                release_memory()  # so that many days take no more of it than one
        if len(reasons) == len(days):
            raise unpublished_days_failure(table, reasons)
        for reason in reasons.values():
            context.log.error(reason)
        suppress_final_report(context)

    def load_input(self, context: dg.InputContext) -> TableInput:
        """Return the service days that the consumer needs. Raises MissingPartition."""
        return load_table(self.tables, context)

    def _make_and_publish(
        self, context: dg.OutputContext, table: str, day: date, output: DailyOutput
    ) -> Generator[dg.DagsterEvent, None, str | None]:
        """Make a service day, publish it unless a check forbids it, and return why it was refused.

        An error of the machine or of a service is none of the day, and raised, for Dagster to try the step again.
        """
        try:
            audit = self._make(table, day, output)
            outcomes = {check: check.rule(audit) for check in output.checks}
        except (SourceError, MissingPartition, ForeignNetwork) as error:
            reason = str(error)
        except (OSError, MemoryError, CloudError):
            raise
        except Exception as error:
            context.log.exception(f"{table} of service day {day} could not be made.")
            reason = f"unexpected {type(error).__name__}: {error}. The log of the step says where; report it"
        else:
            return (yield from self._publish(context, audit, outcomes))
        self.tables.refuse(table, day, None, [reason])
        yield from _report_outcomes(context, day, {}, reason)
        return reason

    def _make(self, table: str, day: date, output: DailyOutput) -> Audit:
        """Make a service day, and return what its checks look at."""
        made = output.make(day)
        made = made if isinstance(made, ServiceDay) else ServiceDay(made)
        bounds = {"min_labelled_share": self.min_labelled_share, "min_matched_share": self.min_matched_share}
        return Audit(table, day, to_arrow(table, made.rows), made, self.tables, bounds)

    def _publish(
        self, context: dg.OutputContext, audit: Audit, outcomes: Mapping[Check, Outcome]
    ) -> Generator[dg.DagsterEvent, None, str | None]:
        """Publish a service day unless the outcome of a check forbids it, and return why it was refused."""
        table, day, rows, made = audit.table, audit.day, audit.rows, audit.made
        refused = {check: outcome for check, outcome in outcomes.items() if _refuses(check, outcome)}
        refusals = [f"{check.name}: {outcome.problem}" for check, outcome in refused.items()]
        yield from self._store_rejected_rows(context, table, day, made)
        if refusals:
            metadata: dict[str, Any] = {"refused_rows": self.tables.refuse(table, day, rows, refusals), **made.metadata}
        else:
            written = self.tables.write(table, day, rows, context.run_id)
            metadata = {"dagster/row_count": len(rows), "content_version": written.version, **written.metadata}
            yield from report_materialization(context, day, written.version, {**metadata, **made.metadata})
            yield from self._store_usage(context, day, made)
        reason = "; ".join(refusals) or None
        yield from _report_outcomes(context, day, outcomes, reason, metadata)
        return reason

    def _store_rejected_rows(
        self, context: dg.OutputContext, table: str, day: date, made: ServiceDay
    ) -> Iterator[dg.DagsterEvent]:
        """Store the upstream rows that the making of a service day rejects, whether the day is published or not."""
        if made.rejected is not None:
            rows = to_arrow(REJECTED_ROWS, made.rejected.assign(rejected_by=table))
            self.tables.write_part(REJECTED_ROWS, day, table, rows)
            if len(rows):
                counts = made.rejected.groupby(["source_table", "reason"]).size().reset_index(name="row_count")
                yield _report_side_table(context, REJECTED_ROWS, day, rows, counts)

    def _store_usage(self, context: dg.OutputContext, day: date, made: ServiceDay) -> Iterator[dg.DagsterEvent]:
        """Store the use of the upstream rows of a service day that is published."""
        if made.usage is not None:
            rows = to_arrow(UPSTREAM_USAGE, made.usage)
            self.tables.write(UPSTREAM_USAGE, day, rows, context.run_id)
            yield _report_side_table(context, UPSTREAM_USAGE, day, rows, made.usage.drop(columns="service_date"))


class UpstreamIOManager(dg.ConfigurableIOManager):
    """Tables that others write. A consumer receives them as from `TablesIOManager`."""

    tables: dg.ResourceDependency[DailyTables]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Raise NotImplementedError: these tables are never written here."""
        raise NotImplementedError(f"{context.asset_key.to_user_string()} is loaded by others and not written here.")

    def load_input(self, context: dg.InputContext) -> TableInput:
        """Return the service days that the consumer needs. Raises SourceError."""
        return load_table(self.tables, context)


def load_table(tables: DailyTables, context: dg.InputContext) -> TableInput:
    """Return what a consumer of a table receives, as this module describes. Raises MissingPartition."""
    table = context.asset_key.path[-1]
    narrowing: Mapping[str, Any] = context.definition_metadata
    if context.step_context.entity_partitions_def:
        days = to_days(context.asset_partition_keys)
    else:
        days = tables.days(table)[-narrowing["last_days"] :] if "last_days" in narrowing else tables.days(table)
        if not days:
            command = materialize_command(table, ANY_DAY)
            raise MissingPartition(f"No service day of {table} is stored yet. Make one with: {command}")
    stored = StoredTable(tables, table, days, narrowing.get("columns"))
    return stored.read_all() if context.dagster_type.typing_type is pd.DataFrame else stored


def _refuses(check: Check, outcome: Outcome) -> bool:
    return check.blocking and outcome.problem is not None


def _report_side_table(
    context: dg.OutputContext, table: str, day: date, rows: arrow.Table, shown: pd.DataFrame
) -> dg.DagsterEvent:
    """Return the event that a table was written beside the output of a step, which shows some rows in the UI."""
    names = [str(name) for name in shown.columns]
    metadata: dict[str, Any] = {
        "dagster/row_count": len(rows),
        "made_by": context.asset_key.path[-1],
        "counts": table_metadata([dict(zip(names, row, strict=True)) for row in shown.to_numpy()]),
    }
    event = dg.AssetMaterialization(table, partition=str(day), metadata=metadata)
    return dg.DagsterEvent.asset_materialization(context.step_context, event)


def _report_outcomes(
    context: dg.OutputContext,
    day: date,
    outcomes: Mapping[Check, Outcome],
    reason: str | None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[dg.DagsterEvent]:
    """Yield the result of each check of a service day, and whether it was published, with the reason if it was not."""
    target = find_materialization(context, day)
    for check, outcome in outcomes.items():
        result = dg.AssetCheckResult(
            check_name=check.name,
            passed=outcome.problem is None,
            severity=check.severity,
            description=outcome.problem,
            metadata=outcome.numbers,
        )
        yield report_check(context, day, result, target, blocking=check.blocking)
    published = dg.AssetCheckResult(
        check_name=PUBLISHED, passed=reason is None, description=reason, metadata=metadata or {}
    )
    yield report_check(context, day, published, target, blocking=True)
