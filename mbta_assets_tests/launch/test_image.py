"""The training image: the very commands of its Dockerfile but for the download, and what its arguments make."""

import itertools
import json
import re
from pathlib import Path

import pytest

from mbta_assets.storage.parquet_tables import Lake
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image, instructions, pins, plain_name

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DAY = small_network.DAYS[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The last stage of the image, on the packages of this environment in place of those of the first."""
    return Image.without_packages(ROOT / "deploy/Dockerfile.training", tmp_path_factory.mktemp("image"))


def test_its_arguments_make_a_partition(image: Image, tmp_path: Path) -> None:
    """That they train models is told of the same command in e2e/test_lineage.py."""
    small_network.write(tmp_path, [DAY])
    source = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(tmp_path), "MBTA_START_DATE": "2024-04-01"}
    daily = ["--select", "group:upstream or group:transit", "--partition", str(DAY)]
    ran = image.run(image.command(*daily), **source, WANDB_MODE="disabled", PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert Lake(Path(image.variables["MBTA_STORE"])).days("transit_features") == [DAY]


def test_without_arguments_it_says_what_they_may_be(image: Image) -> None:
    said = image.run(image.command())
    assert said.returncode == 0
    assert "--partition" in said.stdout


def test_what_its_first_stage_installs_is_resolved_and_pinned(tmp_path: Path) -> None:
    """By pip itself, with the very arguments of the Dockerfile, and without downloading what is installed."""
    image = Image(tmp_path, ROOT / "deploy/Dockerfile.training")
    _, *steps = instructions(image.dockerfile)
    build = list(itertools.takewhile(lambda step: step.name != "FROM", steps))
    image.take(step for step in build if step.name in ("WORKDIR", "COPY"))
    [install] = [step.rest for step in build if "pip install" in step.rest]
    report = tmp_path / "report.json"
    resolved = image.resolve(install, report)
    assert resolved.returncode == 0, resolved.stderr[-3000:]
    installs = {
        plain_name(one["metadata"]["name"]): one["metadata"]["version"]
        for one in json.loads(report.read_text())["install"]
    }
    assert {"dagster", "torch", "ray"} <= installs.keys()
    pinned = pins((ROOT / "constraints.txt").read_text())
    for name in installs.keys() - {"mbta-assets"}:
        assert pinned[name].split("+")[0] == installs[name].split("+")[0], name


def test_it_has_two_stages_and_runs_as_nobody_in_particular(image: Image) -> None:
    first, second = image.of("FROM")
    assert first == f"{second} AS build"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", second)
    assert int(image.of("USER")[-1]) > 0
