"""The training image: its Dockerfile's commands, run here except for the installation, and what its arguments do."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image, normalize_name, parse_pins, read_instructions

pytestmark = pytest.mark.e2e

DAY = small_network.DAYS[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Build the last stage of the image, with the packages of this environment in place of those of the first."""
    return Image.build_last_stage(ROOT / "deploy/Dockerfile.training", tmp_path_factory.mktemp("image"))


def test_its_arguments_materialize_a_partition(image: Image, tmp_path: Path) -> None:
    """Materialize upstream tables and features; e2e/test_lineage.py trains models with the same command."""
    small_network.write(tmp_path, [DAY])
    source = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(tmp_path), "MBTA_START_DATE": "2024-04-01"}
    daily = ["--select", "group:upstream or group:transit", "--partition", str(DAY)]
    process = image.run(image.command(*daily), **source, WANDB_MODE="disabled", PYTHONPATH=str(ROOT))
    assert process.returncode == 0, process.stderr[-3000:]
    assert ParquetTables(Path(image.variables["MBTA_STORE"])).days("transit_features") == [DAY]


def test_without_arguments_it_prints_its_usage(image: Image) -> None:
    process = image.run(image.command())
    assert process.returncode == 0
    assert "--partition" in process.stdout


def test_what_its_first_stage_installs_is_resolved_and_pinned(tmp_path: Path) -> None:
    """Resolve the command of the Dockerfile with pip; packages that are installed here are not downloaded again."""
    image = Image(tmp_path, ROOT / "deploy/Dockerfile.training")
    _, *instructions = read_instructions(image.dockerfile)
    build = list(itertools.takewhile(lambda instruction: instruction.name != "FROM", instructions))
    image.execute(instruction for instruction in build if instruction.name in ("WORKDIR", "COPY"))
    [install] = [instruction.arguments for instruction in build if "pip install" in instruction.arguments]
    report = tmp_path / "report.json"
    resolved = image.resolve(install, report)
    assert resolved.returncode == 0, resolved.stderr[-3000:]
    missing = {
        normalize_name(package["metadata"]["name"]): package["metadata"]
        for package in json.loads(report.read_text())["install"]
    }
    [extras] = re.findall(r"\.\[([\w,]+)\]", install)
    versions = resolve_versions("mbta-assets", extras.split(","), missing)
    assert {"dagster", "dagster-postgres", "kfp", "torch", "ray", "xgboost-cpu"} <= versions.keys()
    pinned = parse_pins((ROOT / "constraints.txt").read_text())
    for name in versions.keys() - {"mbta-assets", "setuptools"}:
        assert pinned[name].split("+")[0] == versions[name].split("+")[0], name


def resolve_versions(project: str, extras: Iterable[str], missing: Mapping[str, Any]) -> dict[str, str]:
    """Return the version of a project and of each package that it requires, by normalized name.

    `missing` has the metadata of packages that pip would install; the others are installed.
    """
    versions: dict[str, str] = {}
    visited: set[tuple[str, str]] = set()
    queue = [(project, extra) for extra in ("", *extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        if name in missing:
            versions[name], requires = missing[name]["version"], missing[name].get("requires_dist", [])
        else:
            versions[name], requires = version(name), distribution(name).requires or []
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(normalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return versions


def test_it_has_two_stages_and_does_not_run_as_root(image: Image) -> None:
    first, second = image.arguments_of("FROM")
    assert first == f"{second} AS build"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", second)
    assert int(image.arguments_of("USER")[-1]) > 0
