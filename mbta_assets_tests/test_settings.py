"""The environment is read once and as a whole; wrong values and missing ones are named."""

import re
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from mbta_assets.settings import REQUIREMENTS, VARIABLES, Settings, SettingsError, Variable

EXAMPLES: dict[str, tuple[str, object]] = {
    "any text": ("other", "other"),
    "a path": ("/srv/mbta", Path("/srv/mbta")),
    "a directory that exists": ("/", Path("/")),
    "a date written YYYY-MM-DD": ("2023-10-03", date(2023, 10, 3)),
    "a JSON object, or the path of a file with one": (
        '{"vehicle": {"table": "vehicle.df"}}',
        {"vehicle": {"table": "vehicle.df"}},
    ),
    "a URL that begins with http:// or https://": ("https://chat.example/hooks/1", "https://chat.example/hooks/1"),
    "host:port, or a URL that begins with http:// or https://": ("127.0.0.1:9050", "http://127.0.0.1:9050"),
    "a cron expression of five fields, such as 0 6 * * *": ("0 7 * * 1", "0 7 * * 1"),
    "16 characters or more, without spaces": ("sixteen-letters-x", "sixteen-letters-x"),
    "the e-mail address of a service account": ("runner@transit-1.example", "runner@transit-1.example"),
    "the id of a project, such as my-project-1": ("transit-1", "transit-1"),
    "the name of a dataset: letters, digits and underscores": ("delays", "delays"),
    "the name of a dataset, or project.dataset": ("other-team.feed", "other-team.feed"),
    "the name of a bucket, without gs://": ("delay-models", "delay-models"),
    "a number from 0 to 1": ("0.25", 0.25),
    "a URL that begins with http:// or https://, or a path": ("feeds/positions.pb", "feeds/positions.pb"),
    "a path, or an address gs://bucket/prefix": ("gs://feeds/agency", "gs://feeds/agency"),
    "the name of a time zone, such as Europe/Berlin": ("Pacific/Auckland", "Pacific/Auckland"),
    "stop ids separated by commas": ("70061, place-brntn", ("70061", "place-brntn")),
    'a JSON object from bins without gaps to two whole numbers of seconds around 0, such as {"0-5 min": [-60, 90]}': (
        '{"0-5 min": [-60, 90], "5-15 min": [-120, 180]}',
        {"0-5 min": (-60, 90), "5-15 min": (-120, 180)},
    ),
    "the path of a CSV file, or none": ("none", "none"),
    "an address that begins with gs://": ("gs://pipelines/root", "gs://pipelines/root"),
}
"""For each kind of value a text that is no variable's default, and the value that is read from it."""
NAMES = [entry.name for entry in VARIABLES]
BY_NAME = {entry.name: entry for entry in VARIABLES}


def example(entry: Variable) -> tuple[str, object]:
    """Return a text that a variable accepts and that is not its default, and the value that is read from it."""
    if entry.accepts in EXAMPLES:
        return EXAMPLES[entry.accepts]
    bounds = re.fullmatch(r"a whole number, (\d+) (?:or more|to (\d+))", entry.accepts)
    if bounds:
        number = int(entry.default) + 1 if entry.default else int(bounds[1])
        return str(number), number
    *_, choice = [choice for choice in entry.accepts.split(" or ") if choice != entry.default]
    return choice, choice


def example_environment(entry: Variable) -> dict[str, str]:
    """Return an environment in which a variable has its example, and what that requires is set too."""
    text, _ = example(entry)
    names = [entry.name]
    for name, value, required in REQUIREMENTS:
        if (name, value) == (entry.name, text):
            names += required
    return {name: example(BY_NAME[name])[0] for name in names}


def read(settings: Settings) -> dict[str, object]:
    """Return the value of every variable by its name."""
    return {entry.name: getattr(settings, entry.field) for entry in VARIABLES}


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


def test_all_variables_are_read_together() -> None:
    environ = {entry.name: example(entry)[0] for entry in VARIABLES}
    values = {entry.name: example(entry)[1] for entry in VARIABLES}

    assert read(Settings.from_environment(environ)) == values


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_sets_its_own_field_and_no_other(name: str) -> None:
    environ, defaults = example_environment(BY_NAME[name]), read(Settings())

    values = read(Settings.from_environment(environ))

    assert {other for other in NAMES if values[other] != defaults[other]} == set(environ)
    assert values[name] == example(BY_NAME[name])[1]


@pytest.mark.parametrize("name", [entry.name for entry in VARIABLES if entry.default])
def test_the_documented_default_is_the_default(name: str) -> None:
    assert Settings.from_environment({name: BY_NAME[name].default}) == Settings()


def test_every_variable_is_described() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(Settings.model_fields)
    assert [entry.name for entry in VARIABLES if not entry.description.endswith(".")] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_is_no_value(name: str) -> None:
    assert Settings.from_environment({name: ""}) == Settings()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:4443", "http://127.0.0.1:4443"),
        ("http://127.0.0.1:4443/", "http://127.0.0.1:4443"),
        ("https://storage.example", "https://storage.example"),
    ],
)
def test_an_endpoint_is_a_url_without_a_trailing_slash(address: str, url: str) -> None:
    assert Settings.from_environment({"STORAGE_EMULATOR_HOST": address}).storage_emulator_host == url


def test_a_layout_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "layout.json"
    path.write_text('{"vehicle": {"table": "vehicle.df"}}')
    settings = Settings.from_environment({"BIGQUERY_UPSTREAM_LAYOUT": str(path)})
    assert settings.bigquery_upstream_layout == {"vehicle": {"table": "vehicle.df"}}


@pytest.mark.parametrize(
    ("name", "value", "accepts"),
    [
        ("MBTA_DEPLOYMENT", "aws", "local or gcp"),
        ("MBTA_SOURCE", "v3", "synthetic or files or gtfs or lamp or bigquery"),
        ("MBTA_FILES_DIR", "no/such/place", "a directory that exists"),
        ("MBTA_START_DATE", "03/10/2023", "YYYY-MM-DD"),
        ("MBTA_SEED", "-1", "0 or more"),
        ("MBTA_TRAINING_DAYS", "0", "1 or more"),
        ("MBTA_TUNE_TRIALS", "many", "a whole number"),
        ("MBTA_AUTOMATION", "yes", "off or on"),
        ("MBTA_TIME_ZONE", "Boston", "the name of a time zone"),
        ("MBTA_TIME_ZONE", "America", "the name of a time zone"),
        ("MBTA_TIME_ZONE", "../etc/passwd", "the name of a time zone"),
        ("MBTA_SERVICE_DAY_START_HOUR", "12", "a whole number, 0 to 6"),
        ("MBTA_TERMINAL_STOPS", "70061,,70105", "stop ids separated by commas"),
        ("MBTA_ACCURACY_WINDOWS", '{"0-3 min": [-60, 60], "4-6 min": [-60, 60]}', "bins without gaps"),
        ("MBTA_ACCURACY_WINDOWS", '{"0-3 min": [30, 60]}', "seconds around 0"),
        ("MBTA_ACCURACY_WINDOWS", "{}", "bins without gaps"),
        ("MBTA_ACCURACY_BOUNDS", "no/such/file.csv", "the path of a CSV file, or none"),
        ("MBTA_GTFS_STATIC", "ftp://feeds.example/gtfs.zip", "http:// or https://, or a path"),
        ("MBTA_VEHICLE_POSITIONS", "https://", "http:// or https://, or a path"),
        ("MBTA_FEED_ARCHIVE", "s3://feeds/agency", "a path, or an address gs://bucket/prefix"),
        ("MBTA_NIGHTLY_HOUR", "-1", "a whole number, 0 to 23"),
        ("MBTA_NIGHTLY_HOUR", "24", "a whole number, 0 to 23"),
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
def test_a_wrong_value_is_refused_by_name(name: str, value: str, accepts: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({name: value})
    assert f"{name} is {value!r}" in str(error.value)
    assert accepts in str(error.value)


def test_all_wrong_values_are_named_at_once() -> None:
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
def test_a_choice_that_requires_another_variable_says_so(environ: dict[str, str], missing: str) -> None:
    [(name, value)] = environ.items()
    with pytest.raises(SettingsError, match=f"{missing} is not set; {name}={value} requires it"):
        Settings.from_environment(environ)


def test_the_nightly_run_is_not_before_the_service_day_ends() -> None:
    with pytest.raises(
        SettingsError, match=r"MBTA_NIGHTLY_HOUR is 2; it may be MBTA_SERVICE_DAY_START_HOUR, 3, or lat"
    ):
        Settings.from_environment({"MBTA_NIGHTLY_HOUR": "2"})
    assert Settings.from_environment({"MBTA_NIGHTLY_HOUR": "2", "MBTA_SERVICE_DAY_START_HOUR": "2"}).nightly_hour == 2


def test_the_constructor_refuses_what_the_environment_may_not_say() -> None:
    for wrong in ({"seed": -1}, {"no_such_setting": 1}, {"source": "files"}):
        with pytest.raises(ValidationError):
            Settings(**wrong)


def test_a_secret_is_not_printed() -> None:
    webhooks = {"MBTA_ALERT_WEBHOOK": "https://chat/hunter2", "MBTA_PROMOTION_WEBHOOK": "https://serving/hunter2"}
    settings = Settings.from_environment({"WANDB_API_KEY": "hunter2"} | webhooks)
    assert settings.wandb_api_key == "hunter2"
    assert "hunter2" not in repr(settings)
    assert set(settings.secrets) == {"hunter2", *webhooks.values()}


def test_keys_tokens_and_webhooks_are_secrets() -> None:
    secrets = {entry.name for entry in VARIABLES if entry.secret}
    assert secrets == {name for name in NAMES if re.search("KEY|TOKEN|WEBHOOK|PASSWORD|SECRET", name)}
    assert len(secrets) == 4


def test_a_wrong_secret_is_named_and_not_shown() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"MBTA_ALERT_WEBHOOK": "chat/hunter2"})
    assert "MBTA_ALERT_WEBHOOK is wrong" in str(error.value)
    assert "begins with http:// or https://" in str(error.value)
    assert "hunter2" not in str(error.value)
    with pytest.raises(ValidationError) as invalid:
        Settings(alert_webhook="chat/hunter2")
    assert "hunter2" not in str(invalid.value)
