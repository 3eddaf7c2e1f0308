"""Resources of a deployment on one machine: Parquet files, DuckDB, and directories of models and reports."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.reports import ReportStore
from mbta_assets.storage.tables import DailyTables, TableStore
from mbta_assets.storage.warehouse import DuckDBWarehouse


class ParquetTablesResource(dg.ConfigurableResource):
    """Daily tables as Parquet files, one for each service day."""

    store: str = Field(description="Directory that has the tables below `tables/`.")

    def create_resource(self, context: dg.InitResourceContext) -> ParquetTables:
        """Return the tables."""
        return ParquetTables(Path(self.store))


class DuckDBWarehouseResource(dg.ConfigurableResource):
    """A warehouse that joins the upstream tables in memory."""

    tables: dg.ResourceDependency[TableStore]
    upstream: dg.ResourceDependency[DailyTables]

    def create_resource(self, context: dg.InitResourceContext) -> DuckDBWarehouse:
        """Return the warehouse."""
        return DuckDBWarehouse(self.tables, self.upstream)


class ModelRegistryResource(dg.ConfigurableResource):
    """Versions of models and which one is current, in a directory."""

    store: str = Field(description="Directory that has the models below `bundles/`.")

    def create_resource(self, context: dg.InitResourceContext) -> ModelRegistry:
        """Return the registry."""
        return ModelRegistry(Path(self.store))


class ReportStoreResource(dg.ConfigurableResource):
    """The leaderboard and other reports, in a directory."""

    store: str = Field(description="Directory that has the reports below `reports/`.")

    def create_resource(self, context: dg.InitResourceContext) -> ReportStore:
        """Return the store."""
        return ReportStore(Path(self.store))
