"""Functions for processes that write tables and publish models, so that tests can kill them or run them at once."""

import multiprocessing
from collections.abc import Callable, Sequence
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow as arrow

from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.gcs import GCSModelRegistry
from mbta_assets.storage.model_registry import PointerMoved

DAY = date(2023, 10, 3)
PROCESSES = multiprocessing.get_context("forkserver")
"""Its processes start fast: the process that they are forked from has imported what takes long to import."""
PROCESSES.set_forkserver_preload(["mbta_assets.storage.gcs", "google.cloud.bigquery_storage", "google.cloud.storage"])


def make_rows(value: int, day: date = DAY, n: int = 1000) -> arrow.Table:
    """Return n rows of a service day that all have the same value."""
    return arrow.table({"service_date": [day] * n, "value": [value] * n})


def make_draft(n: int) -> Draft:
    """Return a small bundle whose files contain the byte n."""
    return Draft("toy", {"a.bin": bytes([n]), "b.bin": bytes([n, n])}, {"mae": n})


def start_process(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a process that calls a function, and return it."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def write_day(environment: dict[str, str], day: date, values: Sequence[int]) -> None:
    """Replace a service day of the table `toy` once per value."""
    tables = BigQueryTables.from_settings(Settings.from_environment(environment))
    for value in values:
        tables.write("toy", day, make_rows(value, day))


def clear_model(environment: dict[str, str], root: Path, expected: str) -> None:
    """Clear the pointer of `model`."""
    bucket = Bucket.from_settings(Settings.from_environment(environment))
    GCSModelRegistry(bucket, root).set_current("model", None, expected)


def publish_model(environment: dict[str, str], root: Path, n: int, expected: str | None) -> str | None:
    """Store a version of `model` and make it current; return the message of PointerMoved, or None on success."""
    settings = Settings.from_environment(environment)
    model_registry = GCSModelRegistry(Bucket.from_settings(settings), root)
    try:
        model_registry.set_current("model", model_registry.put("model", make_draft(n)).digest, expected)
    except PointerMoved as error:
        return str(error)
    return None
