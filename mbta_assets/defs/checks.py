"""Asset checks made from rules: pure functions that say what is wrong with the rows of one service day.

The rules are in `transit.checks` and `ml.evaluation.checks`. Each group's module calls this factory beside its assets.
Failed errors block what is downstream within the run; failed warnings do not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

import dagster as dg
import pandas as pd

from mbta_assets.defs.partitions import to_days
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit.checks import RECENT_DAYS, Problem, row_count_anomaly, schema_holds

Rule: TypeAlias = Callable[[pd.DataFrame], Problem]
DayRule: TypeAlias = Callable[[Warehouse, date, pd.DataFrame], Problem]


@dataclass(frozen=True)
class CheckedRule:
    """A rule of one table, and whether it blocks what is downstream."""

    name: str
    description: str | None
    blocking: bool
    apply: DayRule


def table_checks(
    table: str, *, blocking: Sequence[Rule] = (), warning: Sequence[Rule] = (), compare_row_counts: bool = False
) -> dg.AssetChecksDefinition:
    """Return the checks of a daily table, made in one pass over each service day of the run.

    Every table is checked against its schema. With `compare_row_counts` a warning says when a day has far fewer or
    more rows than recent ones.
    """

    def fits_schema(warehouse: Warehouse, day: date, rows: pd.DataFrame) -> Problem:
        return schema_holds(rows, table)

    def has_usual_row_count(warehouse: Warehouse, day: date, rows: pd.DataFrame) -> Problem:
        return row_count_anomaly(len(rows), warehouse.row_counts(table, before=day, days=RECENT_DAYS))

    rules = [CheckedRule("schema_holds", schema_holds.__doc__, True, fits_schema)]
    rules += [CheckedRule(rule.__name__, rule.__doc__, True, _for_rows(rule)) for rule in blocking]
    rules += [CheckedRule(rule.__name__, rule.__doc__, False, _for_rows(rule)) for rule in warning]
    if compare_row_counts:
        rules.append(CheckedRule("row_count_anomaly", row_count_anomaly.__doc__, False, has_usual_row_count))
    specs = [
        dg.AssetCheckSpec(rule.name, asset=table, blocking=rule.blocking, description=rule.description)
        for rule in rules
    ]

    @dg.multi_asset_check(name=f"{table}_checks", specs=specs)
    def checks(
        context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[dg.AssetCheckResult]:
        problems: dict[str, dict[date, str]] = {rule.name: {} for rule in rules}
        for day in checked_days(context, warehouse, table):
            rows = warehouse.read(table, day)
            for rule in rules:
                if problem := rule.apply(warehouse, day, rows):
                    problems[rule.name][day] = problem
        for rule in rules:
            yield check_result(table, rule.name, problems[rule.name], blocking=rule.blocking)

    return checks


def check_result(table: str, name: str, problems: Mapping[date, str], *, blocking: bool) -> dg.AssetCheckResult:
    """Return the result of one check of a daily table from its problems by service day."""
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=table,
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{day}: {problem}" for day, problem in problems.items()) or None,
        metadata={"service_days_failed": len(problems)},
    )


def checked_days(context: dg.AssetCheckExecutionContext, warehouse: Warehouse, table: str) -> list[date]:
    """Return the service days of the run; of a run without partitions, the latest stored service day of the table."""
    if context.has_partition_key or context.has_partition_key_range:
        return to_days(context.partition_keys)
    return list(warehouse.row_counts(table, before=date.max, days=1))


def _for_rows(rule: Rule) -> DayRule:
    """Adapt a rule that needs the rows alone."""
    return lambda warehouse, day, rows: rule(rows)
