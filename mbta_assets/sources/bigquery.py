"""The `bigquery` source: upstream tables that another team loads into BigQuery, read in place and never copied.

Tables and columns may have other names than in the contract; a layout (BIGQUERY_UPSTREAM_LAYOUT) maps them:

    {"vehicle": {"table": "vehicle.df", "columns": {"updated_at": "reported_at", "route_id": null}},
     "schedule": {"columns": {"service_date": ["departure_time", "arrival_time"]}}}

`table` is a table of the upstream dataset, or `dataset.table`, or `project.dataset.table`. A column of the contract is
mapped to a column there, to several columns of which the first that is not null counts, or to null if there is none.
Whatever the layout leaves out has its name in the contract. A `service_date` mapped to timestamps becomes the service
day on which they fall; one mapped to null means that every row holds on every service day.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Self

import pyarrow as arrow

from mbta_assets.gcp.bigquery_types import Column, TableInfo, bigquery_type, quote
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources.conform import conform
from mbta_assets.sources.conform_sql import select_usable_rows
from mbta_assets.sources.contract import Fault, Source, SourceRows, absent_day_fault, translate_faults
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import SERVICE_DAY_START_HOUR, TIME_ZONE

if TYPE_CHECKING:  # Google's client takes seconds to import
    from mbta_assets.gcp.bigquery import BigQuery

NAME = "bigquery"
COMPATIBLE_TYPES = {
    "STRING": {"STRING", "INT64"},
    "TIMESTAMP": {"TIMESTAMP"},
    "FLOAT64": {"FLOAT64", "INT64", "NUMERIC", "BIGNUMERIC"},
    "INT64": {"INT64", "BOOL"},
    "DATE": {"DATE", "TIMESTAMP"},
}
"""Types that an upstream column may have, by type in the contract."""


@dataclass(frozen=True)
class Layout:
    """Name of an upstream table in BigQuery, and of those columns that are not called as in the contract."""

    table: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Upstream columns by column of the contract; the first that is not null counts, and none means there is none."""


def parse_layouts(description: Mapping[str, Any]) -> dict[str, Layout]:
    """Return the layout of each upstream table. Raises ValueError with the part that cannot be understood."""
    if unknown := sorted(set(description) - set(schema.SOURCE_TABLES)):
        raise ValueError(f"{', '.join(unknown)}: no such table; there are {', '.join(schema.SOURCE_TABLES)}")
    return {table: _parse_layout(table, description.get(table, {})) for table in schema.SOURCE_TABLES}


def _parse_layout(table: str, description: Any) -> Layout:
    if not isinstance(description, dict) or set(description) - {"table", "columns"}:
        raise ValueError(f"{table}: it may have 'table' and 'columns', and is {description!r}")
    name, columns = description.get("table", table), description.get("columns", {})
    if not isinstance(name, str) or not 1 <= len(name.split(".")) <= 3:
        raise ValueError(f"{table}: 'table' must be a table, dataset.table or project.dataset.table: {name!r}")
    if not isinstance(columns, dict):
        raise ValueError(f"{table}: 'columns' must be an object, and is {columns!r}")
    contract = schema.arrow_schema(schema.SOURCE_TABLES[table]).names
    if unknown := sorted(set(columns) - set(contract)):
        raise ValueError(f"{table}: no such column {', '.join(unknown)}; there are {', '.join(contract)}")
    return Layout(name, {column: _parse_names(table, column, names) for column, names in columns.items()})


def _parse_names(table: str, column: str, description: Any) -> tuple[str, ...]:
    if description is None:
        return ()
    names = [description] if isinstance(description, str) else description
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{table}: column {column} must be a name, a list of names or null, and is {description!r}")
    return tuple(names)


class BigQuerySource(Source):
    """Source whose tables stay in BigQuery: consumers use `tables_in_place`, and nothing is copied."""

    name = NAME
    reads_in_place = True
    optional_tables = frozenset(schema.OPTIONAL_UPSTREAM)

    def __init__(self, bigquery: "BigQuery", dataset: str, layout: Mapping[str, Any]) -> None:
        """Map the tables of a dataset by a layout. Raises ValueError if the layout cannot be understood."""
        self.tables_in_place: BigQueryUpstreamTables = BigQueryUpstreamTables(bigquery, dataset, layout)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source of the dataset and layout in the settings. Raises SettingsError."""
        from mbta_assets.gcp.bigquery import BigQuery  # Google's client takes seconds to import

        if not settings.bigquery_upstream_dataset:
            raise SettingsError("BIGQUERY_UPSTREAM_DATASET is not set; name the dataset of the upstream tables.")
        bigquery = BigQuery.from_settings(settings)
        try:
            return cls(bigquery, settings.bigquery_upstream_dataset, settings.bigquery_upstream_layout)
        except ValueError as error:
            raise SettingsError(f"BIGQUERY_UPSTREAM_LAYOUT: {error}.") from None

    def read(self, table: str, service_date: date) -> SourceRows:
        """Read all rows of a table on a service day: those that can be used, and those that are rejected.

        Of a day that has nothing of an optional table there are no rows. Raises SourceError where the table as a whole
        cannot be used.
        """
        return self.tables_in_place.read_rows(table, service_date)

    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day of which a table has rows, from its metadata. Raises SourceError."""
        return self.tables_in_place.partition_versions(table)


class BigQueryUpstreamTables:
    """Upstream tables in a BigQuery dataset; each query scans one service day only. See `contract.TablesInPlace`."""

    def __init__(self, bigquery: "BigQuery", dataset: str, layout: Mapping[str, Any]) -> None:
        """Map the tables of a dataset by a layout. Raises ValueError if the layout cannot be understood."""
        self.bigquery = bigquery
        self.dataset = dataset if "." in dataset else f"{bigquery.account.project}.{dataset}"
        self.layouts = parse_layouts(layout)

    def path(self, table: str) -> str:
        """Return the full name of a table."""
        parts = self.layouts[table].table.split(".")
        return ".".join([*self.dataset.split(".")[: 3 - len(parts)], *parts])

    def days(self, table: str) -> list[date]:
        """Return the service days of which a table has rows, in order. Raises SourceError."""
        return sorted(self.partition_versions(table))

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return a version of each of some service days, which changes with its rows. Raises SourceError."""
        stored = self.partition_versions(table)
        wanted = list(days)
        for day in wanted:
            if day not in stored:
                with translate_faults(NAME, table, day):
                    problem = f"{self.path(table)} does not have the day"
                    raise absent_day_fault(stored, problem, "Load that day, or ask for another")
        return {day: stored[day] for day in wanted}

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Read the rows of some service days that can be used, one day after the other; all columns or some.

        Raises SourceError.
        """
        model = schema.arrow_schema(schema.SOURCE_TABLES[table])
        frames = (self.read_rows(table, day).rows for day in days)
        rows = arrow.concat_tables([arrow.Table.from_pandas(frame, model, preserve_index=False) for frame in frames])
        return rows.select(columns or rows.column_names)

    def read_rows(self, table: str, day: date) -> SourceRows:
        """Read the rows of a service day that can be used, and those that are rejected.

        Of a day that has nothing of an optional table there are no rows. Raises SourceError.
        """
        if self._is_absent(table):
            return SourceRows.empty(table)
        with translate_faults(NAME, table, day):
            sql = f"SELECT * FROM {self._select_rows(table)}"
        rows = self.bigquery.fetch_rows(f"Read {self.path(table)}", sql, {"service_date": day}, {"table": table})
        if not len(rows) and table not in schema.OPTIONAL_UPSTREAM:
            self.versions(table, [day])  # raises unless the day has been loaded
        return conform(table, rows, day, NAME)

    def _is_absent(self, table: str) -> bool:
        """Return whether a table is optional and not there; one that the layout names must be there."""
        is_optional = table in schema.OPTIONAL_UPSTREAM and self.layouts[table] == Layout(table)
        return is_optional and self.bigquery.stat(self.path(table)) is None

    def relation(self, table: str, day: date) -> str:
        """Return a subquery with the rows of a service day that can be used, as `read_rows` has them.

        It has the contract's columns and types, and the parameter @service_date. Raises SourceError.
        """
        with translate_faults(NAME, table, day):
            return select_usable_rows(table, day, self._select_rows(table))

    def _select_rows(self, table: str) -> str:
        """Return a subquery with the contract's columns and types for the day in @service_date. Raises Fault."""
        upstream = self._stat(table).columns
        columns = [f"{self._select(table, name, upstream)} AS {quote(name)}" for name in _contract_types(table)]
        conditions = " AND ".join(self._conditions(table, upstream))
        return f"(SELECT {', '.join(columns)} FROM {quote(self.path(table))} WHERE {conditions})"

    def partition_versions(self, table: str) -> dict[date, str]:
        """Return, by service day, a version that changes with the day's rows. Raises SourceError.

        Versions come from the metadata of the partitions. For a table that is not partitioned by service day they come
        from the whole table, so that a change to one day is a new version of all.
        """
        if self._is_absent(table):
            return {}
        with translate_faults(NAME, table, None):
            info = self._stat(table)
            columns = self._upstream_columns(table, "service_date", info.columns)
        if not columns:
            return dict.fromkeys(self.partition_versions("vehicle"), info.version) if table != "vehicle" else {}
        if [column.name for column in columns] == [info.partition_column]:
            versions = self.bigquery.partition_versions(self.path(table))
            return {datetime.strptime(i, "%Y%m%d").date(): version for i, version in versions.items() if i.isdigit()}
        sql = f"SELECT {_service_date_sql(columns)} AS service_date FROM {quote(self.path(table))} GROUP BY 1"
        rows = self.bigquery.fetch_rows(f"List the service days of {self.path(table)}", sql, labels={"table": table})
        return {day: info.version for day in rows["service_date"].to_pylist() if day is not None}

    def _upstream_columns(self, table: str, column: str, upstream: Mapping[str, Column]) -> list[Column]:
        """Return the upstream columns that a column of the contract is read from, none if it has none. Raises Fault."""
        spec = schema.SOURCE_TABLES[table].to_schema().columns[column]
        names = self.layouts[table].columns.get(column, [column])
        by_lower = {name.lower(): candidate for name, candidate in upstream.items()}  # BigQuery ignores case
        columns = [by_lower[name.lower()] for name in names if name.lower() in by_lower]
        if len(columns) < len(names) and (spec.metadata["required"] or column in self.layouts[table].columns):
            missing = ", ".join(name for name in names if name.lower() not in by_lower)
            remedy = f"Name it in the layout; the table has {', '.join(upstream)}"
            raise Fault(f"{self.path(table)} has no {missing}", remedy, column)
        if not columns and spec.metadata["required"] and not spec.nullable and column != "service_date":
            remedy = f"Name it in the layout; the table has {', '.join(upstream)}"
            raise Fault("the layout says that there is none, and it is required", remedy, column)
        compatible = COMPATIBLE_TYPES[_contract_types(table)[column]]
        for candidate in columns:
            if candidate.type not in compatible:
                expected = " or ".join(sorted(compatible))
                raise Fault(
                    f"{candidate.name} is {candidate.type}, and must be {expected}", "Correct the column", column
                )
        return columns

    def _select(self, table: str, column: str, upstream: Mapping[str, Column]) -> str:
        """Return the SQL expression of a column of the contract. Raises Fault."""
        if column == "service_date":
            return "@service_date"
        columns, target = self._upstream_columns(table, column, upstream), _contract_types(table)[column]
        if not columns:
            return f"CAST(NULL AS {target})"
        return _coalesce(columns, target)

    def _conditions(self, table: str, upstream: Mapping[str, Column]) -> list[str]:
        """Return SQL conditions for the rows of the day in @service_date that let BigQuery prune partitions."""
        columns = self._upstream_columns(table, "service_date", upstream)
        if not columns:
            return ["TRUE"]
        service_date = f"{_service_date_sql(columns)} = @service_date"
        if _are_dates(columns):
            return [service_date]
        # East of UTC a service day begins before its date does there, by up to 14 hours.
        midnight = "TIMESTAMP(@service_date)"
        nearby = f"TIMESTAMP_SUB({midnight}, INTERVAL 24 HOUR) AND TIMESTAMP_ADD({midnight}, INTERVAL 48 HOUR)"
        return [f"{_coalesce(columns)} BETWEEN {nearby}", service_date]

    def _stat(self, table: str) -> TableInfo:
        info = self.bigquery.stat(self.path(table))
        if info is None:
            raise Fault(f"there is no table {self.path(table)}", "See BIGQUERY_UPSTREAM_DATASET and its layout")
        return info


def _coalesce(columns: Sequence[Column], target: str = "") -> str:
    """Return SQL for the first value of some columns that is not null, cast to a type if one is given."""
    names = [
        quote(column.name) if target in ("", column.type) else f"CAST({quote(column.name)} AS {target})"
        for column in columns
    ]
    return names[0] if len(names) == 1 else f"COALESCE({', '.join(names)})"


def _are_dates(columns: Sequence[Column]) -> bool:
    return {column.type for column in columns} == {"DATE"}


def _service_date_sql(columns: Sequence[Column]) -> str:
    """Return SQL for the service date that dates are, or that timestamps fall on."""
    value = _coalesce(columns)
    if _are_dates(columns):
        return value
    return f"DATE(DATETIME_SUB(DATETIME({value}, '{TIME_ZONE}'), INTERVAL {SERVICE_DAY_START_HOUR} HOUR))"


def _contract_types(table: str) -> dict[str, str]:
    """Return BigQuery's name of the type of each column of an upstream table."""
    return {field.name: bigquery_type(field.type) for field in schema.arrow_schema(schema.SOURCE_TABLES[table])}


SOURCE = BigQuerySource
