"""The environment is read once, whole, and a wrong value is told apart from a missing one."""

from datetime import date
from pathlib import Path

import pytest

from mbta_assets.settings import VARIABLES, Settings, SettingsError


def test_an_empty_environment_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    settings = Settings.from_environment({})

    assert settings == Settings()
    assert settings.deployment == "local"
    assert settings.source == "synthetic"
    assert settings.store == tmp_path / ".local"
    assert settings.start_date == date(2023, 1, 1)
    assert (settings.seed, settings.training_days, settings.tune_trials) == (0, 28, 8)
    assert (settings.wandb_mode, settings.wandb_project) == ("offline", "mbta_assets")
    assert (settings.automation, settings.nightly_hour, settings.retrain_at) == ("off", 4, "0 6 * * *")
    assert (settings.retrain_hours, settings.poll_seconds) == (24, 60)
    assert settings.alert_webhook is settings.promotion_webhook is None
    assert settings.files_dir is settings.ray_address is settings.wandb_api_key is None


def test_every_variable_is_read(tmp_path: Path) -> None:
    environ = {
        "MBTA_DEPLOYMENT": "local",
        "MBTA_SOURCE": "files",
        "MBTA_FILES_DIR": str(tmp_path),
        "MBTA_STORE": str(tmp_path / "store"),
        "MBTA_START_DATE": "2023-10-03",
        "MBTA_SEED": "7",
        "MBTA_TRAINING_DAYS": "1",
        "MBTA_TUNE_TRIALS": "2",
        "MBTA_BACKFILL_DAYS": "5",
        "MBTA_AUTOMATION": "on",
        "MBTA_NIGHTLY_HOUR": "5",
        "MBTA_RETRAIN_AT": "0 7 * * 1",
        "MBTA_RETRAIN_HOURS": "0",
        "MBTA_POLL_SECONDS": "300",
        "MBTA_ALERT_WEBHOOK": "https://chat.example/hooks/1",
        "MBTA_PROMOTION_WEBHOOK": "http://serving:8080/reload",
        "MBTA_MODEL": "gs://delay-models",
        "MBTA_REFRESH_SECONDS": "0",
        "MBTA_DAGSTER_URL": "http://dagster:3000",
        "MBTA_DAGSTER_AUDIENCE": "https://dagster.example",
        "MBTA_EVENT_TOKEN": "sixteen-letters-x",
        "MBTA_EVENT_AUDIENCE": "https://events.example",
        "MBTA_EVENT_SENDER": "eventarc@transit-1.iam.gserviceaccount.com",
        "MBTA_EVENT_CHECK": "cloud-run",
        "GCP_PROJECT": "transit-1",
        "BIGQUERY_DATASET": "delays",
        "BIGQUERY_UPSTREAM_DATASET": "other-team.feed",
        "BIGQUERY_UPSTREAM_LAYOUT": '{"vehicle": {"table": "vehicle.df"}}',
        "BIGQUERY_LOCATION": "EU",
        "BIGQUERY_MAXIMUM_BYTES_BILLED": "20000000",
        "GCS_BUCKET": "delay-models",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json"),
        "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT": "runner@transit-1.iam.gserviceaccount.com",
        "GCP_RETRY_SECONDS": "30",
        "BIGQUERY_EMULATOR_HOST": "127.0.0.1:9050",
        "BIGQUERY_STORAGE_EMULATOR_HOST": "127.0.0.1:9060",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:4443/",
        "VERTEX_LOCATION": "us-east4",
        "VERTEX_IMAGE": "us-docker.pkg.dev/transit-1/images/training:1",
        "VERTEX_PIPELINE_ROOT": "gs://pipelines/root",
        "VERTEX_SERVICE_ACCOUNT": "trainer@transit-1.iam.gserviceaccount.com",
        "VERTEX_ENDPOINT": "127.0.0.1:9070",
        "RAY_ADDRESS": "auto",
        "MBTA_TRIAL_CPUS": "4",
        "MBTA_TRIAL_GPUS": "1",
        "MBTA_XGBOOST_WORKERS": "8",
        "MBTA_TORCH_WORKERS": "2",
        "WANDB_MODE": "online",
        "WANDB_API_KEY": "k",
        "WANDB_PROJECT": "delays",
    }
    assert set(environ) == {variable.name for variable in VARIABLES}

    assert Settings.from_environment(environ) == Settings(
        deployment="local",
        source="files",
        files_dir=tmp_path,
        store=tmp_path / "store",
        start_date=date(2023, 10, 3),
        seed=7,
        training_days=1,
        tune_trials=2,
        backfill_days=5,
        automation="on",
        nightly_hour=5,
        retrain_at="0 7 * * 1",
        retrain_hours=0,
        poll_seconds=300,
        alert_webhook="https://chat.example/hooks/1",
        promotion_webhook="http://serving:8080/reload",
        model="gs://delay-models",
        refresh_seconds=0,
        dagster_url="http://dagster:3000",
        dagster_audience="https://dagster.example",
        event_token="sixteen-letters-x",
        event_audience="https://events.example",
        event_sender="eventarc@transit-1.iam.gserviceaccount.com",
        event_check="cloud-run",
        gcp_project="transit-1",
        bigquery_dataset="delays",
        bigquery_upstream_dataset="other-team.feed",
        bigquery_upstream_layout={"vehicle": {"table": "vehicle.df"}},
        bigquery_location="EU",
        bigquery_maximum_bytes_billed=20_000_000,
        gcs_bucket="delay-models",
        google_application_credentials=tmp_path / "key.json",
        google_impersonate_service_account="runner@transit-1.iam.gserviceaccount.com",
        gcp_retry_seconds=30,
        bigquery_emulator_host="http://127.0.0.1:9050",
        bigquery_storage_emulator_host="127.0.0.1:9060",
        storage_emulator_host="http://127.0.0.1:4443",
        vertex_location="us-east4",
        vertex_image="us-docker.pkg.dev/transit-1/images/training:1",
        vertex_pipeline_root="gs://pipelines/root",
        vertex_service_account="trainer@transit-1.iam.gserviceaccount.com",
        vertex_endpoint="http://127.0.0.1:9070",
        ray_address="auto",
        trial_cpus=4,
        trial_gpus=1,
        xgboost_workers=8,
        torch_workers=2,
        wandb_mode="online",
        wandb_api_key="k",
        wandb_project="delays",
    )


@pytest.mark.parametrize(
    ("name", "value", "may_be"),
    [
        ("MBTA_DEPLOYMENT", "aws", "local or gcp"),
        ("MBTA_SOURCE", "lamp", "synthetic or files or bigquery"),
        ("MBTA_FILES_DIR", "no/such/place", "a directory that exists"),
        ("MBTA_START_DATE", "03/10/2023", "YYYY-MM-DD"),
        ("MBTA_SEED", "-1", "0 or more"),
        ("MBTA_TRAINING_DAYS", "0", "1 or more"),
        ("MBTA_TUNE_TRIALS", "many", "a whole number"),
        ("MBTA_AUTOMATION", "yes", "off or on"),
        ("MBTA_NIGHTLY_HOUR", "2", "a whole number, 3 to 23"),
        ("MBTA_NIGHTLY_HOUR", "24", "a whole number, 3 to 23"),
        ("MBTA_RETRAIN_AT", "daily", "a cron expression of five fields"),
        ("MBTA_RETRAIN_HOURS", "-1", "0 or more"),
        ("MBTA_POLL_SECONDS", "0", "1 or more"),
        ("MBTA_REFRESH_SECONDS", "-1", "0 or more"),
        ("MBTA_DAGSTER_URL", "dagster:3000", "http://"),
        ("MBTA_DAGSTER_AUDIENCE", "dagster.example", "http://"),
        ("MBTA_EVENT_SENDER", "eventarc", "e-mail address"),
        ("MBTA_EVENT_CHECK", "nobody", "function or cloud-run"),
        ("GCP_PROJECT", "My Project", "the id of a project"),
        ("BIGQUERY_DATASET", "project.dataset", "letters, digits and underscores"),
        ("BIGQUERY_UPSTREAM_DATASET", "a.b.c", "project.dataset"),
        ("BIGQUERY_UPSTREAM_LAYOUT", "no/such/file.json", "a JSON object, or the path"),
        ("BIGQUERY_UPSTREAM_LAYOUT", "{'vehicle'", "a JSON object"),
        ("BIGQUERY_MAXIMUM_BYTES_BILLED", "5", "10000000 or more"),
        ("GCS_BUCKET", "gs://delay-models", "without gs://"),
        ("GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", "runner", "e-mail address"),
        ("GCP_RETRY_SECONDS", "0", "1 or more"),
        ("VERTEX_PIPELINE_ROOT", "/tmp/root", "gs://"),
        ("VERTEX_SERVICE_ACCOUNT", "trainer", "e-mail address"),
        ("WANDB_MODE", "sometimes", "online or offline or disabled"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str, may_be: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({name: value})
    assert f"{name} is {value!r}" in str(error.value)
    assert may_be in str(error.value)


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"MBTA_SEED": "x", "MBTA_SOURCE": "telepathy", "WANDB_MODE": "online"})
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ["MBTA_SOURCE", "MBTA_SEED", "WANDB_API_KEY"]


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({"MBTA_SOURCE": "files"}, "MBTA_FILES_DIR"),
        ({"MBTA_SOURCE": "bigquery"}, "GCP_PROJECT"),
        ({"MBTA_SOURCE": "bigquery"}, "BIGQUERY_UPSTREAM_DATASET"),
        ({"MBTA_DEPLOYMENT": "gcp"}, "BIGQUERY_DATASET"),
        ({"MBTA_DEPLOYMENT": "gcp"}, "GCS_BUCKET"),
        ({"WANDB_MODE": "online"}, "WANDB_API_KEY"),
    ],
)
def test_a_choice_that_needs_another_variable_says_so(environ: dict[str, str], missing: str) -> None:
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        Settings.from_environment(environ)


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES])
def test_an_empty_value_is_no_value(name: str) -> None:
    assert Settings.from_environment({name: ""}) == Settings()


def test_a_secret_is_not_printed() -> None:
    webhooks = {"MBTA_ALERT_WEBHOOK": "https://chat/hunter2", "MBTA_PROMOTION_WEBHOOK": "https://serving/hunter2"}
    settings = Settings.from_environment({"WANDB_API_KEY": "hunter2"} | webhooks)
    assert settings.wandb_api_key == "hunter2"
    assert "hunter2" not in repr(settings)
    assert set(settings.secrets) == {"hunter2", *webhooks.values()}


def test_a_wrong_secret_is_named_and_not_shown() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"MBTA_ALERT_WEBHOOK": "chat/hunter2"})
    assert "MBTA_ALERT_WEBHOOK is wrong" in str(error.value)
    assert "begins with http:// or https://" in str(error.value)
    assert "hunter2" not in str(error.value)
