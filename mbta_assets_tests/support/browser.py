"""The options with which tests start Chromium, and the directory of their screenshots."""

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
