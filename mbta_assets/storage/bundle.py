"""The file format of a model: a flat directory with a `manifest.json` that lists every file with its SHA-256.

The same content gives the same digest: nothing here depends on the time or the machine. This module imports the
standard library only, because whoever predicts imports it. Versions of models are kept by `storage.model_registry`.
"""

import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PROJECT = "mbta_assets"
"""Name of this project in its pyproject.toml."""


class BundleError(Exception):
    """A bundle is missing, damaged or of another format; the message names the file and what to do."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its directory, its manifest, and the SHA-256 of the manifest, which covers every file."""

    path: Path
    """Directory of the files."""
    manifest: dict[str, Any]
    """Content of `manifest.json`: `kind`, `files` with sizes and SHA-256 by name, and the fields of the draft."""
    digest: str
    """SHA-256 of the manifest: the version. The same content has the same digest."""

    @property
    def size_bytes(self) -> int:
        """Return the size of all files in bytes, including the manifest."""
        files = sum(entry["size_bytes"] for entry in self.manifest["files"].values())
        return files + (self.path / MANIFEST).stat().st_size

    def file(self, name: str) -> bytes:
        """Read and verify a file. Raises BundleError if it is not in the manifest, is missing or has changed."""
        if name not in self.manifest["files"]:
            raise BundleError(f"{self.path} has no {name}; it has {', '.join(self.manifest['files'])}.")
        return _read_verified(self.path / name, self.manifest["files"][name])


@dataclass(frozen=True)
class Draft:
    """A bundle that is not stored yet: what the asset of a model returns."""

    kind: str
    """Kind of its weights, by which it is loaded: `onnx`, `network` or `xgboost` for a model."""
    files: Mapping[str, bytes]
    """Contents by name, without directories; those of a model are its weights and its `Preprocessor`."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the manifest, which JSON can hold and which are finite."""


def write(directory: Path, kind: str, files: Mapping[str, bytes], **fields: Any) -> Bundle:
    """Write a bundle into a new or empty directory and return it. Raises BundleError if the directory is not empty."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise BundleError(f"{directory} is not empty; write a bundle into a new directory.")
    entries = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    manifest = {**fields, "format_version": FORMAT_VERSION, "kind": kind, "files": entries}
    text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False) + "\n"
    for name, content in {**files, MANIFEST: text.encode()}.items():
        (directory / name).write_bytes(content)
    return read(directory)


def read(directory: Path, digest: str | None = None) -> Bundle:
    """Read a bundle and verify every file, and the manifest against `digest` if that is given. Raises BundleError."""
    text = read_manifest_text(directory)
    manifest = parse_manifest(text, str(directory), digest)
    for name, entry in manifest["files"].items():
        _read_verified(directory / name, entry)
    unlisted = {path.name for path in directory.iterdir()} - manifest["files"].keys() - {MANIFEST}
    if unlisted:
        raise BundleError(f"{directory} holds {', '.join(sorted(unlisted))}, not in its manifest. {_REMEDY}")
    return Bundle(directory, manifest, hashlib.sha256(text).hexdigest())


def read_manifest_text(directory: Path) -> bytes:
    """Read the manifest of a bundle. Raises BundleError if it is missing."""
    try:
        return (directory / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{directory / MANIFEST} is missing. {_REMEDY}") from error


def parse_manifest(text: bytes, location: str, digest: str | None = None) -> dict[str, Any]:
    """Parse and check the manifest of the bundle at `location`, a path or URI for messages. Raises BundleError."""
    if digest not in (None, hashlib.sha256(text).hexdigest()):
        raise BundleError(f"{location}/{MANIFEST} has changed: its digest was {digest}. {_REMEDY}")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{location}/{MANIFEST} is damaged. {_REMEDY}") from error
    format_version = manifest.get("format_version")
    if format_version != FORMAT_VERSION:
        raise BundleError(
            f"{location} has format version {format_version}; this version of mbta_assets reads {FORMAT_VERSION}. "
            "Use the version that wrote it, or materialize the model again."
        )
    foreign_names = [name for name in manifest["files"] if Path(name).name != name or name == ".."]
    if foreign_names:
        raise BundleError(
            f"{location}/{MANIFEST} names files outside of the bundle: {', '.join(foreign_names)}. {_REMEDY}"
        )
    return manifest


def library_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each library, for the manifest."""
    return {name: version(name) for name in names}


def git_commit() -> str | None:
    """Return the commit of this code, with the suffix `-dirty` if files differ from it.

    None outside a checkout of this project. A repository that has the package in it, copied or installed, is another
    project, whose commit does not say which code this is.
    """
    this_file, root = Path(__file__).resolve(), Path(__file__).resolve().parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["name"]
        is_checkout = project == PROJECT and Path(_run_git(root, "rev-parse", "--show-toplevel")).samefile(root)
        if not is_checkout or not _run_git(root, "ls-files", str(this_file)):
            return None
        return _run_git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, KeyError, ValueError, subprocess.CalledProcessError):
        return None


def _run_git(directory: Path, *arguments: str) -> str:
    """Return what git prints in a directory. Raises OSError or CalledProcessError."""
    # In a hook, git's variables name the repository that the hook is of.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *arguments]
    process = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    return process.stdout.strip()


def _read_verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a file. Raises BundleError unless it has the size and SHA-256 of its entry in the manifest."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path} is missing. {_REMEDY}") from None
    if len(content) != entry["size_bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BundleError(f"{path} is not what the manifest says it was. {_REMEDY}")
    return content


_REMEDY = "Materialize the model again, or roll back to an earlier version."
