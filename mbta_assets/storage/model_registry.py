"""Model bundles as immutable versions, and for each asset a pointer to its current one.

bundles/<asset>/<first 16 digits of the digest>/…      a version
bundles/<asset>/current.json                           the pointer and its history
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
from mbta_assets.storage.atomic import locked, sync
from mbta_assets.storage.bundle import Bundle, BundleError, Draft


class PointerMoved(Exception):
    """Someone else changed the current version meanwhile; decide again."""


@dataclass(frozen=True)
class Move:
    """A move of a pointer: to which version, when (UTC, ISO 8601) and why; the oldest may lack the time and reason."""

    digest: str
    at: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class Pointer:
    """What is current of an asset and what was before, the latest move first."""

    moves: tuple[Move, ...]
    generation: int = 0
    """Of the object it was read from, where there is such a thing."""

    @classmethod
    def from_json(cls, text: bytes, generation: int = 0) -> Self:
        """A pointer as it is stored."""
        stored = json.loads(text)
        earlier = [{"digest": move} if isinstance(move, str) else move for move in stored["previous"]]
        return cls(tuple(Move(m["digest"], m.get("at"), m.get("why")) for m in (stored, *earlier)), generation)

    def to_json(self) -> bytes:
        """The pointer as it is to be stored."""
        latest, *previous = map(asdict, self.moves)
        stored = {"version": latest["digest"][:16], **latest, "previous": previous}
        return json.dumps(stored, indent=1).encode()


class ModelRegistry:
    """The bundles below a root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self) -> None:
        """Make sure, before anything is made, that bundles can be stored here. Raises an error that says what to do."""
        (self.root / "bundles").mkdir(parents=True, exist_ok=True)

    def put(self, asset: str, content: Draft | Bundle) -> Bundle:
        """Store a version, which does not become current by that. One that is there and whole is kept as it is."""
        if isinstance(content, Bundle):
            files = {name: content.file(name) for name in content.manifest["files"]}
            fields = {k: v for k, v in content.manifest.items() if k not in ("format_version", "kind", "files")}
            content = Draft(content.manifest["kind"], files, fields)
        draft = content
        return self._keep(asset, lambda incoming: bundle.write(incoming, draft.kind, draft.files, **draft.fields))

    def get(self, asset: str, digest: str) -> Bundle:
        """A version, verified. Raises BundleError."""
        return bundle.read(self._path(asset, digest), digest)

    def current(self, asset: str) -> Bundle:
        """The current version of an asset, verified. Raises BundleError."""
        digest = self.current_digest(asset)
        if digest is None:
            command = f"dagster asset materialize --select {asset}"
            raise BundleError(f"{asset} has no version in {self.where} yet. Make one with: {command}")
        return self.get(asset, digest)

    def current_digest(self, asset: str) -> str | None:
        """The digest of the current version, None before there is one."""
        return next(iter(self.history(asset)), None)

    def history(self, asset: str) -> list[str]:
        """The digests that were current, the present one first."""
        return [move.digest for move in self.moves(asset)]

    def moves(self, asset: str) -> list[Move]:
        """Every move of an asset's pointer, the latest first."""
        pointer = self.pointer(asset)
        return list(pointer.moves) if pointer else []

    def pointer(self, asset: str) -> Pointer | None:
        """Where the pointer of an asset is; None before it was first set."""
        try:
            return Pointer.from_json((self._directory(asset) / "current.json").read_bytes())
        except FileNotFoundError:
            return None

    def point(self, asset: str, digest: str, expected: str | None, why: str = "materialized") -> None:
        """Make a stored version current if `expected` (None: no version) still is; `why` goes into the history.

        Raises PointerMoved if it is not, BundleError if the version is not whole.
        """
        with locked(self._directory(asset)):
            seen = self.pointer(asset)
            moves = seen.moves if seen else ()
            current = moves[0].digest if moves else None
            if current != expected:
                raise PointerMoved(f"The current version of {asset} is {current}, no longer {expected}.")
            self._must_be_whole(asset, digest)
            if digest != current:
                latest = Move(digest, datetime.now(UTC).isoformat(timespec="seconds"), why)
                self._set(asset, Pointer((latest, *moves)), seen)

    @property
    def where(self) -> str:
        """Where the bundles are, for people."""
        return str(self.root)

    def describe(self, asset: str, stored: Bundle) -> dict[str, Any]:
        """Metadata that says where a version is."""
        return {"path": stored.path}

    def _set(self, asset: str, pointer: Pointer, seen: Pointer | None) -> None:
        """Replace a pointer that is still as it was seen. Raises PointerMoved."""
        directory = self._directory(asset)
        incoming = directory / ".current.json"
        incoming.write_bytes(pointer.to_json())
        sync(incoming)
        os.replace(incoming, directory / "current.json")

    def _must_be_whole(self, asset: str, digest: str) -> None:
        """Raise BundleError unless a version is stored whole."""
        self.get(asset, digest)

    def _keep(self, asset: str, make: Callable[[Path], Bundle]) -> Bundle:
        """Keep the version that is made in a new directory, unless it is there and whole."""
        directory = self._directory(asset)
        incoming, damaged = directory / ".incoming", directory / ".damaged"
        with locked(directory):
            for abandoned in (incoming, damaged):
                shutil.rmtree(abandoned, ignore_errors=True)
            new = make(incoming)
            path = self._path(asset, new.digest)
            if _whole(path, new.digest):
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
        return self.root / "bundles" / asset

    def _path(self, asset: str, digest: str) -> Path:
        return self._directory(asset) / digest[:16]


def _whole(path: Path, digest: str) -> bool:
    try:
        bundle.read(path, digest)
    except BundleError:
        return False
    return True
