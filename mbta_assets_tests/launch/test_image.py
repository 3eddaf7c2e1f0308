"""The training image: the very commands of its Dockerfile, and what its arguments make in a clean environment."""

import re
from pathlib import Path

import pytest

from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image, must_be_pinned

pytestmark = pytest.mark.timeout(900)

DAY = small_network.DAYS[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image.built(ROOT / "deploy/Dockerfile.training", tmp_path_factory.mktemp("image"))


def test_its_arguments_make_a_partition_and_train_a_model(image: Image, tmp_path: Path) -> None:
    small_network.write(tmp_path, [DAY])
    source = {"MBTA_SOURCE": "files", "MBTA_FILES_DIR": str(tmp_path), "MBTA_START_DATE": "2024-04-01"}
    daily = ["--select", "group:upstream or group:transit", "--partition", str(DAY)]
    trained = ["--select", "training_set,runtime_lookup,xgboost_model"]
    for arguments in (daily, trained):
        ran = image.run(image.command(*arguments), **source, MBTA_TUNE_TRIALS="1", WANDB_MODE="disabled")
        assert ran.returncode == 0, ran.stderr[-3000:]
    store = Path(image.variables["MBTA_STORE"])
    assert Lake(store).days("transit_features") == [DAY]
    assert BundleStore(store).current("xgboost_model").manifest["kind"] == "xgboost"


def test_without_arguments_it_says_what_they_may_be(image: Image) -> None:
    said = image.run(image.command())
    assert said.returncode == 0
    assert "--partition" in said.stdout


def test_what_is_in_it_is_pinned(image: Image) -> None:
    must_be_pinned(image)


def test_it_has_two_stages_and_runs_as_nobody_in_particular(image: Image) -> None:
    first, second = image.of("FROM")
    assert first == f"{second} AS build"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", second)
    assert int(image.of("USER")[-1]) > 0
