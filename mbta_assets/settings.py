"""The environment, read once.

Every setting is optional and is described here only: its variable, its default, what it may be and
what it means. Nothing else in the package reads an environment variable.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self


class SettingsError(ValueError):
    """Variables with wrong values; the message names each, what it was and what it may be."""


@dataclass(frozen=True)
class Kind:
    """A kind of value: how its text is read, and what it may be in words."""

    parse: Callable[[str], Any]
    may_be: str


def one_of(*choices: str) -> Kind:
    """Text that is one of a few words."""
    return Kind({choice: choice for choice in choices}.__getitem__, " or ".join(choices))


def whole_number(at_least: int, at_most: int | None = None) -> Kind:
    """A whole number with a lower bound, and perhaps an upper one."""

    def parse(text: str) -> int:
        number = int(text)
        if number < at_least or (at_most is not None and number > at_most):
            raise ValueError(text)
        return number

    bounds = f"{at_least} or more" if at_most is None else f"{at_least} to {at_most}"
    return Kind(parse, f"a whole number, {bounds}")


def _existing_directory(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(text)
    return path


def matching(pattern: str, may_be: str) -> Kind:
    """Text of a form."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return Kind(parse, may_be)


def _address(text: str) -> str:
    """The address of a server; Google's own tools let one leave out the scheme."""
    return text.rstrip("/") if "://" in text else f"http://{text}".rstrip("/")


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object, or the path of a file with one."""
    found = json.loads(text if text.startswith("{") else Path(text).expanduser().read_bytes())
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


TEXT = Kind(str, "any text")
DATASET = matching(r"\w{1,1024}", "the name of a dataset: letters, digits and underscores")
DAY = Kind(date.fromisoformat, "a date written YYYY-MM-DD")
PATH = Kind(lambda text: Path(text).expanduser().resolve(), "a path")
ADDRESS = Kind(_address, "host:port, or an address that begins with http:// or https://")
WEBHOOK = matching(r"https?://[^\s/]+\S*", "an address that begins with http:// or https://")
CRON = matching(r"\S+( +\S+){4}", "a cron expression of five fields, such as 0 6 * * *")
SERVICE_ACCOUNT = matching("[^@ ]+@[^@ ]+", "the e-mail address of a service account")
JSON_OBJECT = Kind(_json_object, "a JSON object, or the path of a file with one")
DIRECTORY = Kind(_existing_directory, "a directory that exists")


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name, its default as one would write it, what it may be, its meaning."""

    name: str
    default: str | None
    kind: Kind
    meaning: str
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> Any:
        """The value in an environment, where empty is the same as unset. Raises SettingsError."""
        text = environ.get(self.name, "").strip() or self.default
        try:
            return None if text is None else self.kind.parse(text)
        except (ValueError, KeyError, OSError):
            found = "wrong (it is not shown here)" if self.secret else repr(text)
            raise SettingsError(f"{self.name} is {found}; it may be {self.kind.may_be}.") from None


def variable(name: str, default: str | None, kind: Kind, meaning: str, *, secret: bool = False) -> Any:
    """A field of Settings that comes from an environment variable; a secret one is never printed."""
    spec = Variable(name, default, kind, meaning, secret)
    return field(default_factory=lambda: spec.read({}), repr=not secret, metadata={"variable": spec})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be set from outside; `Settings()` is the defaults."""

    deployment: str = variable("MBTA_DEPLOYMENT", "local", one_of("local", "gcp"), "Where tables and bundles are kept.")
    source: str = variable(
        "MBTA_SOURCE", "synthetic", one_of("synthetic", "files", "bigquery"), "Where the upstream tables come from."
    )
    files_dir: Path | None = variable(
        "MBTA_FILES_DIR", None, DIRECTORY, "The upstream tables as files, for the `files` source."
    )
    store: Path = variable("MBTA_STORE", ".local", PATH, "The directory of tables, bundles and reports.")
    start_date: date = variable("MBTA_START_DATE", "2023-01-01", DAY, "The first service day.")
    seed: int = variable("MBTA_SEED", "0", whole_number(0), "Seed of the simulator and of training.")
    training_days: int = variable(
        "MBTA_TRAINING_DAYS", "28", whole_number(1), "How many of the latest service days models are trained on."
    )
    tune_trials: int = variable(
        "MBTA_TUNE_TRIALS", "8", whole_number(1), "How many configurations each tuned model tries."
    )
    backfill_days: int | None = variable(
        "MBTA_BACKFILL_DAYS", None, whole_number(1), "How many service days a run of a backfill makes; unset, all."
    )
    automation: str = variable(
        "MBTA_AUTOMATION",
        "off",
        one_of("off", "on"),
        "Whether schedules and sensors run before anybody has switched them on or off in the UI.",
    )
    nightly_hour: int = variable(
        "MBTA_NIGHTLY_HOUR",
        "4",
        whole_number(3, 23),
        "The hour in Boston at which the service day before is made; that day ends at 3.",
    )
    retrain_at: str = variable(
        "MBTA_RETRAIN_AT",
        "0 6 * * *",
        CRON,
        "When models follow features that have changed, as cron in Boston's time; at other times they do not.",
    )
    retrain_hours: int = variable(
        "MBTA_RETRAIN_HOURS", "24", whole_number(0), "How long after a training drift may lead to the next one."
    )
    poll_seconds: int = variable(
        "MBTA_POLL_SECONDS", "60", whole_number(1), "How often the source is asked which service days have changed."
    )
    alert_webhook: str | None = variable(
        "MBTA_ALERT_WEBHOOK", None, WEBHOOK, "Where failed runs are posted as JSON.", secret=True
    )
    promotion_webhook: str | None = variable(
        "MBTA_PROMOTION_WEBHOOK", None, WEBHOOK, "Where a new production model is posted as JSON.", secret=True
    )
    model: str | None = variable(
        "MBTA_MODEL",
        None,
        TEXT,
        "What the predictor serves: a store, a model or a bundle as a directory, or gs://bucket; unset, the store.",
    )
    refresh_seconds: int = variable(
        "MBTA_REFRESH_SECONDS", "30", whole_number(0), "How long the predictor serves before it looks for a new model."
    )
    dagster_url: str | None = variable(
        "MBTA_DAGSTER_URL", None, WEBHOOK, "The Dagster webserver that upstream events are reported to."
    )
    dagster_audience: str | None = variable(
        "MBTA_DAGSTER_AUDIENCE",
        None,
        WEBHOOK,
        "The audience of the identity token that reports to that webserver carry; unset, they carry none.",
    )
    event_token: str | None = variable(
        "MBTA_EVENT_TOKEN",
        None,
        matching(r"\S{16,}", "16 characters or more, without spaces"),
        "The bearer token that upstream events must carry.",
        secret=True,
    )
    event_audience: str | None = variable(
        "MBTA_EVENT_AUDIENCE", None, WEBHOOK, "The audience of the identity tokens that upstream events must carry."
    )
    event_sender: str | None = variable(
        "MBTA_EVENT_SENDER",
        None,
        SERVICE_ACCOUNT,
        "The service account whose identity tokens are let in.",
    )
    event_check: str = variable(
        "MBTA_EVENT_CHECK",
        "function",
        one_of("function", "cloud-run"),
        "Who verifies identity tokens: the event function, or Cloud Run's IAM in front of it.",
    )
    gcp_project: str | None = variable(
        "GCP_PROJECT",
        None,
        matching("[a-z][a-z0-9-]*[a-z0-9](:[a-z][a-z0-9-]*)?", "the id of a project, such as my-project-1"),
        "The project of Google Cloud that pays for queries and has the dataset.",
    )
    bigquery_dataset: str | None = variable("BIGQUERY_DATASET", None, DATASET, "The dataset that tables are kept in.")
    bigquery_upstream_dataset: str | None = variable(
        "BIGQUERY_UPSTREAM_DATASET",
        None,
        matching(r"([a-z][a-z0-9:-]*\.)?\w+", "the name of a dataset, or project.dataset"),
        "The dataset of the upstream tables, for the `bigquery` source.",
    )
    bigquery_upstream_layout: dict[str, Any] = variable(
        "BIGQUERY_UPSTREAM_LAYOUT", "{}", JSON_OBJECT, "What tables and columns are called upstream, where otherwise."
    )
    bigquery_location: str = variable("BIGQUERY_LOCATION", "US", TEXT, "Where datasets are made and queries run.")
    bigquery_maximum_bytes_billed: int = variable(
        "BIGQUERY_MAXIMUM_BYTES_BILLED", "10000000000", whole_number(10_000_000), "A query that would read more fails."
    )
    gcs_bucket: str | None = variable(
        "GCS_BUCKET",
        None,
        matching("[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", "the name of a bucket, without gs://"),
        "The bucket that models and reports are kept in.",
    )
    google_application_credentials: Path | None = variable(
        "GOOGLE_APPLICATION_CREDENTIALS", None, PATH, "A key file; unset, application default credentials are used."
    )
    google_impersonate_service_account: str | None = variable(
        "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT",
        None,
        SERVICE_ACCOUNT,
        "The service account to act as.",
    )
    gcp_retry_seconds: int = variable(
        "GCP_RETRY_SECONDS", "600", whole_number(1), "How long a call of Google Cloud is tried before a run fails."
    )
    bigquery_emulator_host: str | None = variable(
        "BIGQUERY_EMULATOR_HOST", None, ADDRESS, "An emulator to use as BigQuery, without credentials."
    )
    bigquery_storage_emulator_host: str | None = variable(
        "BIGQUERY_STORAGE_EMULATOR_HOST", None, TEXT, "host:port of that emulator's Storage Read API, if it has one."
    )
    storage_emulator_host: str | None = variable(
        "STORAGE_EMULATOR_HOST", None, ADDRESS, "An emulator to use as Cloud Storage, without credentials."
    )
    vertex_location: str = variable(
        "VERTEX_LOCATION", "us-central1", TEXT, "The region of Vertex AI that steps run in."
    )
    vertex_image: str | None = variable(
        "VERTEX_IMAGE", None, TEXT, "The image that steps run in, made from deploy/Dockerfile.training."
    )
    vertex_pipeline_root: str | None = variable(
        "VERTEX_PIPELINE_ROOT",
        None,
        matching(r"gs://\S+", "an address that begins with gs://"),
        "Where pipelines keep what they hand on; unset, pipelines in GCS_BUCKET.",
    )
    vertex_service_account: str | None = variable(
        "VERTEX_SERVICE_ACCOUNT",
        None,
        SERVICE_ACCOUNT,
        "Whom steps act as; unset, the project's default.",
    )
    vertex_endpoint: str | None = variable(
        "VERTEX_ENDPOINT", None, ADDRESS, "A server to ask in place of Vertex AI, without credentials."
    )
    ray_address: str | None = variable(
        "RAY_ADDRESS", None, TEXT, "The Ray cluster that runs the trials; unset, this machine."
    )
    trial_cpus: int = variable("MBTA_TRIAL_CPUS", "1", whole_number(1), "How many cores of Ray a trial has.")
    trial_gpus: int = variable("MBTA_TRIAL_GPUS", "0", whole_number(0), "How many GPUs of Ray a trial has.")
    xgboost_workers: int = variable(
        "MBTA_XGBOOST_WORKERS", "1", whole_number(1), "How many workers of Ray grow the final trees together."
    )
    torch_workers: int = variable(
        "MBTA_TORCH_WORKERS", "1", whole_number(1), "How many workers of Ray train each final network together."
    )
    wandb_mode: Literal["online", "offline", "disabled"] = variable(
        "WANDB_MODE", "offline", one_of("online", "offline", "disabled"), "Where Weights & Biases logs trials."
    )
    wandb_api_key: str | None = variable(
        "WANDB_API_KEY", None, TEXT, "The key of Weights & Biases, needed online.", secret=True
    )
    wandb_project: str = variable("WANDB_PROJECT", "mbta_assets", TEXT, "The project trials are logged to.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read every variable. Raises SettingsError with all that is wrong, a line each."""
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for name, spec in _VARIABLE_OF.items():
            try:
                values[name] = spec.read(environ)
            except SettingsError as error:
                wrong.append(str(error))
        for choice, value, needed in _NEEDS:
            if values.get(choice) == value:
                for name in needed:
                    if values.get(name, "") is None:
                        chosen, lacking = _VARIABLE_OF[choice], _VARIABLE_OF[name]
                        wrong.append(f"{lacking.name} is not set; {chosen.name}={value} needs it: {lacking.meaning}")
        if wrong:
            raise SettingsError("\n".join(wrong))
        return cls(**values)

    @property
    def secrets(self) -> list[str]:
        """The values that must not be shown."""
        values = (getattr(self, name) for name, spec in _VARIABLE_OF.items() if spec.secret)
        return [value for value in values if value]


_VARIABLE_OF: dict[str, Variable] = {spec.name: spec.metadata["variable"] for spec in fields(Settings)}

_NEEDS = (
    ("source", "files", ("files_dir",)),
    ("source", "bigquery", ("gcp_project", "bigquery_upstream_dataset")),
    ("deployment", "gcp", ("gcp_project", "bigquery_dataset", "gcs_bucket")),
    ("wandb_mode", "online", ("wandb_api_key",)),
)
"""What else must be set where a variable has some value."""

VARIABLES: tuple[Variable, ...] = tuple(_VARIABLE_OF.values())
"""Every variable that is read, in order: what the documentation's table of settings is made from."""
