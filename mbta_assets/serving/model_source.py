"""Where the serving functions read models and reports from.

A `ModelSource` is either the production model of a registry, whose current version may change, or the directory of one
bundle. A place where there is no model yet is a source too: reading from it says what to do. A store also has the
candidate in the shadow of its production model. What is done with a model belongs to `predictor`, how it is kept fresh
in memory to `refreshing_cache`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import MANIFEST, Bundle, BundleError
from mbta_assets.storage.materialize import materialize_command
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry, cache_directory
from mbta_assets.storage.reports import ReportStore

if TYPE_CHECKING:
    from mbta_assets.settings import Settings

PRODUCTION_ASSET = "production_model"
MAX_CLOUD_RETRY_SECONDS = 20
"""Upper limit of GCP_RETRY_SECONDS here, because a client is waiting for a response."""
MAKE_A_MODEL = f"Make one with: {materialize_command(PRODUCTION_ASSET)}"
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

    def open_shadow(self) -> "RegisteredModel | None":
        """Return the candidate in the shadow, which may have no version, or None where there are no candidates.

        Raises BundleError.
        """


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

    def open_shadow(self) -> None:
        """Return None, as there are no candidates beside a bundle."""


@dataclass(frozen=True)
class RegisteredModel:
    """A model of a registry, with the reports stored beside it."""

    registry: ModelRegistry
    asset: str
    report_store: ReportStore

    def current_version(self) -> str | None:
        """Return the digest of the current bundle, or None before the first one. Raises BundleError or CloudError."""
        with self._explain_damaged_pointer():
            return self.registry.current_digest(self.asset)

    def load_bundle(self, version: str | None = None) -> Bundle:
        """Return a verified bundle, by default the current one. Raises BundleError or CloudError."""
        if version is not None:
            return self.registry.get(self.asset, version)
        with self._explain_damaged_pointer():
            return self.registry.current(self.asset)

    def read_report(self, name: str) -> bytes | None:
        """Return the content of a report, or None if there is none. Raises CloudError."""
        try:
            return self.report_store.read(name)
        except FileNotFoundError:
            return None

    def read_promotions(self) -> dict[str, str]:
        """Return when and why each version was last promoted, by digest. Raises BundleError or CloudError."""
        with self._explain_damaged_pointer():
            moves = self.registry.moves(self.asset)
        return {
            move.digest: f"{move.at or 'unknown time'} ({move.why or 'no reason given'})" for move in reversed(moves)
        }

    def open_shadow(self) -> "RegisteredModel":
        """Return the candidate in the shadow of the registry's production model, which may have no version."""
        return replace(self, asset=SHADOW_MODEL)

    @contextmanager
    def _explain_damaged_pointer(self) -> Iterator[None]:
        """Translate what a damaged `current.json` raises into a BundleError that says what to do."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(
                f"The pointer of {self.asset} in {self.registry.location}, its current.json, is damaged "
                f"({type(error).__name__}). Put back a copy of it, or delete it and promote a version again."
            ) from error


@dataclass(frozen=True)
class LocalModel:
    """A model at a local path, whose form is looked at with each reading, as a store may be made at any time."""

    path: Path

    def current_version(self) -> str | None:
        """Return the digest of the current bundle, or None before the first one. Raises BundleError."""
        with self._explain_unreadable_path():
            return self._open().current_version()

    def load_bundle(self, version: str | None = None) -> Bundle:
        """Return a verified bundle, by default the current one. Raises BundleError."""
        with self._explain_unreadable_path():
            return self._open().load_bundle(version)

    def read_report(self, name: str) -> bytes | None:
        """Return the content of a report, or None if there is none. Raises BundleError."""
        with self._explain_unreadable_path():
            return self._open().read_report(name)

    def read_promotions(self) -> dict[str, str]:
        """Return when and why each version was last promoted, in words, by digest. Raises BundleError."""
        with self._explain_unreadable_path():
            return self._open().read_promotions()

    def open_shadow(self) -> RegisteredModel | None:
        """Return the candidate in the shadow, None where there are no candidates. Raises BundleError."""
        with self._explain_unreadable_path():
            return self._open().open_shadow()

    def _open(self) -> BundleDirectory | RegisteredModel:
        """Return the source that the path is now. Raises BundleError or OSError."""
        path = self.path.resolve()
        if (path / MANIFEST).is_file():
            return BundleDirectory(path)
        if (path / "bundles").is_dir():
            return _registered_model(path, PRODUCTION_ASSET)
        if path.parent.name == "bundles":
            return _registered_model(path.parent.parent, path.name)
        raise BundleError(f"There is no model at {self.path} yet. {MAKE_A_MODEL}. {LOCATION_HELP}")

    @contextmanager
    def _explain_unreadable_path(self) -> Iterator[None]:
        """Translate an OSError into a BundleError that says what to do."""
        try:
            yield
        except OSError as error:
            raise BundleError(
                f"{error.filename or self.path} cannot be read: {error.strerror}. Make {self.path} and all below it "
                f"readable for the user of this process, whose id is {os.getuid()}."
            ) from error


@dataclass(frozen=True)
class UnusableSource:
    """A source that the settings do not allow to open; each reading says why."""

    reason: str

    def current_version(self) -> str | None:
        """Raise BundleError."""
        raise BundleError(self.reason)

    def load_bundle(self, version: str | None = None) -> Bundle:
        """Raise BundleError."""
        raise BundleError(self.reason)

    def read_report(self, name: str) -> bytes | None:
        """Raise BundleError."""
        raise BundleError(self.reason)

    def read_promotions(self) -> dict[str, str]:
        """Raise BundleError."""
        raise BundleError(self.reason)

    def open_shadow(self) -> RegisteredModel | None:
        """Raise BundleError."""
        raise BundleError(self.reason)


def configured_model_source(settings: "Settings") -> ModelSource:
    """Return the source that the settings name: MBTA_MODEL, otherwise the store of the deployment."""
    if settings.model is not None:
        return open_model_source(settings.model, settings)
    if settings.deployment == "gcp":
        return open_model_source(f"gs://{settings.gcs_bucket}", settings)
    return open_model_source(str(settings.store), settings)


def open_model_source(location: str, settings: "Settings | None" = None) -> ModelSource:
    """Return the source at a local path or a `gs://` address; nothing is read yet, and a store may still be missing.

    `settings` are read from the environment by default. Raises BundleError if an address has none of the forms in
    `LOCATION_HELP`.
    """
    if location.startswith("gs://"):
        return _open_bucket(location, settings)
    return LocalModel(Path(location).expanduser().absolute())


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
    directory = cache_directory(settings.store, name)
    return RegisteredModel(GCSModelRegistry(bucket, directory), parts[1], GCSReportStore(bucket, directory))
