"""Model bundles as immutable versions, and for each asset a pointer to its current one.

bundles/<asset>/<first 16 digits of the digest>/…      a version
bundles/<asset>/current.json                           the pointer and its history
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mbta_assets import bundle
from mbta_assets.bundle import Bundle, BundleError, Draft
from mbta_assets.storage.atomic import locked, sync


class PointerMoved(Exception):
    """Someone else changed the current version meanwhile; decide again."""


@dataclass(frozen=True)
class Move:
    """A move of a pointer: to which version, when (UTC, ISO 8601) and why; the oldest may lack the time and reason."""

    digest: str
    at: str | None = None
    why: str | None = None


class BundleStore:
    """The bundles below a root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, asset: str, content: Draft | Bundle) -> Bundle:
        """Store a version, which does not become current by that. One that is there and whole is kept as it is."""
        if isinstance(content, Bundle):
            files = {name: content.file(name) for name in content.manifest["files"]}
            fields = {k: v for k, v in content.manifest.items() if k not in ("format_version", "kind", "files")}
            content = Draft(content.manifest["kind"], files, fields)
        directory = self._directory(asset)
        incoming, damaged = directory / ".incoming", directory / ".damaged"
        with locked(directory):
            for abandoned in (incoming, damaged):
                shutil.rmtree(abandoned, ignore_errors=True)
            new = bundle.write(incoming, content.kind, content.files, **content.fields)
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

    def get(self, asset: str, digest: str) -> Bundle:
        """A version, verified. Raises BundleError."""
        return bundle.read(self._path(asset, digest), digest)

    def current(self, asset: str) -> Bundle:
        """The current version of an asset, verified. Raises BundleError."""
        digest = self.current_digest(asset)
        if digest is None:
            command = f"dagster asset materialize --select {asset}"
            raise BundleError(f"{asset} has no version in {self.root} yet. Make one with: {command}")
        return self.get(asset, digest)

    def current_digest(self, asset: str) -> str | None:
        """The digest of the current version, None before there is one."""
        return next(iter(self.history(asset)), None)

    def history(self, asset: str) -> list[str]:
        """The digests that were current, the present one first."""
        return [move.digest for move in self.moves(asset)]

    def moves(self, asset: str) -> list[Move]:
        """Every move of an asset's pointer, the latest first."""
        try:
            pointer = json.loads((self._directory(asset) / "current.json").read_bytes())
        except FileNotFoundError:
            return []
        earlier = [{"digest": move} if isinstance(move, str) else move for move in pointer["previous"]]
        return [Move(move["digest"], move.get("at"), move.get("why")) for move in (pointer, *earlier)]

    def point(self, asset: str, digest: str, expected: str | None, why: str = "materialized") -> None:
        """Make a stored version current if `expected` (None: no version) still is; `why` goes into the history.

        Raises PointerMoved if it is not, BundleError if the version is not whole.
        """
        directory = self._directory(asset)
        with locked(directory):
            moves = self.moves(asset)
            current = moves[0].digest if moves else None
            if current != expected:
                raise PointerMoved(f"The current version of {asset} is {current}, no longer {expected}.")
            self.get(asset, digest)
            if digest == current:
                return
            latest = Move(digest, datetime.now(UTC).isoformat(timespec="seconds"), why)
            pointer = {"version": digest[:16], **asdict(latest), "previous": [asdict(move) for move in moves]}
            incoming = directory / ".current.json"
            incoming.write_text(json.dumps(pointer, indent=1))
            sync(incoming)
            os.replace(incoming, directory / "current.json")

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
