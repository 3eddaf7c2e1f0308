"""A feature, a model and a source are each added by a module and a line, in a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, environment

pytestmark = pytest.mark.e2e

DAY = small_network.DAYS[0]


class Package:
    """A copy of the package that Python imports in place of the project's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "mbta_assets", root / "mbta_assets", ignore=shutil.ignore_patterns("__pycache__"))
        self.store, self.upstream = root / "store", root / "upstream"
        self.upstream.mkdir()

    def add_module(self, path: str, text: str) -> None:
        """Write a new module; refuse to replace one."""
        module = self.root / "mbta_assets" / path
        assert not module.exists()
        module.write_text(text)

    def add_line(self, path: str, before: str, line: str) -> None:
        """Insert a line before the only place where a file says `before`."""
        module = self.root / "mbta_assets" / path
        text = module.read_text()
        assert text.count(before) == 1, f"{before!r} is {text.count(before)} times in {path}"
        module.write_text(text.replace(before, line + before))

    def run(self, *arguments: str, **variables: str) -> str:
        """Run Python on the copy and return what it prints."""
        settings = environment(self.store, self.upstream, **variables) | {"PYTHONPATH": str(self.root)}
        command = [sys.executable, *arguments]
        ran = subprocess.run(command, cwd=self.root, env=os.environ | settings, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-4000:]
        return ran.stdout

    def materialize(self, selection: str, **variables: str) -> None:
        """Materialize assets of the small network's first day."""
        arguments = ("--select", selection, "--partition", str(DAY))
        self.run("-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", *arguments, **variables)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


FEATURE = '''"""Hours since the scheduled arrival, a feature of a contributor."""

import numpy as np


def compute_hours_late(observations):
    """Compute the hours (n,) that a vehicle is late already, at least 0."""
    return {"hours_late": np.maximum(observations["now"] - observations["scheduled_arrival"], 0) / 3600}
'''


def test_a_feature_is_a_module_a_line_among_the_formulas_and_its_column(package: Package) -> None:
    package.add_module("transit/hours_late.py", FEATURE)
    package.add_line("transit/formulas.py", "    compute_timings,\n)", "    compute_hours_late,\n")
    imported = "from mbta_assets.transit.hours_late import compute_hours_late\n"
    package.add_line("transit/formulas.py", "from mbta_assets.transit import service_day\n", imported)
    column = (
        "    hours_late: Series[Float32] = "
        'column("Hours late already.", "hours", role="numeric", nullable=True, ge=0)\n'
    )
    package.add_line("transit/schema.py", "    delay_seconds: Series[float] = column(", column)

    small_network.write(package.upstream, [DAY])
    package.materialize("group:upstream or group:transit")
    checked = package.run(
        "-c",
        "from datetime import date\n"
        "from pathlib import Path\n"
        "from mbta_assets.storage.parquet_tables import ParquetTables\n"
        f"rows = ParquetTables(Path({str(package.store)!r})).read('transit_features', [date.fromisoformat('{DAY}')])\n"
        "hours, seconds = (rows[name].to_numpy() for name in ('hours_late', 'seconds_late_already'))\n"
        "assert len(rows) > 100 and abs(hours - seconds / 3600).max() < 1e-4\n"
        "from mbta_assets.transit import schema\n"
        "assert 'hours_late' in schema.columns_with_role(schema.TransitFeatures, 'numeric')\n"
        "print('ok')",
    )
    assert checked.strip() == "ok"


MODEL = '''"""The asset `constant_model`, of a contributor."""

from mbta_assets.defs.models.common import model_asset
from mbta_assets.storage.bundle import Bundle, Draft


@model_asset(description="A model that always says the same.", kinds={"numpy"})
def constant_model(training_set: Bundle) -> Draft:
    return Draft("constant", {}, {"training_set": training_set.digest})
'''


def test_a_model_is_a_module_and_a_line_among_those_that_the_leaderboard_scores(package: Package) -> None:
    package.add_module("defs/models/constant_model.py", MODEL)
    package.add_line("defs/models/__init__.py", '"xgboost_model", ', '"constant_model", ')
    edges = package.run(
        "-c",
        "import dagster as dg\n"
        "from mbta_assets.definitions import defs\n"
        "graph = defs.resolve_asset_graph()\n"
        "model = graph.get(dg.AssetKey('constant_model'))\n"
        "print(model.group_name, *sorted(key.to_user_string() for key in model.child_keys))",
    )
    assert edges.split() == ["models", "model_leaderboard"]


SOURCE = '''"""The source `constant`, of a contributor: every table of every day has no rows."""

from mbta_assets.sources.contract import Source, SourceRows
from mbta_assets.transit import schema


class ConstantSource(Source):
    """Tables without rows."""

    name = "constant"

    @classmethod
    def from_settings(cls, settings):
        """Return the source."""
        return cls()

    def read(self, table, service_date):
        """Return no rows."""
        return SourceRows.from_usable(schema.empty_frame(schema.UPSTREAM[table]))

    def poll(self, table, known_versions):
        """Return no versions: nothing changes."""
        return {}


SOURCE = ConstantSource
'''


def test_a_source_is_a_module_and_a_line_among_the_values_of_its_setting(package: Package) -> None:
    package.add_module("sources/constant.py", SOURCE)
    package.add_line("settings.py", '"synthetic", "files", "gtfs"', '"constant", ')
    package.materialize("trip", MBTA_SOURCE="constant")
    days = package.run(
        "-c",
        "from pathlib import Path\n"
        "from mbta_assets.storage.parquet_tables import ParquetTables\n"
        f"tables = ParquetTables(Path({str(package.store)!r}))\n"
        "[day] = tables.days('trip')\n"
        "print(day, len(tables.read('trip', [day])))",
    )
    assert days.split() == [str(DAY), "0"]
