"""Where a service reads from: the production model, and the reports that its page shows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from mbta_assets.gcp import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import MANIFEST, Bundle, BundleError
from mbta_assets.storage.gcs import GCSModelRegistry, GCSReportStore
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import ReportStore

ASSET = "production_model"
RETRY_SECONDS = 20
"""How long Cloud Storage is tried; somebody is waiting for an answer."""
MAY_BE = (
    "It may be a store, a directory such as .local; one model of a store, such as .local/bundles/production_model; "
    "the directory of one bundle, with its manifest.json; gs://bucket; or gs://bucket/models/production_model."
)


@dataclass(frozen=True)
class Store:
    """A model that is followed, or one bundle that stays as it is."""

    bundles: ModelRegistry | None
    asset: str
    reports: ReportStore | None
    fixed: Path | None = None
    """The directory of the one bundle."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the environment says: MBTA_MODEL, or else the store of the deployment."""
        where = settings.model or (f"gs://{settings.gcs_bucket}" if settings.deployment == "gcp" else None)
        if where is None:
            return cls(ModelRegistry(settings.store), ASSET, ReportStore(settings.store))
        return cls.at(where, settings)

    @classmethod
    def at(cls, where: str, settings: Settings | None = None) -> Self:
        """The store of an address. Raises BundleError, which says what the address may be."""
        settings = settings or Settings.from_environment()
        if where.startswith("gs://"):
            return cls._in_bucket(where, settings)
        path = Path(where).expanduser().resolve()
        if (path / MANIFEST).is_file():
            return cls(None, ASSET, None, path)
        if (path / "bundles").is_dir():
            return cls(ModelRegistry(path), ASSET, ReportStore(path))
        if path.parent.name == "bundles":
            return cls(ModelRegistry(path.parent.parent), path.name, ReportStore(path.parent.parent))
        raise BundleError(f"There is no model at {where}. {MAY_BE}")

    @classmethod
    def _in_bucket(cls, where: str, settings: Settings) -> Self:
        name, _, rest = where.removeprefix("gs://").strip("/").partition("/")
        parts = rest.split("/") if rest else ["models", ASSET]
        if not name or len(parts) != 2 or parts[0] != "models":
            raise BundleError(f"There is no model at {where}. {MAY_BE}")
        patient = min(settings.gcp_retry_seconds, RETRY_SECONDS)
        bucket = Bucket(Account.of(replace(settings, gcp_retry_seconds=patient)), name)
        cache = settings.store / "cache" / name
        return cls(GCSModelRegistry(bucket, cache), parts[1], GCSReportStore(bucket, cache))

    def version(self) -> str | None:
        """The digest of the current bundle, None before there is one. Raises CloudError."""
        if self.bundles is None:
            return self.bundle().digest
        return self.bundles.current_digest(self.asset)

    def bundle(self, version: str | None = None) -> Bundle:
        """A version, by default the current one, verified. Raises BundleError or CloudError."""
        if self.bundles is None:
            assert self.fixed is not None, "one or the other"
            return bundle.read(self.fixed)
        return self.bundles.get(self.asset, version) if version else self.bundles.current(self.asset)

    def report(self, name: str) -> bytes | None:
        """A report as it was last written, None where there is none. Raises CloudError."""
        try:
            return self.reports.read(name) if self.reports else None
        except FileNotFoundError:
            return None

    def promoted(self) -> dict[str, str]:
        """By version, when and why it last became current, for people. Raises CloudError."""
        moves = self.bundles.moves(self.asset) if self.bundles else []
        return {move.digest: f"{move.at or 'some time'} ({move.why or 'no reason given'})" for move in reversed(moves)}
