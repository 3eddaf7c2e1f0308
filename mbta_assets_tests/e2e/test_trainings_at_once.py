"""Two trainings at once on one store, one on old and one on new features: neither takes anything from the other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.provenance import list_inputs
from mbta_assets_tests.support import real_day
from mbta_assets_tests.support.dagster_dev import ROOT, environment, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("trainings")]

FEATURES = f"tables/transit_features/service_date={real_day.DAY}"
DAILY = ("--select", "group:upstream or group:transit", "--partition", str(real_day.DAY))
TRAINING = "group:training or group:models or group:production"
BUNDLES = {
    "training_set",
    "runtime_lookup",
    "xgboost_model",
    "dnn_teacher",
    "pruned_teacher",
    "distilled_student",
    "quantized_student",
}
QUICK = {
    "training_set": {"rows_per_day": 3_000},
    "xgboost_model": {"rounds": 20, "trial_rounds": 20, "trial_rows": 500},
    "dnn_teacher": {"epochs": 2, "trial_epochs": 2, "trial_rows": 500},
    "pruned_teacher": {"epochs": 1, "cuts": [{"weights": 0.5}]},
    "distilled_student": {"epochs": 2, "trial_epochs": 2, "trial_rows": 500},
    "production_model": {"min_test_rows": 100, "max_latency_us": 1e6},
}
CONFIG = json.dumps({"ops": {asset: {"config": config} for asset, config in QUICK.items()}})


class Command:
    """`dagster asset materialize` in a process of its own."""

    def __init__(self, variables: Mapping[str, str], log: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env=dict(variables), stdout=output, stderr=output
            )

    def succeed(self) -> None:
        """Wait for the command. Raise AssertionError with what it printed if it fails."""
        assert self.process.wait(timeout=1800) == 0, self.log.read_text()[-4000:]


def read_run(instance: dg.DagsterInstance, run_id: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the digest of each bundle that a run has made, and the metadata of its decision about production."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    events = [entry.asset_materialization for entry in entries if entry.asset_materialization]
    made = {event.asset_key.path[-1]: event for event in events}
    digests = {name: (made[name].tags or {})[DATA_VERSION_TAG] for name in BUNDLES}
    return digests, {name: value.value for name, value in made["production_model"].metadata.items()}


def train_old_and_new(root: Path) -> dict[str, str]:
    """Train on old features, and on new ones as soon as that training has begun; return the environment."""
    variables = {
        name: environment(root / name, root / f"{name}_upstream", MBTA_START_DATE=str(real_day.DAY))
        for name in ("old", "new")
    }
    real_day.write_days(root / "old_upstream", [real_day.DAY], keep_share=0.9)
    real_day.write_days(root / "new_upstream", [real_day.DAY])
    commands = [Command(settings, root / f"{name}_daily.log", *DAILY) for name, settings in variables.items()]
    try:
        for command in commands:
            command.succeed()
        training = ("--select", TRAINING, "--config-json", CONFIG)
        commands.append(Command(variables["old"], root / "first.log", *training))
        registry = ModelRegistry(root / "old")
        eventually("a training set is made", 180, lambda: registry.current_digest("training_set"))
        shutil.rmtree(root / "old" / FEATURES)
        (root / "new" / FEATURES).rename(root / "old" / FEATURES)
        commands.append(Command(variables["old"], root / "second.log", *training))
        for command in commands:
            command.succeed()
    finally:
        for command in commands:
            command.process.kill()
    return variables["old"]


def test_each_bundle_comes_from_one_training_set_the_gate_knows_it_and_none_is_lost(tmp_path: Path) -> None:
    variables = train_old_and_new(tmp_path)
    registry = ModelRegistry(Path(variables["MBTA_STORE"]))
    with dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as instance:
        records = [
            record
            for record in instance.get_run_records(ascending=True)
            if dg.AssetKey("training_set") in (record.dagster_run.asset_selection or ())
        ]
        first, second = (read_run(instance, record.dagster_run.run_id) for record in records)
    assert (records[1].start_time or 0) < (records[0].end_time or 0), "the trainings were not at once"
    assert first[0]["training_set"] != second[0]["training_set"]
    for digests, decision in (first, second):
        for asset, digest in digests.items():
            inputs = list_inputs(registry.get(asset, digest).manifest)  # verified: no version is lost
            made_by_run = {name: version for name, version in inputs.items() if name in BUNDLES}
            assert made_by_run.items() <= digests.items(), f"{asset} was made from something of the other training"
        assert decision["candidate"] == digests["quantized_student"]
        assert decision["training_set"] == digests["training_set"]
    for asset in BUNDLES:
        assert set(registry.history(asset)) == {first[0][asset], second[0][asset]}
