"""Resources of a deployment on Google Cloud: tables in BigQuery, models and reports in Cloud Storage.

Importing this module imports Google's libraries, which takes seconds: only a deployment on Google Cloud does.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import Field

from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSModelRegistry, GCSReportStore
from mbta_assets.storage.warehouse import BigQueryRelations, BigQueryWarehouse


class GoogleAccount(dg.ConfigurableResource):
    """The account that calls Google Cloud. A key is never part of it, only the path of a key file."""

    project: str = Field(description="Project that pays for queries and has the dataset.")
    location: str = Field(default="US", description="Location of datasets and queries.")
    retry_seconds: float = Field(
        default=600, gt=0, description="Time for which a call with transient failures is retried."
    )
    key_file: str | None = Field(
        default=None, description="Path of a key file; unset, application default credentials."
    )
    impersonated_account: str | None = Field(
        default=None, description="E-mail address of a service account to impersonate."
    )
    bigquery_emulator: str | None = Field(
        default=None, description="Address of an emulator, called without credentials."
    )
    read_api_emulator: str | None = Field(default=None, description="host:port of that emulator's Storage Read API.")
    storage_emulator: str | None = Field(
        default=None, description="Address of an emulator, called without credentials."
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the account that the settings describe."""
        fields = asdict(Account.from_settings(settings))
        key_file = fields.pop("key_file")
        return cls(**fields, key_file=str(key_file) if key_file else None)

    def create_resource(self, context: dg.InitResourceContext) -> Account:
        """Return the account; nothing is read or called yet."""
        return Account(
            project=self.project,
            location=self.location,
            retry_seconds=self.retry_seconds,
            key_file=Path(self.key_file) if self.key_file else None,
            impersonated_account=self.impersonated_account,
            bigquery_emulator=self.bigquery_emulator,
            read_api_emulator=self.read_api_emulator,
            storage_emulator=self.storage_emulator,
        )


class BigQueryTablesResource(dg.ConfigurableResource):
    """Daily tables in a dataset of BigQuery."""

    account: dg.ResourceDependency[Account]
    dataset: str = Field(description="Dataset of the tables.")
    maximum_bytes_billed: int = Field(gt=0, description="A query that would read more bytes fails.")

    def create_resource(self, context: dg.InitResourceContext) -> BigQueryTables:
        """Return the tables."""
        return BigQueryTables(BigQuery(self.account, self.maximum_bytes_billed), self.dataset)


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
