"""Resources of a deployment on Google Cloud: tables in BigQuery, models and reports in Cloud Storage.

Importing this module imports Google's libraries, which takes seconds: only a deployment on Google Cloud does.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import Field

from mbta_assets.defs.resources.settings import dump_public_settings
from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSModelRegistry, GCSReportStore
from mbta_assets.storage.warehouse import BigQueryRelations, BigQueryWarehouse


class AccountResource(dg.ConfigurableResource):
    """The account that calls Google Cloud. A key is never part of it, only the path of a key file."""

    settings: dict[str, Any] = Field(
        description="Settings that differ from their defaults, by name; the account reads those it needs. No secrets."
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the account that the settings describe."""
        return cls(settings=dump_public_settings(settings))

    def create_resource(self, context: dg.InitResourceContext) -> Account:
        """Return the account; nothing is read or called yet."""
        return Account.from_settings(Settings(**self.settings))


class BigQueryTablesResource(dg.ConfigurableResource):
    """Daily tables in a dataset of BigQuery."""

    account: dg.ResourceDependency[Account]
    dataset: str = Field(description="Dataset of the tables.")
    maximum_bytes_billed: int = Field(gt=0, description="A query that would read more bytes fails.")
    keep_refused_days: int = Field(
        default=14, ge=1, description="Number of days for which service days that were refused are kept."
    )

    def create_resource(self, context: dg.InitResourceContext) -> BigQueryTables:
        """Return the tables."""
        bigquery = BigQuery(self.account, self.maximum_bytes_billed)
        return BigQueryTables(bigquery, self.dataset, timedelta(days=self.keep_refused_days))


class BigQueryWarehouseResource(dg.ConfigurableResource):
    """A warehouse that joins the upstream tables in BigQuery."""

    tables: dg.ResourceDependency[BigQueryTables]
    upstream: dg.ResourceDependency[BigQueryRelations]

    def create_resource(self, context: dg.InitResourceContext) -> BigQueryWarehouse:
        """Return the warehouse."""
        return BigQueryWarehouse(self.tables, self.upstream, self.tables.bigquery)


class GCSModelRegistryResource(dg.ConfigurableResource):
    """Versions of models and which one is current, in a bucket."""

    account: dg.ResourceDependency[Account]
    bucket: str = Field(description="Bucket that has the models below `models/`.")
    cache: str = Field(description="Directory that caches versions.")

    def create_resource(self, context: dg.InitResourceContext) -> GCSModelRegistry:
        """Return the registry."""
        return GCSModelRegistry(Bucket(self.account, self.bucket), Path(self.cache))


class GCSReportStoreResource(dg.ConfigurableResource):
    """The leaderboard and other reports, in a bucket."""

    account: dg.ResourceDependency[Account]
    bucket: str = Field(description="Bucket that has the reports below `reports/`.")
    store: str = Field(description="Directory that has a copy of each report below `reports/`.")

    def create_resource(self, context: dg.InitResourceContext) -> GCSReportStore:
        """Return the store."""
        return GCSReportStore(Bucket(self.account, self.bucket), Path(self.store))
