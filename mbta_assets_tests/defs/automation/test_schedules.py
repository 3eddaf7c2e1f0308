"""Schedules: what runs at set times, and for which service days."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import (
    DOWNSTREAM,
    TABLES,
    Deployment,
    asset_names,
    promote,
    select_resources,
)

BOSTON = ZoneInfo("America/New_York")
MONITORING = ["delay_predictions", "prediction_accuracy", "network_snapshot", "width_correction"]


@pytest.fixture(scope="module")
def instance_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Create an instance on disk, because a schedule opens it by reference."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as instance:
        yield instance


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    """Return that instance without any events and runs."""
    instance_on_disk.wipe()
    return instance_on_disk


def evaluate(deployment: Deployment, name: str, at: datetime) -> list[dg.RunRequest]:
    """Return the runs that a schedule requests at a time."""
    schedule = deployment.defs.resolve_schedule_def(name)
    with dg.build_schedule_context(
        deployment.instance,
        scheduled_execution_time=at,
        resources=select_resources(deployment.defs, schedule.required_resource_keys),
        repository_def=deployment.defs.get_repository_def(),
    ) as context:
        return list(schedule.evaluate_tick(context).run_requests or [])


@pytest.mark.parametrize(
    ("night", "days"),
    [
        ("2024-03-06", ["2024-03-04", "2024-03-05"]),
        ("2024-03-10", ["2024-03-08", "2024-03-09"]),  # clocks go forward
        ("2024-11-03", ["2024-11-01", "2024-11-02"]),  # and back
        ("2024-03-01", ["2024-02-28", "2024-02-29"]),
    ],
)
def test_every_night_yesterday_is_made_and_the_day_before_once_more(
    deployment: Deployment, night: str, days: list[str]
) -> None:
    at = datetime.fromisoformat(f"{night}T04:00").replace(tzinfo=BOSTON)
    requests = evaluate(deployment, "nightly", at)
    assert [request.partition_key for request in requests] == days
    assert {tuple(asset_names(request)) for request in requests} == {(*TABLES, "agency_predictions", *DOWNSTREAM)}


def test_everything_of_a_service_day_is_made_every_night_once_there_is_a_production_model(
    deployment: Deployment,
) -> None:
    promote(deployment)
    requests = evaluate(deployment, "nightly", datetime(2024, 3, 6, 4, tzinfo=BOSTON))
    made = [set(asset_names(request)) for request in requests]
    assert made == [{*TABLES, "agency_predictions", *DOWNSTREAM, *MONITORING}] * 2
    job = deployment.defs.resolve_job_def("service_day")
    assert made[0] == {key.to_user_string() for key in job.asset_layer.executable_asset_keys}


def test_a_night_has_keys_of_its_own(deployment: Deployment) -> None:
    nights = [evaluate(deployment, "nightly", datetime(2024, 3, day, 4, tzinfo=BOSTON)) for day in (6, 7)]
    keys = [request.run_key for night in nights for request in night]
    assert len(set(keys)) == 4


def test_the_nightly_requests_select_assets_of_their_job(deployment: Deployment) -> None:
    simulated = Deployment(Settings(store=deployment.settings.store), deployment.instance)
    [_, request] = evaluate(simulated, "nightly", datetime(2024, 3, 6, 4, tzinfo=BOSTON))
    job = simulated.defs.resolve_job_def("service_day")
    subset = job.get_subset(asset_selection=set(request.asset_selection or ()))
    assert {key.to_user_string() for key in subset.asset_layer.executable_asset_keys} == {*TABLES, *DOWNSTREAM}


def test_upstream_tables_that_are_read_in_place_are_not_copied(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    settings = Settings(
        store=tmp_path,
        source="bigquery",
        gcp_project="test-1",
        bigquery_upstream_dataset="feed",
        bigquery_emulator_host="http://127.0.0.1:9",
    )
    deployment = Deployment(settings, instance)
    requests = evaluate(deployment, "nightly", datetime(2024, 3, 6, 4, tzinfo=BOSTON))
    assert [asset_names(request) for request in requests] == [DOWNSTREAM, DOWNSTREAM]
    job = deployment.defs.resolve_job_def("service_day")
    subset = job.get_subset(asset_selection=set(requests[0].asset_selection or ()))
    assert {key.to_user_string() for key in subset.asset_layer.executable_asset_keys} == set(DOWNSTREAM)


def test_the_hour_of_the_night_is_a_setting_in_boston_time(tmp_path: Path) -> None:
    schedule = build_defs(Settings(store=tmp_path, nightly_hour=5)).resolve_schedule_def("nightly")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 5 * * *", "America/New_York")


def test_once_a_week_models_are_trained_unless_they_have_been(deployment: Deployment) -> None:
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization("training_set"))
    now = datetime.now(BOSTON)
    assert evaluate(deployment, "weekly_training", now + timedelta(days=5)) == []
    [request] = evaluate(deployment, "weekly_training", now + timedelta(days=7))
    run = deployment.start_run(request, job="training")
    assert evaluate(deployment, "weekly_training", now + timedelta(days=7)) == [], "a training run is in progress"
    deployment.finish_run(run, succeeded=False)
    assert len(evaluate(deployment, "weekly_training", now + timedelta(days=7))) == 1


def test_models_that_were_never_trained_are_trained_by_the_weekly_schedule(deployment: Deployment) -> None:
    assert len(evaluate(deployment, "weekly_training", datetime(2024, 3, 10, 12, tzinfo=BOSTON))) == 1


@pytest.mark.parametrize(("automation", "running"), [("off", set()), ("on", {"RUNNING"})])
def test_one_setting_switches_on_everything_that_starts_runs(
    tmp_path: Path, automation: Literal["off", "on"], running: set[str]
) -> None:
    repository = build_defs(Settings(store=tmp_path, automation=automation)).get_repository_def()
    notifying = {"run_failure", "production_model_changed", "checks_changed"}
    sensors_and_schedules: list[dg.ScheduleDefinition | dg.SensorDefinition] = [
        *repository.schedule_defs,
        *(sensor for sensor in repository.sensor_defs if sensor.name not in notifying),
    ]
    assert {definition.default_status.value for definition in sensors_and_schedules} == (running or {"STOPPED"})
    assert {sensor.default_status.value for sensor in repository.sensor_defs if sensor.name in notifying} == {"RUNNING"}
