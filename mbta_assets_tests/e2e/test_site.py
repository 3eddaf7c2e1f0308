"""The documentation site: built without a warning, whole, and accessible in the browser."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from mbta_assets_tests.support.accessibility import find_violations
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.dagster_dev import ROOT

pytestmark = pytest.mark.xdist_group("site")


class QuietHandler(SimpleHTTPRequestHandler):
    """Handler that logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    return directory


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(chromium: str, address: str) -> Iterator[Page]:
    with open_browser(chromium) as browser:
        yield browser.new_page(viewport={"width": 1280, "height": 900}, base_url=address)


def list_pages() -> list[str]:
    """Return the names of all documents."""
    return sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


def test_every_document_is_in_the_navigation() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = [name for entry in navigation for value in entry.values() for name in flatten(value)]
    assert sorted(name.removesuffix(".md") for name in named) == list_pages()


def flatten(entry: str | list[dict[str, str]]) -> list[str]:
    """Return the files of an entry of the navigation."""
    return [entry] if isinstance(entry, str) else [name for item in entry for name in item.values()]


def test_the_python_interface_has_signatures_and_docstrings(site: Path) -> None:
    text = (site / "python" / "index.html").read_text()
    for name in ("Predictor", "predict_one", "ArrivalQuery", "Stream", "iter_queries"):
        assert f"mbta_assets.serving.{name}" in text or f".{name}" in text
    assert "Raises" in text and ":::" not in text


@pytest.mark.parametrize("name", list_pages())
def test_a_page_is_accessible_and_loads_nothing_from_elsewhere(page: Page, address: str, name: str) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"/{'' if name == 'index' else name + '/'}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert find_violations(page) == []
    assert {url for url in requests if not url.startswith((address, "data:"))} == set()
    if name in ("index", "tutorial", "tables"):
        page.screenshot(path=SCREENSHOTS / f"site-{name}.png", animations="disabled")


def test_a_column_is_found_by_its_name_with_the_keyboard(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.type("network_run_ratio", delay=30)
    result = page.locator("a.md-search-result__link").first
    expect(result).to_be_visible(timeout=30_000)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**?h=**")
    expect(page.get_by_text("network_run_ratio").first).to_be_visible()
