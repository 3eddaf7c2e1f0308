"""The model registry and the report store in a bucket of Cloud Storage.

models/<asset>/<first 16 digits of the digest>/…      a version: its files, and last of all its manifest
models/<asset>/current.json                           the pointer and its history
reports/…                                             the reports

A version's objects are written once and never changed. The pointer is replaced only in the generation that was read, so
that of two concurrent writers one succeeds. The current version is never found by listing objects.
"""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mbta_assets.gcp.bucket import Bucket, ListedObject, compute_md5
from mbta_assets.gcp.errors import CloudError
from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import MANIFEST, Bundle, BundleError, Draft
from mbta_assets.storage.model_registry import ModelRegistry, Pointer, PointerMoved, StoredVersion, parse_manifest
from mbta_assets.storage.reports import ReportStore

MAX_REPORT_WRITES = 10
"""Number of times that a report is written because another writer has replaced it meanwhile."""

MAX_AGE = timedelta(hours=1)
"""Age up to which the manifest of a version is not written again where the version is stored again."""


class GCSModelRegistry(ModelRegistry):
    """The models in a bucket; `root` caches versions, which are verified whenever they are read."""

    def __init__(self, bucket: Bucket, root: Path) -> None:
        super().__init__(root)
        self.bucket = bucket

    @property
    def location(self) -> str:
        """Return the URI of the registry, for messages."""
        return self.bucket.uri("models")

    def prepare(self) -> None:
        """Check that the bucket exists and can be written to. Raises CloudError."""
        super().prepare()
        missing = self.bucket.missing_permissions()
        if missing:
            raise CloudError(
                f"Bundles cannot be stored in the bucket {self.bucket.name}: {self.bucket.account.principal} does not "
                f"have {', '.join(missing)}. Grant roles/storage.objectUser on the bucket."
            )

    def put(self, asset: str, content: Draft | Bundle) -> Bundle:
        """Store a version without making it current; intact objects are left as they are. Raises CloudError."""
        stored = super().put(asset, content)
        for name in (*stored.manifest["files"], MANIFEST):
            path, file = f"{_prefix(asset, stored.digest)}/{name}", stored.path / name
            existing = self.bucket.stat(path)
            # A manifest that is written again says that its version is in use again, and not to be removed.
            is_old = existing is not None and name == MANIFEST and datetime.now(UTC) - existing.updated > MAX_AGE
            if existing is None or is_old or existing.md5 != compute_md5(file):
                self.bucket.put(path, file, expected_generation=existing.generation if existing else 0)
        return stored

    def get(self, asset: str, digest: str) -> Bundle:
        """Read and verify a version, from the cache or the bucket. Raises BundleError or CloudError."""
        try:
            return super().get(asset, digest)
        except BundleError:
            return self._download(asset, digest)

    def set_current(self, asset: str, digest: str | None, expected: str | None, why: str = "materialized") -> None:
        """Make a stored version current if `expected` still is, or none, as in any registry.

        Raises PointerMoved, BundleError if the version is not stored intact, or CloudError.
        """
        # A version that the cache does not have is downloaded under the lock that moving the pointer takes.
        if digest is not None:
            self.get(asset, digest)
        super().set_current(asset, digest, expected, why)

    def read_manifest(self, asset: str, digest: str) -> dict[str, Any]:
        """Read and verify the manifest of a version, from the cache or the bucket. Raises BundleError or CloudError."""
        try:
            return super().read_manifest(asset, digest)
        except BundleError:
            prefix = _prefix(asset, digest)
            return parse_manifest(self._read_object(f"{prefix}/{MANIFEST}"), self.bucket.uri(prefix), digest)

    def assets(self) -> list[str]:
        """Return the assets that have versions, in alphabetical order. Raises CloudError."""
        return sorted({listed.path.split("/")[1] for listed in self.bucket.list_objects("models/")})

    def versions(self, asset: str) -> list[StoredVersion]:
        """Return every version of an asset in the bucket. Raises CloudError."""
        objects: dict[str, dict[str, ListedObject]] = {}
        for listed in self.bucket.list_objects(f"models/{asset}/"):
            _, _, version, *file = listed.path.split("/")
            if file:
                objects.setdefault(version, {})[file[0]] = listed
        return [
            StoredVersion(
                asset,
                version,
                sum(listed.size_bytes for listed in files.values()),
                max(listed.updated for listed in files.values()),
                MANIFEST in files,
            )
            for version, files in sorted(objects.items())
        ]

    def remove(self, stored: StoredVersion) -> bool:
        """Remove a version from the bucket and the cache, unless it is current or was stored again meanwhile.

        The manifest goes first: without it a version is not there, and not damaged. Raises CloudError.
        """
        current = self.current_digest(stored.asset) or ""
        objects = self.bucket.list_objects(f"{_prefix(stored.asset, stored.version)}/")
        if current.startswith(stored.version) or any(listed.updated > stored.stored_at for listed in objects):
            return False
        objects.sort(key=lambda listed: not listed.path.endswith(f"/{MANIFEST}"))
        if not all(self.bucket.delete_generation(listed.path, listed.generation) for listed in objects):
            return False
        shutil.rmtree(self._path(stored.asset, stored.version), ignore_errors=True)  # a cached version is verified
        return True

    def read_pointer(self, asset: str) -> Pointer | None:
        """Read the pointer of an asset; None before it was first set. Raises CloudError."""
        pointer = self.bucket.read(_pointer_path(asset))
        if pointer is None:
            return None
        content, generation = pointer
        return Pointer.from_json(content, generation)

    def describe(self, asset: str, stored: Bundle) -> dict[str, Any]:
        """Return metadata with the URI of a version and the generation of each of its objects. Raises CloudError."""
        prefix = _prefix(asset, stored.digest)
        objects = {name: self.bucket.stat(f"{prefix}/{name}") for name in (*stored.manifest["files"], MANIFEST)}
        generations = {name: str(existing.generation) for name, existing in objects.items() if existing}
        return {"uri": self.bucket.uri(prefix), "generations": generations}

    def _write_pointer(self, asset: str, pointer: Pointer, previous: Pointer | None) -> None:
        """Replace the pointer in the generation of the previous one. Raises PointerMoved or CloudError."""
        path = _pointer_path(asset)
        generation = previous.generation if previous else 0
        if self.bucket.put(path, pointer.to_json(), expected_generation=generation) is None:
            raise PointerMoved(
                f"Somebody else has just made another version of {asset} current, in {self.bucket.uri(path)}."
            )

    def _verify_stored(self, asset: str, digest: str) -> None:
        """Raise BundleError unless the bucket has every file of a version with the checksum of the cached one."""
        stored = super().get(asset, digest)  # nothing is downloaded: the lock is held
        for name in (*stored.manifest["files"], MANIFEST):
            path = f"{_prefix(asset, digest)}/{name}"
            existing = self.bucket.stat(path)
            if existing is None or existing.md5 != compute_md5(stored.path / name):
                raise BundleError(f"{self.bucket.uri(path)} is missing or damaged. Materialize the model again.")

    def _download(self, asset: str, digest: str) -> Bundle:
        """Download a version into the cache, which keeps it once it is verified. Raises BundleError or CloudError."""
        prefix = _prefix(asset, digest)

        def download(directory: Path) -> Bundle:
            manifest = self._read_object(f"{prefix}/{MANIFEST}")
            names = bundle.parse_manifest(manifest, self.bucket.uri(prefix), digest)["files"]
            directory.mkdir()
            for name in names:
                (directory / name).write_bytes(self._read_object(f"{prefix}/{name}"))
            (directory / MANIFEST).write_bytes(manifest)
            return bundle.read(directory, digest)

        return self._store(asset, download)

    def _read_object(self, path: str) -> bytes:
        """Read an object of a version. Raises BundleError if there is no such object."""
        stored = self.bucket.read(path)
        if stored is None:
            raise BundleError(f"{self.bucket.uri(path)} is missing. Materialize the model again, or roll back.")
        content, _ = stored
        return content


class GCSReportStore(ReportStore):
    """Reports written to a directory and a bucket, and read from the bucket."""

    def __init__(self, bucket: Bucket, root: Path) -> None:
        super().__init__(root)
        self.bucket = bucket

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Replace a report and return metadata with its locations. Raises CloudError.

        A report that somebody else replaces at the same moment is replaced after that: the last writer wins.
        """
        path = f"reports/{name}"
        for _ in range(MAX_REPORT_WRITES):
            existing = self.bucket.stat(path)
            generation = existing.generation if existing else 0
            if self.bucket.put(path, content, expected_generation=generation) is not None:
                return {**super().write(name, content), "uri": self.bucket.uri(path)}
        raise CloudError(
            f"{self.bucket.uri(path)} was replaced by somebody else during each of {MAX_REPORT_WRITES} attempts to "
            "write it. See which runs write it at the same time, then run this one again."
        )

    def find(self, name: str) -> dict[str, Any]:
        """Return metadata with the locations of a report; empty if the bucket has none. Raises CloudError."""
        path = f"reports/{name}"
        return {**super().find(name), "uri": self.bucket.uri(path)} if self.bucket.stat(path) else {}

    def read(self, name: str) -> bytes:
        """Read a report. Raises FileNotFoundError or CloudError."""
        stored = self.bucket.read(f"reports/{name}")
        if stored is None:
            raise FileNotFoundError(self.bucket.uri(f"reports/{name}"))
        content, _ = stored
        return content


def _prefix(asset: str, digest: str) -> str:
    """Return the common prefix of a version's objects."""
    return f"models/{asset}/{digest[:16]}"


def _pointer_path(asset: str) -> str:
    """Return the object of an asset's pointer."""
    return f"models/{asset}/current.json"
