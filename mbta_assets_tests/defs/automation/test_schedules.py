"""What runs at set times, and for which service days."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import TABLES, Deployment, promote

BOSTON = ZoneInfo("America/New_York")
MADE = ["raw_transit_data", "transit_features"]
MONITORING = ["delay_predictions", "prediction_accuracy"]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """One on disk: a schedule opens it by reference."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def scheduled(deployment: Deployment, name: str, at: datetime) -> list[dg.RunRequest]:
    """The runs that a schedule asks for."""
    schedule = deployment.defs.resolve_schedule_def(name)
    needed = {key: deployment.defs.resources[key] for key in schedule.required_resource_keys}  # type: ignore[index]
    repository = deployment.defs.get_repository_def()
    with dg.build_schedule_context(
        deployment.instance, scheduled_execution_time=at, resources=needed, repository_def=repository
    ) as context:
        return list(schedule.evaluate_tick(context).run_requests or [])


def assets(request: dg.RunRequest) -> list[str]:
    return [key.to_user_string() for key in request.asset_selection or ()]


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
    requests = scheduled(deployment, "nightly", at)
    assert [request.partition_key for request in requests] == days
    assert {tuple(assets(request)) for request in requests} == {(*TABLES, *MADE)}


def test_predictions_are_made_every_night_once_there_is_a_production_model(deployment: Deployment) -> None:
    promote(deployment)
    at = datetime(2024, 3, 6, 4, tzinfo=BOSTON)
    assert [assets(request) for request in scheduled(deployment, "nightly", at)] == [[*TABLES, *MADE, *MONITORING]] * 2


def test_a_night_has_keys_of_its_own(deployment: Deployment) -> None:
    nights = [scheduled(deployment, "nightly", datetime(2024, 3, day, 4, tzinfo=BOSTON)) for day in (6, 7)]
    keys = [request.run_key for night in nights for request in night]
    assert len(set(keys)) == 4


def test_the_nightly_runs_that_are_asked_for_can_be_run(deployment: Deployment) -> None:
    simulated = Deployment(Settings(store=deployment.settings.store), deployment.instance)
    [_, request] = scheduled(simulated, "nightly", datetime(2024, 3, 6, 4, tzinfo=BOSTON))
    job = simulated.defs.resolve_job_def("service_day")
    subset = job.get_subset(asset_selection=set(request.asset_selection or ()))
    assert {key.to_user_string() for key in subset.asset_layer.executable_asset_keys} == {*TABLES, *MADE}


def test_upstream_tables_that_are_read_where_they_are_are_not_made(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    settings = Settings(
        store=tmp_path,
        source="bigquery",
        gcp_project="test-1",
        bigquery_upstream_dataset="feed",
        bigquery_emulator_host="http://127.0.0.1:9",
    )
    deployment = Deployment(settings, instance)
    requests = scheduled(deployment, "nightly", datetime(2024, 3, 6, 4, tzinfo=BOSTON))
    assert [assets(request) for request in requests] == [MADE, MADE]
    job = deployment.defs.resolve_job_def("service_day")
    subset = job.get_subset(asset_selection=set(requests[0].asset_selection or ()))
    assert {key.to_user_string() for key in subset.asset_layer.executable_asset_keys} == set(MADE)


def test_the_hour_of_the_night_is_a_setting_in_boston_time(tmp_path: Path) -> None:
    schedule = build_defs(Settings(store=tmp_path, nightly_hour=5)).resolve_schedule_def("nightly")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 5 * * *", "America/New_York")


def test_once_a_week_models_are_trained_unless_they_have_been(deployment: Deployment) -> None:
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization("training_set"))
    now = datetime.now(BOSTON)
    assert scheduled(deployment, "weekly_training", now + timedelta(days=5)) == []
    [request] = scheduled(deployment, "weekly_training", now + timedelta(days=7))
    run = deployment.begin(request, job="training")
    assert scheduled(deployment, "weekly_training", now + timedelta(days=7)) == [], "a training is under way"
    deployment.end(run, succeeded=False)
    assert len(scheduled(deployment, "weekly_training", now + timedelta(days=7))) == 1


def test_models_that_were_never_trained_are_trained_by_the_weekly_schedule(deployment: Deployment) -> None:
    assert len(scheduled(deployment, "weekly_training", datetime(2024, 3, 10, 12, tzinfo=BOSTON))) == 1


@pytest.mark.parametrize(("automation", "running"), [("off", set()), ("on", {"RUNNING"})])
def test_one_setting_switches_on_all_that_starts_runs(tmp_path: Path, automation: str, running: set[str]) -> None:
    repository = build_defs(Settings(store=tmp_path, automation=automation)).get_repository_def()
    telling = {"run_failure", "production_model_changed"}
    starting: list[dg.ScheduleDefinition | dg.SensorDefinition] = [
        *repository.schedule_defs,
        *(sensor for sensor in repository.sensor_defs if sensor.name not in telling),
    ]
    assert {one.default_status.value for one in starting} == (running or {"STOPPED"})
    assert {sensor.default_status.value for sensor in repository.sensor_defs if sensor.name in telling} == {"RUNNING"}
