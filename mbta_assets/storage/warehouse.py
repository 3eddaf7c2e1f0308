"""The warehouse: where the upstream tables are joined, and daily tables are read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import pandas as pd

from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.storage.tables import DailyTables, TableStore
from mbta_assets.transit import schema
from mbta_assets.transit.join import raw_transit_data_query


@dataclass(frozen=True)
class Warehouse(ABC):
    """The stored tables, and the upstream ones where those are not stored here but by their source."""

    tables: TableStore
    upstream: DailyTables

    @abstractmethod
    def raw_transit_data(self, day: date) -> pd.DataFrame:
        """The join of the four upstream tables of a service day. Raises MissingPartition."""

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of a table on a service day. Raises MissingPartition."""
        tables = self.upstream if table in schema.UPSTREAM else self.tables
        return schema.to_frame(tables.read(table, [day], columns))

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """How many rows each of the latest stored service days before a day has."""
        return self.tables.row_counts(table, before, days)


class DuckDBWarehouse(Warehouse):
    """Joins in memory: no database file, so no lock, and any number of runs at once."""

    def raw_transit_data(self, day: date) -> pd.DataFrame:
        """The join of the four upstream tables of a service day. Raises MissingPartition."""
        import duckdb

        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for table in schema.UPSTREAM:
                connection.register(table, self.upstream.read(table, [day]))
            joined = connection.execute(raw_transit_data_query("duckdb"), {"service_date": day})
            rows = joined.arrow().read_all()
        return schema.to_frame(rows.select(schema.arrow_schema(schema.RawTransitData).names))


class InBigQuery(DailyTables, Protocol):
    """Upstream tables that BigQuery can join where they are."""

    def relation(self, table: str, day: date) -> str:
        """The name of a table with the columns of the contract, or a subquery that makes one for a service day."""


@dataclass(frozen=True)
class BigQueryWarehouse(Warehouse):
    """Joins in BigQuery, which scans the partitions of that service day only."""

    upstream: InBigQuery
    bigquery: BigQuery

    def raw_transit_data(self, day: date) -> pd.DataFrame:
        """The join of the four upstream tables of a service day. Raises MissingPartition."""
        relations = {table: self.upstream.relation(table, day) for table in schema.UPSTREAM}
        sql = raw_transit_data_query("bigquery", relations)
        labels = {"application": "mbta_assets", "table": "raw_transit_data", "service_date": str(day)}
        rows = self.bigquery.rows(f"Join service day {day}", sql, {"service_date": day}, labels)
        model = schema.arrow_schema(schema.RawTransitData)
        return schema.to_frame(rows.select(model.names).cast(model))
