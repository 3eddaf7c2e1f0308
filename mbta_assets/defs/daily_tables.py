"""Daily tables as assets: made, audited and published one service day at a time.

`daily_table` turns a function that makes a service day into an asset with its checks. The IO manager in
`defs.io_managers.tables` makes, audits and publishes each day, and reports the outcome of every check on that day's
partition. A day that is not published leaves the other days of the run alone; the run fails at its end.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, TypeAlias

import dagster as dg
import pandas as pd
import pyarrow as arrow

from mbta_assets.counts import format_count
from mbta_assets.defs.dagster_internals import AssetCheckExecutionRecordStatus, latest_check_outcomes
from mbta_assets.defs.metadata import code_reference, daily_table_metadata
from mbta_assets.defs.partitions import DailyAsset, DailyDefinition, ServiceDays
from mbta_assets.storage.tables import Frame, TableStore
from mbta_assets.transit import schema
from mbta_assets.transit.checks import RECENT_DAYS, Outcome, keys_unique, row_count_anomaly, schema_holds

PUBLISHED = "published"
"""Check of every daily table: whether a service day was made and passed the blocking checks."""
PUBLISHED_DESCRIPTION = (
    "Require the service day to be made and to pass every blocking check. Where it fails, consumers go on reading the "
    "version that was published before, if there is one."
)


class UnpublishedDays(Exception):
    """Service days that were not published; the message says why, a line for each."""


@dataclass(frozen=True)
class ServiceDay:
    """A service day of a table as it was made, with what its making tells about other tables."""

    rows: Frame
    rejected: pd.DataFrame | None = None
    """Rows of `RejectedRows`, if the making looks at rows that may be rejected."""
    usage: pd.DataFrame | None = None
    """Rows of `UpstreamUsage`."""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """Outcomes of checks that the making has evaluated, by name."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DailyOutput:
    """Output of a daily table: how each service day is made, so that one day at a time is in memory."""

    make: Callable[[date], ServiceDay | Frame]
    """Raises SourceError or MissingPartition where the day cannot be made from its inputs."""
    checks: Sequence["Check"] = ()
    """Checks that the IO manager evaluates; `daily_table` fills them in."""


@dataclass(frozen=True)
class Audit:
    """What a rule looks at: a service day that was made, and the published days."""

    table: str
    day: date
    rows: arrow.Table
    made: ServiceDay
    tables: TableStore
    bounds: Mapping[str, float]
    """Bounds that are settings, by name; see `TablesIOManager`."""


Rule: TypeAlias = Callable[[Audit], Outcome]


@dataclass(frozen=True)
class Check:
    """A check of a daily table: a rule, and whether a day that breaks it is refused."""

    name: str
    description: str
    rule: Rule
    blocking: bool = True

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """Return the severity of a failure."""
        return dg.AssetCheckSeverity.ERROR if self.blocking else dg.AssetCheckSeverity.WARN


def describe_rule(rule: Callable[..., Outcome]) -> str:
    """Return the first paragraph of a rule's docstring on one line; the others are about its arguments."""
    return " ".join((inspect.getdoc(rule) or "").split("\n\n")[0].split())


def check_rows(rule: Callable[[arrow.Table], Outcome], *, blocking: bool = True) -> Check:
    """Return the check of a rule that needs the rows alone."""
    return Check(rule.__name__, describe_rule(rule), lambda audit: rule(audit.rows), blocking)


def check_frame(rule: Callable[[pd.DataFrame], Outcome], *, blocking: bool = True) -> Check:
    """Return the check of a rule that needs the rows alone, as a frame."""
    return Check(rule.__name__, describe_rule(rule), lambda audit: rule(schema.to_frame(audit.rows)), blocking)


def check_making(name: str, description: str, *, blocking: bool = True) -> Check:
    """Return a check that is evaluated where the day is made, in `ServiceDay.outcomes`."""
    return Check(name, description, lambda audit: audit.made.outcomes[name], blocking)


def _schema_holds(audit: Audit) -> Outcome:
    return schema_holds(audit.rows, audit.table)


def _row_count_anomaly(audit: Audit) -> Outcome:
    recent = audit.tables.row_counts(audit.table, before=audit.day, days=RECENT_DAYS)
    return row_count_anomaly(len(audit.rows), recent)


SCHEMA_HOLDS = Check("schema_holds", describe_rule(schema_holds), _schema_holds)
KEYS_UNIQUE = check_rows(keys_unique)
ROW_COUNT_ANOMALY = Check("row_count_anomaly", describe_rule(row_count_anomaly), _row_count_anomaly, blocking=False)


def daily_table(
    *,
    name: str | None = None,
    deps: Sequence[str] = (),
    checks: Sequence[Check] = (),
    **options: Any,
) -> Callable[[Callable[..., DailyOutput]], DailyAsset]:
    """Make a daily table of a function that returns a DailyOutput.

    Every table is checked against its schema besides its `checks`. Of `deps`, optional upstream tables are left out
    where the deployment's source has none. Takes further arguments of `dagster.asset`.
    """

    def decorate(function: Callable[..., DailyOutput]) -> DailyAsset:
        table = name or function.__name__
        all_checks = [SCHEMA_HOLDS, *checks]

        def build(
            days: ServiceDays, backfill_policy: dg.BackfillPolicy, tables: Collection[str] = ()
        ) -> list[DailyDefinition]:
            specs = _check_specs(table, all_checks, days)
            asset = dg.asset(
                name=table,
                deps=select_deps(deps, tables),
                metadata={**daily_table_metadata(table), **code_reference(function)},
                partitions_def=days,
                backfill_policy=backfill_policy,
                io_manager_key="tables",
                check_specs=specs,
                **options,
            )
            return [asset(_yield_outputs(function, all_checks, specs)), _require_all_days(table)]

        return DailyAsset(table, build)

    return decorate


def daily_spec(table: str, *, deps: Sequence[str]) -> DailyAsset:
    """Return a daily table of group `transit` that other assets write while they are made, from rows of `deps`."""

    def build(
        days: ServiceDays, backfill_policy: dg.BackfillPolicy, tables: Collection[str] = ()
    ) -> list[DailyDefinition]:
        return [
            dg.AssetSpec(
                table,
                deps=select_deps(deps, tables),
                description=inspect.getdoc(schema.TABLES[table]),
                group_name="transit",
                metadata={**daily_table_metadata(table), **code_reference(schema.TABLES[table])},
                partitions_def=days,
            )
        ]

    return DailyAsset(table, build)


def select_deps(deps: Sequence[str], tables: Collection[str]) -> list[str]:
    """Return dependencies without those optional upstream tables that are not among the tables of the deployment."""
    return [name for name in deps if name not in schema.OPTIONAL_UPSTREAM or name in tables]


def list_unpublished_days(instance: dg.DagsterInstance, run_id: str, table: str) -> dict[str, str]:
    """Return the reason of each service day of a table that a run has not published, by day."""
    events = [log.dagster_event for log in instance.all_logs(run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    evaluations = [event.event_specific_data for event in events if event]
    outcomes = {
        evaluation.partition: evaluation
        for evaluation in evaluations
        if isinstance(evaluation, dg.AssetCheckEvaluation)
        and evaluation.asset_key == dg.AssetKey(table)
        and evaluation.check_name == PUBLISHED
    }
    return {str(day): outcome.description or "" for day, outcome in outcomes.items() if not outcome.passed}


def unpublished_days_failure(table: str, reasons: Mapping[str, str]) -> dg.Failure:
    """Return the failure of a step that has not published some service days, given the reason of each.

    The reasons are its cause, which Dagster prints last.
    """
    sentences = [f"{table} of service day {day} was not published: {reason}" for day, reason in reasons.items()]
    failure = dg.Failure(f"{table}: {format_count(len(reasons), 'service day')} not published.", allow_retries=False)
    failure.__cause__ = UnpublishedDays("\n".join(sentences))
    return failure


def _check_specs(table: str, checks: Sequence[Check], days: ServiceDays) -> list[dg.AssetCheckSpec]:
    named = [(check.name, check.description, check.blocking) for check in checks]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # checks by partition are new in Dagster
        return [
            dg.AssetCheckSpec(check, asset=table, description=description, blocking=blocking, partitions_def=days)
            for check, description, blocking in [*named, (PUBLISHED, PUBLISHED_DESCRIPTION, True)]
        ]


def _yield_outputs(
    function: Callable[..., DailyOutput], checks: Sequence[Check], specs: Sequence[dg.AssetCheckSpec]
) -> Callable[..., Iterator[dg.Output[Any]]]:
    """Return a function that yields the daily output, which the IO manager audits, and an output for each check.

    Dagster lets what is downstream in a run wait for those outputs.
    """

    @functools.wraps(function)
    def compute(*arguments: Any, **inputs: Any) -> Iterator[dg.Output[Any]]:
        yield dg.Output(replace(function(*arguments, **inputs), checks=checks))
        for spec in specs:
            yield dg.Output(None, output_name=spec.get_python_identifier())

    signature = inspect.signature(function)
    compute.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)  # type: ignore[attr-defined]
    compute.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    return compute


def _require_all_days(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table,
        name="all_days_published",
        description="Fail a run in which a service day was not published, after all others are made, and warn of those "
        "that earlier runs have not published.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        reasons = list_unpublished_days(context.instance, context.run.run_id, table)
        if reasons:
            raise unpublished_days_failure(table, reasons)
        # What other runs have not published is no failure of this one, which may only evaluate the check.
        outcomes = latest_check_outcomes(context.instance, [dg.AssetCheckKey(dg.AssetKey(table), PUBLISHED)])
        failed = AssetCheckExecutionRecordStatus.FAILED
        days = sorted(str(item.partition_key) for item in outcomes if item.latest_execution_status == failed)
        return dg.AssetCheckResult(
            passed=not days,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{format_count(len(days), 'service day')} not published when last made, up to {days[-1]}; "
            f"the check {PUBLISHED} has the reason of each."
            if days
            else None,
            metadata={"unpublished": ", ".join(days) or "none"},
        )

    return check
