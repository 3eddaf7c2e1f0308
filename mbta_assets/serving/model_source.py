"""Where the serving functions read models and reports from, and how these are kept fresh in memory.

A `ModelSource` is either the production model of a registry, whose current version may change, or the directory of one
bundle. `RefreshingCache` holds a value that is reloaded in the background. What is done with a model belongs to
`predictor`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from mbta_assets.gcp.errors import CloudError
from mbta_assets.serving import logs
from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import MANIFEST, Bundle, BundleError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import ReportStore

if TYPE_CHECKING:
    from mbta_assets.settings import Settings

T = TypeVar("T")
PRODUCTION_ASSET = "production_model"
MAX_CLOUD_RETRY_SECONDS = 20
"""Upper limit of GCP_RETRY_SECONDS here, because a client is waiting for a response."""
FIRST_LOAD_PAUSE_SECONDS = 1.0
"""Time after a failed first load during which the failure is repeated without another attempt."""
LOCATION_HELP = (
    "A model location is a store, a directory such as .local; one model of a store, such as "
    ".local/bundles/production_model; the directory of one bundle, with its manifest.json; gs://bucket; or "
    "gs://bucket/models/production_model."
)


class ModelSource(Protocol):
    """A place that has a model, and perhaps reports about it."""

    def current_version(self) -> str | None:
        """Return the digest of the current bundle, or None before the first one. Raises CloudError."""

    def load_bundle(self, version: str | None = None) -> Bundle:
        """Return a verified bundle, by default the current one. Raises BundleError or CloudError."""

    def read_report(self, name: str) -> bytes | None:
        """Return the content of a report, or None if there is none. Raises CloudError."""

    def read_promotions(self) -> dict[str, str]:
        """Return when and why each version was last promoted, in words, by digest. Raises CloudError."""


@dataclass(frozen=True)
class BundleDirectory:
    """The directory of one bundle, which has no other versions and no reports."""

    directory: Path

    def current_version(self) -> str | None:
        """Return the digest of the bundle. Raises BundleError."""
        return self.load_bundle().digest

    def load_bundle(self, version: str | None = None) -> Bundle:
        """Return the bundle, verified against its manifest; `version` is ignored. Raises BundleError."""
        return bundle.read(self.directory)

    def read_report(self, name: str) -> bytes | None:
        """Return None, as there are no reports beside a bundle."""
        return None

    def read_promotions(self) -> dict[str, str]:
        """Return an empty dictionary, as a bundle has no history."""
        return {}


@dataclass(frozen=True)
class RegisteredModel:
    """A model of a registry, with the reports stored beside it."""

    registry: ModelRegistry
    asset: str
    report_store: ReportStore

    def current_version(self) -> str | None:
        """Return the digest of the current bundle, or None before the first one. Raises CloudError."""
        return self.registry.current_digest(self.asset)

    def load_bundle(self, version: str | None = None) -> Bundle:
        """Return a verified bundle, by default the current one. Raises BundleError or CloudError."""
        if version is None:
            return self.registry.current(self.asset)
        return self.registry.get(self.asset, version)

    def read_report(self, name: str) -> bytes | None:
        """Return the content of a report, or None if there is none. Raises CloudError."""
        try:
            return self.report_store.read(name)
        except FileNotFoundError:
            return None

    def read_promotions(self) -> dict[str, str]:
        """Return when and why each version was last promoted, in words, by digest. Raises CloudError."""
        moves = self.registry.moves(self.asset)
        return {
            move.digest: f"{move.at or 'unknown time'} ({move.why or 'no reason given'})" for move in reversed(moves)
        }


def configured_model_source(settings: "Settings") -> ModelSource:
    """Return the source that the settings name: MBTA_MODEL, otherwise the store of the deployment."""
    if settings.model is not None:
        return open_model_source(settings.model, settings)
    if settings.deployment == "gcp":
        return open_model_source(f"gs://{settings.gcs_bucket}", settings)
    return _registered_model(settings.store, PRODUCTION_ASSET)


def open_model_source(location: str, settings: "Settings | None" = None) -> ModelSource:
    """Return the source at a local path or a `gs://` address; nothing is read from a bucket yet.

    `settings` are read from the environment by default. Raises BundleError if the location has none of the forms in
    `LOCATION_HELP`.
    """
    if location.startswith("gs://"):
        return _open_bucket(location, settings)
    path = Path(location).expanduser().resolve()
    if (path / MANIFEST).is_file():
        return BundleDirectory(path)
    if (path / "bundles").is_dir():
        return _registered_model(path, PRODUCTION_ASSET)
    if path.parent.name == "bundles":
        return _registered_model(path.parent.parent, path.name)
    raise BundleError(f"There is no model at {location}. {LOCATION_HELP}")


def _registered_model(store: Path, asset: str) -> RegisteredModel:
    """Return a model of a local store."""
    return RegisteredModel(ModelRegistry(store), asset, ReportStore(store))


def _open_bucket(location: str, settings: "Settings | None") -> RegisteredModel:
    """Return the model at a `gs://` address, cached below MBTA_STORE. Raises BundleError for any other address."""
    name, _, path = location.removeprefix("gs://").strip("/").partition("/")
    parts = path.split("/") if path else ["models", PRODUCTION_ASSET]
    if not name or len(parts) != 2 or parts[0] != "models":
        raise BundleError(f"There is no model at {location}. {LOCATION_HELP}")
    # Google's libraries and pydantic take seconds to import; a predictor of a local bundle needs neither.
    from mbta_assets.gcp.account import Account
    from mbta_assets.gcp.bucket import Bucket
    from mbta_assets.settings import Settings
    from mbta_assets.storage.gcs import GCSModelRegistry, GCSReportStore

    settings = settings or Settings.from_environment()
    account = Account.from_settings(settings)
    bucket = Bucket(replace(account, retry_seconds=min(account.retry_seconds, MAX_CLOUD_RETRY_SECONDS)), name)
    directory = settings.store / "cache" / name
    return RegisteredModel(GCSModelRegistry(bucket, directory), parts[1], GCSReportStore(bucket, directory))


class Unavailable(Exception):
    """A cache has no value yet; the message says why."""


class RefreshingCache(Generic[T]):
    """A cached value that is refreshed in the background (stale-while-revalidate).

    `load` makes the value; it gets the cached one, or None, and may return it unchanged. A `get` after
    `refresh_seconds` starts a refresh in a thread and returns the value that is cached. If the refresh fails, the
    failure is logged and the cached value stays.
    """

    def __init__(self, name: str, load: Callable[[T | None], T], refresh_seconds: float) -> None:
        """Create an empty cache; `name` appears in log entries and error messages."""
        self._name, self._load, self._refresh_seconds = name, load, refresh_seconds
        self._loaded_at = float("-inf")
        self._failure: str | None = None
        self._loading = threading.Lock()
        self.value: T | None = None
        """The cached value, or None before the first load; reading it loads nothing."""

    def get(self) -> T:
        """Return the value, loading it first if there is none. Raises Unavailable if that fails."""
        value = self.value
        if value is None:
            return self._get_first_value()
        is_stale = time.monotonic() - self._loaded_at >= self._refresh_seconds
        if is_stale and self._loading.acquire(blocking=False):
            threading.Thread(target=self._refresh, name=f"refresh {self._name}", daemon=True).start()
        return value

    def _get_first_value(self) -> T:
        """Return the first value, loaded by one thread while the others wait. Raises Unavailable."""
        with self._loading:
            has_just_failed = self._failure and time.monotonic() - self._loaded_at < FIRST_LOAD_PAUSE_SECONDS
            if self.value is None and not has_just_failed:
                self._try_load()
            if self.value is None:
                raise Unavailable(self._failure)
            return self.value

    def _refresh(self) -> None:
        """Load the value and release the lock that `get` acquired."""
        try:
            self._try_load()
        finally:
            self._loading.release()

    def _try_load(self) -> None:
        """Load the value, or log the failure and keep the cached value."""
        try:
            self.value, self._failure = self._load(self.value), None
        except (BundleError, CloudError) as error:
            self._record_failure(error, str(error))
        except Exception as error:  # any failure must leave the cached value in use
            self._record_failure(error, f"{type(error).__name__} while the {self._name} was loaded")
        finally:
            self._loaded_at = time.monotonic()

    def _record_failure(self, error: Exception, public_message: str) -> None:
        """Log an error and keep the message that clients may see."""
        self._failure = public_message
        logs.write("ERROR", f"{self._name} not loaded", error=f"{type(error).__name__}: {error}")
