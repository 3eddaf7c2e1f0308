"""Tables in a dataset of BigQuery: partitioned by `service_date`, a day replaced in one transaction.

Rows are loaded into a staging table first, which a run that dies leaves to expire. What then replaces the day is one
script: either all of it happens or nothing. The same script notes the day in the table `stored_days`, which tells a
stored day without rows from one that was never stored, and what each holds.
"""

import re
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.gcp import Account, CloudError
from mbta_assets.gcp.bigquery import BigQuery, Column, bigquery_type, declared, literal, quoted
from mbta_assets.storage.tables import Written, content_version, missing_partition, must_be_of, ordered
from mbta_assets.transit import schema

LEDGER = "stored_days"
STAGING_PREFIX = "staging_"
STAGING_LIFE = timedelta(hours=6)
ROW_GROUP = 65_536
"""Rows that are turned into Parquet at a time."""
CLUSTERED_BY = {
    "vehicle": ["trip_id"],
    "schedule": ["trip_id"],
    "raw_transit_data": ["route_id", "trip_id"],
    "transit_features": ["route_id", "trip_id"],
    "delay_predictions": ["route_id", "trip_id"],
    "prediction_accuracy": ["measure"],
    LEDGER: ["table_name"],
}


LEDGER_COLUMNS = [
    Column("table_name", "STRING", True, "The table."),
    Column("service_date", "DATE", True, "The service day that was stored."),
    Column("content_version", "STRING", True, "SHA-256 of the rows; the latest entry of a day is the one that holds."),
    Column("row_count", "INT64", True, "How many rows there are."),
    Column("stored_at", "TIMESTAMP", True, "When they were stored, UTC."),
    Column("run_id", "STRING", True, "The Dagster run that stored them."),
]


class BigQueryTables:
    """The tables of a dataset; see `tables.TableStore`. A query that would read too many bytes is refused."""

    def __init__(self, account: Account, dataset: str, maximum_bytes_billed: int) -> None:
        self.account = account
        self.bigquery = BigQuery(account, maximum_bytes_billed)
        self.dataset = dataset

    @property
    def where(self) -> str:
        """The dataset with its project."""
        return f"{self.account.project}.{self.dataset}"

    def path(self, table: str) -> str:
        """The full name of a table."""
        return f"{self.where}.{table}"

    def relation(self, table: str, day: date) -> str:
        """The full name of a table that has a service day. Raises MissingPartition."""
        self.versions(table, [day])
        return self.path(table)

    def begin(self) -> None:
        """Make sure that there is a dataset to store in and that queries run. Raises CloudError."""
        from google.api_core.exceptions import NotFound
        from google.cloud import bigquery

        client = self.account.bigquery
        with self.account.explained(f"Open the BigQuery dataset {self.where}"):
            try:
                client.get_dataset(self.where, retry=self.account.retry)
            except NotFound:
                dataset = bigquery.Dataset(self.where)
                dataset.location = self.account.location
                dataset.description = "Daily tables of mbta_assets; `stored_days` says what is stored."
                with self.account.explained(f"BigQuery has no dataset {self.where}, and it could not be made"):
                    client.create_dataset(dataset, exists_ok=True, retry=self.account.retry)
        self._prepare(LEDGER, LEDGER_COLUMNS)
        self.bigquery.query("Try a query", "SELECT 1")

    def days(self, table: str) -> list[date]:
        """The stored service days of a table, in order; a stored day may have no rows."""
        return sorted(self._stored(table))

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """The content version of each of some stored service days. Raises MissingPartition."""
        stored = self._stored(table)
        for day in (days := list(days)):
            if day not in stored:
                raise missing_partition(table, day, self.where, sorted(stored))
        return {day: stored[day][0] for day in days}

    def row_counts(self, table: str, before: date, days: int) -> dict[date, int]:
        """How many rows each of the latest stored service days before a day has."""
        stored = self._stored(table)
        return {day: stored[day][1] for day in sorted(day for day in stored if day < before)[-days:]}

    def write(self, table: str, day: date, rows: arrow.Table, run_id: str = "") -> Written:
        """Replace a service day of a table in one transaction.

        A column that the table does not have yet is added. Raises ValueError where a row is of another service day or
        a column is not as the table has it, CloudError where BigQuery refuses; what was stored then stays.
        """
        must_be_of(table, day, rows)
        columns = self._prepare(table, columns_of(table, rows.schema))
        version = content_version(rows)
        rows = _loadable(rows, columns)
        labels = self._labels(table, service_date=str(day), run=run_id)
        staging = self.path(f"{STAGING_PREFIX}{table}_{day:%Y%m%d}_{uuid.uuid4().hex[:12]}")
        try:
            self._stage(staging, f"Load service day {day} of {self.path(table)}", rows, columns, labels)
            replaced = self._replace(table, staging, day, columns, version, len(rows), run_id, labels)
        finally:
            with suppress(CloudError), self.account.explained(""):  # it expires by itself
                self.account.bigquery.delete_table(staging, retry=None, not_found_ok=True)
        return Written(
            version,
            {
                "table": self.path(table),
                "bytes_processed": replaced.total_bytes_processed or 0,
                "bytes_billed": replaced.total_bytes_billed or 0,
                "bigquery_job": replaced.job_id,
            },
        )

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Rows of some service days, one day after the other; all columns or some. Raises MissingPartition.

        Only these columns and partitions are scanned. A column of the model that the table does not have is missing;
        KeyError for one that neither has.
        """
        days = list(days)
        info = self.bigquery.table(self.path(table))
        if info is None:
            raise missing_partition(table, days[0], self.where, [])
        held = info.columns
        model = schema.arrow_schema(schema.TABLES[table]) if table in schema.TABLES else None
        names = list(columns or (model.names if model else held))
        for name in names:
            if name not in held and (model is None or name not in model.names):
                raise KeyError(f"{table} has no column {name}; it has {', '.join(held)}.")
        order = schema.row_order(schema.TABLES[table]) if model else [name for name in held if name != "service_date"]
        order = [name for name in ["service_date", *order] if name in held]
        there = list(dict.fromkeys([*(name for name in names if name in held), *order]))
        where = f"service_date IN ({', '.join(repr(str(day)) for day in days)})"
        rows = self.bigquery.read(f"Read {self.path(table)}", self.path(table), there, where, self._labels(table))
        rows = ordered(rows, order).select([name for name in names if name in held])
        if model:
            missing = {name: arrow.nulls(len(rows), model.field(name).type) for name in names if name not in held}
            for name, nulls in missing.items():
                rows = rows.append_column(name, nulls)
            rows = rows.select(names).cast(arrow.schema([model.field(name) for name in names]))
        self._must_be_stored(table, days, rows)
        return rows

    def drop(self, table: str) -> None:
        """Remove a table and what is noted of its days. Raises CloudError."""
        account = self.account
        delete = f"DELETE FROM {quoted(self.path(LEDGER))} WHERE table_name = @table"
        self.bigquery.query(f"Forget the days of {table}", delete, {"table": table}, self._labels(table))
        with account.explained(f"Remove {self.path(table)}"):
            account.bigquery.delete_table(self.path(table), retry=account.retry, not_found_ok=True)

    def _stage(
        self, staging: str, wanted: str, rows: arrow.Table, columns: Sequence[Column], labels: dict[str, str]
    ) -> None:
        """Load rows into a table of their own that expires soon; twice is the same as once."""
        from google.cloud import bigquery

        client = self.account.bigquery
        made = bigquery.Table(staging, [column.field() for column in columns])
        made.expires = datetime.now(UTC) + STAGING_LIFE
        self.account.call(wanted, lambda: client.create_table(made, exists_ok=True, retry=None))
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=made.schema,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,  # one that comes late would never expire
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
            column_name_character_map="V2",  # names may have any letters
            labels=labels,
        )
        with tempfile.TemporaryFile() as file:
            parquet.write_table(rows, file, compression="zstd", row_group_size=ROW_GROUP)

            def load() -> Any:
                job = client.load_table_from_file(file, staging, rewind=True, num_retries=0, job_config=config)
                job.result(retry=self.account.retry)
                return job

            loaded = self.account.call(wanted, load)
        if loaded.output_rows != len(rows):
            raise CloudError(f"{wanted}: BigQuery took {loaded.output_rows} of {len(rows)} rows. Run it again.")

    def _replace(
        self,
        table: str,
        staging: str,
        day: date,
        columns: Sequence[Column],
        version: str,
        row_count: int,
        run_id: str,
        labels: dict[str, str],
    ) -> Any:
        names = ", ".join(quoted(column.name) for column in columns)
        into = quoted(self.path(table))
        ledger = ", ".join(column.name for column in LEDGER_COLUMNS)
        entry = (
            literal(table),
            literal(day),
            literal(version),
            literal(row_count),
            "CURRENT_TIMESTAMP()",
            literal(run_id),
        )
        script = f"""
            BEGIN TRANSACTION;
            DELETE FROM {into} WHERE service_date = {literal(day)};
            INSERT INTO {into} ({names}) SELECT {names} FROM {quoted(staging)};
            INSERT INTO {quoted(self.path(LEDGER))} ({ledger}) VALUES ({", ".join(entry)});
            COMMIT TRANSACTION;
        """
        return self.bigquery.query(f"Replace service day {day} of {self.path(table)}", script, labels=labels)

    def _stored(self, table: str) -> dict[date, tuple[str, int]]:
        """The content version and the number of rows of each stored service day."""
        if self.bigquery.table(self.path(LEDGER)) is None:
            return {}
        sql = (
            f"SELECT service_date, content_version, row_count FROM {quoted(self.path(LEDGER))} "
            "WHERE table_name = @table "
            "QUALIFY ROW_NUMBER() OVER (PARTITION BY service_date ORDER BY stored_at DESC) = 1"
        )
        rows = self.bigquery.rows(
            f"Ask which days of {self.path(table)} are stored", sql, {"table": table}, self._labels(table)
        )
        return {row["service_date"]: (row["content_version"], row["row_count"]) for row in rows.to_pylist()}

    def _must_be_stored(self, table: str, days: Sequence[date], rows: arrow.Table) -> None:
        """Raise MissingPartition for a day without rows that was not stored without rows."""
        if len(rows) and len(days) == 1:
            return
        stored = self._stored(table)
        for day in days:
            if day not in stored:
                raise missing_partition(table, day, self.where, sorted(stored))

    def _prepare(self, table: str, wanted: Sequence[Column]) -> list[Column]:
        """Make a table with these columns, or add those that it lacks. Returns what they are called there.

        Raises ValueError naming the column that does not fit.
        """
        from google.cloud import bigquery

        info = self.bigquery.table(self.path(table))
        if info is None:
            made = bigquery.Table(self.path(table), [column.field() for column in merged(table, {}, wanted)])
            made.time_partitioning = bigquery.TimePartitioning(field="service_date")
            made.clustering_fields = [name for name in CLUSTERED_BY.get(table, ()) if name in {c.name for c in wanted}]
            made.description = _description(table)
            what = f"Make the table {self.path(table)}"
            self.account.call(what, lambda: self.account.bigquery.create_table(made, exists_ok=True, retry=None))
            info = self.bigquery.table(self.path(table))
        held = info.columns if info else {}
        columns = merged(self.path(table), held, wanted)
        added = [column for column in columns if column.name not in held]
        if added:
            clauses = ", ".join(f"ADD COLUMN IF NOT EXISTS {declared(column)}" for column in added)
            self.bigquery.query(
                f"Add columns to {self.path(table)}", f"ALTER TABLE {quoted(self.path(table))} {clauses}"
            )
            self._show(table, added)
        return columns

    def _show(self, table: str, added: Sequence[Column]) -> None:
        """Make what was added part of the table's description, where adding it has not done so."""

        retry = self.account.retry
        with self.account.explained(f"Describe what was added to {self.path(table)}"):
            described = self.account.bigquery.get_table(self.path(table), retry=retry)
            names = {field.name for field in described.schema}
            hidden = [column.field() for column in added if column.name not in names]
            if hidden:
                described.schema = [*described.schema, *hidden]
                self.account.bigquery.update_table(described, ["schema"], retry=retry)

    def _labels(self, table: str, **more: str) -> dict[str, str]:
        """Labels that say in BigQuery's job history what a job was for."""
        labels = {"application": "mbta_assets", "table": table, **more}
        return {key: re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63] for key, value in labels.items() if value}


def columns_of(table: str, found: arrow.Schema) -> list[Column]:
    """The columns of a table in BigQuery: from its model, else from the rows.

    Raises ValueError naming a column that BigQuery cannot hold.
    """
    if table in schema.TABLES:
        types = schema.arrow_schema(schema.TABLES[table])
        return [
            Column(name, bigquery_type(types.field(name).type), not spec.nullable, schema.meaning(spec))
            for name, spec in schema.TABLES[table].to_schema().columns.items()
        ]
    if "service_date" not in found.names:
        raise ValueError(f"{table}: there is no column service_date, by which BigQuery partitions it.")
    alike = {name: [other for other in found.names if other.lower() == name.lower()] for name in found.names}
    for names in alike.values():
        if len(names) > 1:
            raise ValueError(f"{table}: columns {' and '.join(names)} are one to BigQuery, which ignores case.")
    columns = []
    for field in found:
        try:
            columns.append(Column(field.name, bigquery_type(field.type)))
        except TypeError as error:
            raise ValueError(f"{table}: column {field.name}: {error}") from None
    return columns


def merged(table: str, held: Mapping[str, Column], wanted: Sequence[Column]) -> list[Column]:
    """The columns to write, as the table has them; those that it does not have yet may be added.

    Raises ValueError naming each column that does not fit.
    """
    by_lower = {name.lower(): column for name, column in held.items()}
    columns, wrong = [], []
    for column in wanted:
        there = by_lower.pop(column.name.lower(), None)
        if there is None:
            if column.required and held:
                wrong.append(f"column {column.name} is new and must have values, which stored rows do not have")
            columns.append(replace(column, type=column.type or "STRING"))
            continue
        if there.name != column.name:
            wrong.append(f"column {column.name} is called {there.name} there")
        elif column.type and there.type != column.type:
            wrong.append(f"column {column.name} is {column.type}, and {there.type} there")
        elif there.required != column.required and column.description:
            mode = {True: "must have values", False: "may be missing"}
            wrong.append(f"column {column.name} {mode[column.required]}, and {mode[there.required]} there")
        columns.append(Column(there.name, there.type, there.required, column.description))
    wrong += [f"column {column.name} is there, and not in what is written" for column in by_lower.values()]
    if wrong:
        raise ValueError(
            f"{table}: {'; '.join(wrong)}. A table gains new columns that may be missing by itself; for anything else "
            "write to another dataset, or change the table by hand."
        )
    return columns


def _loadable(rows: arrow.Table, columns: Sequence[Column]) -> arrow.Table:
    """Rows with the columns of a table, of types that BigQuery reads from Parquet."""
    loadable = {}
    for column in columns:
        values = rows[column.name]
        found = values.type
        if arrow.types.is_null(found):
            values = values.cast(_ARROW[column.type])
        elif arrow.types.is_dictionary(found):
            values = values.cast(found.value_type)
        elif arrow.types.is_timestamp(found) and found.unit == "ns":
            values = values.cast(arrow.timestamp("us", found.tz), safe=False)
        loadable[column.name] = values
    return arrow.table(loadable)


def _description(table: str) -> str | None:
    if table == LEDGER:
        return "Which service days are stored, what each holds, and which run stored it; the latest entry counts."
    return schema.TABLES[table].__doc__ if table in schema.TABLES else None


_ARROW = {
    "STRING": arrow.string(),
    "BOOL": arrow.bool_(),
    "INT64": arrow.int64(),
    "FLOAT64": arrow.float64(),
    "DATE": arrow.date32(),
    "BYTES": arrow.binary(),
    "TIMESTAMP": arrow.timestamp("us", "UTC"),
    "DATETIME": arrow.timestamp("us"),
}
