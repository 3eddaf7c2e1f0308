"""A deployment with tiny service days as files, and what a daemon does with what its sensors say."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.storage.tags import PARTITION_NAME_TAG, RUN_KEY_TAG

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake

MONDAY = date(2024, 3, 4)
STOPS = ("70061", "70063", "70065", "70067")
TABLES = ("vehicle", "trip", "stop", "schedule")


def day(number: int) -> date:
    """A service day, counted from a Monday."""
    return MONDAY + timedelta(days=number)


def tables_of(service_date: date, late_seconds: int = 60) -> dict[str, pd.DataFrame]:
    """Two trips of four stops, all so late."""
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


def store_path(directory: Path, table: str, service_date: date) -> Path:
    """Where the files of a table and service day are."""
    return directory / table / f"service_date={service_date}" / "part.parquet"


def deliver(directory: Path, *days: date, tables: tuple[str, ...] = TABLES, late_seconds: int = 60) -> None:
    """Write or replace tables of service days."""
    for service_date in days:
        for table, rows in tables_of(service_date, late_seconds).items():
            if table in tables:
                path = store_path(directory, table, service_date)
                path.parent.mkdir(parents=True, exist_ok=True)
                rows.to_parquet(path, index=False)


@dataclass
class Deployment:
    """Definitions, an instance, and the cursor of each sensor."""

    settings: Settings
    instance: dg.DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.defs = build_defs(self.settings)
        self.lake = Lake(self.settings.store)

    @property
    def directory(self) -> Path:
        """Where the source's files are."""
        assert self.settings.files_dir
        return self.settings.files_dir

    def evaluate(self, name: str, **context: Any) -> Any:
        """What a sensor says, without any consequence."""
        sensor = self.defs.resolve_sensor_def(name)
        needed = {key: self.defs.resources[key] for key in sensor.required_resource_keys}  # type: ignore[index]
        with dg.build_sensor_context(
            self.instance, self.cursors.get(name), definitions=self.defs, sensor_name=name, resources=needed, **context
        ) as built:
            return sensor.evaluate_tick(built)

    def tick(self, name: str = "upstream_changes") -> list[dg.RunRequest]:
        """What a sensor asks for; its cursor is kept. As in Dagster, keys that a run has had are passed over."""
        said = self.evaluate(name)
        self.cursors[name] = said.cursor if said.cursor is not None else self.cursors.get(name)
        return [
            request
            for request in said.run_requests or []
            if not self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key}))
        ]

    def run(self, request: dg.RunRequest, job: str = "service_day", selection: Any = None) -> dg.DagsterRun:
        """Execute what was asked for."""
        chosen = selection or request.asset_selection
        assert request.run_key
        executed = self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            asset_selection=chosen,
            tags={**request.tags, RUN_KEY_TAG: request.run_key},
            raise_on_error=False,
        )
        run = self.instance.get_run_by_id(executed.run_id)
        assert run
        return run

    def begin(self, request: dg.RunRequest, job: str = "service_day") -> dg.DagsterRun:
        """Create a run that has started and does nothing."""
        return self.create(job, request, dg.DagsterRunStatus.STARTED)

    def create(self, job: str, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """Create a run as the daemon would, in some status."""
        partition = {PARTITION_NAME_TAG: request.partition_key} if request.partition_key else {}
        return self.instance.create_run_for_job(
            self.defs.resolve_job_def(job),
            tags={**request.tags, **partition, **({RUN_KEY_TAG: request.run_key} if request.run_key else {})},
            status=status,
            asset_selection=frozenset(request.asset_selection) if request.asset_selection else None,
        )

    def end(self, run: dg.DagsterRun, succeeded: bool) -> None:
        """Let a run that has started end."""
        if succeeded:
            self.instance.report_dagster_event(
                dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id
            )
        else:
            self.instance.report_run_failed(run)

    def settle(self, name: str = "upstream_changes", most: int = 10) -> list[str]:
        """Tick and run until there is nothing left to do; the service days that were run, in order."""
        days: list[str] = []
        for _ in range(most):
            requests = self.tick(name)
            if not requests:
                return days
            for request in requests:
                assert self.run(request).is_success
                days.append(request.partition_key or "")
        raise AssertionError(f"still busy after {most} ticks: {days}")

    def at(self, moment: datetime) -> Any:
        """The same with the clock of Dagster at a moment."""
        from dagster._core.test_utils import freeze_time

        return freeze_time(moment)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def deployment(tmp_path: Path, instance: dg.DagsterInstance) -> Deployment:
    (tmp_path / "files").mkdir()
    return Deployment(
        Settings(store=tmp_path / "store", source="files", files_dir=tmp_path / "files", training_days=5), instance
    )


def promote(deployment: Deployment, content: bytes = b"a model", why: str = "promoted") -> str:
    """Make a bundle the production model; its digest."""
    store = BundleStore(deployment.settings.store)
    stored = store.put("production_model", Draft("onnx", {"model.onnx": content}))
    store.point("production_model", stored.digest, store.current_digest("production_model"), why)
    return stored.digest


@pytest.fixture
def production_model(deployment: Deployment) -> None:
    promote(deployment)
