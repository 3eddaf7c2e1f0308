"""The lineage as people run it: `dagster asset materialize` in a process of its own, on a store of its own."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake

DAILY = "group:upstream or group:transit"
TRAINED = "group:training or group:models or group:production"
MODELS = ("xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student", "quantized_student")
CONTROLS = ("unpruned_teacher", "untaught_student")
BASELINES = ("schedule", "persistence", "runtime_lookup")


def materialize(store: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    home = store / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environment = (
        os.environ | {"DAGSTER_HOME": str(home), "MBTA_STORE": str(store), "WANDB_MODE": "offline"} | variables
    )
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)


def succeed(store: Path, *arguments: str, **variables: str) -> None:
    run = materialize(store, *arguments, **variables)
    assert run.returncode == 0, run.stderr[-4000:]


def leaderboard(store: Path) -> dict[str, dict]:
    rows = json.loads((store / "reports/model_leaderboard.json").read_text())
    return {row["model"]: row for row in rows}


def digests(store: Path) -> dict[str, str | None]:
    bundles = BundleStore(store)
    return {asset: bundles.current_digest(asset) for asset in ("training_set", "runtime_lookup", *MODELS)}


@pytest.fixture(scope="module")
def real(tmp_path_factory, seed_upstream):
    """The lineage of the real day, by the calls of the README."""
    store = tmp_path_factory.mktemp("real")
    source = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(seed_upstream), "MBTA_TUNE_TRIALS": "4"}
    succeed(store, DAILY, "--partition", "2023-10-03", **source)
    succeed(store, TRAINED, **source)
    return store, source


def test_on_the_real_day_the_trees_beat_the_lookup_and_both_are_as_good_as_they_have_to_be(real):
    next_stop = {name: row["by_stops_ahead"]["1"]["mae"] for name, row in leaderboard(real[0]).items()}
    assert next_stop["runtime_lookup"] <= 11
    assert next_stop["xgboost_model"] <= 10
    assert next_stop["schedule"] > next_stop["persistence"]


def test_on_the_real_day_every_model_is_three_times_as_good_as_persistence(real):
    rows = leaderboard(real[0])
    next_stop = {name: row["by_stops_ahead"]["1"]["mae"] for name, row in rows.items()}
    assert set(rows) == {*BASELINES, *MODELS, *CONTROLS}
    assert {row["n"] for row in rows.values()} == {rows["schedule"]["n"]}
    assert max(next_stop[name] for name in (*MODELS, *CONTROLS)) < next_stop["persistence"] / 3


def test_what_does_not_beat_the_lookup_is_shown_as_such_and_only_what_does_is_in_production(real):
    rows = leaderboard(real[0])
    lookup = rows["runtime_lookup"]["mae"]
    assert all(row["beats_runtime_lookup"] == (row["mae"] < lookup) for row in rows.values())
    in_production = BundleStore(real[0]).current_digest("production_model")
    assert in_production in (digests(real[0])["quantized_student"], None)
    assert in_production is None or rows["quantized_student"]["mae"] <= 0.99 * lookup


def test_the_leaderboard_says_what_each_model_costs(real):
    for name, row in leaderboard(real[0]).items():
        costs = [row["size_bytes"], row["parameters"], row["latency_us_p50"]]
        assert costs == [None] * 3 if name in BASELINES else min(costs) > 0


def test_the_manifests_tell_a_dense_network_that_each_model_comes_from(real):
    bundles = BundleStore(real[0])
    teacher, pruned, student, quantized = (bundles.current(name).manifest for name in MODELS[1:])
    assert teacher["layers"][0][0] == teacher["configuration"]["hidden"][0]
    assert pruned["teacher"] == bundles.current_digest("dnn_teacher")
    halved = next(row for row in pruned["candidates"] if row["name"] == "neurons-50")
    assert json.loads(halved["layers"])[0][0] == teacher["layers"][0][0] / 2
    assert student["teacher"]["pruned_teacher"] == bundles.current_digest("pruned_teacher")
    assert quantized["student"] == bundles.current_digest("distilled_student")
    assert quantized["parity"]["rows"] >= leaderboard(real[0])["schedule"]["n"]
    assert quantized["parity"]["max_seconds"] <= quantized["parity"]["bound_seconds"]


def test_the_same_data_and_seed_give_the_same_trees_and_another_seed_others(real):
    """Of the other models the same is told where they are made in two places: on Google Cloud, and in a pipeline."""
    store, source = real
    before = digests(store)
    succeed(store, "training_set,xgboost_model", **source)
    assert digests(store) == before
    succeed(store, "xgboost_model", MBTA_SEED="1", **source)
    after = digests(store)
    assert after["xgboost_model"] != before["xgboost_model"]
    assert after["training_set"] == before["training_set"]


@pytest.mark.timeout(600)
def test_a_range_fills_many_days_in_one_run_and_one_day_again_changes_only_that_day(tmp_path):
    days = [date(2024, 3, 9), date(2024, 3, 10)]
    succeed(tmp_path, DAILY, "--partition-range", "2024-03-09...2024-03-10")
    lake = Lake(tmp_path)
    tables = ("vehicle", "schedule", "raw_transit_data", "transit_features")
    first = {(table, day): lake.versions(table, [day])[day] for table in tables for day in days}
    assert len(set(first.values())) == len(first)
    succeed(tmp_path, DAILY, "--partition", "2024-03-10", MBTA_SEED="1")
    second = {(table, day): lake.versions(table, [day])[day] for table in tables for day in days}
    assert {key for key in first if first[key] != second[key]} == {(table, days[1]) for table in tables} - {
        ("schedule", days[1]) if first["schedule", days[1]] == second["schedule", days[1]] else None
    }


def test_a_broken_file_fails_the_run_and_leaves_what_was_stored(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    vehicle = pd.DataFrame(
        {
            "service_date": [date(2024, 3, 6)],
            "id": ["R-1"],
            "updated_at": pd.to_datetime(["2024-03-06 12:00:00Z"]),
            "current_status": ["STOPPED_AT"],
            "latitude": [42.0],
            "longitude": [-71.0],
            "stop_id": ["70061"],
            "trip_id": ["1"],
        }
    )
    path = source / "vehicle.parquet"
    vehicle.to_parquet(path)
    store, variables = tmp_path / "store", {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(source)}
    succeed(store, "vehicle", "--partition", "2024-03-06", **variables)
    before = Lake(store).versions("vehicle", [date(2024, 3, 6)])
    vehicle.drop(columns="latitude").to_parquet(path)
    run = materialize(store, "vehicle", "--partition", "2024-03-06", **variables)
    assert run.returncode != 0
    assert "table vehicle, column latitude, service day 2024-03-06" in run.stderr
    path.write_bytes(path.read_bytes()[:200])
    assert materialize(store, "vehicle", "--partition", "2024-03-06", **variables).returncode != 0
    assert Lake(store).versions("vehicle", [date(2024, 3, 6)]) == before
