"""The Dagster UI as a person uses it, in a real browser; what it shows is kept in `screenshots/`."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect

from mbta_assets.definitions import defs
from mbta_assets.defs.models import MODELS
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.dagster_dev import DagsterDev, eventually
from mbta_assets_tests.support.real_day import DAYS

pytestmark = pytest.mark.xdist_group("trained")

PATIENCE_MILLISECONDS = 240_000
LINEAGE = ("vehicle", "transit_features", "training_set", "quantized_student", "production_model", "delay_predictions")
"""An asset of each group."""
SEARCH = ("training", "learning_curves", "hyperparameters")
PLOTS = {
    "raw_transit_data": ("usage",),
    "transit_features": (
        "labels_by_hour", "labels_by_route", "missing_values", "missing_values_by_hour_and_route",
    ),
    "training_set": ("split", "rows_by_route_and_day"),
    "xgboost_model": (*SEARCH, "importance_plot"),
    "dnn_teacher": SEARCH,
    "pruned_teacher": ("error_against_size", "training"),
    "distilled_student": SEARCH,
    "quantized_student": ("error_against_size",),
    "model_leaderboard": (
        "error_by_stops_ahead", "error_against_size", "error_by_change", "error_by_day", "error_by_route",
    ),
    "delay_predictions": ("delays_by_stop",),
    "prediction_accuracy": ("scores_plot", "accuracy_over_days", "drift_over_days"),
}  # fmt: skip
"""Plots in the metadata of each asset that has some, on the page of the asset."""
OBSERVED_PLOTS = dict.fromkeys(MODELS, ("residuals",)) | {"quantized_student": ("residuals", "calibration")}
"""Plots in the metadata of the observation that the leaderboard makes of each model, among the events of the model."""
TABLES = ("vehicle", "trip", "stop", "schedule", "raw_transit_data", "transit_features")
MONITORED = ("delay_predictions", "prediction_accuracy")
MIN_PLOT_WIDTH, MIN_PLOT_HEIGHT = 400, 200
DECODE = """async (image) => {
    await image.decode()
    const canvas = document.createElement('canvas').getContext('2d')
    canvas.drawImage(image, 0, 0)
    return [image.naturalWidth, image.naturalHeight, [...canvas.getImageData(2, 2, 1, 1).data]]
}"""
OPAQUE_WHITE = [255, 255, 255, 255]
THEME = "dagster-theme"
"""Name of the UI's setting in the storage of the browser."""
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
    expect(page.get_by_text(LINEAGE[0], exact=True)).to_be_visible()
    page.reload()  # the groups stay open, and the graph is made to fit
    for asset in LINEAGE:
        expect(page.get_by_text(asset, exact=True)).to_be_visible()
    page.wait_for_timeout(3_000)  # until the state of each asset is shown
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


@pytest.fixture(scope="module")
def later_day(dev: DagsterDev) -> None:
    """Make the tables and predictions of a day that the model in production has not learned from."""
    dev.succeed(dev.materialize([*TABLES, *MONITORED], DAYS[2]), 90)


def list_stored_plots(dev: DagsterDev, events: str) -> dict[str, list[str]]:
    """Return the names of the plots in the metadata of each asset's latest materialization or observation."""
    query = f"""{{ assetNodes {{ assetKey {{ path }} {events}(limit: 1) {{
        metadataEntries {{ label ... on MarkdownMetadataEntry {{ mdStr }} }} }} }} }}"""
    stored = {
        node["assetKey"]["path"][-1]: [
            entry["label"]
            for event in node[events]
            for entry in event["metadataEntries"]
            if "data:image/png" in entry.get("mdStr", "")
        ]
        for node in dev.ask(query)
    }
    return sort_names({asset: names for asset, names in stored.items() if names})


def sort_names(plots: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the names of plots of each asset in alphabetical order."""
    return {asset: sorted(names) for asset, names in plots.items()}


def find_plot_rows(page: Page) -> Locator:
    """Return the rows of metadata behind which there is Markdown, as plots are."""
    return page.get_by_role("row").filter(has=page.get_by_text("Show Markdown"))


def open_plots(page: Page, asset: str, expected: Sequence[str]) -> None:
    """Open each plot of the page's metadata and keep a picture of it. Raise AssertionError for others than expected."""
    rows = find_plot_rows(page)
    for name in expected:
        expect(rows.filter(has=page.get_by_text(name, exact=True))).to_be_visible()
    names = rows.locator("td:first-child").all_inner_texts()
    assert sorted(names) == sorted(expected)
    for name in names:
        open_plot(page, name, f"plot-{asset}-{name}")


def open_plot(page: Page, name: str, screenshot: str) -> None:
    """Open a plot of the page's metadata, keep a picture of it, and close it."""
    row = find_plot_rows(page).filter(has=page.get_by_text(name, exact=True))
    row.get_by_text("Show Markdown").click()
    dialog = page.get_by_role("dialog")
    plot = dialog.locator("img[src^='data:image/png;base64,']")
    expect(plot).to_be_visible()
    width, height, corner = plot.evaluate(DECODE)
    assert width > MIN_PLOT_WIDTH and height > MIN_PLOT_HEIGHT, (name, width, height)
    assert corner == OPAQUE_WHITE, (name, corner)
    keep(page, screenshot)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)


@pytest.mark.usefixtures("later_day")
@pytest.mark.parametrize("asset", sorted(key.to_user_string() for key in defs.resolve_all_asset_keys()))
def test_the_page_of_an_asset_says_what_it_is_and_shows_what_was_made(page: Page, dev: DagsterDev, asset: str) -> None:
    page.set_viewport_size({"width": 1600, "height": 2600})
    try:
        page.goto(f"/assets/{asset}")
        spec = defs.resolve_assets_def(asset).get_asset_spec(dg.AssetKey(asset))
        first_words = str(spec.description).split("`")[0].splitlines()[0][:60]
        expect(page.get_by_text(first_words).filter(visible=True).first).to_be_visible()
        expect(page.get_by_text("Loading").filter(visible=True)).to_have_count(0)
        if asset in PLOTS:
            expect(page.get_by_text("Latest materialization").first).to_be_visible()
            expect(page.get_by_text("Show Markdown").first).to_be_visible()
        keep(page, f"asset-{asset}")
    finally:
        page.set_viewport_size(VIEWPORT)


@pytest.mark.usefixtures("later_day")
def test_the_assets_that_store_plots_are_those_whose_plots_are_opened(dev: DagsterDev) -> None:
    assert list_stored_plots(dev, "assetMaterializations") == sort_names(PLOTS)
    assert list_stored_plots(dev, "assetObservations") == sort_names(OBSERVED_PLOTS)


@pytest.mark.parametrize("asset", PLOTS)
@pytest.mark.usefixtures("later_day")
def test_each_plot_of_an_asset_is_drawn_where_it_is_opened(page: Page, asset: str) -> None:
    page.goto(f"/assets/{asset}")
    open_plots(page, asset, PLOTS[asset])


@pytest.mark.parametrize("asset", OBSERVED_PLOTS)
def test_the_errors_of_a_model_are_drawn_among_its_events(page: Page, asset: str) -> None:
    page.goto(f"/assets/{asset}?view=events")
    open_plots(page, asset, OBSERVED_PLOTS[asset])


def test_a_plot_keeps_its_own_background_in_the_dark_theme(page: Page) -> None:
    page.goto("/assets/model_leaderboard")
    page.evaluate(f"localStorage.setItem('{THEME}', JSON.stringify('Dark'))")
    try:
        page.reload()
        expect(page.locator("body")).to_have_class(re.compile("themeDark"))
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background))) < 60, background
        open_plot(page, "error_by_stops_ahead", "dark-theme")
    finally:
        page.evaluate(f"localStorage.removeItem('{THEME}')")
