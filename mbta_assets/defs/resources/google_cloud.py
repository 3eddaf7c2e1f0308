"""Google Cloud as Dagster's resources: the account with its credentials, and dagster-gcp's clients with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_gcp import BigQueryResource, GCSResource
from pydantic import Field

from mbta_assets.gcp import Account, Identity


class GoogleCloud(dg.ConfigurableResource):
    """Who calls Google Cloud, and for which project. A key is never part of it, only the path of a key file."""

    project: str = Field(description="The project that pays and has the dataset.")
    location: str = Field("US", description="Where datasets are made and queries run.")
    key_file: str | None = Field(None, description="Path of a key file; without, application default credentials.")
    impersonate: str | None = Field(None, description="E-mail address of a service account to act as.")
    retry_seconds: float = Field(600, gt=0, description="How long a call is tried before a run fails.")
    bigquery_emulator: str | None = Field(None, description="Address of an emulator, used without credentials.")
    storage_emulator: str | None = Field(None, description="Address of an emulator, used without credentials.")

    reader_emulator: str | None = Field(None, description="host:port of that emulator's Storage Read API.")

    @classmethod
    def of(cls, account: Account) -> "GoogleCloud":
        """The resource of an account."""
        return cls(
            project=account.project,
            location=account.location,
            key_file=str(account.identity.key_file) if account.identity.key_file else None,
            impersonate=account.identity.impersonate,
            retry_seconds=account.retry_seconds,
            bigquery_emulator=account.bigquery_emulator,
            storage_emulator=account.storage_emulator,
            reader_emulator=account.reader_emulator,
        )

    def account(self) -> Account:
        """The account; nothing is read or called yet."""
        identity = Identity(Path(self.key_file) if self.key_file else None, self.impersonate)
        emulators = (self.bigquery_emulator, self.storage_emulator, self.reader_emulator)
        return Account(self.project, identity, self.location, self.retry_seconds, *emulators)


class AccountBigQuery(BigQueryResource):
    """dagster-gcp's BigQuery with the account of the deployment, for assets of one's own."""

    google: dg.ResourceDependency[GoogleCloud]

    @contextmanager
    def get_client(self) -> Iterator[Any]:
        """A client of BigQuery. Raises CloudError where there are no credentials."""
        yield self.google.account().bigquery


class AccountGCS(GCSResource):
    """dagster-gcp's Cloud Storage with the account of the deployment, for assets of one's own."""

    google: dg.ResourceDependency[GoogleCloud]

    def get_client(self) -> Any:
        """A client of Cloud Storage. Raises CloudError where there are no credentials."""
        return self.google.account().storage
