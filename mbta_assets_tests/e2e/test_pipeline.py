"""A pipeline in Kubeflow's local runner materializes what Dagster does, and reports it to Dagster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.real_day import DAY

pytestmark = pytest.mark.xdist_group("trained")

TABLES = ("vehicle", "trip", "stop", "schedule", "raw_transit_data", "transit_features")
MODELS = ("training_set", "runtime_lookup", "xgboost_model")
SELECTION = " or ".join(["group:upstream", "group:transit", *(f"key:{asset}" for asset in MODELS)])


@pytest.fixture(scope="module")
def launched(trained: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that a pipeline has filled from the same upstream files as the trained one."""
    root = tmp_path_factory.mktemp("launched") / "store"
    (root / "dagster_home").mkdir(parents=True)
    command = [sys.executable, "-m", "mbta_assets", "launch", "local", "--select", SELECTION, "--partition", str(DAY)]
    places = {"MBTA_STORE": str(root), "DAGSTER_HOME": str(root / "dagster_home")}
    process = subprocess.run(command, cwd=ROOT, env=trained | places, capture_output=True, text=True)
    assert process.returncode == 0, f"{process.stdout[-3000:]}\n{process.stderr[-3000:]}"
    return root


def test_it_materializes_what_dagster_does(launched: Path, store: Path) -> None:
    for table in TABLES:
        assert ParquetTables(launched).versions(table, [DAY]) == ParquetTables(store).versions(table, [DAY])
    for asset in MODELS:
        digest = ModelRegistry(store).current_digest(asset)
        assert digest is not None
        assert ModelRegistry(launched).current_digest(asset) == digest


def describe_materialization(store: Path, asset: str) -> dict[str, Any]:
    """Return what a store's instance has of an asset's latest materialization and does not differ from run to run."""
    key = dg.AssetKey(asset)
    with dg.DagsterInstance.from_config(str(store / "dagster_home")) as instance:
        [record] = instance.fetch_materializations(key, limit=1).records
        materialization = record.asset_materialization
        assert materialization
        check = dg.AssetCheckKey(key, "schema_holds")
        checks = instance.event_log_storage.get_latest_asset_check_execution_by_key([check])
        return {
            "partition": materialization.partition,
            "tags": {name: value for name, value in (materialization.tags or {}).items() if "data_version" in name},
            "metadata": sorted(materialization.metadata),
            "checks": [latest.status.value for latest in checks.values()],
        }


@pytest.mark.parametrize("asset", [*TABLES, *MODELS])
def test_dagster_has_the_same_materialization_as_if_it_had_run_it(launched: Path, store: Path, asset: str) -> None:
    reported = describe_materialization(launched, asset)
    assert reported == describe_materialization(store, asset)
    assert reported["tags"]
