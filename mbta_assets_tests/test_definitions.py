"""The code location: what it loads, and what it says of itself."""

import subprocess
import sys
from pathlib import Path

import dagster as dg

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets.transit import schema

HEAVY = {"torch", "torch_pruning", "onnx", "onnxruntime", "ray", "xgboost", "wandb", "matplotlib", "scipy.stats"}


def test_importing_the_definitions_imports_nothing_heavy() -> None:
    script = "import sys, mbta_assets.definitions; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "dagster" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_dagster_validates_the_definitions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "mbta_assets.definitions"]
    run = subprocess.run(
        command, capture_output=True, text=True, env={"DAGSTER_HOME": str(tmp_path), "PATH": "/usr/bin"}
    )
    assert run.returncode == 0, run.stderr


def test_a_wrong_setting_stops_the_code_location_with_its_name() -> None:
    script = "import mbta_assets.definitions"
    environment = {"MBTA_SOURCE": "telepathy", "PATH": "/usr/bin"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.returncode != 0
    assert "MBTA_SOURCE is 'telepathy'; it may be synthetic or files" in run.stderr


def test_every_asset_tells_a_reader_what_it_is(tmp_path: Path) -> None:
    graph = build_defs(Settings(store=tmp_path)).resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.backfill_policy == dg.BackfillPolicy.single_run(), key
        if key.path[-1] in schema.TABLES:
            assert node.metadata["dagster/column_schema"].columns, key


def test_a_test_may_replace_one_resource(tmp_path: Path) -> None:
    defs = build_defs(Settings(store=tmp_path), source="another")
    assert defs.resources
    assert defs.resources["source"] == "another"
    assert defs.resources["settings"].store == tmp_path
