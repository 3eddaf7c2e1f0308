"""BigQuery: queries that do not cost more than they may, and what it knows of its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Self

import pyarrow as arrow

from mbta_assets.gcp.account import Account, may_pass

if TYPE_CHECKING:
    from google.cloud import bigquery


@dataclass(frozen=True)
class Column:
    """A column as BigQuery has it; `required` means that no value may be missing."""

    name: str
    type: str
    required: bool = False
    description: str = ""

    def field(self) -> "bigquery.SchemaField":
        """The column for Google's library."""
        from google.cloud import bigquery

        mode = "REQUIRED" if self.required else "NULLABLE"
        return bigquery.SchemaField(self.name, self.type, mode, description=self.description)


class BigQuery:
    """BigQuery for somebody; a query that would read too many bytes is refused before it runs."""

    def __init__(self, account: Account, maximum_bytes_billed: int) -> None:
        self.account = account
        self.maximum_bytes_billed = maximum_bytes_billed

    def query(self, wanted: str, sql: str, parameters: Mapping[str, Any] | None = None, labels: Any = None) -> Any:
        """The finished job of a statement, which is run again while its failure may pass. Raises CloudError."""
        from google.cloud import bigquery

        config = bigquery.QueryJobConfig(
            query_parameters=[_parameter(name, value) for name, value in (parameters or {}).items()],
            labels=labels or {},
            maximum_bytes_billed=self.maximum_bytes_billed,
            use_legacy_sql=False,
        )
        retry = self.account.retry

        def run() -> Any:
            job = self.account.bigquery.query(sql, config, retry=retry, job_retry=None)
            # Only the job itself tells its failure from that of a call which asks for it; each try looks at it first.
            ask = retry.with_predicate(lambda error: may_pass(error) and job.error_result is None)
            ask(lambda: job.result(retry=None, job_retry=None))()
            return job

        return self.account.call(wanted, run)

    def rows(
        self, wanted: str, sql: str, parameters: Mapping[str, Any] | None = None, labels: Any = None
    ) -> arrow.Table:
        """The rows of a query, through the Storage Read API where that may be used. Raises CloudError."""
        from google.api_core.exceptions import Forbidden

        # An emulator's Storage Read API does not know the results of queries.
        reader = None if self.account.bigquery_emulator else self.account.reader

        def download() -> arrow.Table:
            found = self.query(wanted, sql, parameters, labels).result(retry=self.account.retry)
            try:
                return found.to_arrow(bqstorage_client=reader, create_bqstorage_client=False)
            except Forbidden:  # one may run queries and not read through that API
                return found.to_arrow(create_bqstorage_client=False)

        return self.account.call(wanted, download)

    def read(self, wanted: str, path: str, columns: Sequence[str], where: str, labels: Any = None) -> arrow.Table:
        """Columns of the rows of a table that meet a condition, in no order; nothing else is scanned.

        Through the Storage Read API where that may be used, by a query where not. Raises CloudError.
        """
        from google.api_core.exceptions import Forbidden, InvalidArgument

        def stream() -> arrow.Table | None:
            try:
                return self.stream(path, columns, where)
            except (Forbidden, InvalidArgument):  # one may not, or it does not know such names
                return None

        rows = self.account.call(wanted, stream) if self.account.reader else None
        if rows is not None:
            return rows
        sql = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(path)} WHERE {where}"
        return self.rows(wanted, sql, labels=labels)

    def stream(self, path: str, columns: Sequence[str], where: str) -> arrow.Table:
        """The same through the Storage Read API: rows as they are at one moment, a batch after the other."""
        from google.cloud.bigquery_storage_v1 import types

        reader = self.account.reader
        assert reader is not None
        project, dataset, table = path.split(".")
        asked = types.ReadSession(
            table=f"projects/{project}/datasets/{dataset}/tables/{table}",
            data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(selected_fields=columns, row_restriction=where),
        )
        session = reader.create_read_session(parent=f"projects/{self.account.project}", read_session=asked)
        known = arrow.ipc.read_schema(arrow.py_buffer(session.arrow_schema.serialized_schema))
        batches = [
            arrow.ipc.read_record_batch(answer.arrow_record_batch.serialized_record_batch, known)
            for stream in session.streams
            for answer in reader.read_rows(stream.name)
        ]
        return arrow.Table.from_batches(batches, known).select(columns)

    def table(self, path: str) -> "TableInfo | None":
        """What BigQuery says of a table; None where there is no such table. Raises CloudError."""
        from google.api_core.exceptions import NotFound

        with self.account.explained(f"Look at {path}"):
            try:
                return TableInfo.of(self.account.bigquery.get_table(path, retry=self.account.retry))
            except NotFound:
                return None

    def partitions(self, path: str) -> dict[str, str]:
        """What changes with the rows of each partition that has any, by the partition's id. Raises CloudError."""
        project, dataset, table = path.split(".")
        view = quoted(f"{project}.{dataset}.INFORMATION_SCHEMA.PARTITIONS")
        sql = (
            "SELECT partition_id, total_rows, total_logical_bytes, UNIX_MICROS(last_modified_time) AS modified "
            f"FROM {view} WHERE table_name = @table AND total_rows > 0"
        )
        rows = self.rows(f"Look at the partitions of {path}", sql, {"table": table}, {"table": table.lower()})
        return {
            row["partition_id"]: f"{row['modified']}-{row['total_rows']}-{row['total_logical_bytes']}"
            for row in rows.to_pylist()
        }


@dataclass(frozen=True)
class TableInfo:
    """What BigQuery says of a table without reading it."""

    columns: dict[str, Column]
    partitioned_by: str | None
    """The column that it is partitioned by, a day each."""
    version: str
    """What changes with its content."""

    @classmethod
    def of(cls, table: "bigquery.Table") -> Self:
        """From what Google's library has."""
        daily = table.time_partitioning if table.time_partitioning and table.time_partitioning.type_ == "DAY" else None
        columns = {
            field.name: Column(field.name, _STANDARD.get(field.field_type, field.field_type), field.mode == "REQUIRED")
            for field in table.schema
        }
        return cls(columns, daily.field if daily else None, f"{table.modified:%s%f}-{table.num_rows}-{table.num_bytes}")


def bigquery_type(found: arrow.DataType) -> str:
    """What BigQuery calls a type. Raises TypeError for one that a table cannot hold."""
    if arrow.types.is_dictionary(found):
        return bigquery_type(found.value_type)
    for is_type, name in _TYPES:
        if is_type(found):
            return name
    if arrow.types.is_timestamp(found):
        return "TIMESTAMP" if found.tz else "DATETIME"
    raise TypeError(f"{found} cannot be stored in BigQuery")


def quoted(name: str) -> str:
    """A name in SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(value: str | int | date) -> str:
    """A value in SQL, for scripts; a single statement takes parameters."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"DATE '{value}'" if isinstance(value, date) else str(value)


def declared(column: Column) -> str:
    """A column that may be missing, as ALTER TABLE is told of it."""
    options = f" OPTIONS (description={literal(column.description)})" if column.description else ""
    return f"{quoted(column.name)} {column.type}{options}"


def _parameter(name: str, value: Any) -> Any:
    """A query parameter of the type of a value."""
    from google.cloud import bigquery

    if isinstance(value, list):
        return bigquery.ArrayQueryParameter(name, "DATE", value)
    kind = {str: "STRING", int: "INT64", date: "DATE"}[type(value)]
    return bigquery.ScalarQueryParameter(name, kind, value)


_TYPES = [
    (arrow.types.is_string, "STRING"),
    (arrow.types.is_large_string, "STRING"),
    (arrow.types.is_null, ""),
    (arrow.types.is_boolean, "BOOL"),
    (arrow.types.is_integer, "INT64"),
    (arrow.types.is_floating, "FLOAT64"),
    (arrow.types.is_date, "DATE"),
    (arrow.types.is_binary, "BYTES"),
]
_STANDARD = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
"""What the API calls types, and standard SQL calls otherwise."""
