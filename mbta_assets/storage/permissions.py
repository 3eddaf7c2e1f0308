"""The implementation of `mbta-assets check`: tests each permission on Google Cloud that a run needs.

A permission is tested by an operation that takes it, on a table and an object that are created for the test and deleted
at its end.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as arrow

from mbta_assets.gcp.account import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.gcp.errors import CloudError
from mbta_assets.settings import Settings
from mbta_assets.sources import SourceError
from mbta_assets.sources.bigquery import BigQuerySource, BigQueryUpstreamTables
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.transit import schema

TEST_DAY = date(2000, 1, 1)


@dataclass(frozen=True)
class Operation:
    """An operation that takes a permission."""

    permission: str
    purpose: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an operation: its error message, or None if it succeeded."""

    operation: Operation
    error: str | None

    def __str__(self) -> str:
        """Return a line for the terminal."""
        status = "ok" if self.error is None else f"MISSING: {self.error}"
        return f"{self.operation.permission:34} {self.operation.purpose:46} {status}"


def main() -> int:
    """Print a line for each permission that the settings in the environment require. Raises SettingsError.

    Returns the exit status: 0 if all are granted, 1 if one is missing.
    """
    settings = Settings.from_environment()
    operations = list_operations(settings)
    if not operations:
        print("Nothing is on Google Cloud: neither MBTA_DEPLOYMENT=gcp nor MBTA_SOURCE=bigquery is set.")
        return 0
    is_emulated = settings.bigquery_emulator_host is not None
    principal = "nobody, which an emulator allows" if is_emulated else Account.from_settings(settings).principal
    print(f"As {principal}, in project {settings.gcp_project}:\n", flush=True)
    is_missing = False
    for outcome in run_operations(operations):
        is_missing |= outcome.error is not None
        print(outcome, flush=True)
    return int(is_missing)


def list_operations(settings: Settings) -> list[Operation]:
    """Return the operations on Google Cloud that a run with these settings performs. Raises SettingsError."""
    operations: list[Operation] = []
    if settings.deployment == "gcp":
        operations += list_table_operations(BigQueryTables.from_settings(settings))
        operations += list_bucket_operations(Bucket.from_settings(settings))
    if settings.source == "bigquery":
        operations += list_upstream_operations(BigQuerySource.from_settings(settings).tables_in_place)
    return operations


def run_operations(operations: Sequence[Operation]) -> Iterator[Outcome]:
    """Run every operation, also after one has failed, and yield each outcome."""
    for operation in operations:
        try:
            operation.run()
        except (CloudError, SourceError) as error:
            yield Outcome(operation, str(error))
        else:
            yield Outcome(operation, None)


def list_table_operations(tables: BigQueryTables) -> list[Operation]:
    """Return the operations of a run in BigQuery, on a new table that the last one deletes."""
    name = f"check_{uuid.uuid4().hex[:12]}"
    rows = arrow.table({"service_date": [TEST_DAY], "value": [1]})
    wider_rows = rows.append_column("more", [["text"]])
    bigquery = tables.bigquery
    operations = [
        Operation(
            "bigquery.jobs.create", "run a query in the project", lambda: bigquery.query("Run a query", "SELECT 1")
        ),
        Operation("bigquery.datasets.get", f"open {tables.dataset_path}, or make it", tables.prepare),
        Operation("bigquery.tables.create", "make a table", lambda: tables.write(name, TEST_DAY, rows)),
        Operation("bigquery.tables.updateData", "replace a day", lambda: tables.write(name, TEST_DAY, rows)),
        Operation("bigquery.tables.getData", "read a day", lambda: tables.read(name, [TEST_DAY])),
        Operation("bigquery.tables.update", "add a column", lambda: tables.write(name, TEST_DAY, wider_rows)),
    ]
    if bigquery.read_client is not None:
        path, where = tables.path(name), f"service_date = '{TEST_DAY}'"

        def read_with_storage_api() -> arrow.Table:
            return bigquery.account.call(f"Read {path}", lambda: bigquery.read_with_storage_api(path, ["value"], where))

        operations.append(Operation("bigquery.readsessions.create", "read fast", read_with_storage_api))
    operations.append(Operation("bigquery.tables.delete", "remove that table", lambda: tables.drop(name)))
    return operations


def list_bucket_operations(bucket: Bucket) -> list[Operation]:
    """Return the operations of a run in Cloud Storage, on a new object that the last one deletes."""
    path = f"models/check-{uuid.uuid4().hex[:12]}"

    def read_generation() -> int:
        stored = bucket.read(path)
        if stored is None:
            raise CloudError(f"{bucket.uri(path)} is not there after it was written.")
        _, generation = stored
        return generation

    return [
        Operation(
            "storage.objects.create",
            f"write to {bucket.uri('models')}",
            lambda: bucket.put(path, b"1", expected_generation=0),
        ),
        Operation("storage.objects.get", "read it", read_generation),
        Operation(
            "storage.objects.delete",
            "replace it",
            lambda: bucket.put(path, b"2", expected_generation=read_generation()),
        ),
        Operation("storage.objects.delete", "remove it", lambda: bucket.delete(path)),
    ]


def list_upstream_operations(tables: BigQueryUpstreamTables) -> list[Operation]:
    """Return the operations of a run on the upstream tables: read their metadata and a row of a day."""

    def read_from(table: str) -> Callable[[], object]:
        def read_row() -> arrow.Table:
            latest = max(tables.days(table), default=TEST_DAY)
            sql = f"SELECT * FROM {tables.relation(table, latest)} LIMIT 1"
            return tables.bigquery.fetch_rows(f"Read {tables.path(table)}", sql, {"service_date": latest})

        return read_row

    return [
        Operation("bigquery.tables.get, getData", f"read {tables.path(table)}", read_from(table))
        for table in schema.UPSTREAM
    ]
