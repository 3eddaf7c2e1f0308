"""The live page in Chromium during a replay: trains move and predictions change in place; pictures are kept."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from werkzeug.serving import BaseWSGIServer

from mbta_assets.live.command import list_steps, make_state, serve
from mbta_assets.live.following import ReplayStep
from mbta_assets.live.service import LiveService
from mbta_assets.live.timetables import Timetables
from mbta_assets.serving.live.state import LiveState
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.sources import open_source
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets_tests.live.harness import MAX_AGE, files_settings
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.serving.test_stream import read_tables, select_routes
from mbta_assets_tests.support.accessibility import find_violations
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.days import SIMULATED, Tables

pytestmark = pytest.mark.integration
ROUTES = ["Blue", "Mattapan"]
BEGIN = datetime(2024, 3, 6, 13, 30, tzinfo=UTC)
"""Half past eight in Boston."""
RENAMED = "Revere Beach"
HOSTILE = "<img src=x onerror=\"document.title='run'\"> & 'Co'"


@dataclass
class Replay:
    """A replay that goes on when a test says so, and its server."""

    server: BaseWSGIServer
    state: LiveState
    service: LiveService
    steps: Iterator[ReplayStep]

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://127.0.0.1:{self.server.server_port}/"

    def advance(self, steps: int) -> None:
        """Take the next updates of the feed, and publish after each."""
        for at, take, _ in islice(self.steps, steps):
            take()
            self.service.publish(at, is_replay=True)


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> Tables:
    """Return a simulated day of two lines; the name of a stop is hostile, or what a test gives."""
    tables = read_tables(SyntheticSource(0), SIMULATED)
    rows = select_routes(tables["vehicle"], ROUTES)
    around = rows["updated_at"].between(BEGIN - timedelta(hours=1), BEGIN + timedelta(minutes=30))
    tables["vehicle"] = rows[around].reset_index(drop=True)
    tables["stop"].loc[tables["stop"]["name"] == RENAMED, "name"] = getattr(request, "param", HOSTILE)
    return tables


@pytest.fixture
def replay(tables: Tables, model_store: ModelStore, tmp_path: Path) -> Iterator[Replay]:
    settings = files_settings(tmp_path / "files", SIMULATED, tables)
    source, state = open_source(settings), make_state(settings, is_replay=True)
    predictors = make_predictor_cache(open_model_source(str(model_store.root)), 0)
    service = LiveService(Timetables(source), predictors, state, MAX_AGE)
    steps = list_steps(settings, source, service, SIMULATED, 10)
    for at, take, _ in steps:
        take()
        if at >= BEGIN:
            break
    service.publish(at, is_replay=True)
    with serve(state, "127.0.0.1", 0) as server:
        yield Replay(server, state, service, steps)


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    with open_browser(chromium) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield page
        assert [problem for problem in problems if "ERR_CONNECTION_REFUSED" not in problem] == []


def read_trains(page: Page) -> dict[str, float]:
    """Return the height in pixels at which each vehicle is drawn."""
    heights: dict[str, float] = page.locator(".trains li").evaluate_all(
        "items => Object.fromEntries(items.map(item => [item.dataset.vehicle, parseFloat(item.style.top)]))"
    )
    return heights


def test_trains_move_and_predictions_change_without_reloading(replay: Replay, page: Page) -> None:
    page.goto(replay.url + "#route=Blue")
    expect(page.locator("section")).to_have_count(2)
    page.evaluate("window.stays = true")
    before, texts = read_trains(page), page.locator(".next").all_inner_texts()
    assert len(before) > 4
    page.screenshot(path=SCREENSHOTS / "live-1.png", animations="disabled", full_page=True)
    assert find_violations(page) == []
    later = page.locator("section").first.get_attribute("aria-label")
    for _ in range(8):
        replay.advance(2)
        page.wait_for_timeout(100)
    expect(page.locator("#age")).to_contain_text("positions")
    page.wait_for_function(
        "before => [...document.querySelectorAll('.trains li')].some(item => "
        "item.dataset.vehicle in before && parseFloat(item.style.top) > before[item.dataset.vehicle] + 10)",
        arg=before,
    )
    assert page.locator(".next").all_inner_texts() != texts
    assert page.evaluate("window.stays") and later == page.locator("section").first.get_attribute("aria-label")
    page.screenshot(path=SCREENSHOTS / "live-2.png", animations="disabled", full_page=True)
    times = page.locator(".stations li .next b").all_inner_texts()
    assert all(re.fullmatch(r"(departs )?(now|\d+ min)", time) for time in times) and len(times) > 15


@pytest.mark.parametrize("tables", [RENAMED], indirect=True)
def test_a_picture_for_the_documents_is_kept(replay: Replay, page: Page) -> None:
    page.goto(replay.url + "#route=Blue")
    expect(page.locator("section")).to_have_count(2)
    expect(page.get_by_text(RENAMED, exact=True).first).to_be_visible()
    assert len(read_trains(page)) > 4
    page.screenshot(path=SCREENSHOTS / "live-for-documents.png", animations="disabled")


def test_a_line_is_chosen_by_keyboard_and_keeps_the_focus(replay: Replay, page: Page) -> None:
    page.goto(replay.url)
    chosen = page.get_by_role("link", name="Mattapan", exact=True)
    expect(chosen).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Mattapan":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name=re.compile("^Mattapan towards"))).to_have_count(2)
    expect(chosen).to_have_attribute("aria-current", "true")
    page.evaluate("location.hash = '#lines'")  # as the link does that skips to the line
    chosen.focus()
    replay.advance(3)
    page.wait_for_timeout(3500)  # another update is shown
    expect(page.get_by_role("region", name=re.compile("^Mattapan towards"))).to_have_count(2)
    assert page.evaluate("document.activeElement.textContent") == "Mattapan"


def test_names_are_text_and_a_phone_needs_no_sideways_scrolling(replay: Replay, page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(replay.url + "#route=Blue")
    expect(page.get_by_text(HOSTILE, exact=True).first).to_be_visible()
    assert page.locator("img").count() == 0 and "run" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    vehicle = page.locator(".trains li").first
    assert vehicle.evaluate("item => getComputedStyle(item).transitionDuration") == "1s"
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    assert vehicle.evaluate("item => getComputedStyle(item).transitionDuration") == "0s"
    page.screenshot(path=SCREENSHOTS / "live-phone.png", animations="disabled")


def test_problems_and_a_server_that_is_gone_are_said(replay: Replay, page: Page) -> None:
    page.goto(replay.url + "#route=Blue")
    expect(page.locator("section")).to_have_count(2)
    replay.state.report_problem("feed", "The feed answers 500.")
    replay.advance(1)
    expect(page.get_by_role("alert")).to_contain_text("The feed answers 500.")
    replay.state.report_problem("feed", None)  # nothing is published meanwhile
    expect(page.get_by_role("alert")).to_be_empty()
    replay.server.shutdown()
    replay.server.server_close()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(page.locator("section")).to_have_count(2)
