"""The commands of the README for one's own data, on a copy of a store that has models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.e2e.conftest import copy_store
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.real_day import DAYS

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("trained")]


def read_commands() -> list[str]:
    """Return the commands of the README that launch assets on one's own data."""
    section = (ROOT / "README.md").read_text().split("**On your own data.**", 1)[1]
    block = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0]
    return [line for line in block.splitlines() if line.startswith("dg launch")]


def test_the_commands_materialize_tables_and_predictions_without_a_warning(
    trained: dict[str, str], tmp_path: Path
) -> None:
    """Models are trained by the same selection in the workflow, whose commands `trained` has run."""
    tables, models, next_day = read_commands()
    assert "group:models" in models
    variables = copy_store(trained, tmp_path / "copy")
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command, day in ((tables, DAYS[0]), (next_day, DAYS[1])):
        assert f"--partition {day}" in command
        ran = subprocess.run(["bash", "-c", command], cwd=ROOT, env=variables, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-4000:]
        assert not [line for line in (ran.stdout + ran.stderr).splitlines() if "warning" in line.lower()]
    accuracy = ParquetTables(Path(variables["MBTA_STORE"])).read("prediction_accuracy", [DAYS[1]])
    assert "mae_seconds" in accuracy["measure"].to_pylist()
