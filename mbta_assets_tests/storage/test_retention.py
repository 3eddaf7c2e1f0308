"""Pruning keeps what is needed after any history of trainings, promotions and rollbacks, and removes all else."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.cli import main
from mbta_assets.storage.bundle import Bundle, BundleError, Draft
from mbta_assets.storage.model_registry import REMOVED, SHADOW_MODEL, ModelRegistry
from mbta_assets.storage.reports import ReportStore, name_model_report
from mbta_assets.storage.retention import PRODUCTION, Retention, apply_plan, make_plan
from mbta_assets_tests.support.dagster_dev import ROOT

GRAPH = {
    "training_set": (),
    "xgboost_held_out": ("training_set",),
    "xgboost_model": ("training_set", "xgboost_held_out"),
    "unpruned_teacher": ("training_set",),
    "pruned_teacher": ("training_set",),
    "quantized_student": ("training_set", "xgboost_model", "pruned_teacher"),
}
"""Assets in topological order, with their inputs; `unpruned_teacher` is the control of `pruned_teacher`."""
WITHOUT_POINTER = ("xgboost_held_out", "unpruned_teacher")
NOW = datetime.now(UTC)
Version = tuple[str, str]


@dataclass
class History:
    """A registry and all that has happened to it, with what each version needs."""

    root: Path
    names: dict[Version, set[Version]] = field(default_factory=dict)
    stored: list[Version] = field(default_factory=list)
    """Versions, the one stored last at the end."""
    current: dict[str, Version] = field(default_factory=dict)
    moves: list[Version] = field(default_factory=list)
    """Versions of the production model, the latest first."""

    def __post_init__(self) -> None:
        self.registry = ModelRegistry(self.root)

    def put(self, asset: str, draft: Draft | Bundle, names: set[Version]) -> Version:
        """Store a version."""
        version = (asset, self.registry.put(asset, draft).digest)
        self.names[version] = names
        self.stored = [other for other in self.stored if other != version] + [version]
        return version

    def train(self, content: int, last: int) -> None:
        """Make the first assets, up to the index `last`; the same content makes the same versions."""
        run: dict[str, Version] = {}
        for asset in list(GRAPH)[: last + 1]:
            inputs = {run[name] for name in GRAPH[asset]}
            fields: dict[str, object] = {"inputs": dict(inputs)}
            names = set(inputs)
            if asset == "pruned_teacher":
                control = run["unpruned_teacher"]
                fields["control"] = {"asset": control[0], "digest": control[1]}
                names.add(control)
            run[asset] = self.put(asset, Draft("toy", {"content": bytes([content])}, fields), names)
            if asset not in WITHOUT_POINTER:
                self.registry.make_current(asset, run[asset][1])
                self.current[asset] = run[asset]

    def promote(self) -> None:
        """Make the current student the production model."""
        if student := self.current.get("quantized_student"):
            self.move(self.put(PRODUCTION, self.registry.get(*student), self.names[student]))

    def set_shadow(self, waits: bool) -> None:
        """Put the current student into the shadow, or nothing."""
        self.current.pop(SHADOW_MODEL, None)
        if waits and (student := self.current.get("quantized_student")):
            bundle = self.registry.get(*student)
            self.current[SHADOW_MODEL] = self.put(SHADOW_MODEL, bundle, self.names[student])
        self.registry.make_current(SHADOW_MODEL, self.current.get(SHADOW_MODEL, ("", None))[1])

    def roll_back(self, steps: int) -> None:
        """Make an earlier version the production model."""
        if steps < len(self.moves):
            self.move(self.moves[steps])

    def move(self, version: Version) -> None:
        """Move the pointer of the production model."""
        self.registry.make_current(PRODUCTION, version[1])
        if self.moves[:1] != [version]:
            self.moves.insert(0, version)
        self.current[PRODUCTION] = version

    def set_ages(self, young: int) -> None:
        """Let the last versions be of today, and the earlier ones as old as their order says."""
        for place, (asset, digest) in enumerate(reversed(self.stored)):
            age = timedelta(seconds=place) if place < young else timedelta(days=2 + place)
            time = (NOW - age).timestamp()
            os.utime(self.registry.get(asset, digest).path, (time, time))

    def expected(self, keep: int, young: int) -> set[Version]:
        """Return the versions that have to stay."""
        needed: set[Version] = set()
        roots = [*self.current.values(), *self.moves[:keep], *self.stored[len(self.stored) - young :]]
        while roots:
            version = roots.pop()
            if version not in needed:
                needed.add(version)
                roots += self.names[version]
        rest = [version for version in reversed(self.stored) if version not in needed]
        newest = [
            version for version in rest if [other[0] for other in rest[: rest.index(version)]].count(version[0]) < keep
        ]
        return needed | set(newest)


trainings = st.tuples(st.just("train"), st.integers(0, 5), st.sampled_from([5, 5, 5, 3, 0]))
promotions = st.tuples(st.just("promote"))
shadows = st.tuples(st.just("set_shadow"), st.booleans())
rollbacks = st.tuples(st.just("roll_back"), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(trainings, trainings, promotions, shadows, rollbacks), max_size=14),
    st.integers(1, 3),
    st.integers(0, 8),
)
def test_after_any_history_what_is_needed_stays_and_all_else_goes(
    steps: list[tuple[str, *tuple[Any, ...]]], keep: int, young: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        history = History(Path(directory))
        for name, *arguments in steps:
            getattr(history, name)(*arguments)
        young = min(young, len(history.stored))
        history.set_ages(young)
        retention = Retention(history.root, keep, 14)
        registry = history.registry
        plan = make_plan(registry, retention, NOW)
        assert apply_plan(registry, plan) == plan
        kept = {(asset, stored.version) for asset in registry.assets() for stored in registry.versions(asset)}
        assert kept == {(asset, digest[:16]) for asset, digest in history.expected(keep, young)}
        for asset, digest in [*history.current.values(), *history.moves[:keep]]:  # as a rollback and drift read them
            manifest = registry.get(asset, digest).manifest
            for name, version in manifest["inputs"].items():
                registry.get(name, version)
            if "control" in manifest:
                registry.get(**manifest["control"])
        assert make_plan(registry, retention, NOW).versions == []


def make_old_versions(root: Path, n: int) -> list[str]:
    """Store versions of a model, each a day older than the next, the youngest of them current; return their digests."""
    registry = ModelRegistry(root)
    bundles = [registry.put("model", Draft("toy", {"weights": bytes([number])})) for number in range(n)]
    for number, bundle in enumerate(bundles):
        time = (NOW - timedelta(days=1 + n - number)).timestamp()
        os.utime(bundle.path, (time, time))
    registry.make_current("model", bundles[-1].digest)
    return [bundle.digest for bundle in bundles]


def test_a_version_that_is_stored_or_made_current_meanwhile_stays(tmp_path: Path) -> None:
    registry, digests = ModelRegistry(tmp_path), make_old_versions(tmp_path, 5)
    plan = make_plan(registry, Retention(tmp_path, 1, 14), NOW)
    assert [stored.version for stored in plan.versions] == [digest[:16] for digest in digests[2::-1]]
    registry.put("model", Draft("toy", {"weights": bytes([0])}))
    registry.make_current("model", digests[1])
    removed = apply_plan(registry, plan)
    assert [stored.version for stored in removed.versions] == [digests[2][:16]]
    assert registry.get("model", digests[0]) and registry.current("model")


def test_a_training_under_way_keeps_its_versions_and_what_it_reads_though_none_is_current(tmp_path: Path) -> None:
    history = History(tmp_path)
    for content in range(5):
        history.train(content, last=5)
    [old, *_] = [version for version in history.stored if version[0] == "training_set"]
    draft = Draft("toy", {"content": b"under way"}, {"inputs": {"training_set": old[1]}})
    young = history.put("quantized_student", draft, {old})
    history.set_ages(young=1)
    apply_plan(history.registry, make_plan(history.registry, Retention(tmp_path, 1, 14), NOW))
    for asset, digest in (young, old):
        assert history.registry.get(asset, digest)
    later = NOW + timedelta(days=1)
    apply_plan(history.registry, make_plan(history.registry, Retention(tmp_path, 1, 14), later))
    with pytest.raises(BundleError):
        history.registry.get(*old)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_version_that_is_needed_stops_pruning_and_a_missing_one_does_not(tmp_path: Path, damage: str) -> None:
    registry, digests = ModelRegistry(tmp_path), make_old_versions(tmp_path, 3)
    manifest = registry.current("model").path / "manifest.json"
    if damage == "missing":
        manifest.unlink()
        assert len(make_plan(registry, Retention(tmp_path, 1, 14), NOW).versions) == 2
    else:
        manifest.write_bytes(b"{}")
        with pytest.raises(BundleError, match="has changed"):
            make_plan(registry, Retention(tmp_path, 1, 14), NOW)
        assert len(registry.versions("model")) == len(digests)


REMOVE = """
import os, shutil, signal, sys
from pathlib import Path
from mbta_assets.storage.model_registry import ModelRegistry
registry = ModelRegistry(Path(sys.argv[1]))
unlink, left = os.unlink, [int(sys.argv[2])]
def kill_at_last(*arguments, **options):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return unlink(*arguments, **options)
os.unlink = kill_at_last
registry.remove(registry.versions("model")[int(sys.argv[3])])
"""


@pytest.mark.integration
@pytest.mark.parametrize("files_removed", [0, 1])
def test_a_removal_that_is_killed_leaves_no_damaged_version_and_is_completed(
    tmp_path: Path, files_removed: int
) -> None:
    registry, digests = ModelRegistry(tmp_path), make_old_versions(tmp_path, 3)
    listed = [stored.version for stored in registry.versions("model")]
    index = listed.index(digests[0][:16])
    command = [sys.executable, "-c", REMOVE, str(tmp_path), str(files_removed), str(index)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -9
    with pytest.raises(BundleError, match="is missing"):
        registry.get("model", digests[0])
    assert {stored.version for stored in registry.versions("model")} == {digest[:16] for digest in digests[1:]}
    assert (tmp_path / "bundles/model" / REMOVED).exists()
    registry.put("model", Draft("toy", {"weights": b"another"}))
    assert not (tmp_path / "bundles/model" / REMOVED).exists()


def test_refused_days_and_abandoned_files_go_once_they_are_old(tmp_path: Path) -> None:
    paths = {
        "staged/transit_features/service_date=2024-03-06/data.parquet": 15,
        "staged/transit_features/service_date=2024-03-07/data.parquet": 13,
        "bundles/model/.incoming/weights": 15,
        "tables/vehicle/service_date=2024-03-06/.incoming": 15,
        "reports/.incoming-model_leaderboard.json": 15,
        "tables/vehicle/service_date=2024-03-06/data.parquet": 400,
    }
    for name, days in paths.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10))
        time = (NOW - timedelta(days=days)).timestamp()
        for changed in (path, path.parent):
            os.utime(changed, (time, time))
    registry = ModelRegistry(tmp_path)
    plan = make_plan(registry, Retention(tmp_path, 20, 14), NOW)
    assert plan.size_bytes == 40
    apply_plan(registry, plan)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {name for name, days in paths.items() if days in (13, 400)}


def test_the_command_lists_with_size_and_age_and_removes_only_without_the_flag(tmp_path: Path) -> None:
    digests = make_old_versions(tmp_path, 4)
    variables = {"MBTA_STORE": str(tmp_path), "MBTA_KEEP_VERSIONS": "1"}
    listed = CliRunner(env=variables).invoke(main, ["prune", "--dry-run"])
    assert listed.exit_code == 0, listed.output
    for digest, days in zip(digests[:2], ("5.0", "4.0"), strict=True):
        assert f"{days} days  model {digest[:16]}" in listed.output
    assert "in 2 versions, 0 files and 0 runs would be removed." in listed.output
    assert len(ModelRegistry(tmp_path).versions("model")) == 4
    assert "in 2 versions, 0 files and 0 runs removed." in CliRunner(env=variables).invoke(main, ["prune"]).output
    assert {stored.version for stored in ModelRegistry(tmp_path).versions("model")} == {d[:16] for d in digests[2:]}


def test_reports_about_versions_that_cannot_be_rolled_back_to_go_and_others_stay(tmp_path: Path) -> None:
    history, reports = History(tmp_path), ReportStore(tmp_path)
    for content in range(3):
        history.train(content, len(GRAPH) - 1)
        history.promote()
    names = [name_model_report(digest) for _, digest in history.moves]
    others = ["model_leaderboard.json", "accuracy_history.json"]
    for name in [*names, *others]:
        path = reports.write(name, b"a report")["path"]
        os.utime(path, ((NOW - timedelta(days=2)).timestamp(),) * 2)
    young = name_model_report("0" * 64)
    reports.write(young, b"of a promotion that is under way")
    apply_plan(history.registry, make_plan(history.registry, Retention(tmp_path, 2, 14), NOW))
    left = {path.name for path in reports.directory.glob("*.*") if not path.name.startswith(".")}
    assert left == {*names[:2], *others, young}
