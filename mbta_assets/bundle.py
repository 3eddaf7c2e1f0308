"""A model bundle: a directory of plain files and a manifest that names each with its SHA-256. Never a pickle.

The same files and fields give the same bytes and so the same digest; nothing of the time or the machine goes in.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class BundleError(Exception):
    """A stored bundle is not what its manifest says; the message names the file and what to do."""


@dataclass(frozen=True)
class Draft:
    """A bundle still to be stored: what kind it is, its files, and what the manifest says beside them."""

    kind: str
    files: Mapping[str, bytes]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def manifest(self) -> bytes:
        """The manifest as deterministic JSON."""
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
            for name, data in sorted(self.files.items())
        }
        manifest = {"format_version": FORMAT_VERSION, "kind": self.kind, "files": files, **self.fields}
        return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and through it of every file."""
        return hashlib.sha256(self.manifest).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found to be whole."""

    path: Path
    manifest: dict[str, Any]
    digest: str
    files: Mapping[str, bytes]

    @property
    def size_bytes(self) -> int:
        """What a predictor has to load: every file, the manifest not counted."""
        return sum(len(data) for data in self.files.values())


def write(directory: Path, draft: Draft) -> None:
    """Write a draft into an empty directory, the manifest last."""
    for name, data in draft.files.items():
        (directory / name).write_bytes(data)
    (directory / MANIFEST).write_bytes(draft.manifest)


def read(directory: Path) -> Bundle:
    """Read a bundle and verify every byte of it. Raises BundleError."""
    directory = Path(directory)
    if not (directory / MANIFEST).is_file():
        raise BundleError(f"{directory} has no {MANIFEST}: it is no bundle. Materialize the model again.")
    text = (directory / MANIFEST).read_bytes()
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{directory / MANIFEST} is not JSON ({error}). Materialize the model again.") from error
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{directory} has format version {manifest.get('format_version')!r}; this release reads {FORMAT_VERSION}. "
            "Materialize the model again, or use the release that wrote it."
        )
    present = {path.name for path in directory.iterdir()} - {MANIFEST}
    if unlisted := sorted(present - set(manifest["files"])):
        raise BundleError(f"{directory} holds {unlisted}, which its manifest does not list. Remove them.")
    files = {}
    for name, expected in manifest["files"].items():
        if name not in present:
            raise BundleError(f"{directory / name} is missing. Materialize the model again.")
        files[name] = (directory / name).read_bytes()
        if hashlib.sha256(files[name]).hexdigest() != expected["sha256"]:
            raise BundleError(f"{directory / name} is not the file that was stored. Materialize the model again.")
    return Bundle(directory, manifest, hashlib.sha256(text).hexdigest(), files)


def library_versions(*names: str) -> dict[str, str]:
    """The installed versions of libraries, for a manifest."""
    return {name: version(name) for name in names}


@cache
def git_commit() -> str:
    """The commit of the code that runs, or "unknown" outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
