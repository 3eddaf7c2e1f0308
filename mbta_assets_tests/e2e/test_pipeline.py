"""A pipeline by Kubeflow's local runner makes what Dagster makes, and Dagster knows of it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.real_day import DAY

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("trained")]

GIVEN = ("vehicle", "stop", "schedule", "raw_transit_data")
MADE = ("trip", "transit_features", "training_set", "xgboost_model")
SELECTION = " or ".join(f"key:{asset}" for asset in (*MADE, "runtime_lookup"))


@pytest.fixture(scope="module")
def launched(trained: dict[str, str], store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which some tables were given and the pipeline has made the rest."""
    root = tmp_path_factory.mktemp("launched") / "store"
    (root / "dagster_home").mkdir(parents=True)
    for table in GIVEN:
        shutil.copytree(store / "tables" / table, root / "tables" / table)
    command = [sys.executable, "-m", "mbta_assets.launch", "here", "--select", SELECTION, "--partition", str(DAY)]
    places = {"MBTA_STORE": str(root), "DAGSTER_HOME": str(root / "dagster_home")}
    ran = subprocess.run(command, cwd=ROOT, env=trained | places, capture_output=True, text=True)
    assert ran.returncode == 0, f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return root


def test_it_makes_what_dagster_makes(launched: Path, store: Path) -> None:
    for table in ("trip", "transit_features"):
        assert Lake(launched).versions(table, [DAY]) == Lake(store).versions(table, [DAY])
    for asset in ("training_set", "runtime_lookup", "xgboost_model"):
        digest = BundleStore(store).current_digest(asset)
        assert digest is not None
        assert BundleStore(launched).current_digest(asset) == digest


def materialization(store: Path, asset: str) -> dict[str, Any]:
    """What the instance of a store knows of an asset's latest materialization, but for what differs from run to run."""
    key = dg.AssetKey(asset)
    with dg.DagsterInstance.from_config(str(store / "dagster_home")) as instance:
        [record] = instance.fetch_materializations(key, limit=1).records
        made = record.asset_materialization
        assert made
        check = dg.AssetCheckKey(key, "schema_holds")
        checks = instance.event_log_storage.get_latest_asset_check_execution_by_key([check])
        return {
            "partition": made.partition,
            "tags": {name: value for name, value in (made.tags or {}).items() if "data_version" in name},
            "metadata": sorted(made.metadata),
            "checks": [one.status.value for one in checks.values()],
        }


@pytest.mark.parametrize("asset", MADE)
def test_dagster_knows_of_it_as_if_it_had_made_it(launched: Path, store: Path, asset: str) -> None:
    known = materialization(launched, asset)
    assert known == materialization(store, asset)
    assert known["tags"]
