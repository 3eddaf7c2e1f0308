"""A report of an upstream table leads to one run of its day, whether or not the source shows a change."""

import base64
import json
import zlib
from dataclasses import asdict

import dagster as dg
import pytest

from mbta_assets.defs.automation import reports
from mbta_assets.defs.automation.upstream import Cursor
from mbta_assets.serving.reporting import EVENT_ID
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import Deployment, day, deliver

MADE = ["raw_transit_data", "transit_features"]


@pytest.fixture
def stored(deployment: Deployment) -> Deployment:
    """A day is stored; the sensor has not begun."""
    deliver(deployment.directory, day(0))
    assert deployment.run(dg.RunRequest(run_key="by hand", partition_key=str(day(0))), job="daily_tables").is_success
    return deployment


@pytest.fixture
def followed(stored: Deployment) -> Deployment:
    assert stored.tick() == []
    return stored


def tell(deployment: Deployment, version: str, table: str = "vehicle", number: int = 0, **metadata: str) -> None:
    """An observation as Dagster's HTTP interface makes it of a report."""
    deployment.instance.report_runless_asset_event(
        dg.AssetObservation(
            table,
            partition=str(day(number)),
            metadata=metadata or {EVENT_ID: f"id of {version}"},
            tags={"dagster/data_version": version},
        )
    )


def assets(request: dg.RunRequest) -> list[str]:
    return [key.to_user_string() for key in request.asset_selection or []]


def test_a_report_leads_to_one_run_of_its_table_and_what_is_downstream(followed: Deployment) -> None:
    tell(followed, "gs://bucket/vehicle#1")
    [request] = followed.tick()
    assert (request.partition_key, assets(request)) == (str(day(0)), ["vehicle", *MADE])
    under_way = followed.begin(request)
    assert followed.tick() == []
    followed.end(under_way, succeeded=True)
    assert followed.settle() == []


def test_the_same_report_again_leads_to_nothing_and_another_version_to_another_run(followed: Deployment) -> None:
    for version, days in (("gs://b/v#1", [str(day(0))]), ("gs://b/v#1", []), ("gs://b/v#2", [str(day(0))])):
        tell(followed, version)
        assert followed.settle() == days


def test_reports_of_several_tables_between_two_ticks_are_one_run(followed: Deployment) -> None:
    for table in ("vehicle", "schedule", "vehicle"):
        tell(followed, f"gs://b/{table}#1", table)
    [request] = followed.tick()
    assert assets(request) == ["vehicle", "schedule", *MADE]


def test_a_change_that_is_both_seen_and_reported_is_one_run(followed: Deployment) -> None:
    deliver(followed.directory, day(0), tables=("vehicle",), late_seconds=90)
    tell(followed, "gs://b/vehicle#1")
    assert followed.settle() == [str(day(0))]


def test_a_report_from_before_the_sensor_began_counts_unless_the_day_was_made_since(stored: Deployment) -> None:
    tell(stored, "gs://b/vehicle#1")
    assert stored.settle() == [str(day(0))]
    stored.cursors.clear()
    assert stored.settle() == []


def test_the_run_of_a_report_is_tried_again_when_it_fails(followed: Deployment) -> None:
    tell(followed, "gs://b/vehicle#1")
    [request] = followed.tick()
    followed.end(followed.begin(request), succeeded=False)
    assert followed.tick() == []
    [again] = _after(followed, minutes=6)
    assert (again.partition_key, assets(again)) == (request.partition_key, assets(request))
    assert again.run_key != request.run_key


def _after(deployment: Deployment, minutes: int) -> list[dg.RunRequest]:
    from datetime import UTC, datetime, timedelta

    with deployment.at(datetime.now(UTC) + timedelta(minutes=minutes)):
        return deployment.tick()


def test_what_nobody_made_here_is_not_made_for_a_report(followed: Deployment) -> None:
    tell(followed, "gs://b/vehicle#1", number=-3)
    followed.instance.report_runless_asset_event(
        dg.AssetObservation("vehicle", partition="no service day", metadata={EVENT_ID: "1"})
    )
    assert followed.settle() == []


def test_observations_that_no_event_stands_behind_are_no_reports(followed: Deployment) -> None:
    tell(followed, "gs://b/vehicle#1", somebody="else")
    assert followed.settle() == []


def test_more_reports_than_are_read_at_once_are_all_read(followed: Deployment, monkeypatch) -> None:
    monkeypatch.setattr(reports, "AT_ONCE", 3)
    for n in range(8):
        tell(followed, f"gs://b/vehicle#{n}")
    assert [one.version for one in reports.reported_after(followed.instance, -1)] == [
        f"gs://b/vehicle#{n}" for n in range(8)
    ]
    assert followed.settle() == [str(day(0))]


def test_a_source_that_shows_no_change_is_followed_by_reports_alone(stored: Deployment) -> None:
    """The simulator has a version of nothing; its stored days are made again when they are reported."""
    deployment = Deployment(Settings(store=stored.settings.store, source="synthetic", training_days=5), stored.instance)
    assert deployment.tick() == []
    tell(deployment, "gs://b/vehicle#1")
    [request] = deployment.tick()
    assert assets(request) == ["vehicle", *MADE]


def test_a_cursor_from_before_there_were_reports_is_read(followed: Deployment) -> None:
    cursor = Cursor.from_text(followed.cursors["upstream_changes"] or "")
    earlier = {name: value for name, value in asdict(cursor).items() if name not in ("reported", "read_until")}
    followed.cursors["upstream_changes"] = base64.b85encode(zlib.compress(json.dumps(earlier).encode())).decode()
    tell(followed, "gs://b/vehicle#1")
    assert followed.settle() == [str(day(0))]
