"""The page: lines, stations and delays for a time, in a browser, with no script and nothing from anywhere else."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from mbta_assets.defs.monitoring.network_snapshot import in_order
from mbta_assets.serving import page as html
from mbta_assets.serving.network import Network
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.snapshot import Snapshot
from mbta_assets.serving.store import Store
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT, Reports
from mbta_assets_tests.serving.conftest import Production, Server, World
from mbta_assets_tests.support.browser import QUIET, SCREENSHOTS
from mbta_assets_tests.support.days import LINES, SIMULATED_DAYS


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator:
    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def page(browser, server: Server) -> Iterator[Page]:
    """The page on a desk."""
    with browser.new_page(viewport={"width": 1600, "height": 1100}, base_url=server.address) as page:
        yield page


def test_it_shows_stations_and_delays_and_how_good_the_model_is(page: Page, whole_store: Production) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    response = page.goto("/?time=08:30")
    assert response is not None and response.headers["x-model-version"] == whole_store.models[0].digest
    expect(page.get_by_text("at 08:30 in Boston on Wednesday, 13 March 2024")).to_be_visible()
    expect(page.get_by_text(whole_store.models[0].digest[:16])).to_be_visible()
    expect(page.get_by_text("1 stop ahead")).to_be_visible()
    for line in LINES:
        assert page.locator(f"section[id^='{line}-']").count() == 2
    red = page.get_by_role("region", name="Red towards Alewife")
    expect(red.get_by_role("rowheader", name="Porter")).to_be_visible()
    delays = page.locator("td.delay").all_inner_texts()
    assert len(delays) > 20
    assert all(re.fullmatch(r"[+−]\d+:\d\d", delay) for delay in delays)
    assert len(set(delays)) > 10
    page.screenshot(path=SCREENSHOTS / "5-the-page.png", full_page=True)
    favicon = {f"{page.url.split('/?')[0]}/favicon.ico"}
    assert set(asked) - favicon == {page.url}
    assert not [problem for problem in problems if "favicon" not in problem]


def test_another_time_is_chosen_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/?time=08:30")
    before = page.locator("td.delay").all_inner_texts()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the lines")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_label("Time", exact=True)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?time=08%3A40")
    expect(page.get_by_text("at 08:40 in Boston")).to_be_visible()
    assert page.locator("td.delay").all_inner_texts() != before
    page.get_by_role("link", name="08:30").click()
    expect(page.get_by_text("at 08:30 in Boston")).to_be_visible()
    assert page.locator("td.delay").all_inner_texts() == before


CUT_OFF = """[...document.querySelectorAll('section')]
    .filter(one => one.scrollWidth > one.clientWidth).map(one => one.id)"""


def test_on_a_phone_nothing_is_cut_off(browser, server: Server) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740}, base_url=server.address, has_touch=True)
    with phone:
        phone.goto("/?time=17:30")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
        assert phone.evaluate(CUT_OFF) == []
        for control in phone.locator("form a, form select, form button").all():
            box = control.bounding_box()
            assert box and box["height"] >= 44
        phone.screenshot(path=SCREENSHOTS / "6-the-page-on-a-phone.png")


def test_on_a_desk_nothing_is_cut_off_either(page: Page) -> None:
    page.goto("/?time=08:30")
    assert page.evaluate(CUT_OFF) == []


def test_the_same_is_there_as_json(server: Server) -> None:
    said = server.ask("/network?time=08:30").json()
    assert (said["service_date"], said["time"]) == (str(SIMULATED_DAYS[-1]), "08:30")
    arrivals = [one["arrival"] for line in said["lines"] for one in line["stations"] if one["arrival"]]
    assert len(arrivals) > 20
    for one in arrivals:
        assert one["least_delay_seconds"] <= one["delay_seconds"] <= one["most_delay_seconds"]
        assert one["stops_ahead"] in (1, 3, 5, 10)
    assert said["accuracy"]["coverage"] == pytest.approx(0.9, abs=0.05)
    assert set(said["accuracy"]["baselines"]) == {"persistence", "schedule"}


def test_a_time_between_two_is_the_one_before_and_one_that_is_none_is_refused(server: Server) -> None:
    assert server.ask("/network?time=08:39").json()["time"] == "08:30"
    assert server.ask("/network?time=03:00").json()["time"] == server.ask("/network").json()["times"][0]
    for wrong in ("24:00", "8:30", "noon", "<script>"):
        assert server.ask(f"/network?time={wrong}").status == 422
        refused = server.ask(f"/?time={wrong}")
        assert refused.status == 422
        assert b"must be written as HH:MM" in refused.body
        assert b"<script" not in refused.body


def test_the_page_can_load_nothing(server: Server) -> None:
    answer = server.ask("/")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert not re.search(rb"<script|<img|<link|@import|url\(|https?://", answer.body)


def test_what_it_shows_is_what_the_model_says_of_the_last_rows_before_the_time(
    whole_store: Production, world: World
) -> None:
    """Of each station the earliest predicted arrival, from rows no older than two minutes."""
    import numpy as np

    store = Store.at(str(whole_store.root))
    predictor = Predictor(store.bundle())
    view = Network(store, 30).view(predictor, "08:30")
    time = world.last_day["time_stamp"].dt.tz_convert("America/New_York")
    at = (time.dt.strftime("%Y-%m-%d ") + "08:30").iloc[0]
    now = world.last_day["time_stamp"].dt.tz_convert("America/New_York")
    end = now.dt.normalize().iloc[0] + np.timedelta64(8 * 60 + 30, "m")
    assert str(end).startswith(at)
    rows = world.last_day[(now <= end) & (now > end - np.timedelta64(120, "s"))]
    rows = rows[rows["time_stamp"] == rows.groupby("vehicle_id")["time_stamp"].transform("max")]
    delay, _, _ = predictor.delays(rows)
    rows = rows.assign(delay=delay, arrival=rows["scheduled_arrival"].astype("int64") / 1e6 + delay)
    first = rows.sort_values("arrival", kind="stable").drop_duplicates(["route_id", "direction_id", "stop_id"])
    expected = {(r.route_id, r.direction_id, r.stop_id): r.delay for r in first.itertuples()}
    shown = {
        (line.route_id, line.direction_id, one.stop_id): one.arrival.delay_seconds
        for line in view.lines
        for one in line.stations
        if one.arrival
    }
    assert shown.keys() == expected.keys()
    assert all(shown[key] == pytest.approx(expected[key], abs=0.06) for key in expected)


def test_without_a_snapshot_it_says_how_to_make_one_and_without_a_leaderboard_why_the_model_is_there(
    production: Production,
) -> None:
    store = Store.at(str(production.root))
    predictor = Predictor(store.bundle())
    said = html.page(Network(store, 30).view(predictor, None))
    assert "dagster asset materialize --select network_snapshot" in said
    assert "(promoted)" in said


def test_the_leaderboard_of_another_version_says_nothing_of_this_one(copied: Production) -> None:
    copied.promote(copied.models[1])
    store = Store.at(str(copied.root))
    view = Network(store, 30).view(Predictor(store.bundle()), "08:30")
    assert view.accuracy is None
    assert view.promoted and "promoted" in view.promoted


def test_what_is_damaged_leaves_the_page_as_it_was(copied: Production) -> None:
    store, reports = Store.at(str(copied.root)), Reports(copied.root)
    predictor, network = Predictor(store.bundle()), Network(store, 0)
    before = network.view(predictor, "08:30")
    reports.write(NETWORK_SNAPSHOT, b"no archive")
    reports.write(LEADERBOARD, b"{")
    assert network.view(predictor, "08:30") == before


def test_names_are_shown_as_they_are_and_never_taken_for_html(copied: Production) -> None:
    reports = Reports(copied.root)
    found = Snapshot.from_bytes(reports.read(NETWORK_SNAPSHOT))
    from dataclasses import replace

    stations = tuple(replace(one, name="<b>Park & Ride</b>") for one in found.lines[0].stations)
    reports.write(NETWORK_SNAPSHOT, replace(found, lines=(replace(found.lines[0], stations=stations),)).to_bytes())
    store = Store.at(str(copied.root))
    said = html.page(Network(store, 30).view(Predictor(store.bundle()), "08:30"))
    assert "&lt;b&gt;Park &amp; Ride&lt;/b&gt;" in said
    assert "<b>Park" not in said


def test_a_snapshot_is_read_as_it_was_written_and_the_same_gives_the_same_bytes(whole_store: Production) -> None:
    content = Reports(whole_store.root).read(NETWORK_SNAPSHOT)
    again = Snapshot.from_bytes(content)
    assert again.to_bytes() == content
    assert again.service_date == SIMULATED_DAYS[-1]


def test_branches_follow_one_another_in_either_direction() -> None:
    trunk, ashmont, braintree = ["Alewife", "JFK"], ["Savin Hill", "Ashmont"], ["North Quincy", "Braintree"]
    away = in_order([trunk + ashmont, trunk + braintree])
    assert away == [*trunk, *braintree, *ashmont]
    back = in_order([(trunk + ashmont)[::-1], (trunk + braintree)[::-1]])
    assert back == [*ashmont[::-1], *braintree[::-1], *trunk[::-1]]
    assert in_order([["a", "c"], ["a", "b", "c"], ["z"]]) == ["a", "b", "c", "z"]


@pytest.mark.parametrize(
    ("seconds", "word", "written"),
    [(-61, "early", "−1:01"), (-60, "on time", "−1:00"), (0.4, "on time", "+0:00"), (-0.4, "on time", "+0:00"),
     (119.4, "on time", "+1:59"), (120, "late", "+2:00"), (300, "very late", "+5:00"), (3725, "very late", "+62:05")],
)  # fmt: skip
def test_a_delay_is_a_word_and_minutes(seconds: float, word: str, written: str) -> None:
    assert (html.punctuality(seconds), html.minutes(seconds)) == (word, written)
