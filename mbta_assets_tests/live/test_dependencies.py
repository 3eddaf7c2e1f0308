"""What live predictions import is installed with the package, and so in the image that runs them."""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import normalize_name

pytestmark = pytest.mark.integration


def list_required() -> set[str]:
    """Return the packages that the package requires without extras, directly or not, by normalized name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    queue = [Requirement(text) for text in project["dependencies"]]
    visited: set[tuple[str, str]] = set()
    while queue:
        requirement = queue.pop()
        for extra in ("", *requirement.extras):
            key = (normalize_name(requirement.name), extra)
            if key in visited:
                continue
            visited.add(key)
            try:
                further = [Requirement(text) for text in requires(requirement.name) or []]
            except PackageNotFoundError:
                continue  # another platform's
            queue += [row for row in further if row.marker is None or row.marker.evaluate({"extra": extra})]
    return {name for name, _ in visited}


def test_everything_that_it_imports_is_required() -> None:
    late = "duckdb, h3ronpy.vector, onnxruntime"  # imported when they are first needed
    modules = "mbta_assets.live.command, mbta_assets.sources.gtfs.collector"
    script = f"import sys, {late}, {modules}; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in process.stdout.split()}
    distributions = {
        name: {normalize_name(distribution) for distribution in of}
        for name, of in packages_distributions().items()
        if name in imported and name != "mbta_assets"
    }
    assert {"werkzeug", "pandas", "duckdb", "onnxruntime"} <= imported
    required = list_required()
    assert [name for name, of in distributions.items() if of.isdisjoint(required)] == []
