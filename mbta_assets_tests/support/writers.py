"""What processes of their own do to tables and bundles, so that tests can kill them or let them meet."""

import multiprocessing
from collections.abc import Sequence
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as arrow

from mbta_assets.gcp import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.gcs import GCSBundleStore
from mbta_assets.storage.model_registry import PointerMoved

DAY = date(2023, 10, 3)
PROCESSES = multiprocessing.get_context("forkserver")
"""They start at once: what takes long to import is imported by the one that they are forked from."""
PROCESSES.set_forkserver_preload(["mbta_assets.storage.gcs", "google.cloud.bigquery_storage", "google.cloud.storage"])


def rows(value: int, day: date = DAY, n: int = 1000) -> arrow.Table:
    """A table in which every row holds the same number."""
    return arrow.table({"service_date": [day] * n, "value": [value] * n})


def draft(n: int) -> Draft:
    """One of many small bundles."""
    return Draft("toy", {"a.bin": bytes([n]), "b.bin": bytes([n, n])}, {"mae": n})


def started(target: object, *arguments: object) -> BaseProcess:
    """A process that does this."""
    process = PROCESSES.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process


def write(environment: dict[str, str], day: date, values: Sequence[int]) -> None:
    """Replace a day of `toy` again and again."""
    settings = Settings.from_environment(environment)
    assert settings.bigquery_dataset
    tables = BigQueryTables(Account.of(settings), settings.bigquery_dataset, settings.bigquery_maximum_bytes_billed)
    for value in values:
        tables.write("toy", day, rows(value, day))


def store(environment: dict[str, str], root: Path) -> GCSBundleStore:
    """The bundles of an environment, kept in some directory too."""
    settings = Settings.from_environment(environment)
    assert settings.gcs_bucket
    return GCSBundleStore(Bucket(Account.of(settings), settings.gcs_bucket), root)


def publish(environment: dict[str, str], root: Path, n: int, expected: str | None) -> str | None:
    """Store a bundle and point to it. Returns why it could not, None if it could."""
    bundles = store(environment, root)
    try:
        bundles.point("model", bundles.put("model", draft(n)).digest, expected)
    except PointerMoved as error:
        return str(error)
    return None
