"""The pictures of the documents are made by a command, and each is used."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mbta_assets_tests.support.dagster_dev import ROOT

IMAGES = ROOT / "docs/images"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_BYTES = 150_000


def load(name: str) -> ModuleType:
    """Return a script of the documents as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COPY = load("copy_screenshots")


def find_links(document: Path) -> set[Path]:
    """Return the files below `IMAGES` that a document links to."""
    links = re.findall(r"\]\(((?:docs/)?images/[^)\s]+)\)", document.read_text())
    return {(document.parent / link).resolve() for link in links}


def test_every_picture_is_made_by_a_command_and_used_in_a_document() -> None:
    drawn = set(re.findall(r'IMAGES / "([\w.]+\.png)"', (ROOT / "docs/make_picture.py").read_text()))
    made = {f"{name}.png" for name in COPY.PICTURES} | drawn | {"cost_curves.png"}
    assert made == {path.name for path in IMAGES.glob("*.png")} and len(drawn) == 1
    linked = set().union(*map(find_links, DOCUMENTS))
    assert {path.resolve() for path in IMAGES.iterdir()} == linked


def test_every_screenshot_that_is_copied_is_kept_by_a_test() -> None:
    tests = "".join(
        path.read_text() for path in (ROOT / "mbta_assets_tests").rglob("test_*.py") if path != Path(__file__)
    )
    for screenshot in COPY.PICTURES.values():
        if screenshot.startswith("plot-"):
            assert 'f"plot-{asset}-{name}"' in tests
            assert all(f'"{part}"' in tests for part in screenshot.split("-")[1:])
        else:
            assert f'"{screenshot}"' in tests or f'"{screenshot}.png"' in tests, screenshot


def test_the_make_target_runs_the_command() -> None:
    assert "\t$(BIN)/python docs/copy_screenshots.py\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", COPY.PICTURES)
def test_pictures_are_no_larger_than_they_need_be(name: str) -> None:
    path = IMAGES / f"{name}.png"
    picture = Image.open(path)
    assert picture.width <= COPY.SIZE[0] and picture.height <= COPY.SIZE[1] and picture.mode == "P"
    assert path.stat().st_size <= MAX_BYTES


def test_a_long_screenshot_is_made_smaller_and_cut_and_one_that_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screenshots, images = tmp_path / "screenshots", tmp_path / "images"
    screenshots.mkdir()
    images.mkdir()
    screenshot = Image.new("RGB", (2400, 4000), "white")
    ImageDraw.Draw(screenshot).rectangle((0, 0, 1199, 1000), fill="#c04c00")
    screenshot.save(screenshots / f"{COPY.PICTURES['asset-graph']}.png")
    COPY.main(screenshots, images)
    picture = Image.open(images / "asset-graph.png")
    assert picture.size == COPY.SIZE
    colours = picture.convert("RGB")
    inside, outside = (np.array(colours.getpixel((x, 250))) for x in (300, 900))
    assert np.abs(inside - (192, 76, 0)).max() <= 2 and np.abs(outside - 255).max() <= 2
    assert [path.name for path in images.iterdir()] == ["asset-graph.png"]
    assert "leaderboard-plot.png is left as it is" in capsys.readouterr().err
