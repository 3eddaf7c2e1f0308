"""Chromium for tests: what it is started with, and where what it has seen is kept."""

from mbta_assets_tests.support.dagster_dev import ROOT

SCREENSHOTS = ROOT / "screenshots"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
