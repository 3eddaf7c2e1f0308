"""What the tests of this folder share: the files that the Dagster image's own commands put into it."""

from pathlib import Path

import pytest

from mbta_assets_tests.support.dagster_dev import ROOT, impatient
from mbta_assets_tests.support.image import Image

DOCKERFILE = ROOT / "deploy/Dockerfile.training"


@pytest.fixture
def dagster_image(tmp_path: Path) -> Image:
    """The last stage of the Dagster image without what the first has installed, and impatient."""
    image = Image.without_packages(DOCKERFILE, tmp_path / "image")
    one_server = Path(image.here("/home/mbta/one-server/dagster.yaml"))
    one_server.write_text(impatient(one_server.read_text()))
    return image
