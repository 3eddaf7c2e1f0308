"""Versions never change, and a writer moves the pointer only if it is still where the writer read it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mbta_assets.storage.bundle import BundleError, Draft
from mbta_assets.storage.model_registry import ModelRegistry, Move, PointerMoved
from mbta_assets_tests.support.dagster_dev import ROOT


def make_draft(n: int) -> Draft:
    """Return a small bundle whose file contains the byte n."""
    return Draft("toy", {"weights.bin": bytes([n])}, {"mae": n})


def test_the_pointer_keeps_its_history_and_can_go_back(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    a, b = (registry.put("model", make_draft(n)).digest for n in (1, 2))
    registry.set_current("model", a, expected=None)
    registry.set_current("model", b, expected=a)
    assert registry.history("model") == [b, a]
    registry.set_current("model", a, expected=b)
    assert registry.current("model").file("weights.bin") == b"\x01"
    assert registry.history("model") == [a, b, a]


def test_a_pointer_that_a_killed_writer_left_half_written_goes_although_the_old_version_stays(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    stored = registry.put("model", make_draft(1)).digest
    registry.make_current("model", stored)
    (tmp_path / "bundles/model/.current.json").write_bytes(b'{"version": "01')
    registry.make_current("model", stored)
    assert registry.history("model") == [stored]
    assert {path.name for path in (tmp_path / "bundles/model").iterdir()} == {"current.json", stored[:16]}


def test_the_history_says_when_each_version_became_current_and_why(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    a, b = (registry.put("model", make_draft(n)).digest for n in (1, 2))
    registry.set_current("model", a, expected=None, why="the first")
    registry.set_current("model", b, expected=a, why="a better one")
    latest, first = registry.moves("model")
    assert [(latest.digest, latest.why), (first.digest, first.why)] == [(b, "a better one"), (a, "the first")]
    assert latest.at is not None
    assert abs(datetime.now(UTC) - datetime.fromisoformat(latest.at)) < timedelta(minutes=1)


def test_a_cleared_pointer_has_no_version_keeps_its_history_and_can_be_set_again(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    stored = registry.put("model", make_draft(1)).digest
    registry.set_current("model", stored, expected=None, why="waits")
    with pytest.raises(PointerMoved):
        registry.set_current("model", None, expected="another")
    registry.set_current("model", None, expected=stored, why="promoted")
    assert registry.current_digest("model") is None
    assert registry.history("model") == [stored]
    registry.make_current("model", None, why="is clear already")
    assert [move.why for move in registry.moves("model")] == ["promoted", "waits"]
    registry.set_current("model", stored, expected=None)
    assert registry.current("model").digest == stored


def test_a_pointer_without_times_and_reasons_is_read_and_extended(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    a, b, c = (registry.put("model", make_draft(n)).digest for n in range(3))
    pointer = tmp_path / "bundles/model/current.json"
    pointer.write_text(json.dumps({"version": b[:16], "digest": b, "previous": [a]}))
    assert registry.moves("model") == [Move(b), Move(a)]
    registry.set_current("model", c, expected=b)
    assert registry.moves("model")[1:] == [Move(b), Move(a)]


def test_a_version_stored_again_is_the_same_version(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    first = registry.put("model", make_draft(1))
    assert registry.put("other_model", first).digest == registry.put("model", make_draft(1)).digest == first.digest


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("weights.bin", b"\x01", b"\x07"), ("manifest.json", b'"mae": 1', b'"mae": 0'), ("manifest.json", b"{", b"[")],
)
def test_a_damaged_version_is_refused_and_repaired_by_storing_it_again(
    tmp_path: Path, name: str, old: bytes, new: bytes
) -> None:
    registry = ModelRegistry(tmp_path)
    stored = registry.put("model", make_draft(1))
    registry.set_current("model", stored.digest, expected=None)
    damaged = stored.path / name
    intact = damaged.read_bytes()
    damaged.write_bytes(intact.replace(old, new))
    with pytest.raises(BundleError, match=name):
        registry.current("model")
    registry.put("model", make_draft(1))
    assert registry.current("model").digest == stored.digest
    assert damaged.read_bytes() == intact


def test_without_a_version_the_error_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="dagster asset materialize -m mbta_assets.definitions --select model"):
        ModelRegistry(tmp_path).current("model")


def test_the_pointer_moves_neither_from_another_version_nor_to_one_that_is_not_stored(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    digest = registry.put("model", make_draft(1)).digest
    with pytest.raises(PointerMoved):
        registry.set_current("model", digest, expected="another")
    with pytest.raises(BundleError):
        registry.set_current("model", "0" * 64, expected=None)
    assert registry.history("model") == []


MOVE_POINTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from mbta_assets.storage.model_registry import ModelRegistry, PointerMoved
print("ready", flush=True)
sys.stdin.readline()
try:
    ModelRegistry(Path.cwd()).set_current("model", sys.argv[1] or None, expected=sys.argv[2])
except PointerMoved:
    print("lost")
else:
    print("won")
"""


@pytest.mark.integration
@pytest.mark.parametrize("clears", [False, True])
def test_of_two_concurrent_writers_exactly_one_moves_or_clears_the_pointer(tmp_path: Path, clears: bool) -> None:
    registry = ModelRegistry(tmp_path)
    start, *others = (registry.put("model", make_draft(n)).digest for n in range(3))
    if clears:
        others[1] = ""
    registry.set_current("model", start, expected=None)
    root = str(ROOT)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", MOVE_POINTER, other, start, root],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for other in others
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    outcomes = [writer.communicate("go\n")[0].strip() for writer in writers]
    assert sorted(outcomes) == ["lost", "won"]
    assert [move.digest for move in registry.moves("model")] == [others[outcomes.index("won")], start]
