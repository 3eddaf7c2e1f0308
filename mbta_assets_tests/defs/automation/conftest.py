"""A deployment whose source is tiny service days as files, and a stand-in for the daemon that runs its sensors."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import dagster as dg
import pandas as pd
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs.dagster_internals import PARTITION_NAME_TAG, RUN_KEY_TAG
from mbta_assets.settings import Settings
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support.instances import copy_runs

TOKEN = "T0K3N"
"""Secret part of the address of a webhook."""
MONDAY = date(2024, 3, 4)
STOPS = ("70061", "70063", "70065", "70067")
TABLES = ("vehicle", "trip", "stop", "schedule")
DOWNSTREAM = ["raw_transit_data", "transit_features"]
"""What is made of the upstream tables before there is a production model."""


def day(number: int) -> date:
    """Return a service date, counted from a Monday."""
    return MONDAY + timedelta(days=number)


def build_tables(service_date: date, late_seconds: int = 60) -> dict[str, pd.DataFrame]:
    """Return the upstream tables of two trips of four stops, which arrive so many seconds late everywhere."""
    noon = pd.Timestamp(service_date, tz="America/New_York").tz_convert("UTC") + pd.Timedelta(hours=12)
    trips = ["a", "b"]
    visits = [(trip, n, noon + pd.Timedelta(minutes=10 * t + 3 * n)) for t, trip in enumerate(trips) for n in range(4)]
    late = pd.Timedelta(seconds=late_seconds)
    return {
        "trip": pd.DataFrame({"id": trips, "name": None, "route_id": "Blue", "direction_id": 0.0}),
        "stop": pd.DataFrame(
            {
                "id": STOPS,
                "name": STOPS,
                "platform_name": "",
                "latitude": 42.3,
                "longitude": [-71.0, -71.1, -71.2, -71.3],
            }
        ),
        "schedule": pd.DataFrame(
            {
                "trip_id": [trip for trip, _, _ in visits],
                "stop_id": [STOPS[n] for _, n, _ in visits],
                "arrival_time": [at if n else pd.NaT for _, n, at in visits],
                "departure_time": [at if n < 3 else pd.NaT for _, n, at in visits],
            }
        ),
        "vehicle": pd.DataFrame(
            [
                {
                    "id": f"B-{trip}",
                    "updated_at": at + late + pd.Timedelta(seconds=after),
                    "current_status": status,
                    "latitude": 42.3,
                    "longitude": -71.0 - n / 10,
                    "stop_id": STOPS[n],
                    "trip_id": trip,
                    "route_id": "Blue",
                    "direction_id": 0.0,
                }
                for trip, n, at in visits
                for after, status in ((-60, "IN_TRANSIT_TO"), (0, "STOPPED_AT"))
            ]
        ),
    }


def upstream_path(directory: Path, table: str, service_date: date) -> Path:
    """Return the file of an upstream table and service date."""
    return directory / table / f"service_date={service_date}" / "part.parquet"


def write_upstream(directory: Path, *days: date, tables: tuple[str, ...] = TABLES, late_seconds: int = 60) -> None:
    """Write or replace upstream tables of service dates."""
    for service_date in days:
        for table, rows in build_tables(service_date, late_seconds).items():
            if table in tables:
                path = upstream_path(directory, table, service_date)
                path.parent.mkdir(parents=True, exist_ok=True)
                rows.to_parquet(path, index=False)


@dataclass
class Deployment:
    """Definitions of some settings, an instance, and the cursor of each sensor."""

    settings: Settings
    instance: dg.DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.defs = build_defs(self.settings)
        self.tables = ParquetTables(self.settings.store)

    @property
    def directory(self) -> Path:
        """Return the directory of the source's files."""
        assert self.settings.files_dir
        return self.settings.files_dir

    def evaluate(self, name: str) -> Any:
        """Evaluate a sensor and return its result, without any effect on its cursor."""
        sensor = self.defs.resolve_sensor_def(name)
        with dg.build_sensor_context(
            self.instance,
            self.cursors.get(name),
            definitions=self.defs,
            sensor_name=name,
            resources=select_resources(self.defs, sensor.required_resource_keys),
        ) as context:
            return sensor.evaluate_tick(context)

    def tick(self, name: str = "upstream_changes") -> list[dg.RunRequest]:
        """Evaluate a sensor, store its cursor, and return its requests.

        As in Dagster, requests whose key a run already has are skipped.
        """
        result = self.evaluate(name)
        self.cursors[name] = result.cursor if result.cursor is not None else self.cursors.get(name)
        return [
            request
            for request in result.run_requests or []
            if not self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key}))
        ]

    def run(self, request: dg.RunRequest, job: str = "service_day") -> dg.DagsterRun:
        """Execute a request in this process."""
        assert request.run_key
        result = self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            asset_selection=request.asset_selection,
            tags={**request.tags, RUN_KEY_TAG: request.run_key},
            raise_on_error=False,
        )
        run = self.instance.get_run_by_id(result.run_id)
        assert run
        return run

    def materialize(self, service_date: date) -> dg.DagsterRun:
        """Make the tables of a service date, as people do from the UI."""
        request = dg.RunRequest(run_key=f"{service_date} by hand", partition_key=str(service_date))
        return self.run(request, job="daily_tables")

    def start_run(self, request: dg.RunRequest, job: str = "service_day") -> dg.DagsterRun:
        """Create a run that has started and does nothing."""
        return self.create_run(request, job, dg.DagsterRunStatus.STARTED)

    def create_run(self, request: dg.RunRequest, job: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """Create a run as the daemon would, in some status."""
        partition = {PARTITION_NAME_TAG: request.partition_key} if request.partition_key else {}
        return self.instance.create_run_for_job(
            self.defs.resolve_job_def(job),
            tags={**request.tags, **partition, **({RUN_KEY_TAG: request.run_key} if request.run_key else {})},
            status=status,
            asset_selection=frozenset(request.asset_selection) if request.asset_selection else None,
        )

    def finish_run(self, run: dg.DagsterRun, succeeded: bool) -> None:
        """Let a run that has started end."""
        if succeeded:
            self.instance.report_dagster_event(
                dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id
            )
        else:
            self.instance.report_run_failed(run)

    def cancel_run(self, request: dg.RunRequest, job: str = "service_day", *, started: bool = True) -> dg.DagsterRun:
        """Create a run that somebody cancels before or after it has started."""
        status = dg.DagsterRunStatus.STARTED if started else dg.DagsterRunStatus.STARTING
        run = self.create_run(request, job, status)
        self.instance.report_run_canceling(run)
        self.instance.report_run_canceled(run)
        return run

    def run_until_idle(self, name: str = "upstream_changes", max_ticks: int = 10) -> list[str]:
        """Tick and run until a tick requests nothing; return the partitions that were run, in order."""
        days: list[str] = []
        for _ in range(max_ticks):
            requests = self.tick(name)
            if not requests:
                return days
            for request in requests:
                assert self.run(request).is_success
                days.append(request.partition_key or "")
        raise AssertionError(f"still busy after {max_ticks} ticks: {days}")


def select_resources(defs: dg.Definitions, keys: set[str]) -> dict[str, Any]:
    """Return the resources that a sensor or a schedule requires."""
    assert defs.resources
    return {key: defs.resources[key] for key in keys}


def asset_names(request: dg.RunRequest) -> list[str]:
    """Return the names of the assets that a run request selects, in its order."""
    return [key.to_user_string() for key in request.asset_selection or ()]


@contextmanager
def clock_at(time: datetime) -> Iterator[None]:
    """Freeze Dagster's clock at a time."""
    with (
        mock.patch("dagster._time._mockable_get_current_datetime", return_value=time),
        mock.patch("dagster._time._mockable_get_current_timestamp", return_value=time.timestamp()),
    ):
        yield


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def make_deployment(directory: Path, instance: dg.DagsterInstance) -> Deployment:
    """Return a deployment whose files and store are in a directory."""
    (directory / "files").mkdir()
    settings = Settings(store=directory / "store", source="files", files_dir=directory / "files", training_days=5)
    return Deployment(settings, instance)


@pytest.fixture
def deployment(tmp_path: Path, instance: dg.DagsterInstance) -> Deployment:
    return make_deployment(tmp_path, instance)


@pytest.fixture(scope="session")
def with_a_day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Yield a deployment that stores `day(0)`; tests must not change it."""
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = make_deployment(tmp_path_factory.mktemp("with_a_day"), instance)
        write_upstream(deployment.directory, day(0))
        assert deployment.materialize(day(0)).is_success
        yield deployment


@pytest.fixture
def stored(deployment: Deployment, with_a_day: Deployment) -> Deployment:
    """Return a deployment that stores `day(0)`, before the sensor's first tick."""
    shutil.copytree(with_a_day.directory, deployment.directory, dirs_exist_ok=True)
    shutil.copytree(with_a_day.settings.store, deployment.settings.store)
    copy_runs(with_a_day.instance, deployment.instance)
    return deployment


@pytest.fixture
def followed(stored: Deployment) -> Deployment:
    """Return that deployment after the sensor's first tick."""
    assert stored.tick() == []
    return stored


def promote(deployment: Deployment, content: bytes = b"a model", why: str = "promoted") -> str:
    """Make a bundle with some content the production model, and return its digest."""
    registry = ModelRegistry(deployment.settings.store)
    stored = registry.put("production_model", Draft("onnx", {"model.onnx": content}))
    registry.set_current("production_model", stored.digest, registry.current_digest("production_model"), why)
    return stored.digest


@pytest.fixture
def production_model(deployment: Deployment) -> None:
    promote(deployment)


@dataclass
class Webhook:
    """A server that answers with some codes in turn, repeating the last one, and records the messages it receives."""

    address: str
    codes: list[int] = field(default_factory=lambda: [200])
    received: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(hook.codes.pop(0) if len(hook.codes) > 1 else hook.codes[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook = Webhook(f"http://127.0.0.1:{server.server_port}/hooks/{TOKEN}")
    Thread(target=server.serve_forever, daemon=True).start()
    yield hook
    server.shutdown()
    server.server_close()


def with_settings(deployment: Deployment, **settings: Any) -> Deployment:
    return Deployment(deployment.settings.model_copy(update=settings), deployment.instance)
