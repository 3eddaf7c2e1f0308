"""Bundles and reports in a bucket of Cloud Storage.

models/<asset>/<first 16 digits of the digest>/…      a version: its files, and last of all its manifest
models/<asset>/current.json                           the pointer and its history
reports/…                                             what people read

A version's objects are made once and never changed. The pointer changes only from the generation that was read, so
that of two writers one wins. Nothing is listed to find out what is current.
"""

from pathlib import Path
from typing import Any

from mbta_assets.gcp import CloudError
from mbta_assets.gcp.bucket import Bucket, md5
from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import MANIFEST, Bundle, BundleError, Draft
from mbta_assets.storage.model_registry import ModelRegistry, Pointer, PointerMoved
from mbta_assets.storage.reports import ReportStore


class GCSModelRegistry(ModelRegistry):
    """Bundles in a bucket. Versions that were written or read are kept below `root` too, verified whenever read."""

    def __init__(self, bucket: Bucket, root: Path) -> None:
        super().__init__(root)
        self.bucket = bucket

    def begin(self) -> None:
        """Make sure that there is a bucket to store in. Raises CloudError."""
        super().begin()
        lacking = self.bucket.lacking()
        if lacking:
            raise CloudError(
                f"Bundles cannot be stored in the bucket {self.bucket.name}: {', '.join(lacking)} "
                f"{'are' if lacking[1:] else 'is'} lacking for {self.bucket.account.identity}. "
                "Grant roles/storage.objectUser on the bucket."
            )

    def put(self, asset: str, content: Draft | Bundle) -> Bundle:
        """Store a version, which does not become current by that. What is there and whole is kept as it is."""
        stored = super().put(asset, content)
        for name in (*stored.manifest["files"], MANIFEST):
            path, file = f"{self._remote(asset, stored.digest)}/{name}", stored.path / name
            there = self.bucket.look(path)
            if there is None or there.md5_hash != md5(file):
                self.bucket.put(path, file, expected=int(there.generation) if there else 0)
        return stored

    def get(self, asset: str, digest: str) -> Bundle:
        """A version, verified. Raises BundleError."""
        try:
            return super().get(asset, digest)
        except BundleError:
            return self._fetch(asset, digest)

    def pointer(self, asset: str) -> Pointer | None:
        """Where the pointer of an asset is; None before it was first set."""
        found = self.bucket.read(f"models/{asset}/current.json")
        return Pointer.from_json(*found) if found else None

    @property
    def where(self) -> str:
        """Where the bundles are, for people."""
        return self.bucket.uri("models")

    def describe(self, asset: str, stored: Bundle) -> dict[str, Any]:
        """Metadata that says where a version is, and the generation of each of its objects."""
        remote = self._remote(asset, stored.digest)
        objects = {name: self.bucket.look(f"{remote}/{name}") for name in (*stored.manifest["files"], MANIFEST)}
        generations = {name: str(blob.generation) for name, blob in objects.items() if blob}
        return {"uri": self.bucket.uri(remote), "generations": generations}

    def _set(self, asset: str, pointer: Pointer, seen: Pointer | None) -> None:
        path = f"models/{asset}/current.json"
        if self.bucket.put(path, pointer.to_json(), expected=seen.generation if seen else 0) is None:
            raise PointerMoved(
                f"Somebody else has just made another version of {asset} current, in {self.bucket.uri(path)}."
            )

    def _must_be_whole(self, asset: str, digest: str) -> None:
        """Raise BundleError unless the bucket has every file of a version as it should be."""
        stored = self.get(asset, digest)
        for name in (*stored.manifest["files"], MANIFEST):
            path = f"{self._remote(asset, digest)}/{name}"
            there = self.bucket.look(path)
            if there is None or there.md5_hash != md5(stored.path / name):
                raise BundleError(f"{self.bucket.uri(path)} is missing or damaged. Materialize the model again.")

    def _fetch(self, asset: str, digest: str) -> Bundle:
        """Bring a version from the bucket; it is kept below the root once it is found to be whole."""
        remote = self._remote(asset, digest)

        def download(incoming: Path) -> Bundle:
            manifest = self._content(f"{remote}/{MANIFEST}")
            names = bundle.read_manifest(manifest, self.bucket.uri(remote), digest)["files"]
            incoming.mkdir()
            for name in names:
                (incoming / name).write_bytes(self._content(f"{remote}/{name}"))
            (incoming / MANIFEST).write_bytes(manifest)
            return bundle.read(incoming, digest)

        return self._keep(asset, download)

    def _content(self, path: str) -> bytes:
        found = self.bucket.read(path)
        if found is None:
            raise BundleError(f"{self.bucket.uri(path)} is missing. Materialize the model again, or roll back.")
        return found[0]

    def _remote(self, asset: str, digest: str) -> str:
        return f"models/{asset}/{digest[:16]}"


class GCSReportStore(ReportStore):
    """Reports in a directory and in a bucket, from which they are read."""

    def __init__(self, bucket: Bucket, root: Path) -> None:
        super().__init__(root)
        self.bucket = bucket

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Replace a report. Returns metadata that says where it is."""
        path = f"reports/{name}"
        there = self.bucket.look(path)
        self.bucket.put(path, content, expected=int(there.generation) if there else 0)
        return {**super().write(name, content), "uri": self.bucket.uri(path)}

    def read(self, name: str) -> bytes:
        """A report as it was last written. Raises FileNotFoundError."""
        found = self.bucket.read(f"reports/{name}")
        if found is None:
            raise FileNotFoundError(self.bucket.uri(f"reports/{name}"))
        return found[0]
