"""The command `dg` checks and lists the definitions, and materializes assets, without a warning about the project."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, environment

pytestmark = pytest.mark.e2e

DAYS = small_network.DAYS
DG = Path(sys.executable).with_name("dg")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a store whose source is files of a few days, with the project's dagster.yaml."""
    root = tmp_path_factory.mktemp("dg")
    small_network.write(root / "upstream", DAYS)
    variables = environment(root / "store", root / "upstream")
    shutil.copy(ROOT / "dagster.yaml", variables["DAGSTER_HOME"])
    return variables


def run_dg(variables: Mapping[str, str], *arguments: str) -> str:
    """Run `dg` in the project and return its standard output.

    Raises AssertionError if it fails or warns.
    """
    run = subprocess.run([DG, *arguments], cwd=ROOT, env=dict(variables), capture_output=True, text=True)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-6000:]
    warnings = [line for line in output.splitlines() if "warning" in line.lower()]
    assert warnings == []
    return run.stdout


def list_stored_days(variables: Mapping[str, str]) -> dict[str, list[date]]:
    """Return the stored service days of each table."""
    tables = ParquetTables(Path(variables["MBTA_STORE"]))
    return {table: tables.days(table) for table in schema.TABLES if tables.days(table)}


def test_dg_check_defs_finds_nothing(project: dict[str, str]) -> None:
    assert "All definitions loaded successfully." in run_dg(project, "check", "defs")


def test_dg_list_defs_lists_every_asset_with_its_source(project: dict[str, str]) -> None:
    listed = json.loads(run_dg(project, "list", "defs", "--json"))
    sources = {asset["asset_key"]: asset["source"] for asset in listed["assets"]}
    assert set(schema.TABLES) - set(schema.OPTIONAL_UPSTREAM) <= set(sources)
    written_beside_others = {"rejected_rows", "upstream_usage"}
    for name, source in sources.items():
        place = "mbta_assets/transit/schema.py" if name in written_beside_others else "mbta_assets/defs/"
        assert source.startswith(place), name


def test_dg_launch_materializes_assets_of_a_day_and_of_a_range_of_days(project: dict[str, str]) -> None:
    run_dg(project, "launch", "--assets", "trip,stop", "--partition", str(DAYS[0]))
    assert list_stored_days(project) == {"trip": [DAYS[0]], "stop": [DAYS[0]]}
    run_dg(project, "launch", "--assets", "trip", "--partition-range", f"{DAYS[0]}...{DAYS[-1]}")
    assert list_stored_days(project) == {"trip": DAYS, "stop": [DAYS[0]]}
