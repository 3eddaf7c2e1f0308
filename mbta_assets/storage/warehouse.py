"""The warehouse: joins the upstream tables of a service day, and reads daily tables as pandas frames.

The SQL of the join is in `transit.point_in_time_join`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

import pandas as pd
import pyarrow as arrow

from mbta_assets.storage.sorting import sort_rows
from mbta_assets.storage.tables import DailyTables, TableStore
from mbta_assets.transit import schema
from mbta_assets.transit.point_in_time_join import DUCKDB, build_raw_transit_data_query
from mbta_assets.transit.table import row_order

if TYPE_CHECKING:  # Google's libraries take seconds to import, and a warehouse on one machine needs none of them
    from mbta_assets.gcp.bigquery import BigQuery


@dataclass(frozen=True)
class Warehouse(ABC):
    """The stored tables, and the upstream tables, which are stored too unless a source reads them in place."""

    tables: TableStore
    upstream: DailyTables

    @abstractmethod
    def join_upstream_tables(
        self, day: date, *, every_stop_ahead: bool = False, trips: Collection[str] | None = None
    ) -> arrow.Table:
        """Return the join of the upstream tables of a service day. Raises MissingPartition.

        With `every_stop_ahead` there are rows about every stop ahead of an update, else about a sample of them; with
        `trips` only rows about these trips.
        """

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows of a table on a service day; None means all columns. Raises MissingPartition."""
        return schema.to_frame(self._find_store(table).read(table, [day], columns))

    def read_version(self, table: str, day: date) -> str:
        """Return the content version of a table on a service day. Raises MissingPartition."""
        return self._find_store(table).versions(table, [day])[day]

    def _find_store(self, table: str) -> DailyTables:
        """Return where a table is stored."""
        return self.upstream if table in schema.SOURCE_TABLES else self.tables


class DuckDBWarehouse(Warehouse):
    """A warehouse that joins in memory with DuckDB; there is no database file to lock, so any number of runs may."""

    def join_upstream_tables(
        self, day: date, *, every_stop_ahead: bool = False, trips: Collection[str] | None = None
    ) -> arrow.Table:
        """Return the join of the upstream tables of a service day. Raises MissingPartition."""
        tables = {table: self.upstream.read(table, [day]) for table in schema.UPSTREAM}
        return join_in_duckdb(tables, day, every_stop_ahead=every_stop_ahead, trips=trips)


def join_in_duckdb(
    tables: Mapping[str, arrow.Table],
    day: date,
    *,
    every_stop_ahead: bool = False,
    trips: Collection[str] | None = None,
) -> arrow.Table:
    """Return `raw_transit_data` of the upstream tables of a service day; see `Warehouse.join_upstream_tables`."""
    import duckdb  # takes a tenth of a second to import; the code location imports this module and must load fast

    sql = build_raw_transit_data_query(DUCKDB, every_stop_ahead=every_stop_ahead, trips=trips)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, rows in tables.items():
            connection.register(name, _without_time_zone(rows))
        return _to_model(connection.execute(sql, {"service_date": day}).arrow().read_all())


def _to_model(rows: arrow.Table) -> arrow.Table:
    """Return the result of the join with the columns, types and row order of `raw_transit_data`.

    The engines do not sort: DuckDB needs twice the CPU time of Arrow for it, and three times the memory of the join.
    """
    model = schema.arrow_schema(schema.RawTransitData)
    return sort_rows(rows.select(model.names).cast(model), row_order(schema.RawTransitData))


def _without_time_zone(rows: arrow.Table) -> arrow.Table:
    """Return rows with UTC times as times without a zone: DuckDB computes those with one by calendar, and slowly."""
    types = [arrow.timestamp("us") if arrow.types.is_timestamp(column.type) else column.type for column in rows.schema]
    return rows.cast(arrow.schema(zip(rows.column_names, types, strict=True)))


class BigQueryRelations(DailyTables, Protocol):
    """Upstream tables that BigQuery can join in place."""

    def relation(self, table: str, day: date) -> str:
        """Return the name of a table with the contract's columns, or a subquery for the day in `@service_date`."""


@dataclass(frozen=True)
class BigQueryWarehouse(Warehouse):
    """A warehouse that joins in BigQuery, scanning the partitions of the service day only."""

    upstream: BigQueryRelations
    bigquery: "BigQuery"

    def join_upstream_tables(
        self, day: date, *, every_stop_ahead: bool = False, trips: Collection[str] | None = None
    ) -> arrow.Table:
        """Return the join of the upstream tables of a service day. Raises MissingPartition or CloudError."""
        relations = {table: self.upstream.relation(table, day) for table in schema.UPSTREAM}
        sql = build_raw_transit_data_query("bigquery", relations, every_stop_ahead, trips)
        labels = {"application": "mbta_assets", "table": "raw_transit_data", "service_date": str(day)}
        return _to_model(self.bigquery.fetch_rows(f"Join service day {day}", sql, {"service_date": day}, labels))
