"""The page shows lines, stations and delays at a time, with the keyboard or on a phone, and loads nothing else."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from mbta_assets.serving.formats import NetworkSnapshot
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.page import NetworkOverview, NetworkView, classify_delay, format_minutes, render_page
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.refreshing_cache import Unavailable
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT, ReportStore
from mbta_assets.transit.service_day import TIME_ZONE
from mbta_assets_tests.serving.conftest import ModelStore, TrainedModels
from mbta_assets_tests.support.accessibility import find_violations
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.dagster_dev import eventually
from mbta_assets_tests.support.days import LINES, SIMULATED_DAYS
from mbta_assets_tests.support.function_server import FunctionServer

KEYS = ("model", "version", "n", "mae", "by_stops_ahead", "interval", "coverage", "1")
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("schedule"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Start a browser for the tests of this module."""
    with open_browser(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: FunctionServer) -> Iterator[Page]:
    """Open a window as large as a desktop."""
    with browser.new_page(viewport={"width": 1600, "height": 1100}, base_url=server.address) as page:
        yield page


def build_view(store: ModelStore, clock_time: str | None, vehicle_id: str | None = None) -> NetworkView:
    """Return the view of a store's reports with its production model."""
    source = open_model_source(str(store.root))
    return NetworkOverview(source, 30).build_view(Predictor(source.load_bundle()), clock_time, vehicle_id)


def test_the_page_shows_stations_delays_and_the_accuracy_of_the_model(page: Page, full_store: ModelStore) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    response = page.goto("/?time=08:30")
    assert response is not None and response.headers["x-model-version"] == full_store.models[0].digest
    expect(page.get_by_text("at 08:30 (America/New_York) on Wednesday, 13 March 2024")).to_be_visible()
    expect(page.get_by_text(full_store.models[0].digest[:16])).to_be_visible()
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
    favicon = f"{page.url.split('/?')[0]}/favicon.ico"  # browsers request it for every page
    assert set(requests) - {favicon} == {page.url}
    assert not [message for message in messages if "favicon" not in message]


@pytest.mark.parametrize("path", ["/?time=08:30", "/?time=25:61"])
def test_the_page_is_accessible(page: Page, path: str) -> None:
    page.goto(path)
    vehicles = page.get_by_role("link", name="All stops ahead of vehicle")
    if vehicles.count():
        vehicles.first.click()
        expect(page.locator("#vehicle")).to_be_visible()
    assert find_violations(page) == []


def test_another_time_is_selected_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/?time=08:30")
    before = page.locator("td.delay").all_inner_texts()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the lines")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_label("Time", exact=True)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?time=08%3A40")
    expect(page.get_by_text("at 08:40 (America/New_York)")).to_be_visible()
    assert page.locator("td.delay").all_inner_texts() != before
    page.get_by_role("link", name="08:30").click()
    expect(page.get_by_text("at 08:30 (America/New_York)")).to_be_visible()
    assert page.locator("td.delay").all_inner_texts() == before


OVERFLOWING_SECTIONS = """[...document.querySelectorAll('section')]
    .filter(section => section.scrollWidth > section.clientWidth).map(section => section.id)"""


def test_nothing_is_cut_off_on_a_phone(browser: Browser, server: FunctionServer) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740}, base_url=server.address, has_touch=True)
    with phone:
        phone.goto("/?time=17:30")
        phone.get_by_role("link", name="All stops ahead of vehicle").first.click()
        expect(phone.locator("#vehicle")).to_be_visible()
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
        assert phone.evaluate(OVERFLOWING_SECTIONS) == []
        controls = phone.locator("form a, form select, form button").all()
        assert len(controls) >= 3
        for control in controls:
            box = control.bounding_box()
            assert box and box["height"] >= 44
        phone.screenshot(path=SCREENSHOTS / "6-the-page-on-a-phone.png")


def test_nothing_is_cut_off_on_a_desktop(page: Page) -> None:
    page.goto("/?time=08:30")
    assert page.evaluate(OVERFLOWING_SECTIONS) == []


def test_the_content_of_the_page_is_available_as_json(server: FunctionServer) -> None:
    content = server.request("/network?time=08:30").json()
    assert (content["service_date"], content["time"]) == (str(SIMULATED_DAYS[-1]), "08:30")
    stations = [station for line in content["lines"] for station in line["stations"]]
    arrivals = [station["arrival"] for station in stations if station["arrival"]]
    assert len(arrivals) > 20
    for arrival in arrivals:
        assert arrival["lower_delay_seconds"] <= arrival["delay_seconds"] <= arrival["upper_delay_seconds"]
        assert arrival["stops_ahead"] >= 1
    assert {2, 4, 6} <= {arrival["stops_ahead"] for arrival in arrivals}
    departures = [station["departure"] for station in stations if station["departure"]]
    assert departures
    assert {departure["stops_ahead"] for departure in departures} == {0}
    assert content["vehicle"] is None
    assert content["accuracy"]["confidence_level"] == 0.9
    assert content["accuracy"]["coverage"] == pytest.approx(0.9, abs=0.05)
    assert set(content["accuracy"]["baselines"]) == {"persistence", "schedule"}


def test_a_time_between_two_snapshots_gives_the_earlier_one_and_an_invalid_time_is_refused(
    server: FunctionServer,
) -> None:
    assert server.request("/network?time=08:39").json()["time"] == "08:30"
    first_time = server.request("/network").json()["times"][0]
    assert server.request("/network?time=03:00").json()["time"] == first_time
    for invalid in ("24:00", "8:30", "noon", "<script>"):
        assert server.request(f"/network?time={invalid}").status == 422
        page = server.request(f"/?time={invalid}")
        assert page.status == 422
        assert b"must be written as HH:MM" in page.body
        assert b"<script" not in page.body


def test_the_page_loads_nothing_else(server: FunctionServer) -> None:
    response = server.request("/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert not re.search(rb"<script|<img|<link|@import|url\(|https?://", response.body)


def select_shown_rows(trained_models: TrainedModels, predictor: Predictor) -> pd.DataFrame:
    """Return the rows of the last day that the page shows at 08:30, with the predicted delay and arrival."""
    features = trained_models.last_day
    local_time = features["time_stamp"].dt.tz_convert(TIME_ZONE)
    begin = local_time.dt.normalize().iloc[0] + np.timedelta64(8 * 60 + 30, "m")
    assert str(begin).startswith(f"{SIMULATED_DAYS[-1]} 08:30")
    rows = features[(local_time >= begin) & (local_time < begin + np.timedelta64(600, "s"))]
    rows = rows[rows["time_stamp"] == rows.groupby("vehicle_id")["time_stamp"].transform("min")]
    ahead = (rows["scheduled_arrival"] - rows["time_stamp"]).dt.total_seconds().to_numpy()
    delay, _, _ = predictor.predict_delays(rows, ahead, pd.factorize(rows["vehicle_id"])[0])
    return rows.assign(delay=delay, arrival=rows["scheduled_arrival"].astype("int64") / 1e6 + delay)


def test_each_station_shows_its_earliest_arrival_and_departure_of_first_reports(
    full_store: ModelStore, trained_models: TrainedModels
) -> None:
    rows = select_shown_rows(trained_models, Predictor(full_store.models[0]))
    view = build_view(full_store, "08:30")
    key = ["route_id", "direction_id", "stop_id", "event"]
    earliest = rows.sort_values("arrival", kind="stable").drop_duplicates(key)
    expected = dict(zip(earliest[key].itertuples(index=False, name=None), earliest["delay"], strict=True))
    shown = {
        (line.route_id, line.direction_id, station.stop_id, kind): event.delay_seconds
        for line in view.lines
        for station in line.stations
        for kind, event in (("arrival", station.arrival), ("departure", station.departure))
        if event
    }
    assert len(shown) > 50
    assert shown.keys() == expected.keys()
    assert all(shown[key] == pytest.approx(expected[key], abs=0.06) for key in expected)


def test_every_station_with_a_vehicle_upstream_has_an_arrival(full_store: ModelStore) -> None:
    view = build_view(full_store, "08:30")
    for line in view.lines:
        has_arrival = [station.arrival is not None for station in line.stations]
        assert any(has_arrival)
        # A vehicle has stops ahead up to the end of its branch, and every line of the simulation has vehicles near its
        # first stop in the morning.
        assert sum(has_arrival) >= len(line.stations) - 3, line.route_id


def test_a_chosen_vehicle_shows_all_its_stops_ahead_in_order(
    full_store: ModelStore, trained_models: TrainedModels
) -> None:
    rows = select_shown_rows(trained_models, Predictor(full_store.models[0]))
    vehicle_id = rows["vehicle_id"].value_counts().index[0]
    own = rows[rows["vehicle_id"] == vehicle_id].sort_values("stops_ahead")
    vehicle = build_view(full_store, "08:30", vehicle_id).vehicle
    assert vehicle is not None
    assert (vehicle.vehicle_id, vehicle.trip_id) == (vehicle_id, own["trip_id"].iloc[0])
    assert [stop.stop_id for stop in vehicle.stops] == own["stop_id"].tolist()
    assert [stop.event.stops_ahead for stop in vehicle.stops] == own["stops_ahead"].tolist()
    assert [stop.event.delay_seconds for stop in vehicle.stops] == pytest.approx(own["delay"].tolist(), abs=0.06)
    predicted = [stop.event.predicted for stop in vehicle.stops]
    assert predicted == sorted(predicted)
    assert len(vehicle.stops) > 10
    assert {stop.name for stop in vehicle.stops}.isdisjoint(stop.stop_id for stop in vehicle.stops)


def test_a_vehicle_that_has_not_left_shows_its_departure_first(full_store: ModelStore) -> None:
    view = build_view(full_store, "08:30")
    departures = [station.departure for line in view.lines for station in line.stations if station.departure]
    vehicle = build_view(full_store, "08:30", departures[0].vehicle_id).vehicle
    assert vehicle is not None
    assert [stop.event.stops_ahead for stop in vehicle.stops][:2] in ([0, 1], [0, 2])
    html = render_page(build_view(full_store, "08:30", departures[0].vehicle_id))
    assert html.count('data-event="departure"') == len(departures)


def test_an_unknown_vehicle_is_said_to_have_no_stops_ahead(server: FunctionServer) -> None:
    content = server.request("/network?time=08:30&vehicle=%3Cb%3E%26").json()
    assert content["vehicle"]["vehicle_id"] == "<b>&"
    assert content["vehicle"]["stops"] == []
    page = server.request("/?time=08:30&vehicle=%3Cb%3E%26")
    assert page.status == 200
    assert b"Vehicle &lt;b&gt;&amp;" in page.body
    assert b"no stops ahead at 08:30" in page.body
    assert b"<b>" not in page.body


def test_a_vehicle_is_chosen_and_followed_to_another_time_with_the_keyboard(page: Page) -> None:
    page.goto("/?time=08:30")
    red = page.get_by_role("region", name="Red towards Alewife")
    link = red.get_by_role("link", name="All stops ahead of vehicle").last
    vehicle_id = link.inner_text()
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**vehicle=**")
    region = page.get_by_role("region", name=f"Vehicle {vehicle_id}")
    expect(region).to_be_visible()
    delays = region.locator("td.delay").all_inner_texts()
    assert delays
    assert all(re.fullmatch(r"[+−]\d+:\d\d", delay) for delay in delays)
    page.screenshot(path=SCREENSHOTS / "7-a-vehicle.png", full_page=True)
    page.get_by_role("link", name="08:40").click()
    expect(page.get_by_role("region", name=f"Vehicle {vehicle_id}")).to_be_visible()
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_text("at 08:40 (America/New_York)")).to_be_visible()
    expect(page.locator("#vehicle")).to_have_count(0)


def test_without_reports_the_page_names_the_command_for_a_snapshot_and_the_reason_of_the_promotion(
    model_store: ModelStore,
) -> None:
    html = render_page(build_view(model_store, None))
    assert "dagster asset materialize -m mbta_assets.definitions --select network_snapshot" in html
    assert "(promoted)" in html


def test_the_leaderboard_of_another_version_is_not_shown(store_copy: ModelStore) -> None:
    assert build_view(store_copy, "08:30").accuracy is not None
    store_copy.promote(store_copy.models[1])
    view = build_view(store_copy, "08:30")
    assert view.accuracy is None
    assert view.promotion and "promoted" in view.promotion


def test_damaged_reports_leave_the_page_unchanged(store_copy: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    source, reports = open_model_source(str(store_copy.root)), ReportStore(store_copy.root)
    predictor, overview = Predictor(source.load_bundle()), NetworkOverview(source, 0)
    before = overview.build_view(predictor, "08:30")
    reports.write(NETWORK_SNAPSHOT, b"no archive")
    reports.write(LEADERBOARD, b"{")

    def damage_is_logged() -> bool:
        assert overview.build_view(predictor, "08:30") == before
        return "network not loaded" in capsys.readouterr().out

    eventually("the reports have been read", 10, damage_is_logged)
    assert overview.build_view(predictor, "08:30") == before


@given(content=st.binary(max_size=50) | any_json.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_leaderboard_is_shown_or_named_as_damaged(store_copy: ModelStore, content: bytes) -> None:
    ReportStore(store_copy.root).write(LEADERBOARD, content)
    view, reason = None, ""
    try:
        view = build_view(store_copy, "08:30")
    except Unavailable as error:
        reason = str(error)
    if view is None:
        assert LEADERBOARD in reason
    else:
        assert json.dumps(view.to_json(), allow_nan=False)
        assert render_page(view)


def test_a_snapshot_that_is_older_than_a_feature_of_the_model_is_named(store_copy: ModelStore) -> None:
    reports = ReportStore(store_copy.root)
    snapshot = NetworkSnapshot.from_bytes(reports.read(NETWORK_SNAPSHOT))
    columns = {name: values for name, values in snapshot.columns.items() if name != "leader_headway_seconds"}
    reports.write(NETWORK_SNAPSHOT, replace(snapshot, columns=columns).to_bytes())
    with pytest.raises(Unavailable, match=r"does not fit the model .* 'leader_headway_seconds'.* network_snapshot"):
        build_view(store_copy, "08:30")


def test_names_are_escaped_in_html(store_copy: ModelStore) -> None:
    reports = ReportStore(store_copy.root)
    snapshot = NetworkSnapshot.from_bytes(reports.read(NETWORK_SNAPSHOT))
    line = snapshot.lines[0]
    stations = tuple(replace(station, name="<b>Park & Ride</b>") for station in line.stations)
    reports.write(NETWORK_SNAPSHOT, replace(snapshot, lines=(replace(line, stations=stations),)).to_bytes())
    html = render_page(build_view(store_copy, "08:30"))
    assert "&lt;b&gt;Park &amp; Ride&lt;/b&gt;" in html
    assert "<b>Park" not in html


@pytest.mark.parametrize(
    ("seconds", "category", "minutes"),
    [(-61, "early", "−1:01"), (-60, "on time", "−1:00"), (0.4, "on time", "+0:00"), (-0.4, "on time", "+0:00"),
     (119.4, "on time", "+1:59"), (120, "late", "+2:00"), (300, "very late", "+5:00"), (3725, "very late", "+62:05")],
)  # fmt: skip
def test_a_delay_is_shown_as_a_category_and_in_minutes(seconds: float, category: str, minutes: str) -> None:
    assert (classify_delay(seconds), format_minutes(seconds)) == (category, minutes)
