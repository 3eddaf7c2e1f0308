"""`python -m mbta_assets.storage.permissions`: whether this account may do on Google Cloud what a run does.

Each permission is tried by doing what it is for, on a table and an object of its own that are removed again.
"""

import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as arrow

from mbta_assets.gcp import Account, CloudError
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources import SourceError
from mbta_assets.sources.bigquery import BigQuerySource
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.transit import schema

DAY = date(2000, 1, 1)


@dataclass(frozen=True)
class Tried:
    """A permission, what it is for, and what was wrong when that was tried."""

    permission: str
    purpose: str
    wrong: str | None

    def __str__(self) -> str:
        said = "ok" if self.wrong is None else f"LACKING: {self.wrong}"
        return f"{self.permission:34} {self.purpose:46} {said}"


Step = tuple[str, str, Callable[[], object]]


def tried(steps: Sequence[Step]) -> Iterator[Tried]:
    """Take each step, whatever became of the others."""
    for permission, purpose, step in steps:
        try:
            step()
        except (CloudError, SourceError) as error:
            yield Tried(permission, purpose, str(error))
        else:
            yield Tried(permission, purpose, None)


def table_steps(tables: BigQueryTables) -> list[Step]:
    """What a run does in BigQuery, on a table of its own."""
    name = f"check_{uuid.uuid4().hex[:12]}"
    rows = arrow.table({"service_date": [DAY], "value": [1]})
    wider = rows.append_column("more", [["text"]])
    steps: list[Step] = [
        ("bigquery.jobs.create", "run a query in the project", lambda: tables.bigquery.query("Query", "SELECT 1")),
        ("bigquery.datasets.get", f"open {tables.where}, or make it", tables.begin),
        ("bigquery.tables.create", "make a table", lambda: tables.write(name, DAY, rows)),
        ("bigquery.tables.updateData", "replace a day", lambda: tables.write(name, DAY, rows)),
        ("bigquery.tables.getData", "read a day", lambda: tables.read(name, [DAY])),
        ("bigquery.tables.update", "add a column", lambda: tables.write(name, DAY, wider)),
        ("bigquery.tables.delete", "remove that table", lambda: tables.drop(name)),
    ]
    if tables.account.reader:
        path, where = tables.path(name), f"service_date = '{DAY}'"

        def read_fast() -> None:
            tables.account.call(f"Read {path}", lambda: tables.bigquery.stream(path, ["value"], where))

        steps.insert(-1, ("bigquery.readsessions.create", "read fast", read_fast))
    return steps


def bucket_steps(bucket: Bucket) -> list[Step]:
    """What a run does in Cloud Storage, on an object of its own."""
    path = f"models/check-{uuid.uuid4().hex[:12]}"

    def there() -> int:
        found = bucket.read(path)
        if found is None:
            raise CloudError(f"{bucket.uri(path)} is not there after it was written.")
        return found[1]

    return [
        ("storage.objects.create", f"write to {bucket.uri('models')}", lambda: bucket.put(path, b"1", expected=0)),
        ("storage.objects.get", "read it", there),
        ("storage.objects.delete", "replace it", lambda: bucket.put(path, b"2", expected=there())),
        ("storage.objects.delete", "remove it", lambda: bucket.remove(path)),
    ]


def upstream_steps(source: BigQuerySource) -> list[Step]:
    """What a run does with the upstream tables: look at their columns and partitions, and read a day."""

    def look(table: str) -> Callable[[], object]:
        def step() -> None:
            latest = max(source.partitions(table), default=DAY)
            sql = f"SELECT * FROM {source.relation(table, latest)} LIMIT 1"
            source.bigquery.rows(f"Read {source.path(table)}", sql, {"service_date": latest})

        return step

    return [("bigquery.tables.get, getData", f"read {source.path(table)}", look(table)) for table in schema.UPSTREAM]


def main() -> int:
    """Print a line for each permission. Returns 1 where one is lacking."""
    steps: list[Step] = []
    try:
        settings = Settings.from_environment()
        if settings.deployment == "gcp":
            account = Account.of(settings)
            assert settings.bigquery_dataset and settings.gcs_bucket, "Settings has checked it"
            tables = BigQueryTables(account, settings.bigquery_dataset, settings.bigquery_maximum_bytes_billed)
            steps += [*table_steps(tables), *bucket_steps(Bucket(account, settings.gcs_bucket))]
        if settings.source == "bigquery":
            steps += upstream_steps(BigQuerySource.of(settings))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    if not steps:
        print("Nothing is on Google Cloud: neither MBTA_DEPLOYMENT=gcp nor MBTA_SOURCE=bigquery is set.")
        return 0
    identity = "nobody, which an emulator allows" if settings.bigquery_emulator_host else Account.of(settings).identity
    print(f"As {identity}, in project {settings.gcp_project}:\n", flush=True)
    lacking = 0
    for one in tried(steps):
        lacking += one.wrong is not None
        print(one, flush=True)
    return int(lacking > 0)


if __name__ == "__main__":
    sys.exit(main())
