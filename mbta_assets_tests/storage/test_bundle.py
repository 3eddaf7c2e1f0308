"""A bundle whose files differ from its manifest is refused."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import BundleError

FILES = {"weights.bin": b"\x00\x01\x02", "encoder.json": b"{}"}


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    bundle.write(tmp_path / "a", "toy", FILES, features=["x"], mae=1.5)
    read = bundle.read(tmp_path / "a")
    assert read.manifest["kind"] == "toy"
    assert (read.manifest["features"], read.manifest["mae"]) == (["x"], 1.5)
    assert {name: read.file(name) for name in FILES} == FILES
    assert read.size_bytes == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())


def test_the_digest_depends_on_the_content_alone(tmp_path: Path) -> None:
    first = bundle.write(tmp_path / "a", "toy", FILES, b=1, a=2)
    same = bundle.write(tmp_path / "b", "toy", dict(reversed(FILES.items())), a=2, b=1)
    other = bundle.write(tmp_path / "c", "toy", {**FILES, "encoder.json": b"[]"}, a=2, b=1)
    assert first.digest == same.digest != other.digest


def test_a_directory_that_is_not_empty_is_not_written_to(tmp_path: Path) -> None:
    bundle.write(tmp_path, "toy", FILES)
    with pytest.raises(BundleError, match="is not empty"):
        bundle.write(tmp_path, "toy", FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"\x00\x01\x03", b"[]", b""])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    bundle.write(tmp_path, "toy", FILES)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is not what the manifest says"):
        bundle.read(tmp_path)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    bundle.write(tmp_path, "toy", FILES)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        bundle.read(tmp_path)


def test_an_unlisted_file_is_refused_by_name(tmp_path: Path) -> None:
    bundle.write(tmp_path, "toy", FILES)
    (tmp_path / "extra.pkl").write_bytes(b"")
    with pytest.raises(BundleError, match=r"holds extra\.pkl, not in its manifest"):
        bundle.read(tmp_path)


def test_an_unknown_format_version_is_refused(tmp_path: Path) -> None:
    written = bundle.write(tmp_path, "toy", FILES)
    (tmp_path / "manifest.json").write_text(json.dumps({**written.manifest, "format_version": 2}))
    with pytest.raises(BundleError, match="has format version 2; this version of mbta_assets reads 1"):
        bundle.read(tmp_path)


PRINT_COMMIT = "from mbta_assets.storage.bundle import git_commit; print(git_commit())"


def copy_package(root: Path) -> None:
    """Copy what `git_commit` needs of the package into a directory, with an empty `__init__`."""
    package = root / "mbta_assets"
    (package / "storage").mkdir(parents=True)
    for init in (package, package / "storage"):
        (init / "__init__.py").touch()
    shutil.copy(inspect.getfile(bundle), package / "storage/bundle.py")


def commit_all(root: Path) -> str:
    """Commit what is not ignored in a directory to a new repository and return the commit."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--allow-empty", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def read_commit(root: Path, **variables: str) -> str:
    """Return the commit that a copy of the package below `root` prints."""
    environment = {**os.environ, "PYTHONPATH": str(root), **variables}
    command = [sys.executable, "-c", PRINT_COMMIT]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()


PYPROJECT = '[project]\nname = "mbta_assets"\n'


@pytest.mark.integration
def test_the_commit_is_that_of_the_projects_own_checkout_and_says_if_files_differ(tmp_path: Path) -> None:
    copy_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / ".gitignore").write_text("__pycache__")
    commit = commit_all(tmp_path)
    assert read_commit(tmp_path) == commit
    other = tmp_path / "other"
    other.mkdir()
    commit_all(other)
    assert read_commit(tmp_path, GIT_DIR=str(other / ".git")) == commit, "as in a hook of another repository"
    shutil.rmtree(other)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT + "version = '1'\n")
    assert read_commit(tmp_path) == f"{commit}-dirty"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("place", "pyproject", "ignored"),
    [
        ("vendor", PYPROJECT, False),  # the project as a folder of a repository
        (".venv/lib/site-packages", None, True),  # installed into a repository
        (".venv/lib/site-packages", None, False),
        (".", '[project]\nname = "another"\n', False),  # the package beside another project's code
        (".", PYPROJECT, True),  # the project in the top level of a repository that does not track it
        (".", None, False),
        (".", "this is no TOML", False),
    ],
)
def test_there_is_no_commit_in_a_repository_of_another_project(
    tmp_path: Path, place: str, pyproject: str | None, ignored: bool
) -> None:
    copy_package(tmp_path / place)
    if pyproject is not None:
        (tmp_path / place / "pyproject.toml").write_text(pyproject)
    if ignored:
        (tmp_path / ".gitignore").write_text("mbta_assets\n")
    commit_all(tmp_path)
    assert read_commit(tmp_path / place) == "None"


@pytest.mark.integration
def test_there_is_no_commit_outside_a_repository(tmp_path: Path) -> None:
    copy_package(tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert read_commit(tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path.parent)) == "None"
