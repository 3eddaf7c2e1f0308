"""Bundles in a directory: immutable versions, and for each asset a pointer to its current one."""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbta_assets import bundle
from mbta_assets.bundle import Bundle, BundleError, Draft
from mbta_assets.storage.lake import flush, replace_file

POINTER = "current.json"


class PointerMoved(Exception):
    """Another writer changed the pointer since it was read; nothing was changed."""


class BundleStore:
    """`<root>/bundles/<asset>/<version>/` for each version, and `current.json` beside them."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root) / "bundles"

    def put(self, asset: str, draft: Draft) -> Bundle:
        """Store a version of an asset's bundle, without pointing to it. Storing the same again changes nothing."""
        path = self.path(asset, draft.digest)
        try:
            return bundle.read(path)
        except BundleError:
            pass  # not there yet, or damaged
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        aside.mkdir()
        try:
            bundle.write(aside, draft)
            for file in aside.iterdir():
                flush(file)
            flush(aside)
            if path.exists():
                os.rename(path, aside.with_suffix(".damaged"))
            os.rename(aside, path)
            flush(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(aside.with_suffix(".damaged"), ignore_errors=True)
        return bundle.read(path)

    def path(self, asset: str, digest: str) -> Path:
        """Where a version is kept."""
        return self.root / asset / digest[:16]

    def history(self, asset: str) -> list[str]:
        """Digests the pointer has pointed to, the current one last; empty where there is none."""
        pointer = self.root / asset / POINTER
        return json.loads(pointer.read_text())["history"] if pointer.exists() else []

    def point(self, asset: str, digest: str, expected: str | None) -> None:
        """Make a stored version current, if the current one is still `expected`. Raises PointerMoved."""
        bundle.read(self.path(asset, digest))
        with self._locked(asset):
            history = self.history(asset)
            current = history[-1] if history else None
            if current != expected:
                raise PointerMoved(f"{asset} now points to {current}, not {expected}: another run changed it. Run again.")
            if current != digest:
                text = json.dumps({"current": digest, "history": [*history, digest]}, indent=1)
                replace_file(self.root / asset / POINTER, lambda aside: aside.write_text(text))

    def current(self, asset: str) -> Bundle:
        """The version the pointer points to, verified. Raises BundleError."""
        history = self.history(asset)
        if not history:
            raise BundleError(
                f"there is no bundle of {asset} in {self.root}. "
                f"Make it with: dagster asset materialize --select {asset}"
            )
        return bundle.read(self.path(asset, history[-1]))

    @contextmanager
    def _locked(self, asset: str) -> Iterator[None]:
        with open(self.root / asset / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
