"""Daily tables in a BigQuery dataset: partitioned by `service_date`, a partition replaced in one transaction.

Rows are loaded into a staging table, which expires by itself if the run dies. One script then replaces the partition
and records it in the table `stored_days`, all or nothing. That ledger distinguishes a stored day without rows from one
that was never stored. How columns are matched with those of an existing table is in `storage.bigquery_columns`.
"""

import inspect
import re
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import pyarrow as arrow

from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.gcp.bigquery_types import Column, format_literal, quote
from mbta_assets.gcp.errors import CloudError
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.bigquery_columns import derive_columns, merge_columns, to_loadable
from mbta_assets.storage.sorting import sort_rows
from mbta_assets.storage.tables import (
    PART_COLUMN,
    WriteResult,
    content_version,
    missing_partition,
    validate_service_date,
)
from mbta_assets.transit import schema
from mbta_assets.transit.table import row_order

DATASET_DESCRIPTION = "Daily tables of mbta_assets; `stored_days` lists the stored service days."
STAGING_PREFIX = "staging_"
STAGING_LIFETIME = timedelta(hours=6)
REFUSED_PREFIX = "refused_"
MAX_DESCRIPTION_CHARACTERS = 16_000
LEDGER = "stored_days"
LEDGER_DESCRIPTION = "Stored service days, what each holds, and which run stored it; the latest entry of a day counts."
LEDGER_COLUMNS = [
    Column("table_name", "STRING", True, "The table."),
    Column("service_date", "DATE", True, "The service day that was stored."),
    Column("content_version", "STRING", True, "SHA-256 of the rows; the latest entry of a day is the one that holds."),
    Column("row_count", "INT64", True, "How many rows there are."),
    Column("stored_at", "TIMESTAMP", True, "When they were stored, UTC."),
    Column("run_id", "STRING", True, "The Dagster run that stored them."),
]
CLUSTERING = {
    "vehicle": ["trip_id"],
    "schedule": ["trip_id"],
    "rejected_rows": ["source_table"],
    "raw_transit_data": ["route_id", "trip_id"],
    "transit_features": ["route_id", "trip_id"],
    "delay_predictions": ["route_id", "trip_id"],
    "prediction_accuracy": ["measure"],
    LEDGER: ["table_name"],
}


@dataclass(frozen=True)
class LedgerEntry:
    """The latest entry of a service day in the ledger."""

    content_version: str
    row_count: int


class BigQueryTables:
    """The tables of a dataset; implements `tables.TableStore` and `warehouse.BigQueryRelations`."""

    def __init__(self, bigquery: BigQuery, dataset: str, refused_lifetime: timedelta = timedelta(days=14)) -> None:
        self.bigquery = bigquery
        self.dataset = dataset
        self.refused_lifetime = refused_lifetime
        """Time for which service days that were refused are kept."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the tables that the settings describe; nothing is called yet. Raises SettingsError."""
        if settings.bigquery_dataset is None:
            raise SettingsError("BIGQUERY_DATASET is not set; it names the dataset of the daily tables.")
        return cls(BigQuery.from_settings(settings), settings.bigquery_dataset)

    @property
    def dataset_path(self) -> str:
        """Return the full name of the dataset, `project.dataset`."""
        return f"{self.bigquery.account.project}.{self.dataset}"

    def path(self, table: str) -> str:
        """Return the full name of a table, `project.dataset.table`."""
        return f"{self.dataset_path}.{table}"

    def relation(self, table: str, day: date) -> str:
        """Return the full name of a table that has a service day. Raises MissingPartition."""
        self.versions(table, [day])
        return self.path(table)

    def prepare(self) -> None:
        """Create the dataset and the ledger if needed, and check that queries run. Raises CloudError."""
        self.bigquery.ensure_dataset(self.dataset_path, DATASET_DESCRIPTION)
        self._ensure_columns(LEDGER, LEDGER_COLUMNS)
        self.bigquery.query("Run a trial query", "SELECT 1")

    def days(self, table: str) -> list[date]:
        """Return the stored service days of a table in order; a stored day may have no rows."""
        return sorted(self._read_ledger(table))

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return the content version of each service day. Raises MissingPartition."""
        days = list(days)
        ledger = self._read_ledger(table)
        for day in days:
            if day not in ledger:
                raise missing_partition(table, day, self.dataset_path, sorted(ledger))
        return {day: ledger[day].content_version for day in days}

    def row_counts(self, table: str, before: date, days: int, column: str | None = None) -> dict[date, int]:
        """Return the number of rows, or of values in a column, of the latest published service days before a day."""
        ledger = self._read_ledger(table)
        counts = {day: ledger[day].row_count for day in sorted(day for day in ledger if day < before)[-days:]}
        if column is None or not counts:
            return counts
        sql = (
            f"SELECT service_date, COUNT({quote(column)}) AS n FROM {quote(self.path(table))} "
            f"WHERE service_date IN ({', '.join(map(format_literal, counts))}) GROUP BY service_date"
        )
        rows = self.bigquery.fetch_rows(f"Count {column} of {self.path(table)}", sql, labels=_labels(table)).to_pylist()
        return dict.fromkeys(counts, 0) | {row["service_date"]: row["n"] for row in rows}

    def refuse(self, table: str, day: date, rows: arrow.Table | None, reasons: Sequence[str]) -> str:
        """Keep a service day that is not published in a table of its own, which expires, and return its name."""
        rows = schema.arrow_schema(schema.TABLES[table]).empty_table() if rows is None else rows
        columns = derive_columns(table, rows.schema)
        path = self._refused_path(table, day)
        action = f"Keep the refused service day {day} of {self.path(table)}"
        self.bigquery.delete_table(path)
        expires = datetime.now(UTC) + self.refused_lifetime
        description = "\n".join(reasons)[:MAX_DESCRIPTION_CHARACTERS]
        self.bigquery.create_table(action, path, columns, expires=expires, description=description)
        if len(rows):
            self.bigquery.load_rows(action, path, to_loadable(rows, columns), columns, _labels(table))
        return path

    def refused_days(self, table: str) -> list[date]:
        """Return the service days that were refused and have not been published since, in order."""
        prefix = f"{REFUSED_PREFIX}{table}_"
        names = self.bigquery.list_tables(self.dataset_path, prefix)
        return sorted(datetime.strptime(name.removeprefix(prefix), "%Y%m%d").date() for name in names)

    def write_part(self, table: str, day: date, part: str, rows: arrow.Table) -> None:
        """Replace the rows of a part of a service day in one transaction; other parts stay."""
        if len(rows):
            self._load(table, day, rows, part=part)
        elif self.bigquery.stat(self.path(table)) is not None:
            delete = (
                f"DELETE FROM {quote(self.path(table))} "
                f"WHERE service_date = {format_literal(day)} AND {PART_COLUMN} = {format_literal(part)}"
            )
            self.bigquery.query(f"Delete part {part} of service day {day} of {self.path(table)}", delete)

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> WriteResult:
        """Publish a service day of a table in one transaction; columns that the table does not have are added.

        Raises ValueError where a row is of another service day or a column does not fit the table, CloudError where
        BigQuery refuses; the stored partition stays as it was.
        """
        version, job = self._load(table, day, rows, run_id)
        self._delete_quietly(self._refused_path(table, day))
        return WriteResult(
            version,
            {
                "table": self.path(table),
                "bytes_processed": job.total_bytes_processed or 0,
                "bytes_billed": job.total_bytes_billed or 0,
                "bigquery_job": job.job_id,
            },
        )

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Return the rows of service days, ordered by day; None means all columns. Only these are scanned.

        A column of the table's model that BigQuery does not have is null. Raises KeyError for a column that neither
        has, MissingPartition for a day that is not stored, CloudError.
        """
        days = list(days)
        info = self.bigquery.stat(self.path(table))
        if info is None:
            raise missing_partition(table, days[0], self.dataset_path, [])
        model = schema.TABLES.get(table)
        typed = schema.arrow_schema(model) if model else None
        names = list(columns or (typed.names if typed else info.columns))
        for name in names:
            if name not in info.columns and (typed is None or name not in typed.names):
                raise KeyError(f"{table} has no column {name}; it has {', '.join(info.columns)}.")
        order = row_order(model) if model else [name for name in info.columns if name != "service_date"]
        order = [name for name in ["service_date", *order] if name in info.columns]
        stored_names = [name for name in names if name in info.columns]
        where = f"service_date IN ({', '.join(repr(str(day)) for day in days)})"
        path = self.path(table)
        selection = list(dict.fromkeys([*stored_names, *order]))
        rows = self.bigquery.read_table(f"Read {path}", path, selection, where, _labels(table))
        rows = sort_rows(rows, order).select(stored_names)
        if typed:
            rows = _complete(rows, arrow.schema([typed.field(name) for name in names]))
        self._validate_stored(table, days, rows)
        return rows

    def drop(self, table: str) -> None:
        """Delete a table and its entries in the ledger. Raises CloudError."""
        delete = f"DELETE FROM {quote(self.path(LEDGER))} WHERE table_name = @table"
        self.bigquery.query(f"Delete {table} from the ledger", delete, {"table": table}, _labels(table))
        self.bigquery.delete_table(self.path(table))

    def _load(self, table: str, day: date, rows: arrow.Table, run_id: str = "", part: str = "") -> tuple[str, Any]:
        """Replace a service day, or a part of it, and return the content version and the query job."""
        validate_service_date(table, day, rows)
        columns = self._ensure_columns(table, derive_columns(table, rows.schema))
        version = content_version(rows)
        rows = to_loadable(rows, columns)
        labels = _labels(table, service_date=str(day), run=run_id)
        staging = self.path(f"{STAGING_PREFIX}{table}_{day:%Y%m%d}_{uuid.uuid4().hex[:12]}")
        action = f"Load service day {day} of {self.path(table)}"
        try:
            self.bigquery.create_table(action, staging, columns, expires=datetime.now(UTC) + STAGING_LIFETIME)
            self.bigquery.load_rows(action, staging, rows, columns, labels)
            return version, self._replace(table, staging, day, columns, LedgerEntry(version, len(rows)), run_id, part)
        finally:
            self._delete_quietly(staging)

    def _replace(
        self,
        table: str,
        staging: str,
        day: date,
        columns: Sequence[Column],
        entry: LedgerEntry,
        run_id: str,
        part: str,
    ) -> Any:
        """Replace a partition by the rows of a staging table, record it in the ledger, and return the query job."""
        of_part = f" AND {PART_COLUMN} = {format_literal(part)}" if part else ""
        names = ", ".join(quote(column.name) for column in columns)
        path = quote(self.path(table))
        ledger_names = ", ".join(column.name for column in LEDGER_COLUMNS)
        ledger_values = (
            format_literal(table),
            format_literal(day),
            format_literal(entry.content_version),
            format_literal(entry.row_count),
            "CURRENT_TIMESTAMP()",
            format_literal(run_id),
        )
        script = f"""
            BEGIN TRANSACTION;
            DELETE FROM {path} WHERE service_date = {format_literal(day)}{of_part};
            INSERT INTO {path} ({names}) SELECT {names} FROM {quote(staging)};
            INSERT INTO {quote(self.path(LEDGER))} ({ledger_names}) VALUES ({", ".join(ledger_values)});
            COMMIT TRANSACTION;
        """
        labels = _labels(table, service_date=str(day), run=run_id)
        return self.bigquery.query(f"Replace service day {day} of {self.path(table)}", script, labels=labels)

    def _refused_path(self, table: str, day: date) -> str:
        """Return the full name of the table that keeps a service day that was refused."""
        return self.path(f"{REFUSED_PREFIX}{table}_{day:%Y%m%d}")

    def _delete_quietly(self, path: str) -> None:
        """Delete a table that expires by itself where that fails."""
        with suppress(CloudError):
            self.bigquery.delete_table(path, retry=False)

    def _read_ledger(self, table: str) -> dict[date, LedgerEntry]:
        """Return the latest ledger entry of each stored service day. Raises CloudError."""
        if self.bigquery.stat(self.path(LEDGER)) is None:
            return {}
        sql = (
            f"SELECT service_date, content_version, row_count FROM {quote(self.path(LEDGER))} "
            "WHERE table_name = @table "
            "QUALIFY ROW_NUMBER() OVER (PARTITION BY service_date ORDER BY stored_at DESC) = 1"
        )
        action = f"List the stored days of {self.path(table)}"
        rows = self.bigquery.fetch_rows(action, sql, {"table": table}, _labels(table))
        return {row["service_date"]: LedgerEntry(row["content_version"], row["row_count"]) for row in rows.to_pylist()}

    def _validate_stored(self, table: str, days: Sequence[date], rows: arrow.Table) -> None:
        """Raise MissingPartition for a day that was never stored, given the rows that were read of all days."""
        if len(rows) and len(days) == 1:
            return
        ledger = self._read_ledger(table)
        for day in days:
            if day not in ledger:
                raise missing_partition(table, day, self.dataset_path, sorted(ledger))

    def _ensure_columns(self, table: str, columns: Sequence[Column]) -> list[Column]:
        """Create a table, or add the columns that it does not have, and return the columns as the table has them.

        Raises ValueError naming the columns that do not fit, CloudError.
        """
        path = self.path(table)
        info = self.bigquery.stat(path)
        if info is None:
            names = {column.name for column in columns}
            self.bigquery.create_table(
                f"Make the table {path}",
                path,
                merge_columns(table, {}, columns),
                partition_column="service_date",
                clustering_columns=[name for name in CLUSTERING.get(table, ()) if name in names],
                description=_description(table),
            )
            info = self.bigquery.stat(path)
        existing = info.columns if info else {}
        merged = merge_columns(path, existing, columns)
        new = [column for column in merged if column.name not in existing]
        if new:
            self.bigquery.add_columns(path, new)
        return merged


def _complete(rows: arrow.Table, target: arrow.Schema) -> arrow.Table:
    """Cast rows to a schema and add its missing columns as nulls."""
    for column_field in target:
        if column_field.name not in rows.column_names:
            rows = rows.append_column(column_field.name, arrow.nulls(len(rows), column_field.type))
    return rows.select(target.names).cast(target)


def _labels(table: str, **more: str) -> dict[str, str]:
    """Return the labels of a job in BigQuery's job history, in the characters that labels may have."""
    labels = {"application": "mbta_assets", "table": table, **more}
    return {key: re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63] for key, value in labels.items() if value}


def _description(table: str) -> str | None:
    """Return the description of a table: the docstring of its model."""
    if table == LEDGER:
        return LEDGER_DESCRIPTION
    return inspect.getdoc(schema.TABLES[table]) if table in schema.TABLES else None
