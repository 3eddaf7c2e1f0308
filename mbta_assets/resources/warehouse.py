"""The warehouse: where daily tables are queried. Here DuckDB, in memory, over the Parquet lake."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import pandas as pd

from mbta_assets.storage.lake import Lake
from mbta_assets.transit import schema
from mbta_assets.transit.join import raw_transit_data_query


class Warehouse(Protocol):
    """Answers questions about stored daily tables."""

    def raw_transit_data(self, day: date) -> pd.DataFrame:
        """The join of the four upstream tables of a service day. Raises MissingPartition."""

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of a table on a service day. Raises MissingPartition."""

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """How many rows each of the latest stored service days before a day has."""


@dataclass(frozen=True)
class DuckDBWarehouse:
    """DuckDB over the lake's files: no database file, so no lock, and any number of runs at once."""

    lake: Lake

    def raw_transit_data(self, day: date) -> pd.DataFrame:
        """The join of the four upstream tables of a service day. Raises MissingPartition."""
        import duckdb

        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for table in schema.UPSTREAM:
                connection.register(table, self.lake.read(table, [day]))
            joined = connection.execute(raw_transit_data_query("duckdb"), {"service_date": day})
            rows = joined.arrow().read_all()
        return schema.to_frame(rows.select(schema.arrow_schema(schema.RawTransitData).names))

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of a table on a service day. Raises MissingPartition."""
        return schema.to_frame(self.lake.read(table, [day], columns))

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """How many rows each of the latest stored service days before a day has."""
        earlier = [stored for stored in self.lake.days(table) if stored < before][-days:]
        return {stored: self.lake.rows(table, stored) for stored in earlier}
