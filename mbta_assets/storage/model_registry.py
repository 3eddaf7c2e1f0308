"""The model registry: immutable versions of each model, and a pointer to the current one with its history.

bundles/<asset>/<first 16 digits of the digest>/…      a version, in the format of `storage.bundle`
bundles/<asset>/current.json                           the pointer

Which version becomes current is decided elsewhere, in `defs.production`. The registry in a bucket is in `storage.gcs`.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mbta_assets.storage import bundle
from mbta_assets.storage.atomic import lock_directory, sync
from mbta_assets.storage.bundle import Bundle, BundleError, Draft


class PointerMoved(Exception):
    """Another writer changed the current version after it was read; decide again."""


@dataclass(frozen=True)
class Move:
    """A move of a pointer: to which version, when (UTC, ISO 8601) and why; the oldest have no time and reason."""

    digest: str
    at: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class Pointer:
    """A pointer to the current version: all its moves, the latest first."""

    moves: tuple[Move, ...]
    generation: int = 0
    """Generation of the object it was read from; 0 outside Cloud Storage."""

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
    """The models below a root directory."""

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
        """Store a version without making it current; an intact stored version is left as it is."""
        draft = _copy_draft(content) if isinstance(content, Bundle) else content
        return self._store(asset, lambda directory: bundle.write(directory, draft.kind, draft.files, **draft.fields))

    def get(self, asset: str, digest: str) -> Bundle:
        """Read and verify a version. Raises BundleError."""
        return bundle.read(self._path(asset, digest), digest)

    def current(self, asset: str) -> Bundle:
        """Read and verify the current version of an asset. Raises BundleError."""
        digest = self.current_digest(asset)
        if digest is None:
            command = f"dagster asset materialize --select {asset}"
            raise BundleError(f"{asset} has no version in {self.location} yet. Make one with: {command}")
        return self.get(asset, digest)

    def current_digest(self, asset: str) -> str | None:
        """Return the digest of the current version, None before there is one."""
        return next(iter(self.history(asset)), None)

    def history(self, asset: str) -> list[str]:
        """Return the digests of the current version and all earlier ones, the latest first."""
        return [move.digest for move in self.moves(asset)]

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

    def set_current(self, asset: str, digest: str, expected: str | None, why: str = "materialized") -> None:
        """Make a stored version current if `expected` still is (None: no version); `why` is kept in the history.

        Raises PointerMoved if another version is current, BundleError if the version is not stored intact.
        """
        with lock_directory(self._directory(asset)):
            previous = self.read_pointer(asset)
            moves = previous.moves if previous else ()
            current = moves[0].digest if moves else None
            if current != expected:
                raise PointerMoved(f"The current version of {asset} is {current}, no longer {expected}.")
            self._verify_stored(asset, digest)
            if digest != current:
                latest = Move(digest, datetime.now(UTC).isoformat(timespec="seconds"), why)
                self._write_pointer(asset, Pointer((latest, *moves)), previous)

    def describe(self, asset: str, stored: Bundle) -> dict[str, Any]:
        """Return metadata with the location of a version."""
        return {"path": stored.path}

    def _write_pointer(self, asset: str, pointer: Pointer, previous: Pointer | None) -> None:
        """Replace the pointer if it is still the previous one. Raises PointerMoved."""
        directory = self._directory(asset)
        incoming = directory / ".current.json"
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
            for abandoned in (incoming, damaged):
                shutil.rmtree(abandoned, ignore_errors=True)
            new = make(incoming)
            path = self._path(asset, new.digest)
            if _is_intact(path, new.digest):
                shutil.rmtree(incoming)
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
