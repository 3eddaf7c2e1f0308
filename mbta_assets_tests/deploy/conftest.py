"""Fixture of the tests of deployments: the Dagster image, built by the commands of its Dockerfile."""

from pathlib import Path

import pytest

from mbta_assets_tests.support.dagster_dev import ROOT, poll_quickly
from mbta_assets_tests.support.image import Image

DOCKERFILE = ROOT / "deploy/Dockerfile.training"


@pytest.fixture
def dagster_image(tmp_path: Path) -> Image:
    """Build the last stage of the Dagster image, with shorter intervals in the configuration of one server."""
    image = Image.build_last_stage(DOCKERFILE, tmp_path / "image")
    one_server = Path(image.translate_paths("/home/mbta/one-server/dagster.yaml"))
    one_server.write_text(poll_quickly(one_server.read_text()))
    return image
