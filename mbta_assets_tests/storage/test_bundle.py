"""A bundle whose files differ from its manifest is refused."""

import json
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
