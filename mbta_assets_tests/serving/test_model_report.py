"""The report of the production model is one page with all that it needs, and the HTTP function shows it."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from playwright.sync_api import expect
from scipy.stats import t as student_t

from mbta_assets.defs.production.model_report import History, store_report
from mbta_assets.ml.evaluation.promotion_gate import Decision, Rule
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.ml.training.dataset import PARTS
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import ACCURACY_HISTORY, ReportStore, name_model_report
from mbta_assets_tests.serving.conftest import ModelStore, TrainedModels
from mbta_assets_tests.support.accessibility import find_violations, walk_by_keyboard
from mbta_assets_tests.support.browser import SCREENSHOTS, open_browser
from mbta_assets_tests.support.dagster_dev import eventually
from mbta_assets_tests.support.function_server import serve_predictions

REASON = "It has 40% less error than <the> lookup."
DECISION = Decision((Rule(True, REASON), Rule(True, "It has 20,000 bytes; 60,000 are the maximum.")))
RUN_CONFIG = {"resources": {"settings": {"config": {"seed": 7, "training_days": 2}}}}
FIELDS = {
    "parameters": 1234,
    "learned_days": ["2024-09-09", "2024-09-10"],
    "training_window": [
        {"part": part, "from": "2024-09-09 10:00:00+00:00", "to": "2024-09-11 04:30:00+00:00", "labelled": 12_345}
        for part in PARTS
    ],
    "git_commit": "abc123",
    "inputs": {"training_set": "feed" * 16},
    "libraries": {"numpy": "2"},
}
"""Fields of the manifests that training writes."""


@pytest.fixture(scope="module")
def drafts(trained_models: TrainedModels) -> list[Draft]:
    """Return the trained models with the manifest fields of a production model."""
    drafts = []
    for model in trained_models.bundles:
        files = {name: model.file(name) for name in model.manifest["files"]}
        kept = {name: model.manifest[name] for name in ("residual_to", "features", "seed")}
        drafts.append(Draft(model.manifest["kind"], files, {**kept, **FIELDS}))
    return drafts


def write_report(store: ModelStore, test: pd.DataFrame) -> str:
    """Write the report of a store's production model and return the page."""
    registry, reports = ModelRegistry(store.root), ReportStore(store.root)
    model = registry.current("production_model")
    lookup = load_model(model).preprocessor.lookup.predict_delay(test)
    history = History(DECISION, registry.moves("production_model"), RUN_CONFIG)
    location = store_report(reports, model, lookup, test, history)
    assert Path(location["path"]).name == name_model_report(model.digest)
    return reports.read(name_model_report(model.digest)).decode()


def test_the_report_says_what_the_model_is_worth_and_loads_nothing(
    empty_store: ModelStore, drafts: list[Draft], trained_models: TrainedModels
) -> None:
    digest, test = empty_store.promote(drafts[0]), trained_models.test_rows
    page = write_report(empty_store, test)
    delay = correct_delays(test, load_model(ModelRegistry(empty_store.root).current("production_model")).predict(test))
    error = np.abs(test["delay_seconds"] - delay.delay).mean()
    assert "12,345 with a label, 2024-09-09 06:00 EDT to 2024-09-11 00:30 EDT" in page
    assert re.search(r"In production since [0-9-]{10} [0-9:]{5} E[SD]T\.", page) and "+00:00" not in page
    assert digest in page and f"{error:.1f} s on average on {len(test):,} test rows" in page
    assert "40% less error than &lt;the&gt; lookup" in page and "abc123" in page and "feed" * 16 in page
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:image/png)", page)
    errors = np.abs(test["delay_seconds"] - delay.delay)
    by_trip = errors.groupby([test["service_date"].to_numpy(), test["trip_id"].to_numpy()])
    trips = by_trip.ngroups
    variance = trips / (trips - 1) * ((by_trip.sum() - error * by_trip.size()) ** 2).sum() / len(test) ** 2
    spread = student_t.ppf(0.975, trips - 1) * np.sqrt(variance)
    [of_model, of_gain] = re.findall(r'<tr><th scope="row">(?:Error of|Less than).*?</tr>', page)
    numbers = [float(number) for number in re.findall(r">(-?[0-9.]+)</td>", of_model)]
    assert numbers[0] == pytest.approx(error, abs=0.05) and numbers[1] == pytest.approx(spread, abs=0.05)
    assert "Less than the run-time lookup" in of_gain
    shown = re.search(r"<pre[^>]*>(resources:.*?)</pre>", page, re.DOTALL)
    assert shown and yaml.safe_load(unescape(shown[1])) == RUN_CONFIG and "--config run_config.yaml" in page
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', page)
    assert len(pictures) >= 5 and len(set(pictures)) == len(pictures)
    assert len(page) < 400_000


def test_the_function_shows_the_report_of_the_model_that_it_predicts_with(
    empty_store: ModelStore, drafts: list[Draft], trained_models: TrainedModels, tmp_path: Path, chromium: str
) -> None:
    with serve_predictions(empty_store.root, tmp_path / "log") as server:
        without_model = server.request("/model")
        assert without_model.status == 503 and b"dagster asset materialize" in without_model.body
        digest = empty_store.promote(drafts[0])
        eventually("the model is loaded", 30, lambda: server.request("/readyz").status == 200)
        without_report = server.request("/model")
        assert without_report.status == 404 and without_report.headers["X-Model-Version"] == digest
        page = write_report(empty_store, trained_models.test_rows)
        response = server.request("/model")
        assert response.status == 200 and response.body.decode() == page
        assert response.headers["X-Model-Version"] == digest
        with open_browser(chromium) as browser:
            tab = browser.new_page(viewport={"width": 390, "height": 844}, base_url=server.address)
            tab.goto("/")
            tab.get_by_role("link", name="its report").click()
            expect(tab.get_by_role("heading", level=1)).to_contain_text(digest[:16])
            assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert find_violations(tab) == []
            tab.screenshot(path=SCREENSHOTS / "model_report.png", full_page=True)
            reached = walk_by_keyboard(tab)
            assert reached[:2] == ["Model card", "Results"] and "Inputs, configuration and data versions" in reached
            tab.locator("summary").focus()
            tab.keyboard.press("Enter")
            expect(tab.get_by_role("region", name="Inputs, configuration and data versions")).to_be_visible()
            assert find_violations(tab) == []
            levels = tab.locator("h1, h2, h3").evaluate_all("headings => headings.map(heading => heading.tagName)")
            assert levels[0] == "H1" and set(levels[1:]) == {"H2"} and len(levels) >= 6


def test_pages_that_say_what_is_wrong_are_accessible(
    empty_store: ModelStore, drafts: list[Draft], tmp_path: Path, chromium: str
) -> None:
    with serve_predictions(empty_store.root, tmp_path / "log") as server, open_browser(chromium) as browser:
        tab = browser.new_page(viewport={"width": 390, "height": 844}, base_url=server.address)

        def check(path: str, status: int, link: str) -> None:
            response = tab.goto(path)
            assert response is not None and response.status == status, path
            assert response.headers["content-type"].startswith("text/html")
            expect(tab.get_by_role("heading", level=1)).to_be_visible()
            expect(tab.get_by_role("alert")).to_be_visible()
            tab.screenshot(path=SCREENSHOTS / f"error-{status}-{path.strip('/').partition('?')[0] or 'page'}.png")
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
            assert find_violations(tab) == [], path
            assert walk_by_keyboard(tab)[0] == link, path
            tab.get_by_role("link", name=link).click()
            tab.wait_for_url(f"{server.address}/")

        check("/", 503, "Back to the page")
        check("/model", 503, "Back to the page")
        empty_store.promote(drafts[0])
        eventually("the model is loaded", 30, lambda: server.request("/readyz").status == 200)
        check("/model", 404, "Back to the page")
        check("/?time=25:61", 422, "Back to the page")
        check("/accuracy", 404, "Predictions")
        ReportStore(empty_store.root).write(ACCURACY_HISTORY, b"{")
        check("/accuracy", 503, "Predictions")
        history = json.dumps({"days": ["2024-09-09"], "by_day": [], "over_all_days": []})
        ReportStore(empty_store.root).write(ACCURACY_HISTORY, history.encode())
        check("/accuracy?by=colour", 422, "Predictions")
