"""The Dagster UI as a person uses it, in a real browser; what it shows is kept in `screenshots/`."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, ViewportSize, expect

from mbta_assets.definitions import defs
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.dagster_dev import DagsterDev, eventually
from mbta_assets_tests.support.real_day import DAYS

pytestmark = pytest.mark.xdist_group("trained")

PATIENCE_MILLISECONDS = 240_000
LINEAGE = ("vehicle", "transit_features", "training_set", "quantized_student", "production_model", "delay_predictions")
"""An asset of each group."""
MADE_BY_TRAINING = ("training_set", "xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student")
"""Assets whose pages have plots."""
VIEWPORT: ViewportSize = {"width": 1600, "height": 1000}
EXPAND_ALL = "Alt+KeyE"


@pytest.fixture(scope="module")
def page(chromium: str, dev: DagsterDev) -> Iterator[Page]:
    """A page of the browser, with the UI as its start."""
    with open_browser(chromium) as browser:
        page = browser.new_page(viewport=VIEWPORT, base_url=dev.address)
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        try:
            yield page
        finally:
            page.screenshot(path=SCREENSHOTS / "last.png")


def keep(page: Page, name: str) -> None:
    """Keep a picture of what the page shows."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


def test_the_asset_graph_shows_the_lineage(page: Page) -> None:
    page.goto("/asset-groups")
    named = page.get_by_text("monitoring", exact=True).filter(visible=True)  # the UI also measures texts unseen
    expect(named).to_have_count(2)  # in the list, and in the graph
    page.keyboard.press(EXPAND_ALL)
    for asset in LINEAGE:
        expect(page.get_by_text(asset, exact=True)).to_be_visible()
    keep(page, "1-asset-graph")


def test_a_partition_is_materialized_by_hand_and_seen_to_succeed(page: Page, dev: DagsterDev) -> None:
    day, tables = DAYS[1], ParquetTables(Path(dev.environment["MBTA_STORE"]))
    shutil.rmtree(tables.path("trip", day).parent, ignore_errors=True)  # another test may have made it
    assert day not in tables.days("trip")
    before = {run["runId"] for run in dev.runs()}
    page.goto("/assets/trip")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Show all partitions").click()
    chosen = page.get_by_role("dialog").get_by_role("textbox").first
    chosen.fill(str(day))
    chosen.press("Enter")
    keep(page, "2-a-partition-is-chosen")
    page.get_by_role("button", name=re.compile("^Launch")).last.click()

    [run] = eventually("the run is launched", 90, lambda: {run["runId"] for run in dev.runs()} - before)
    page.goto(f"/runs/{run}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    keep(page, "3-the-run-has-succeeded")
    assert day in tables.days("trip")


def test_the_leaderboards_metadata_has_a_plot_that_is_drawn(page: Page) -> None:
    page.goto("/assets/model_leaderboard")
    row = page.get_by_role("row").filter(has_text="error_by_stops_ahead")
    row.get_by_text("Show Markdown").click()
    plot = page.locator("img[src^='data:image/png;base64,']")
    expect(plot).to_be_visible()
    width, height = plot.evaluate(
        "async (image) => { await image.decode(); return [image.naturalWidth, image.naturalHeight] }"
    )
    assert width > 400 and height > 200
    keep(page, "4-the-leaderboards-plot")


@pytest.mark.parametrize("asset", sorted(key.to_user_string() for key in defs.resolve_all_asset_keys()))
def test_the_page_of_an_asset_says_what_it_is_and_shows_what_was_made(page: Page, dev: DagsterDev, asset: str) -> None:
    page.set_viewport_size({"width": 1600, "height": 2600})
    try:
        page.goto(f"/assets/{asset}")
        spec = defs.resolve_assets_def(asset).get_asset_spec(dg.AssetKey(asset))
        first_words = str(spec.description).split("`")[0].splitlines()[0][:60]
        expect(page.get_by_text(first_words).filter(visible=True).first).to_be_visible()
        expect(page.get_by_text("Loading").filter(visible=True)).to_have_count(0)
        if asset in MADE_BY_TRAINING:
            expect(page.get_by_text("Latest materialization").first).to_be_visible()
            expect(page.get_by_text("Show Markdown").first).to_be_visible()
        keep(page, f"asset-{asset}")
    finally:
        page.set_viewport_size(VIEWPORT)
