"""Retention: which stored versions and files nothing needs any more, and their removal.

Never removed are the current version of every model and training set, the candidate in the shadow, the versions of the
last moves of the production model, to which it may be rolled back, everything that these were made from, such as the
training set that drift is measured against, and the controls beside them. Of the rest, the newest versions of each
asset stay. A version of the last day may be part of a training that is under way and counts as needed, with what it was
made from.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mbta_assets.storage.atomic import lock_directory
from mbta_assets.storage.model_registry import ModelRegistry, StoredVersion, cache_directory
from mbta_assets.storage.provenance import VERSION_DIGITS, list_references
from mbta_assets.storage.reports import name_model_report

if TYPE_CHECKING:
    from mbta_assets.settings import Settings

PRODUCTION = "production_model"
MIN_AGE = timedelta(hours=24)
"""Age below which nothing is removed: longer than any training, whose versions may not be current yet."""
STAGED_DAYS = "staged/*/service_date=*"
ABANDONED = ("bundles/*/.*", "cache/*/bundles/*/.*", "tables/*/*/.*", "reports/.*")
"""Files of writers that were killed, each in a directory that its writer locks."""

Stored = Mapping[str, Mapping[str, StoredVersion]]
"""Stored versions by asset and version."""


@dataclass(frozen=True)
class Retention:
    """How much of a deployment is kept."""

    store: Path
    keep_versions: int
    """Number of latest moves of the production model, and of versions of each asset besides those that are needed."""
    keep_staged_days: int
    """Number of days for which refused service days and abandoned files are kept."""

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Return the retention that the settings describe."""
        return cls(settings.store, settings.keep_versions, settings.keep_staged_days)


@dataclass(frozen=True)
class StoredFile:
    """A file or directory of the local store that nothing needs any more."""

    path: Path
    size_bytes: int
    stored_at: datetime


@dataclass(frozen=True)
class Plan:
    """What would be removed."""

    versions: Sequence[StoredVersion]
    files: Sequence[StoredFile]

    @property
    def size_bytes(self) -> int:
        """Return the size of everything that would be removed."""
        return sum(item.size_bytes for item in self.versions) + sum(item.size_bytes for item in self.files)

    def to_table(self, now: datetime) -> list[dict[str, object]]:
        """Return a row of each version and file: its name, size in bytes and age in days."""
        named = [(f"{item.asset} {item.version}", item) for item in self.versions]
        named += [(str(item.path), item) for item in self.files]  # type: ignore[misc]
        return [
            {
                "name": name,
                "size_bytes": item.size_bytes,
                "age_days": round((now - item.stored_at) / timedelta(days=1), 1),
            }
            for name, item in named
        ]


def open_registry(settings: "Settings") -> ModelRegistry:
    """Return the registry of a deployment; nothing is called yet. Raises SettingsError."""
    if settings.deployment != "gcp":
        return ModelRegistry(settings.store)
    # Google's libraries take seconds to import, and a deployment on one machine needs none of them.
    from mbta_assets.gcp.bucket import Bucket
    from mbta_assets.storage.gcs import GCSModelRegistry

    bucket = Bucket.from_settings(settings)
    return GCSModelRegistry(bucket, cache_directory(settings.store, bucket.name))


def make_plan(registry: ModelRegistry, retention: Retention, now: datetime) -> Plan:
    """Return what a deployment does not need any more at a time (UTC).

    Raises BundleError where the manifest of a needed version is damaged, as it is unknown what that was made from;
    CloudError.
    """
    versions = {asset: {stored.version: stored for stored in registry.versions(asset)} for asset in registry.assets()}
    required = find_required(registry, versions, retention.keep_versions, now)
    removable: list[StoredVersion] = []
    for asset, stored in versions.items():
        rest = [item for item in stored.values() if (asset, item.version) not in required]
        newest_first = sorted(rest, key=lambda item: (item.stored_at, item.version), reverse=True)
        removable += newest_first[retention.keep_versions :]
    moves = registry.moves(PRODUCTION)[: retention.keep_versions]
    files = [*_find_files(retention, now), *_find_reports(retention, now, [move.digest for move in moves])]
    return Plan(removable, files)


def apply_plan(registry: ModelRegistry, plan: Plan) -> Plan:
    """Remove what a plan lists and return what was removed; a version that is in use again meanwhile stays.

    Raises OSError or CloudError. What is interrupted is completed the next time.
    """
    for file in plan.files:
        with lock_directory(file.path.parent):
            if file.path.is_dir():
                shutil.rmtree(file.path)
            else:
                file.path.unlink(missing_ok=True)
    return Plan([stored for stored in plan.versions if registry.remove(stored)], plan.files)


def find_required(registry: ModelRegistry, stored: Stored, keep_versions: int, now: datetime) -> set[tuple[str, str]]:
    """Return the asset and version of each stored version that is needed. Raises BundleError or CloudError."""
    pending = [
        (asset, version) for asset in stored for version in _list_roots(registry, stored, asset, keep_versions, now)
    ]
    required: set[tuple[str, str]] = set()
    while pending:
        asset, version = pending.pop()
        item = stored.get(asset, {}).get(version)
        if (asset, version) in required or item is None or not item.is_complete:
            continue
        required.add((asset, version))
        references = list_references(registry.read_manifest(asset, version))
        pending += [(name, digest[:VERSION_DIGITS]) for name, digest in references.items()]
    return required


def _list_roots(
    registry: ModelRegistry, stored: Stored, asset: str, keep_versions: int, now: datetime
) -> Iterator[str]:
    """Yield the versions of an asset that are needed whatever was made from them."""
    moves = registry.moves(asset)
    for move in moves[: keep_versions if asset == PRODUCTION else 1]:
        yield move.digest[:VERSION_DIGITS]
    for item in stored[asset].values():
        if now - item.stored_at < MIN_AGE:
            yield item.version


def _find_reports(retention: Retention, now: datetime, digests: Sequence[str]) -> Iterator[StoredFile]:
    """Yield the local reports about production models other than those of some digests."""
    names = set(map(name_model_report, digests))
    for path in sorted(retention.store.glob(f"reports/{name_model_report('*')}")):
        stored_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if path.name not in names and now - stored_at > MIN_AGE:
            yield StoredFile(path, path.stat().st_size, stored_at)


def _find_files(retention: Retention, now: datetime) -> Iterator[StoredFile]:
    """Yield the refused service days and abandoned files that are older than they are kept."""
    max_age = max(MIN_AGE, timedelta(days=retention.keep_staged_days))
    for pattern in (STAGED_DAYS, *ABANDONED):
        for path in sorted(retention.store.glob(pattern)):
            files = [path, *path.rglob("*")]
            stored_at = datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)
            if now - stored_at > max_age:
                yield StoredFile(path, sum(file.stat().st_size for file in files if file.is_file()), stored_at)
