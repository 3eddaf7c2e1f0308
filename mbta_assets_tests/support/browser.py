"""Chromium as tests start it, and the directory of their screenshots."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from mbta_assets_tests.support.dagster_dev import ROOT

SCREENSHOTS = ROOT / "screenshots"
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def open_browser(chromium: str) -> Iterator[Browser]:
    """Start the browser at a path, and end it with the context; screenshots can be kept meanwhile."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()
