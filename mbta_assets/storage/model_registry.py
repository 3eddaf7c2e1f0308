"""The model registry: immutable versions of each model, and a pointer to the current one with its history.

bundles/<asset>/<first 16 digits of the digest>/…      a version, in the format of `storage.bundle`
bundles/<asset>/current.json                           the pointer

Besides those of assets there is the pointer `shadow_model`, to the candidate that waits for live evidence. Which
version becomes current is decided elsewhere, in `defs.production`. The registry in a bucket is in `storage.gcs`.
"""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mbta_assets.storage import bundle
from mbta_assets.storage.atomic import lock_directory, sync
from mbta_assets.storage.bundle import Bundle, BundleError, Draft
from mbta_assets.storage.materialize import materialize_command

SHADOW_MODEL = "shadow_model"
"""Name of the candidate that predicts live beside the production model; its pointer is cleared when none does."""
INCOMING_POINTER = ".current.json"
"""Name in an asset's directory of a pointer that is being written."""
REMOVED = ".removed"
"""Name in an asset's directory of a version that is being removed."""
MAX_MOVES = 20
"""Attempts to move a pointer that others move too."""
MIN_MOVE_DELAY_SECONDS, MAX_MOVE_DELAY_SECONDS = 0.02, 2.0
"""Maximum of the random delay after the first attempt, which doubles with each further one up to the second value."""


def cache_directory(store: Path, bucket: str) -> Path:
    """Return the directory of a store in which what was read from a bucket is kept."""
    return store / "cache" / bucket


class PointerMoved(Exception):
    """Another writer changed the current version after it was read; decide again."""


@dataclass(frozen=True)
class Move:
    """A move of a pointer: to which version, when (UTC, ISO 8601) and why; the oldest have no time and reason."""

    digest: str
    """Empty where the pointer was cleared."""
    at: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class StoredVersion:
    """A version in the registry, as it is listed."""

    asset: str
    version: str
    """First 16 digits of the digest."""
    size_bytes: int
    stored_at: datetime
    """When it was stored, or stored again (UTC)."""
    is_complete: bool
    """Its manifest is there; otherwise it is being stored or removed, or that was interrupted."""


@dataclass(frozen=True)
class Pointer:
    """A pointer to the current version: all its moves, the latest first."""

    moves: tuple[Move, ...]
    generation: int = 0
    """Generation of the object it was read from; 0 outside Cloud Storage."""

    @property
    def digest(self) -> str | None:
        """Return the digest of the current version, None if the pointer was cleared."""
        return self.moves[0].digest or None

    @classmethod
    def from_json(cls, text: bytes, generation: int = 0) -> Self:
        """Parse the content of `current.json`."""
        stored = json.loads(text)
        earlier = [{"digest": move} if isinstance(move, str) else move for move in stored["previous"]]
        moves = tuple(Move(move["digest"], move.get("at"), move.get("why")) for move in (stored, *earlier))
        return cls(moves, generation)

    def to_json(self) -> bytes:
        """Return the content of `current.json`."""
        latest, *previous = map(asdict, self.moves)
        stored = {"version": latest["digest"][:16], **latest, "previous": previous}
        return json.dumps(stored, indent=1).encode()


class ModelRegistry:
    """The models below a root directory, which is MBTA_STORE of a deployment on one machine.

    `asset` is the key of the asset that makes a model, such as `quantized_student`, and `digest` a digest of one of its
    bundles.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """Return the path or URI of the registry, for messages."""
        return str(self.root)

    def prepare(self) -> None:
        """Check, before anything is computed, that models can be stored. Raises OSError or CloudError."""
        (self.root / "bundles").mkdir(parents=True, exist_ok=True)

    def put(self, asset: str, content: Draft | Bundle) -> Bundle:
        """Store a version without making it current, and return it; an intact stored version is left as it is.

        Raises BundleError if a bundle that is copied is damaged.
        """
        draft = _copy_draft(content) if isinstance(content, Bundle) else content
        return self._store(asset, lambda directory: bundle.write(directory, draft.kind, draft.files, **draft.fields))

    def get(self, asset: str, digest: str) -> Bundle:
        """Read and verify a version. Raises BundleError."""
        return bundle.read(self._path(asset, digest), digest)

    def read_manifest(self, asset: str, digest: str) -> dict[str, Any]:
        """Read and verify the manifest of a version, without its other files. Raises BundleError.

        `digest` may be its version, the first 16 digits.
        """
        path = self._path(asset, digest)
        return parse_manifest(bundle.read_manifest_text(path), str(path), digest)

    def assets(self) -> list[str]:
        """Return the assets that have versions, in alphabetical order."""
        return sorted(path.name for path in (self.root / "bundles").glob("*") if path.is_dir())

    def versions(self, asset: str) -> list[StoredVersion]:
        """Return every stored version of an asset."""
        return [
            StoredVersion(
                asset,
                path.name,
                sum(file.stat().st_size for file in path.iterdir()),
                datetime.fromtimestamp(path.stat().st_mtime, UTC),
                (path / bundle.MANIFEST).exists(),
            )
            for path in sorted(self._directory(asset).glob("[!.]*"))
            if path.is_dir()
        ]

    def remove(self, stored: StoredVersion) -> bool:
        """Remove a version, unless it is current or was stored again since it was listed; return whether it is gone.

        Its directory is renamed first: a version that is removed in part is not there, and not damaged.
        """
        directory = self._directory(stored.asset)
        path, removed = directory / stored.version, directory / REMOVED
        with lock_directory(directory):
            shutil.rmtree(removed, ignore_errors=True)
            current = self.current_digest(stored.asset) or ""
            if not path.exists():
                return True
            if current.startswith(stored.version) or path.stat().st_mtime > stored.stored_at.timestamp():
                return False
            os.rename(path, removed)
            shutil.rmtree(removed)
        return True

    def current(self, asset: str) -> Bundle:
        """Read and verify the current version of an asset. Raises BundleError."""
        digest = self.current_digest(asset)
        if digest is None:
            command = materialize_command(asset)
            raise BundleError(f"{asset} has no version in {self.location} yet. Make one with: {command}")
        return self.get(asset, digest)

    def current_digest(self, asset: str) -> str | None:
        """Return the digest of the current version, None if there is none."""
        pointer = self.read_pointer(asset)
        return pointer.digest if pointer else None

    def history(self, asset: str) -> list[str]:
        """Return the digests that the pointer of an asset has had, the latest first; empty if it never had one."""
        return [move.digest for move in self.moves(asset) if move.digest]

    def moves(self, asset: str) -> list[Move]:
        """Return every move of an asset's pointer, the latest first."""
        pointer = self.read_pointer(asset)
        return list(pointer.moves) if pointer else []

    def read_pointer(self, asset: str) -> Pointer | None:
        """Read the pointer of an asset; None before it was first set."""
        try:
            return Pointer.from_json((self._directory(asset) / "current.json").read_bytes())
        except FileNotFoundError:
            return None

    def set_current(self, asset: str, digest: str | None, expected: str | None, why: str = "materialized") -> None:
        """Make a stored version current if `expected` still is (None: no version); `why` is kept in the history.

        With None as `digest` no version is current any longer. Raises PointerMoved if another version is current,
        BundleError if the version is not stored intact.
        """
        with lock_directory(self._directory(asset)):
            previous = self.read_pointer(asset)
            moves = previous.moves if previous else ()
            current = previous.digest if previous else None
            if current != expected:
                raise PointerMoved(f"The current version of {asset} is {current}, no longer {expected}.")
            if digest is not None:
                self._verify_stored(asset, digest)
            (self._directory(asset) / INCOMING_POINTER).unlink(missing_ok=True)  # left by a writer that was killed
            if digest != current:
                latest = Move(digest or "", datetime.now(UTC).isoformat(timespec="seconds"), why)
                self._write_pointer(asset, Pointer((latest, *moves)), previous)

    def make_current(self, asset: str, digest: str | None, why: str = "materialized") -> None:
        """Make a stored version current whatever is current now: of several writers at once the last one wins.

        With None as `digest` no version is current any longer. Raises BundleError if the version is not stored intact,
        PointerMoved if others move the pointer all the time.
        """
        for attempt in range(MAX_MOVES):
            try:
                return self.set_current(asset, digest, self.current_digest(asset), why)
            except PointerMoved:
                # A bucket replaces one object about once a second; random delays let other writers through.
                time.sleep(random.uniform(0, min(MAX_MOVE_DELAY_SECONDS, MIN_MOVE_DELAY_SECONDS * 2**attempt)))
        raise PointerMoved(
            f"Others have moved the pointer of {asset} in {self.location} during each of {MAX_MOVES} attempts. "
            f"See which runs make {asset} at the same time, and run this one again."
        )

    def describe(self, asset: str, stored: Bundle) -> dict[str, Any]:
        """Return metadata with the location of a version."""
        return {"path": stored.path}

    def _write_pointer(self, asset: str, pointer: Pointer, previous: Pointer | None) -> None:
        """Replace the pointer if it is still the previous one. Raises PointerMoved."""
        directory = self._directory(asset)
        incoming = directory / INCOMING_POINTER
        incoming.write_bytes(pointer.to_json())
        sync(incoming)
        os.replace(incoming, directory / "current.json")

    def _verify_stored(self, asset: str, digest: str) -> None:
        """Raise BundleError unless a version is stored intact."""
        self.get(asset, digest)

    def _store(self, asset: str, make: Callable[[Path], Bundle]) -> Bundle:
        """Move the version that `make` writes into a new directory to its place, unless an intact one is there."""
        directory = self._directory(asset)
        incoming, damaged = directory / ".incoming", directory / ".damaged"
        with lock_directory(directory):
            for abandoned in (incoming, damaged, directory / REMOVED):
                shutil.rmtree(abandoned, ignore_errors=True)
            new = make(incoming)
            path = self._path(asset, new.digest)
            if _is_intact(path, new.digest):
                shutil.rmtree(incoming)
                os.utime(path)  # it is in use again, and not to be removed
            else:
                for file in (*incoming.iterdir(), incoming):
                    sync(file)
                if path.exists():
                    os.rename(path, damaged)
                os.rename(incoming, path)
                shutil.rmtree(damaged, ignore_errors=True)
        return self.get(asset, new.digest)

    def _directory(self, asset: str) -> Path:
        """Return the directory of an asset's versions and pointer."""
        return self.root / "bundles" / asset

    def _path(self, asset: str, digest: str) -> Path:
        """Return the directory of a version."""
        return self._directory(asset) / digest[:16]


def parse_manifest(text: bytes, location: str, digest: str) -> dict[str, Any]:
    """Parse the manifest of a version, given its digest or the first 16 digits of it. Raises BundleError."""
    actual = hashlib.sha256(text).hexdigest()
    return bundle.parse_manifest(text, location, actual if actual.startswith(digest) else digest)


def _copy_draft(stored: Bundle) -> Draft:
    """Return a draft with the content of a stored bundle. Raises BundleError if that is damaged."""
    files = {name: stored.file(name) for name in stored.manifest["files"]}
    fields = {key: value for key, value in stored.manifest.items() if key not in ("format_version", "kind", "files")}
    return Draft(stored.manifest["kind"], files, fields)


def _is_intact(path: Path, digest: str) -> bool:
    """Return True if a version is stored and every file has its digest."""
    try:
        bundle.read(path, digest)
    except BundleError:
        return False
    return True
