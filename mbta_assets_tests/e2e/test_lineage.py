"""The lineage as people run it: `dagster asset materialize` in a process of its own, on a store of its own."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mbta_assets.ml.inference.monotone import correct_delays, group_reports
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.e2e.conftest import copy_store, materialize, succeed
from mbta_assets_tests.support.dagster_dev import environment

pytestmark = pytest.mark.e2e
on_trained = pytest.mark.xdist_group("trained")

DAILY = "group:upstream or group:transit"
MODELS = ("xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student", "quantized_student")
CONTROLS = ("unpruned_teacher", "untaught_student")
BASELINES = ("schedule", "persistence", "runtime_lookup")


def leaderboard(store: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads((store / "reports/model_leaderboard.json").read_text())
    return {row["model"]: row for row in rows}


def digests(store: Path) -> dict[str, str | None]:
    bundles = ModelRegistry(store)
    return {asset: bundles.current_digest(asset) for asset in ("training_set", "runtime_lookup", *MODELS)}


@on_trained
def test_every_model_and_baseline_is_scored_on_the_same_rows_and_every_model_beats_persistence(store: Path) -> None:
    rows = leaderboard(store)
    next_stop = {name: row["by_stops_ahead"]["1"]["mae"] for name, row in rows.items()}
    assert set(rows) == {*BASELINES, *MODELS, *CONTROLS}
    assert {row["n"] for row in rows.values()} == {rows["schedule"]["n"]}
    assert max(next_stop[name] for name in (*MODELS, *CONTROLS)) < next_stop["persistence"] < next_stop["schedule"]


@on_trained
def test_what_does_not_beat_the_lookup_is_shown_as_such_and_only_what_does_is_in_production(store: Path) -> None:
    rows = leaderboard(store)
    lookup = rows["runtime_lookup"]["mae"]
    assert all(row["beats_runtime_lookup"] == (row["mae"] < lookup) for row in rows.values())
    assert ModelRegistry(store).current_digest("production_model") == digests(store)["quantized_student"]
    assert rows["quantized_student"]["mae"] <= 0.99 * lookup


@on_trained
def test_no_trip_of_the_real_day_runs_backwards_by_any_model_and_intervals_widen(store: Path) -> None:
    [day] = ParquetTables(store).days("transit_features")
    rows = schema.to_frame(ParquetTables(store).read("transit_features", [day]))
    rows = rows.assign(report=group_reports(rows)).sort_values(["report", "stops_ahead"], ignore_index=True)
    arrivals = rows["stops_ahead"] > 0
    for name in MODELS:
        model = load_model(ModelRegistry(store).current(name))
        delay = correct_delays(rows, model.predict(rows)).delay
        ahead = rows["scheduled_seconds_ahead"].astype(float) + delay
        assert ahead.min() > -0.01, name
        assert ahead.groupby(rows["report"]).diff().min() > -0.01, name
        if model.interval:
            lower, upper = model.interval.compute_bounds(rows, delay)
            width = pd.Series(upper - lower)[arrivals]
            assert width.groupby(rows.loc[arrivals, "report"]).diff().min() > -0.01, name
    scored = leaderboard(store)
    assert all(0 <= scored[name]["corrected_trips"] <= 1 for name in MODELS)
    assert all(scored[name]["mae"] <= 1.01 * scored[name]["mae_uncorrected"] for name in MODELS)


@on_trained
def test_the_leaderboard_says_what_each_model_costs(store: Path) -> None:
    for name, row in leaderboard(store).items():
        costs = [row["size_bytes"], row["parameters"], row["latency_us_p50"]]
        assert costs == [None] * 3 if name in BASELINES else min(costs) > 0


@on_trained
def test_the_manifests_tell_a_dense_network_that_each_model_comes_from(store: Path) -> None:
    bundles = ModelRegistry(store)
    teacher, pruned, student, quantized = (bundles.current(name).manifest for name in MODELS[1:])
    assert teacher["layers"][0][0] == teacher["configuration"]["hidden"][0]
    assert pruned["teacher"] == bundles.current_digest("dnn_teacher")
    halved = next(row for row in pruned["candidates"] if row["name"] == "neurons-50")
    assert json.loads(halved["layers"])[0][0] == teacher["layers"][0][0] / 2
    assert student["teacher"]["pruned_teacher"] == bundles.current_digest("pruned_teacher")
    assert student["synthetic_rows"] > 0 and "synthetic_rows" not in teacher
    assert quantized["student"] == bundles.current_digest("distilled_student")
    assert quantized["parity"]["rows"] >= leaderboard(store)["schedule"]["n"]
    assert quantized["parity"]["max_seconds"] <= quantized["parity"]["bound_seconds"]


@on_trained
def test_the_same_data_and_seed_give_the_same_trees_and_another_seed_others(
    trained: dict[str, str], tmp_path: Path
) -> None:
    """Of the other models the same is told where they are made in two places, e2e/test_lineage_on_google_cloud.py."""
    copy = copy_store(trained, tmp_path / "copy")
    store = Path(copy["MBTA_STORE"])
    before = digests(store)
    succeed(copy, "--select", "training_set,xgboost_model")
    assert digests(store) == before
    succeed(copy | {"MBTA_SEED": "1"}, "--select", "xgboost_model")
    after = digests(store)
    assert after["xgboost_model"] != before["xgboost_model"]
    assert after["training_set"] == before["training_set"]


def test_a_range_fills_many_days_in_one_run_and_one_day_again_changes_only_that_day(tmp_path: Path) -> None:
    """On simulated days, the default source."""
    variables = environment(tmp_path, tmp_path, MBTA_SOURCE="synthetic", MBTA_START_DATE="2024-03-01")
    days = [date(2024, 3, 9), date(2024, 3, 10)]
    succeed(variables, "--select", DAILY, "--partition-range", "2024-03-09...2024-03-10")
    lake = ParquetTables(tmp_path)
    tables = ("vehicle", "raw_transit_data", "transit_features")
    first = {(table, day): lake.versions(table, [day])[day] for table in tables for day in days}
    assert len(set(first.values())) == len(first)
    succeed(variables | {"MBTA_SEED": "1"}, "--select", DAILY, "--partition", "2024-03-10")
    second = {(table, day): lake.versions(table, [day])[day] for table in tables for day in days}
    assert {key for key in first if first[key] != second[key]} == {(table, days[1]) for table in tables}


def test_a_broken_file_fails_the_run_and_leaves_what_was_stored(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    vehicle = pd.DataFrame(
        {
            "service_date": [date(2024, 4, 6)],
            "id": ["R-1"],
            "updated_at": pd.to_datetime(["2024-04-06 12:00:00Z"]),
            "current_status": ["STOPPED_AT"],
            "latitude": [42.0],
            "longitude": [-71.0],
            "stop_id": ["70061"],
            "trip_id": ["1"],
        }
    )
    path = source / "vehicle.parquet"
    vehicle.to_parquet(path)
    store = tmp_path / "store"
    variables, asked = environment(store, source), ("--select", "vehicle", "--partition", "2024-04-06")
    succeed(variables, *asked)
    before = ParquetTables(store).versions("vehicle", [date(2024, 4, 6)])
    vehicle.drop(columns="latitude").to_parquet(path)
    run = materialize(variables, *asked)
    assert run.returncode != 0
    assert "table vehicle, column latitude, service day 2024-04-06" in run.stderr
    path.write_bytes(path.read_bytes()[:200])
    assert materialize(variables, *asked).returncode != 0
    assert ParquetTables(store).versions("vehicle", [date(2024, 4, 6)]) == before
