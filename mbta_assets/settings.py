"""Settings of the platform, read once from environment variables.

Every variable is defined by one field of `Settings`: its name, type, default, description, and whether it is a secret.
No other module reads the environment for settings. The documentation's tables are generated from `VARIABLES`.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_type_hints

from annotated_types import Ge, Le
from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mbta_assets import mbta
from mbta_assets.setting_types import (
    URL,
    AccuracyWindows,
    ArchiveAddress,
    BearerToken,
    BoundsFile,
    BucketName,
    BucketPath,
    Count,
    Cron,
    Dataset,
    Day,
    Endpoint,
    EnvironmentSource,
    ExistingDirectory,
    FeedAddress,
    JSONObject,
    Project,
    QualifiedDataset,
    ServiceAccount,
    Share,
    StopIds,
    StoragePath,
    TimeZone,
    accepted_values,
    format_value,
    variable,
)


class SettingsError(ValueError):
    """Invalid settings: a line for each variable, with its value and what it accepts."""


class AgencySettings(BaseSettings):
    """Settings that say which agency it is; `mbta_assets.agency` reads them when it is imported."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, validate_default=True, hide_input_in_errors=True
    )

    agency_name: str = variable("MBTA_AGENCY_NAME", mbta.NAME, "Name of the agency, as the page shows it.")
    time_zone: TimeZone = variable("MBTA_TIME_ZONE", mbta.TIME_ZONE, "Time zone of the agency.")
    service_day_start_hour: Annotated[int, Ge(0), Le(6)] = variable(
        "MBTA_SERVICE_DAY_START_HOUR",
        mbta.SERVICE_DAY_START_HOUR,
        "Hour, in that time zone, at which one service day ends and the next begins.",
    )
    terminal_stops: StopIds = variable(
        "MBTA_TERMINAL_STOPS",
        (),
        "Stops besides the first of a trip at which vehicles lay over: predictions for one that stands there are "
        "reported as `terminal`.",
    )
    accuracy_windows: AccuracyWindows = variable(
        "MBTA_ACCURACY_WINDOWS",
        dict(mbta.ACCURACY_WINDOWS),
        "Errors (actual minus predicted) between which a prediction is accurate, by predicted time to arrival.",
    )
    foreign_model: Literal["refuse", "allow"] = variable(
        "MBTA_FOREIGN_MODEL", "refuse", "What becomes of a model of another agency, or of other routes and stops."
    )
    accuracy_bounds: BoundsFile | None = variable(
        "MBTA_ACCURACY_BOUNDS",
        None,
        "Published accuracy that predictions are held to; unset, that of the MBTA, if name, time zone and windows are.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the constructor's arguments as the only source, so that `Settings()` has the defaults."""
        return (init_settings,)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read every variable. Raise SettingsError with a line for each invalid or missing one."""
        texts = EnvironmentSource(cls, environ)()
        try:
            return cls(**texts)
        except ValidationError as error:
            names = [str(detail["loc"][0]) for detail in error.errors() if detail["loc"]]
            invalid = [describe_invalid(name, texts[name]) for name in dict.fromkeys(names)]
            conflicts = [str(detail["ctx"]["error"]) for detail in error.errors() if not detail["loc"]]
            raise SettingsError("\n".join([*invalid, *(conflicts or find_missing(texts))])) from None

    def dump_environment(self, exclude: Collection[str] = ()) -> dict[str, str]:
        """Return the texts of the variables that set these fields, but for those that have their defaults."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={*exclude})
        fields = type(self).model_fields
        return {str(fields[name].validation_alias): format_value(value) for name, value in values.items()}


class Settings(AgencySettings):
    """Settings of one deployment. `Settings()` has the defaults; `Settings.from_environment()` reads the variables."""

    deployment: Literal["local", "gcp"] = variable(
        "MBTA_DEPLOYMENT", "local", "Where tables, bundles and reports are stored."
    )
    source: Literal["synthetic", "files", "gtfs", "lamp", "bigquery"] = variable(
        "MBTA_SOURCE", "synthetic", "Where the upstream tables come from."
    )
    files_dir: ExistingDirectory | None = variable(
        "MBTA_FILES_DIR", None, "Directory of the upstream tables, for the `files` source."
    )
    gtfs_static: FeedAddress = variable("MBTA_GTFS_STATIC", mbta.GTFS_STATIC, "GTFS schedule of the agency.")
    vehicle_positions: FeedAddress = variable(
        "MBTA_VEHICLE_POSITIONS",
        mbta.VEHICLE_POSITIONS,
        "GTFS-realtime feed of vehicle positions, protobuf or JSON.",
    )
    trip_updates: FeedAddress | None = variable(
        "MBTA_TRIP_UPDATES", None, "GTFS-realtime feed of the agency's own predictions; unset, none is collected."
    )
    feed_archive: ArchiveAddress | None = variable(
        "MBTA_FEED_ARCHIVE",
        None,
        "Archive of feeds, which the collector fills; unset, `feeds` in the store.",
    )
    lamp_url: URL = variable(
        "MBTA_LAMP_URL",
        mbta.LAMP_URL,
        "Address of the MBTA's performance archive, or of a mirror of it, for the `lamp` source.",
    )
    store: StoragePath = variable("MBTA_STORE", ".local", "Directory of tables, bundles and reports.")
    start_date: Day = variable("MBTA_START_DATE", "2023-01-01", "First service date.")
    seed: Annotated[int, Ge(0)] = variable("MBTA_SEED", 0, "Seed of the simulation and of training.")
    training_days: Count = variable(
        "MBTA_TRAINING_DAYS", 28, "Number of latest service dates that models are trained on."
    )
    tune_trials: Count = variable("MBTA_TUNE_TRIALS", 8, "Number of trials of each hyperparameter search.")
    backfill_days: Count | None = variable(
        "MBTA_BACKFILL_DAYS", None, "Number of service dates in one run of a backfill; unset, all of them."
    )
    stops_ahead: Literal["sample", "all"] = variable(
        "MBTA_STOPS_AHEAD",
        "sample",
        "Stops ahead of an update that there are predictions for: a sample with all distances, or all.",
    )
    min_matched_share: Share = variable(
        "MBTA_MIN_MATCHED_SHARE",
        0.05,
        "Minimum share of the reports of vehicles on a trip that match the schedule; a service date below is refused.",
    )
    min_labelled_share: Share = variable(
        "MBTA_MIN_LABELLED_SHARE",
        0.0,
        "Minimum share of the predictions whose arrival is observed; a service date below is refused.",
    )
    automation: Literal["off", "on"] = variable(
        "MBTA_AUTOMATION", "off", "Default status of schedules and sensors, until it is changed in the UI."
    )
    nightly_hour: Annotated[int, Ge(0), Le(23)] = variable(
        "MBTA_NIGHTLY_HOUR",
        4,
        "Hour, in the agency's time zone, at which the previous service date is materialized.",
    )
    retrain_at: Cron = variable(
        "MBTA_RETRAIN_AT",
        "0 6 * * *",
        "When models are retrained if features have changed, as cron in the agency's time zone.",
    )
    retrain_hours: Annotated[int, Ge(0)] = variable(
        "MBTA_RETRAIN_HOURS", 24, "Minimum number of hours between a training and one that drift leads to."
    )
    poll_seconds: Count = variable(
        "MBTA_POLL_SECONDS", 60, "Interval at which the source is polled for changed service dates, in seconds."
    )
    keep_versions: Count = variable(
        "MBTA_KEEP_VERSIONS",
        20,
        "Number of latest promotions and rollbacks whose versions are kept, and of versions of each model and training "
        "set that are kept besides those that are needed.",
    )
    keep_staged_days: Count = variable(
        "MBTA_KEEP_STAGED_DAYS", 14, "Number of days for which refused service dates and abandoned files are kept."
    )
    keep_plots: Count = variable(
        "MBTA_KEEP_PLOTS",
        100,
        "Number of latest trainings whose plots are kept; older ones are deleted from Dagster with their runs.",
    )
    alert_webhook: URL | None = variable(
        "MBTA_ALERT_WEBHOOK", None, "URL to which failed runs and checks are posted as JSON.", secret=True
    )
    promotion_webhook: URL | None = variable(
        "MBTA_PROMOTION_WEBHOOK", None, "URL to which a new production model is posted as JSON.", secret=True
    )
    model: str | None = variable(
        "MBTA_MODEL", None, "What is served: a store, a model or a bundle, or gs://bucket; unset, the store."
    )
    refresh_seconds: Annotated[int, Ge(0)] = variable(
        "MBTA_REFRESH_SECONDS", 30, "Interval at which the predictor looks for a new model, in seconds."
    )
    live_arrivals: Annotated[int, Ge(0)] = variable(
        "MBTA_LIVE_ARRIVALS",
        0,
        "Number of arrivals that a candidate has to predict live, in the shadow, before it is promoted; 0: none.",
    )
    live_max_age_seconds: Count = variable(
        "MBTA_LIVE_MAX_AGE_SECONDS", 300, "Age of a vehicle's report, in seconds, after which it is not predicted."
    )
    live_max_feed_age_seconds: Count = variable(
        "MBTA_LIVE_MAX_FEED_AGE_SECONDS", 90, "Age of the feed, in seconds, after which live predictions are not ready."
    )
    live_dead_band_seconds: Annotated[int, Ge(0)] = variable(
        "MBTA_LIVE_DEAD_BAND_SECONDS", 0, "Change of a predicted time, in seconds, up to which the earlier one is kept."
    )
    dagster_url: URL | None = variable(
        "MBTA_DAGSTER_URL", None, "Dagster webserver to which upstream events are reported, and which alerts link to."
    )
    dagster_audience: URL | None = variable(
        "MBTA_DAGSTER_AUDIENCE",
        None,
        "Audience of the identity token that is sent to that webserver; unset, none is sent.",
    )
    event_token: BearerToken | None = variable(
        "MBTA_EVENT_TOKEN", None, "Bearer token that upstream events must carry.", secret=True
    )
    event_audience: URL | None = variable(
        "MBTA_EVENT_AUDIENCE", None, "Audience of the identity tokens that upstream events must carry."
    )
    event_sender: ServiceAccount | None = variable(
        "MBTA_EVENT_SENDER", None, "Service account whose identity tokens are accepted."
    )
    event_check: Literal["function", "cloud-run"] = variable(
        "MBTA_EVENT_CHECK",
        "function",
        "Who verifies identity tokens: the event function, or Cloud Run's IAM in front of it.",
    )
    gcp_project: Project | None = variable(
        "GCP_PROJECT", None, "Google Cloud project that is billed for queries and owns the dataset."
    )
    bigquery_dataset: Dataset | None = variable("BIGQUERY_DATASET", None, "Dataset in which tables are stored.")
    bigquery_upstream_dataset: QualifiedDataset | None = variable(
        "BIGQUERY_UPSTREAM_DATASET", None, "Dataset of the upstream tables, for the `bigquery` source."
    )
    bigquery_upstream_layout: JSONObject = variable(
        "BIGQUERY_UPSTREAM_LAYOUT", {}, "Names of upstream tables and columns that differ from the schema."
    )
    bigquery_location: str = variable("BIGQUERY_LOCATION", "US", "Location of datasets and queries.")
    bigquery_maximum_bytes_billed: Annotated[int, Ge(10_000_000)] = variable(
        "BIGQUERY_MAXIMUM_BYTES_BILLED", 10_000_000_000, "Maximum number of bytes that one query may read."
    )
    gcs_bucket: BucketName | None = variable("GCS_BUCKET", None, "Bucket in which bundles and reports are stored.")
    google_application_credentials: StoragePath | None = variable(
        "GOOGLE_APPLICATION_CREDENTIALS", None, "Key file; unset, application default credentials are used."
    )
    google_impersonate_service_account: ServiceAccount | None = variable(
        "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT", None, "Service account to impersonate."
    )
    gcp_retry_seconds: Count = variable(
        "GCP_RETRY_SECONDS", 600, "Time for which a call of Google Cloud is retried before it fails, in seconds."
    )
    bigquery_emulator_host: Endpoint | None = variable(
        "BIGQUERY_EMULATOR_HOST", None, "Emulator to use as BigQuery, without credentials."
    )
    bigquery_storage_emulator_host: str | None = variable(
        "BIGQUERY_STORAGE_EMULATOR_HOST", None, "host:port of that emulator's Storage Read API, if it has one."
    )
    storage_emulator_host: Endpoint | None = variable(
        "STORAGE_EMULATOR_HOST", None, "Emulator to use as Cloud Storage, without credentials."
    )
    vertex_location: str = variable("VERTEX_LOCATION", "us-central1", "Region of Vertex AI in which steps run.")
    vertex_image: str | None = variable(
        "VERTEX_IMAGE", None, "Container image in which steps run, built from deploy/Dockerfile.training."
    )
    vertex_pipeline_root: BucketPath | None = variable(
        "VERTEX_PIPELINE_ROOT", None, "Where pipelines store their outputs; unset, `pipelines` in GCS_BUCKET."
    )
    vertex_service_account: ServiceAccount | None = variable(
        "VERTEX_SERVICE_ACCOUNT", None, "Service account that steps run as; unset, the project's default."
    )
    vertex_endpoint: Endpoint | None = variable(
        "VERTEX_ENDPOINT", None, "Server to use as Vertex AI, without credentials."
    )
    ray_address: str | None = variable(
        "RAY_ADDRESS", None, "Ray cluster that runs trials and distributed training; unset, this machine."
    )
    trial_cpus: Count = variable("MBTA_TRIAL_CPUS", 1, "Number of Ray CPUs of a trial.")
    trial_gpus: Annotated[int, Ge(0)] = variable("MBTA_TRIAL_GPUS", 0, "Number of Ray GPUs of a trial.")
    xgboost_workers: Count = variable(
        "MBTA_XGBOOST_WORKERS", 1, "Number of Ray workers that train the final XGBoost model."
    )
    torch_workers: Count = variable("MBTA_TORCH_WORKERS", 1, "Number of Ray workers that train each final network.")
    training_threads: Count | None = variable(
        "MBTA_TRAINING_THREADS",
        None,
        "Number of threads of a final training on this machine, which its weights depend on; unset, all usable cores.",
    )
    wandb_mode: Literal["online", "offline", "disabled"] = variable(
        "WANDB_MODE", "offline", "Where Weights & Biases logs trials."
    )
    wandb_api_key: str | None = variable(
        "WANDB_API_KEY", None, "API key of Weights & Biases, required online.", secret=True
    )
    wandb_project: str = variable("WANDB_PROJECT", "mbta_assets", "Weights & Biases project that trials are logged to.")

    @model_validator(mode="after")
    def require_settings(self) -> Self:
        """Raise ValueError if another setting requires one that is not set."""
        values = {entry.name: getattr(self, entry.field) for entry in VARIABLES}
        missing = find_missing({name: value for name, value in values.items() if value is not None})
        if missing:
            raise ValueError("\n".join(missing))
        if self.nightly_hour < self.service_day_start_hour:
            raise ValueError(
                f"MBTA_NIGHTLY_HOUR is {self.nightly_hour}; it may be MBTA_SERVICE_DAY_START_HOUR, "
                f"{self.service_day_start_hour}, or later, when the previous service day has ended."
            )
        return self

    @property
    def secrets(self) -> list[str]:
        """Return the values that must not be shown."""
        values = (getattr(self, entry.field) for entry in VARIABLES if entry.secret)
        return [value for value in values if value]


@dataclass(frozen=True)
class Variable:
    """Environment variable as a field of Settings defines it."""

    name: str
    field: str
    default: str
    """Default as one would write it, empty if the variable is unset by default."""
    accepts: str
    description: str
    secret: bool


REQUIREMENTS = (
    ("MBTA_SOURCE", "files", ("MBTA_FILES_DIR",)),
    ("MBTA_SOURCE", "bigquery", ("GCP_PROJECT", "BIGQUERY_UPSTREAM_DATASET")),
    ("MBTA_DEPLOYMENT", "gcp", ("GCP_PROJECT", "BIGQUERY_DATASET", "GCS_BUCKET")),
    ("WANDB_MODE", "online", ("WANDB_API_KEY",)),
)
"""A variable, a value of it, and the variables that this value requires."""


def list_variables() -> tuple[Variable, ...]:
    """Return every variable in the order of the fields of Settings."""
    annotations = get_type_hints(Settings, include_extras=True)
    return tuple(
        Variable(
            name=str(field.validation_alias),
            field=name,
            default=format_value(field.default),
            accepts=accepted_values(annotations[name]),
            description=field.description or "",
            secret=not field.repr,
        )
        for name, field in Settings.model_fields.items()
    )


VARIABLES = list_variables()
"""Every variable that is read, in the order of the fields."""


def describe_invalid(name: str, text: str) -> str:
    """Return the error message for an invalid variable; a secret's value is not in it."""
    [entry] = [entry for entry in VARIABLES if entry.name == name]
    value = "wrong (it is not shown here)" if entry.secret else repr(text)
    return f"{name} is {value}; it may be {entry.accepts}."


def find_missing(values: Mapping[str, object]) -> list[str]:
    """Return an error message for each unset variable that another requires, given the set ones by name."""
    descriptions = {entry.name: entry.description for entry in VARIABLES}
    return [
        f"{missing} is not set; {name}={value} requires it: {descriptions[missing]}"
        for name, value, required in REQUIREMENTS
        if values.get(name) == value
        for missing in required
        if missing not in values
    ]
