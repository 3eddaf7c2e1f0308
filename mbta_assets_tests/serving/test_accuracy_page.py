"""The accuracy page in a real browser, and its figures as JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mbta_assets.serving.accuracy_history import CSV_COLUMNS, AccuracyHistory
from mbta_assets.serving.refreshing_cache import LoadError
from mbta_assets.storage.reports import ACCURACY_HISTORY, ReportStore
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.support.accessibility import find_violations
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.function_server import FunctionServer, serve_predictions


@pytest.fixture
def page(chromium: str, server: FunctionServer) -> Iterator[Page]:
    with open_browser(chromium) as browser:
        yield browser.new_page(viewport={"width": 1000, "height": 1200}, base_url=server.address)


def read_history(store: ModelStore) -> AccuracyHistory:
    """Return the stored report."""
    return AccuracyHistory.parse(ReportStore(store.root).read(ACCURACY_HISTORY))


def test_the_plot_shows_the_bad_day_and_the_table_its_numbers(page: Page, full_store: ModelStore) -> None:
    history = read_history(full_store)
    page.goto("/")
    page.get_by_role("link", name="accuracy over weeks").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Accuracy over weeks")
    points = page.locator("polyline.ours").get_attribute("points") or ""
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert len(heights) == len(history.days) >= 2
    assert min(heights) == heights[-1], "the last day has the largest errors, and heights count from above"
    assert page.locator("polyline.agency").count() == 1
    errors = history.by_day["all", "all"][history.days[-1]]
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=history.days[-1]))
    cells = row.get_by_role("cell").all_inner_texts()
    assert cells == [f"{errors.n:,}", f"{errors.ours:.1f}", f"{errors.ours_beside_agency:.1f}", f"{errors.agency:.1f}"]
    assert errors.agency == pytest.approx(60, abs=0.01) and errors.n_agency < errors.n
    expect(page.locator(".legend")).to_contain_text(f"The worst day was {history.days[-1]}, with {errors.ours:.1f} s")
    page.screenshot(path=SCREENSHOTS / "accuracy.png", full_page=True)
    assert find_violations(page) == []


def test_filters_are_chosen_with_the_keyboard_alone(page: Page, full_store: ModelStore) -> None:
    history = read_history(full_store)
    page.goto("/accuracy")
    page.get_by_label("By", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/accuracy?by=hour")
    hours = [member for member, _ in history.list_members("hour")]
    assert hours == sorted(hours) and len(hours) > 10
    page.get_by_role("link", name=hours[3], exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/accuracy?by=hour&of={hours[3]}")
    expect(page.get_by_role("heading", name=f"Hour {hours[3]}, day by day")).to_be_visible()
    assert page.locator("tr[aria-current] th").inner_text() == hours[3]
    page.goto("/accuracy?by=stop_id")
    stops = [member for member, _ in history.list_members("stop_id")]
    assert page.locator("table").first.locator("tbody tr").count() == len(stops) > 5
    page.get_by_role("link", name=stops[2], exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Stop {stops[2]}, day by day")).to_be_visible()
    assert page.locator("table").last.locator("tbody tr").count() == len(history.list_days("stop_id", stops[2])) > 5
    assert find_violations(page) == []


def test_nothing_is_cut_off_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/accuracy?by=stops_ahead")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_figures_are_the_same_as_json_and_csv(server: FunctionServer, full_store: ModelStore) -> None:
    rows = server.request("/accuracy.json").json()
    response = server.request("/accuracy.csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(response.body.decode())))
    assert [[row[name] for name in CSV_COLUMNS] for row in read] == [
        ["" if row[name] is None else str(row[name]) for name in CSV_COLUMNS] for row in rows
    ]
    history = read_history(full_store)
    ours = {row["day"]: row["mae_seconds"] for row in rows if (row["dimension"], row["series"]) == ("all", "ours")}
    assert {day: errors.ours for day, errors in history.by_day["all", "all"].items()} == {
        day: error for day, error in ours.items() if day
    }
    assert {row["series"] for row in rows} == {"ours", "ours_beside_agency", "agency"}
    by_hour = server.request("/accuracy.json?by=hour").json()
    assert by_hour == [row for row in rows if row["dimension"] in ("hour", "all")]
    member = next(row["member"] for row in by_hour if row["dimension"] == "hour")
    of_member = server.request(f"/accuracy.csv?by=hour&of={member}").body.decode()
    assert [(row["dimension"], row["member"]) for row in csv.DictReader(io.StringIO(of_member))] == [
        ("hour", member) for row in by_hour if row["dimension"] == "hour" and row["member"] == member
    ]
    assert server.request("/accuracy.json?by=colour").status == 422


def test_what_cannot_be_shown_is_said(store_copy: ModelStore, tmp_path: Path) -> None:
    report = ReportStore(store_copy.root).directory / ACCURACY_HISTORY
    content = report.read_bytes()
    with serve_predictions(store_copy.root, tmp_path / "log") as server:
        assert server.request("/accuracy?by=colour").status == 422
        assert b"route_id, stops_ahead, hour, stop_id" in server.request("/accuracy?by=colour").body
        assert server.request("/accuracy?by=hour&of=%3Cscript%3E").status == 200
        assert b"<script" not in server.request("/accuracy?by=hour&of=%3Cscript%3E").body
        report.write_bytes(content[:-20])
        for path in ("/accuracy", "/accuracy.json", "/accuracy.csv"):
            damaged = server.request(path)
            assert damaged.status == 503 and b"-m mbta_assets.definitions --select prediction_accuracy" in damaged.body
        report.unlink()
        for path in ("/accuracy", "/accuracy.json", "/accuracy.csv"):
            missing = server.request(path)
            assert missing.status == 404 and b"-m mbta_assets.definitions --select group:monitoring" in missing.body


@pytest.mark.parametrize(
    "change",
    [{"by_day": [["2024-03-04", "all", "all", 1]]}, {"over_all_days": 7}, {"days": None}, {"by_day": [[1] * 9, "x"]}],
)
def test_a_damaged_report_is_an_error(full_store: ModelStore, change: dict[str, object]) -> None:
    report = json.loads(ReportStore(full_store.root).read(ACCURACY_HISTORY))
    with pytest.raises(LoadError, match="accuracy_history.json is damaged"):
        AccuracyHistory.parse(json.dumps({**report, **change}).encode())
