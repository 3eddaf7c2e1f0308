"""A model as files: a flat directory whose `manifest.json` says what is in it.

Whoever predicts needs only this module, NumPy and ONNX Runtime. Nothing here depends on the time or the
machine, so that the same content gives the same digest.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class BundleError(Exception):
    """A bundle is not what its manifest says; the message names the file and what to do."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its directory, its manifest, and the SHA-256 of the manifest, which covers every file."""

    path: Path
    manifest: dict[str, Any]
    digest: str

    @property
    def size_bytes(self) -> int:
        """All that a predictor needs, the manifest included."""
        files = sum(entry["size_bytes"] for entry in self.manifest["files"].values())
        return files + (self.path / MANIFEST).stat().st_size

    def file(self, name: str) -> bytes:
        """The content of a file. Raises BundleError when it is not part of the bundle or has changed."""
        if name not in self.manifest["files"]:
            raise BundleError(f"{self.path} has no {name}; it has {', '.join(self.manifest['files'])}.")
        return _verified(self.path / name, self.manifest["files"][name])


@dataclass(frozen=True)
class Draft:
    """A bundle that is not on disk yet: what kind of model it is, its files, and what its manifest says besides."""

    kind: str
    files: Mapping[str, bytes]
    fields: Mapping[str, Any] = field(default_factory=dict)


def write(directory: Path, kind: str, files: Mapping[str, bytes], **fields: Any) -> Bundle:
    """Write a bundle into a new or empty directory. Raises BundleError where the directory holds something."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise BundleError(f"{directory} is not empty; write a bundle into a new directory.")
    entries = {
        name: {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
        }
        for name, content in files.items()
    }
    manifest = {
        **fields,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "files": entries,
    }
    text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False) + "\n"
    for name, content in {**files, MANIFEST: text.encode()}.items():
        (directory / name).write_bytes(content)
    return read(directory)


def read(directory: Path, digest: str | None = None) -> Bundle:
    """Open a bundle and verify every byte of it, those of the manifest too where its digest is known.

    Raises BundleError.
    """
    try:
        text = (directory / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{directory / MANIFEST} is missing. {_REMEDY}") from error
    manifest = read_manifest(text, str(directory), digest)
    for name, entry in manifest["files"].items():
        _verified(directory / name, entry)
    unlisted = {path.name for path in directory.iterdir()} - manifest["files"].keys() - {MANIFEST}
    if unlisted:
        raise BundleError(f"{directory} holds {', '.join(sorted(unlisted))}, not in its manifest. {_REMEDY}")
    return Bundle(directory, manifest, hashlib.sha256(text).hexdigest())


def read_manifest(text: bytes, where: str, digest: str | None = None) -> dict[str, Any]:
    """The manifest of a bundle, of which `where` says in errors where it is. Raises BundleError."""
    if digest not in (None, hashlib.sha256(text).hexdigest()):
        raise BundleError(f"{where}/{MANIFEST} has changed: its digest was {digest}. {_REMEDY}")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{where}/{MANIFEST} is damaged. {_REMEDY}") from error
    found = manifest.get("format_version")
    if found != FORMAT_VERSION:
        raise BundleError(
            f"{where} has format version {found}; this version of mbta_assets reads {FORMAT_VERSION}. "
            "Use the version that wrote it, or materialize the model again."
        )
    elsewhere = [name for name in manifest["files"] if Path(name).name != name or name == ".."]
    if elsewhere:
        raise BundleError(f"{where}/{MANIFEST} names files outside of the bundle: {', '.join(elsewhere)}. {_REMEDY}")
    return manifest


def library_versions(*names: str) -> dict[str, str]:
    """The installed version of each library, for the manifest."""
    return {name: version(name) for name in names}


def git_commit() -> str | None:
    """The commit this code is at, marked `-dirty` where files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        run = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path} is missing. {_REMEDY}") from None
    if len(content) != entry["size_bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BundleError(f"{path} is not what the manifest says it was. {_REMEDY}")
    return content


_REMEDY = "Materialize the model again, or roll back to an earlier version."
