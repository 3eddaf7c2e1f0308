"""The `bigquery` source: upstream tables that another team loads into BigQuery, read where they are and never copied.

They may be called otherwise than in the contract: a layout says how.

    {"vehicle": {"table": "vehicle.df", "columns": {"updated_at": "reported_at", "route_id": null}},
     "schedule": {"columns": {"service_date": ["departure_time", "arrival_time"]}}}

`table` is a table of the upstream dataset, or `dataset.table`, or `project.dataset.table`. A column of the contract is
given the name it has there, names of which the first that is not missing counts, or null where there is none. What the
layout does not name is called as in the contract. A `service_date` that is a timestamp there becomes the service day
that it falls on; one that is null there means that every row holds on every day.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Self

import pyarrow as arrow

from mbta_assets.gcp import Account
from mbta_assets.gcp.bigquery import BigQuery, Column, TableInfo, bigquery_type, quoted
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources.contract import Fault, conform, reading
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import TIME_ZONE, TURN_HOUR

NAME = "bigquery"
FITTING = {
    "STRING": {"STRING"},
    "TIMESTAMP": {"TIMESTAMP"},
    "FLOAT64": {"FLOAT64", "INT64", "NUMERIC", "BIGNUMERIC"},
    "INT64": {"INT64", "BOOL"},
    "DATE": {"DATE", "TIMESTAMP"},
}
"""Types in the contract, and those that a column upstream may have for them."""


@dataclass(frozen=True)
class Layout:
    """What a table is called upstream, and its columns where they are not called as in the contract."""

    table: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names by column; the first that is not missing counts, and none means that there is no such column."""

    @classmethod
    def all_from(cls, described: Mapping[str, Any]) -> dict[str, Self]:
        """The layout of each upstream table. Raises ValueError naming what is not understood."""
        if unknown := sorted(set(described) - set(schema.UPSTREAM)):
            raise ValueError(f"{', '.join(unknown)}: no such table; there are {', '.join(schema.UPSTREAM)}")
        return {table: cls._from(table, described.get(table, {})) for table in schema.UPSTREAM}

    @classmethod
    def _from(cls, table: str, described: Any) -> Self:
        if not isinstance(described, dict) or set(described) - {"table", "columns"}:
            raise ValueError(f"{table}: it may have 'table' and 'columns', and is {described!r}")
        named, columns = described.get("table", table), described.get("columns", {})
        if not isinstance(named, str) or not 1 <= len(named.split(".")) <= 3:
            raise ValueError(f"{table}: 'table' must be a table, dataset.table or project.dataset.table: {named!r}")
        if not isinstance(columns, dict):
            raise ValueError(f"{table}: 'columns' must be an object, and is {columns!r}")
        known = schema.arrow_schema(schema.UPSTREAM[table]).names
        if unknown := sorted(set(columns) - set(known)):
            raise ValueError(f"{table}: no such column {', '.join(unknown)}; there are {', '.join(known)}")
        names = {column: _names(table, column, name) for column, name in columns.items()}
        return cls(named, names)


class BigQuerySource:
    """The upstream tables of a dataset; of each query only a service day is scanned. See `storage.tables.DailyTables`.

    `layout` says what is called otherwise than in the contract. Raises ValueError where it is not understood.
    """

    name = NAME

    def __init__(self, bigquery: BigQuery, dataset: str, layout: Mapping[str, Any]) -> None:
        self.bigquery = bigquery
        self.dataset = dataset if "." in dataset else f"{bigquery.account.project}.{dataset}"
        self.layouts = Layout.all_from(layout)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The upstream tables that the environment names. Raises SettingsError."""
        assert settings.bigquery_upstream_dataset, "Settings has checked it"
        bigquery = BigQuery(Account.of(settings), settings.bigquery_maximum_bytes_billed)
        try:
            return cls(bigquery, settings.bigquery_upstream_dataset, settings.bigquery_upstream_layout)
        except ValueError as error:
            raise SettingsError(f"BIGQUERY_UPSTREAM_LAYOUT: {error}.") from None

    def path(self, table: str) -> str:
        """The full name of a table."""
        parts = self.layouts[table].table.split(".")
        return ".".join([*self.dataset.split(".")[: 3 - len(parts)], *parts])

    def days(self, table: str) -> list[date]:
        """The service days that a table has rows of, in order."""
        return sorted(self.partitions(table))

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """What changes when the partition of a service day does. Raises SourceError."""
        known = self.partitions(table)
        for day in (days := list(days)):
            if day not in known:
                with reading(self.name, table, day):
                    raise self._absent(table, known)
        return {day: known[day] for day in days}

    def poll(self, table: str, known: Mapping[date, str]) -> dict[date, str]:
        """The service days that a table has rows of, and of each a version. Raises SourceError."""
        return self.partitions(table)

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Rows of some service days, one day after the other; all columns or some. Raises SourceError."""
        parts = []
        model = schema.arrow_schema(schema.UPSTREAM[table])
        for day in days:
            sql = f"SELECT * FROM {self.relation(table, day)}"
            rows = self.bigquery.rows(f"Read {self.path(table)}", sql, {"service_date": day}, {"table": table})
            if not len(rows):
                self.versions(table, [day])
            frame = conform(table, rows, day, self.name)
            parts.append(arrow.Table.from_pandas(frame, model, preserve_index=False))
        rows = arrow.concat_tables(parts)
        return rows.select(columns or rows.column_names)

    def relation(self, table: str, day: date) -> str:
        """A subquery with the contract's columns and types, for the day in @service_date. Raises SourceError."""
        with reading(self.name, table, day):
            held = self._info(table).columns
            chosen = [f"{self._column(table, name, held)} AS {quoted(name)}" for name in _contract(table)]
            where = " AND ".join(self._of_day(table, held))
            return f"(SELECT {', '.join(chosen)} FROM {quoted(self.path(table))} WHERE {where})"

    def _names(self, table: str, column: str) -> Sequence[str]:
        return self.layouts[table].columns.get(column, [column])

    def _found(self, table: str, column: str, held: Mapping[str, Column]) -> list[Column]:
        """The columns upstream that a column comes from. Raises Fault."""
        spec = schema.UPSTREAM[table].to_schema().columns[column]
        names = self._names(table, column)
        by_lower = {name.lower(): found for name, found in held.items()}  # BigQuery ignores case
        found = [by_lower[name.lower()] for name in names if name.lower() in by_lower]
        if len(found) < len(names) and (spec.metadata["required"] or column in self.layouts[table].columns):
            lacking = ", ".join(name for name in names if name.lower() not in by_lower)
            there = ", ".join(held)
            raise Fault(f"{self.path(table)} has no {lacking}", f"Name it in the layout; the table has {there}", column)
        if not found and spec.metadata["required"] and not spec.nullable and column != "service_date":
            raise Fault("the layout says that there is none, and it is required", "Name it in the layout", column)
        wanted = _contract(table)[column]
        for other in found:
            if other.type not in FITTING[wanted]:
                fitting = " or ".join(sorted(FITTING[wanted]))
                raise Fault(f"{other.name} is {other.type}, and must be {fitting}", "Correct the column", column)
        return found

    def _column(self, table: str, column: str, held: Mapping[str, Column]) -> str:
        if column == "service_date":
            return "@service_date"
        found, wanted = self._found(table, column, held), _contract(table)[column]
        if not found:
            return f"CAST(NULL AS {wanted})"
        value = _first([quoted(there.name) for there in found])
        return value if {there.type for there in found} == {wanted} else f"CAST({value} AS {wanted})"

    def _of_day(self, table: str, held: Mapping[str, Column]) -> list[str]:
        """Conditions that rows of the day in @service_date meet, by which BigQuery also knows what not to scan."""
        found = self._found(table, "service_date", held)
        if not found:
            return ["TRUE"]
        moment = _first([quoted(there.name) for there in found])
        if {there.type for there in found} == {"DATE"}:
            return [f"{moment} = @service_date"]
        near = "TIMESTAMP(@service_date) AND TIMESTAMP_ADD(TIMESTAMP(@service_date), INTERVAL 48 HOUR)"
        return [f"{moment} BETWEEN {near}", f"{_service_day(moment)} = @service_date"]

    def _info(self, table: str) -> TableInfo:
        info = self.bigquery.table(self.path(table))
        if info is None:
            raise Fault(f"there is no table {self.path(table)}", "See BIGQUERY_UPSTREAM_DATASET and its layout")
        return info

    def partitions(self, table: str) -> dict[date, str]:
        """What changes with the rows of each service day, by day. Raises SourceError.

        From the metadata of its partitions, or of the whole table where it is not partitioned by service day; then a
        change to one day is a new version of all.
        """
        with reading(self.name, table, None):
            info = self._info(table)
            found = self._found(table, "service_date", info.columns)
        if not found:
            return dict.fromkeys(self.partitions("vehicle"), info.version) if table != "vehicle" else {}
        if [there.name for there in found] == [info.partitioned_by]:
            ids = self.bigquery.partitions(self.path(table))
            return {datetime.strptime(i, "%Y%m%d").date(): found for i, found in ids.items() if i.isdigit()}
        moment = _first([quoted(there.name) for there in found])
        day = moment if {there.type for there in found} == {"DATE"} else _service_day(moment)
        sql = f"SELECT {day} AS service_date FROM {quoted(self.path(table))} GROUP BY 1"
        rows = self.bigquery.rows(f"Ask which days {self.path(table)} has", sql, labels={"table": table})
        return {day: info.version for day in rows["service_date"].to_pylist() if day is not None}

    def _absent(self, table: str, known: Mapping[date, str]) -> Fault:
        held = f"it holds {min(known)} to {max(known)}, {len(known)} in all" if known else "it holds no rows at all"
        return Fault(f"{self.path(table)} does not have the day; {held}", "Load that day, or ask for another")


def _first(values: Sequence[str]) -> str:
    """The first of some SQL values that is not missing."""
    return values[0] if len(values) == 1 else f"COALESCE({', '.join(values)})"


def _service_day(moment: str) -> str:
    """The service day that a SQL timestamp falls on."""
    return f"DATE(DATETIME_SUB(DATETIME({moment}, '{TIME_ZONE}'), INTERVAL {TURN_HOUR} HOUR))"


def _contract(table: str) -> dict[str, str]:
    """The columns of an upstream table, and what BigQuery calls their types."""
    return {field.name: bigquery_type(field.type) for field in schema.arrow_schema(schema.UPSTREAM[table])}


def _names(table: str, column: str, named: Any) -> tuple[str, ...]:
    names = [] if named is None else [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{table}: column {column} must be a name, a list of names or null, and is {named!r}")
    return tuple(names)
