"""A report of an upstream table leads to one run of its day, whether or not the source shows a change."""

import base64
import json
import zlib
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from mbta_assets.defs.automation import reports
from mbta_assets.defs.automation.cursor import Cursor
from mbta_assets.serving.formats import EVENT_ID_KEY
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import (
    DOWNSTREAM,
    TABLES,
    Deployment,
    asset_names,
    clock_at,
    day,
    write_upstream,
)

pytestmark = pytest.mark.integration


def report(deployment: Deployment, version: str, table: str = "vehicle", number: int = 0, **metadata: str) -> None:
    """Add a report to the event log as Dagster's HTTP interface does."""
    deployment.instance.report_runless_asset_event(
        dg.AssetObservation(
            table,
            partition=str(day(number)),
            metadata=metadata or {EVENT_ID_KEY: f"id of {version}"},
            tags={"dagster/data_version": version},
        )
    )


def test_a_report_leads_to_one_run_of_its_table_and_what_is_downstream(followed: Deployment) -> None:
    report(followed, "gs://bucket/vehicle#1")
    [request] = followed.tick()
    assert (request.partition_key, asset_names(request)) == (str(day(0)), ["vehicle", *DOWNSTREAM])
    run = followed.start_run(request)
    assert followed.tick() == []
    followed.finish_run(run, succeeded=True)
    assert followed.run_until_idle() == []


def test_the_same_report_again_leads_to_nothing_and_another_version_to_another_run(followed: Deployment) -> None:
    for version, days in (("gs://b/v#1", [str(day(0))]), ("gs://b/v#1", []), ("gs://b/v#2", [str(day(0))])):
        report(followed, version)
        assert followed.run_until_idle() == days


def test_reports_of_several_tables_between_two_ticks_are_one_run(followed: Deployment) -> None:
    for table in ("vehicle", "schedule", "vehicle"):
        report(followed, f"gs://b/{table}#1", table)
    [request] = followed.tick()
    assert asset_names(request) == ["vehicle", "schedule", *DOWNSTREAM]


def test_a_change_that_is_both_polled_and_reported_is_one_run(followed: Deployment) -> None:
    write_upstream(followed.directory, day(0), tables=("vehicle",), late_seconds=90)
    report(followed, "gs://b/vehicle#1")
    assert followed.run_until_idle() == [str(day(0))]


def test_a_report_from_before_the_first_tick_counts_unless_the_day_was_made_since(stored: Deployment) -> None:
    report(stored, "gs://b/vehicle#1")
    assert stored.run_until_idle() == [str(day(0))]
    stored.cursors.clear()
    assert stored.run_until_idle() == []


def test_the_run_of_a_report_is_tried_again_when_it_fails(followed: Deployment) -> None:
    report(followed, "gs://b/vehicle#1")
    [request] = followed.tick()
    followed.finish_run(followed.start_run(request), succeeded=False)
    assert followed.tick() == []
    with clock_at(datetime.now(UTC) + timedelta(minutes=6)):
        [again] = followed.tick()
    assert (again.partition_key, asset_names(again)) == (request.partition_key, asset_names(request))
    assert again.run_key != request.run_key


def test_a_report_of_a_day_that_is_not_stored_or_of_no_day_leads_to_nothing(followed: Deployment) -> None:
    report(followed, "gs://b/vehicle#1", number=-3)
    followed.instance.report_runless_asset_event(
        dg.AssetObservation("vehicle", partition="no service day", metadata={EVENT_ID_KEY: "1"})
    )
    assert followed.run_until_idle() == []


def test_observations_without_the_id_of_an_event_are_no_reports(followed: Deployment) -> None:
    report(followed, "gs://b/vehicle#1", somebody="else")
    assert followed.run_until_idle() == []


def test_each_observation_is_read_once_also_if_it_is_no_report(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    fetch = followed.instance.fetch_observations

    def fetch_and_count(*arguments: Any, **options: Any) -> Any:
        page = fetch(*arguments, **options)
        read.append(len(page.records))
        return page

    monkeypatch.setattr(followed.instance, "fetch_observations", fetch_and_count)
    for expected in (3, 2):
        for n in range(expected):
            report(followed, f"gs://b/vehicle#{n}", somebody="else")
        assert followed.tick() == []
        assert sum(read) == expected
        read.clear()
    assert followed.tick() == []
    assert sum(read) == 0


def test_a_report_that_comes_while_others_are_read_is_read_at_the_next_tick(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, late = followed.instance.fetch_observations, ["vehicle", "schedule"]

    def fetch_and_report(*arguments: Any, **options: Any) -> Any:
        page = fetch(*arguments, **options)
        while late:
            report(followed, "gs://b/late#1", table=late.pop(0))
        return page

    monkeypatch.setattr(followed.instance, "fetch_observations", fetch_and_report)
    report(followed, "gs://b/trip#1", table="trip")
    first, read_until = reports.fetch_reports(followed.instance, TABLES, after_storage_id=-1)
    second, _ = reports.fetch_reports(followed.instance, TABLES, read_until)
    assert [report.table for report in first] == ["trip"]
    assert [report.table for report in second] == ["vehicle", "schedule"]


def test_more_reports_than_a_page_holds_are_all_read(followed: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "PAGE_SIZE", 3)
    for n in range(8):
        report(followed, f"gs://b/vehicle#{n}")
    fetched, _ = reports.fetch_reports(followed.instance, TABLES, after_storage_id=-1)
    assert [report.version for report in fetched] == [f"gs://b/vehicle#{n}" for n in range(8)]
    assert followed.run_until_idle() == [str(day(0))]


def test_a_source_that_shows_no_change_is_followed_by_reports_alone(stored: Deployment) -> None:
    # The simulator has no versions to poll.
    deployment = Deployment(Settings(store=stored.settings.store, source="synthetic", training_days=5), stored.instance)
    assert deployment.tick() == []
    report(deployment, "gs://b/vehicle#1")
    [request] = deployment.tick()
    assert asset_names(request) == ["vehicle", *DOWNSTREAM]


def test_a_cursor_of_a_release_without_reports_is_read(followed: Deployment) -> None:
    cursor = Cursor.from_text(followed.cursors["upstream_changes"] or "")
    earlier = {name: value for name, value in asdict(cursor).items() if name not in ("reported", "read_until")}
    earlier["asked"] = earlier.pop("pending")
    followed.cursors["upstream_changes"] = base64.b85encode(zlib.compress(json.dumps(earlier).encode())).decode()
    report(followed, "gs://b/vehicle#1")
    assert followed.run_until_idle() == [str(day(0))]
