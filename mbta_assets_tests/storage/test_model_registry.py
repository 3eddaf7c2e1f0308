"""Versions never change, and the pointer to the current one moves only from where its mover saw it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mbta_assets.storage.bundle import BundleError, Draft
from mbta_assets.storage.model_registry import BundleStore, Move, PointerMoved
from mbta_assets_tests.support.dagster_dev import ROOT


def draft(n: int) -> Draft:
    """One of many small bundles."""
    return Draft("toy", {"weights.bin": bytes([n])}, {"mae": n})


def test_the_pointer_keeps_its_history_and_can_go_back(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    a, b = (store.put("model", draft(n)).digest for n in (1, 2))
    store.point("model", a, expected=None)
    store.point("model", b, expected=a)
    assert store.history("model") == [b, a]
    store.point("model", a, expected=b)
    assert store.current("model").file("weights.bin") == b"\x01"
    assert store.history("model") == [a, b, a]


def test_the_history_says_when_each_version_became_current_and_why(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    a, b = (store.put("model", draft(n)).digest for n in (1, 2))
    store.point("model", a, expected=None, why="the first")
    store.point("model", b, expected=a, why="a better one")
    latest, first = store.moves("model")
    assert [(latest.digest, latest.why), (first.digest, first.why)] == [(b, "a better one"), (a, "the first")]
    assert latest.at is not None
    assert abs(datetime.now(UTC) - datetime.fromisoformat(latest.at)) < timedelta(minutes=1)


def test_a_pointer_from_before_moves_had_a_time_and_a_reason_is_read_and_carried_on(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    a, b, c = (store.put("model", draft(n)).digest for n in range(3))
    pointer = tmp_path / "bundles/model/current.json"
    pointer.write_text(json.dumps({"version": b[:16], "digest": b, "previous": [a]}))
    assert store.moves("model") == [Move(b), Move(a)]
    store.point("model", c, expected=b)
    assert store.moves("model")[1:] == [Move(b), Move(a)]


def test_a_version_stored_again_is_the_same_version(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    first = store.put("model", draft(1))
    assert store.put("other_model", first).digest == store.put("model", draft(1)).digest == first.digest


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("weights.bin", b"\x01", b"\x07"), ("manifest.json", b'"mae": 1', b'"mae": 0'), ("manifest.json", b"{", b"[")],
)
def test_a_damaged_version_is_refused_and_repaired_by_storing_it_again(
    tmp_path: Path, name: str, old: bytes, new: bytes
) -> None:
    store = BundleStore(tmp_path)
    stored = store.put("model", draft(1))
    store.point("model", stored.digest, expected=None)
    damaged = stored.path / name
    whole = damaged.read_bytes()
    damaged.write_bytes(whole.replace(old, new))
    with pytest.raises(BundleError, match=name):
        store.current("model")
    store.put("model", draft(1))
    assert store.current("model").digest == stored.digest
    assert damaged.read_bytes() == whole


def test_without_a_version_there_is_a_command_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="dagster asset materialize --select model"):
        BundleStore(tmp_path).current("model")


def test_the_pointer_does_not_move_from_elsewhere_or_to_nothing(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    digest = store.put("model", draft(1)).digest
    with pytest.raises(PointerMoved):
        store.point("model", digest, expected="another")
    with pytest.raises(BundleError):
        store.point("model", "0" * 64, expected=None)
    assert store.history("model") == []


MOVES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from mbta_assets.storage.model_registry import BundleStore, PointerMoved
print("ready", flush=True)
sys.stdin.readline()
try:
    BundleStore(Path.cwd()).point("model", sys.argv[1], expected=sys.argv[2])
except PointerMoved:
    print("lost")
else:
    print("won")
"""


def test_of_two_movers_at_once_exactly_one_wins(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    start, *others = (store.put("model", draft(n)).digest for n in range(3))
    store.point("model", start, expected=None)
    root = str(ROOT)
    movers = [
        subprocess.Popen(
            [sys.executable, "-c", MOVES, other, start, root],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for other in others
    ]  # fmt: skip
    for mover in movers:
        assert mover.stdout is not None
        assert mover.stdout.readline() == "ready\n"
    outcomes = [mover.communicate("go\n")[0].strip() for mover in movers]
    assert sorted(outcomes) == ["lost", "won"]
    assert store.history("model") == [others[outcomes.index("won")], start]
