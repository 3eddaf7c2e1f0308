"""The client of BigQuery: queries with a limit on billed bytes, and metadata, creation and loading of tables.

All of the package's calls of BigQuery are here. Which tables there are and what their rows mean is defined in `storage`
and `sources`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Any, Self

import grpc
import pyarrow as arrow
from google.api_core.exceptions import Forbidden, InvalidArgument, NotFound
from google.cloud import bigquery, bigquery_storage
from google.cloud.bigquery_storage_v1 import types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport
from pyarrow import parquet

from mbta_assets.gcp.account import Account, is_transient
from mbta_assets.gcp.bigquery_types import Column, TableInfo, format_column, quote
from mbta_assets.gcp.errors import CloudError
from mbta_assets.settings import Settings

UPLOAD_ROW_GROUP = 65_536
"""Rows that are converted to Parquet at a time."""
STANDARD_SQL_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
"""Names of types in the API that differ from those in SQL."""


class BigQuery:
    """BigQuery in an account's project. A query that would bill more than `max_bytes_billed` fails before it runs."""

    def __init__(self, account: Account, max_bytes_billed: int) -> None:
        self.account = account
        self.max_bytes_billed = max_bytes_billed

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the client that the settings describe; nothing is called yet."""
        return cls(Account.from_settings(settings), settings.bigquery_maximum_bytes_billed)

    @cached_property
    def client(self) -> bigquery.Client:
        """Return Google's client. Raises CloudError where there are no credentials."""
        emulator = self.account.bigquery_emulator
        session = self.account.session(anonymous=emulator is not None)
        return bigquery.Client(
            self.account.project,
            credentials=session.credentials,
            _http=session,
            location=self.account.location,
            client_options={"api_endpoint": emulator} if emulator else None,
        )

    @cached_property
    def read_client(self) -> bigquery_storage.BigQueryReadClient | None:
        """Return Google's client of the Storage Read API, None for an emulator without one. Raises CloudError."""
        if self.account.bigquery_emulator is None:
            return bigquery_storage.BigQueryReadClient(credentials=self.account.credentials())
        if self.account.read_api_emulator is None:
            return None
        channel = grpc.insecure_channel(self.account.read_api_emulator, [("grpc.max_receive_message_length", -1)])
        return bigquery_storage.BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))

    def query(
        self,
        action: str,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> bigquery.QueryJob:
        """Run a statement or script and return its finished job; transient failures run it again.

        `action` says in error messages what the query is for. Raises CloudError.
        """
        config = bigquery.QueryJobConfig(
            query_parameters=[_query_parameter(name, value) for name, value in (parameters or {}).items()],
            labels=dict(labels or {}),
            maximum_bytes_billed=self.max_bytes_billed,
            use_legacy_sql=False,
        )
        retry = self.account.retry

        def run() -> bigquery.QueryJob:
            job = self.client.query(sql, config, retry=retry, job_retry=None)
            # The wait is retried while the job itself has not failed: only the job's own status tells its failure
            # from the failure of a call that waits for it.
            retry_wait = retry.with_predicate(lambda error: is_transient(error) and job.error_result is None)
            retry_wait(lambda: job.result(retry=None, job_retry=None))()
            return job

        return self.account.call(action, run)

    def fetch_rows(
        self,
        action: str,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> arrow.Table:
        """Run a query and return its rows, through the Storage Read API where that is permitted. Raises CloudError."""
        # An emulator's Storage Read API does not serve query results.
        read_client = None if self.account.bigquery_emulator else self.read_client

        def download() -> arrow.Table:
            result = self.query(action, sql, parameters, labels).result(retry=self.account.retry)
            try:
                return result.to_arrow(bqstorage_client=read_client, create_bqstorage_client=False)
            except Forbidden:  # queries are permitted and the Storage Read API is not
                return result.to_arrow(create_bqstorage_client=False)

        return self.account.call(action, download)

    def read_table(
        self,
        action: str,
        path: str,
        columns: Sequence[str],
        where: str,
        labels: Mapping[str, str] | None = None,
    ) -> arrow.Table:
        """Return columns of the rows of a table that meet the SQL condition `where`, unordered; only those are scanned.

        The Storage Read API is used where it is permitted, a query otherwise. Raises CloudError.
        """
        if self.read_client is not None:

            def read() -> arrow.Table | None:
                try:
                    return self.read_with_storage_api(path, columns, where)
                except (Forbidden, InvalidArgument):  # not permitted, or not able to address such column names
                    return None

            rows = self.account.call(action, read)
            if rows is not None:
                return rows
        sql = f"SELECT {', '.join(map(quote, columns))} FROM {quote(path)} WHERE {where}"
        return self.fetch_rows(action, sql, labels=labels)

    def read_with_storage_api(self, path: str, columns: Sequence[str], where: str) -> arrow.Table:
        """Return columns of the rows of a table that meet a condition, from one snapshot, through the Storage Read API.

        Errors of Google's libraries pass through; call it inside `account.call`. Raises CloudError where the emulator
        in use has no Storage Read API.
        """
        if self.read_client is None:
            raise CloudError(f"Read {path}: the emulator has no Storage Read API; set BIGQUERY_STORAGE_EMULATOR_HOST.")
        project, dataset, table = path.split(".")
        request = types.ReadSession(
            table=f"projects/{project}/datasets/{dataset}/tables/{table}",
            data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(selected_fields=columns, row_restriction=where),
        )
        session = self.read_client.create_read_session(parent=f"projects/{self.account.project}", read_session=request)
        schema = arrow.ipc.read_schema(arrow.py_buffer(session.arrow_schema.serialized_schema))
        batches = [
            arrow.ipc.read_record_batch(response.arrow_record_batch.serialized_record_batch, schema)
            for stream in session.streams
            for response in self.read_client.read_rows(stream.name)
        ]
        return arrow.Table.from_batches(batches, schema).select(columns)

    def stat(self, path: str) -> TableInfo | None:
        """Return a table's metadata, or None if there is no such table. Raises CloudError."""
        with self.account.translate_errors(f"Get the metadata of {path}"):
            try:
                return _table_info(self.client.get_table(path, retry=self.account.retry))
            except NotFound:
                return None

    def partition_versions(self, path: str) -> dict[str, str]:
        """Return, by partition id, a version that changes with a partition's rows; empty partitions are left out.

        Raises CloudError.
        """
        project, dataset, table = path.split(".")
        view = quote(f"{project}.{dataset}.INFORMATION_SCHEMA.PARTITIONS")
        sql = (
            "SELECT partition_id, total_rows, total_logical_bytes, UNIX_MICROS(last_modified_time) AS modified "
            f"FROM {view} WHERE table_name = @table AND total_rows > 0"
        )
        rows = self.fetch_rows(f"List the partitions of {path}", sql, {"table": table}, {"table": table.lower()})
        return {
            row["partition_id"]: f"{row['modified']}-{row['total_rows']}-{row['total_logical_bytes']}"
            for row in rows.to_pylist()
        }

    def ensure_dataset(self, path: str, description: str) -> None:
        """Create a dataset in the account's location unless it exists. Raises CloudError."""
        with self.account.translate_errors(f"Open the BigQuery dataset {path}"):
            try:
                self.client.get_dataset(path, retry=self.account.retry)
            except NotFound:
                dataset = bigquery.Dataset(path)
                dataset.location = self.account.location
                dataset.description = description
                with self.account.translate_errors(f"BigQuery has no dataset {path}, and it could not be made"):
                    self.client.create_dataset(dataset, exists_ok=True, retry=self.account.retry)

    def create_table(
        self,
        action: str,
        path: str,
        columns: Sequence[Column],
        *,
        partition_column: str | None = None,
        clustering_columns: Sequence[str] = (),
        description: str | None = None,
        expires: datetime | None = None,
    ) -> None:
        """Create a table, partitioned by day of a column and clustered, unless it exists. Raises CloudError."""
        table = bigquery.Table(path, [_schema_field(column) for column in columns])
        if partition_column:
            table.time_partitioning = bigquery.TimePartitioning(field=partition_column)
        if clustering_columns:
            table.clustering_fields = clustering_columns
        if description:
            table.description = description
        if expires:
            table.expires = expires
        self.account.call(action, lambda: self.client.create_table(table, exists_ok=True, retry=None))

    def add_columns(self, path: str, columns: Sequence[Column]) -> None:
        """Add nullable columns to a table, with their descriptions. Raises CloudError."""
        clauses = ", ".join(f"ADD COLUMN IF NOT EXISTS {format_column(column)}" for column in columns)
        self.query(f"Add columns to {path}", f"ALTER TABLE {quote(path)} {clauses}")
        self._add_to_metadata(path, columns)

    def load_rows(
        self,
        action: str,
        path: str,
        rows: arrow.Table,
        columns: Sequence[Column],
        labels: Mapping[str, str],
    ) -> None:
        """Replace all rows of an existing table by a load job; loading twice equals loading once.

        Raises CloudError, also where BigQuery loads another number of rows than `rows` has.
        """
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=[_schema_field(column) for column in columns],
            # A load that arrives after the table expired must not create one that never expires.
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
            column_name_character_map="V2",  # permits any letter in a column name
            labels=dict(labels),
        )
        with tempfile.TemporaryFile() as file:
            parquet.write_table(rows, file, compression="zstd", row_group_size=UPLOAD_ROW_GROUP)

            def load() -> bigquery.LoadJob:
                job = self.client.load_table_from_file(file, path, rewind=True, num_retries=0, job_config=config)
                job.result(retry=self.account.retry)
                return job

            job = self.account.call(action, load)
        if job.output_rows != len(rows):
            raise CloudError(f"{action}: BigQuery loaded {job.output_rows} of {len(rows)} rows. Run it again.")

    def list_tables(self, dataset_path: str, prefix: str) -> list[str]:
        """Return the names of a dataset's tables that begin with a prefix. Raises CloudError."""
        action = f"List the tables of {dataset_path}"
        tables = self.account.call(action, lambda: list(self.client.list_tables(dataset_path, retry=None)))
        return [table.table_id for table in tables if table.table_id.startswith(prefix)]

    def delete_table(self, path: str, *, retry: bool = True) -> None:
        """Delete a table if it exists. Raises CloudError."""
        with self.account.translate_errors(f"Delete {path}"):
            self.client.delete_table(path, retry=self.account.retry if retry else None, not_found_ok=True)

    def _add_to_metadata(self, path: str, columns: Sequence[Column]) -> None:
        """Add columns to a table's metadata where ALTER TABLE has not done so."""
        retry = self.account.retry
        with self.account.translate_errors(f"Describe the columns added to {path}"):
            table = self.client.get_table(path, retry=retry)
            names = {field.name for field in table.schema}
            absent = [_schema_field(column) for column in columns if column.name not in names]
            if absent:
                table.schema = [*table.schema, *absent]
                self.client.update_table(table, ["schema"], retry=retry)


def _schema_field(column: Column) -> bigquery.SchemaField:
    """Convert a column to the class of Google's library."""
    mode = "REQUIRED" if column.required else "NULLABLE"
    return bigquery.SchemaField(column.name, column.type, mode, description=column.description)


def _table_info(table: bigquery.Table) -> TableInfo:
    """Convert a table of Google's library to its metadata."""
    partitioning = table.time_partitioning
    is_daily = partitioning is not None and partitioning.type_ == "DAY"
    columns = {
        field.name: Column(
            field.name, STANDARD_SQL_TYPES.get(field.field_type, field.field_type), field.mode == "REQUIRED"
        )
        for field in table.schema
    }
    version = f"{table.modified:%s%f}-{table.num_rows}-{table.num_bytes}"
    return TableInfo(columns, partitioning.field if is_daily else None, version)


def _query_parameter(name: str, value: Any) -> Any:
    """Return a query parameter with BigQuery's type of a value: a string, an integer, a date, or a list of dates."""
    if isinstance(value, list):
        return bigquery.ArrayQueryParameter(name, "DATE", value)
    parameter_type = {str: "STRING", int: "INT64", date: "DATE"}[type(value)]
    return bigquery.ScalarQueryParameter(name, parameter_type, value)
