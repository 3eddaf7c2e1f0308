"""The sensor follows the source: every change is made, whatever happens in between, and none is made twice."""

import base64
import json
import os
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from mbta_assets.defs.automation import upstream
from mbta_assets.defs.automation.cursor import Cursor
from mbta_assets.defs.automation.runs import MAX_ATTEMPTS, RETRY_DELAY
from mbta_assets.defs.automation.upstream import KEY_TAG, MAX_PENDING_RUNS
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import (
    DOWNSTREAM,
    TABLES,
    Deployment,
    asset_names,
    clock_at,
    day,
    upstream_path,
    write_upstream,
)

pytestmark = pytest.mark.integration


def overwrite(followed: Deployment, late_seconds: int, number: int = 0) -> None:
    write_upstream(followed.directory, day(number), tables=("vehicle",), late_seconds=late_seconds)


def stored_delay(followed: Deployment, number: int = 0) -> float:
    """Return the median delay in seconds of a day's stored features."""
    rows = followed.tables.read("transit_features", [day(number)], ["delay_seconds"]).to_pandas()
    return float(rows["delay_seconds"].median())


def requested_partitions(followed: Deployment) -> list[str]:
    """Return the partitions of the runs that the sensor has requested."""
    return [run.tags["dagster/partition"] for run in followed.instance.get_runs() if KEY_TAG in run.tags]


def test_a_changed_table_is_made_again_with_what_is_downstream_and_no_other_day(followed: Deployment) -> None:
    write_upstream(followed.directory, day(1))
    assert followed.run_until_idle() == [str(day(1))]
    other = followed.tables.versions("transit_features", [day(1)])
    overwrite(followed, 90)
    [request] = followed.tick()
    assert request.partition_key == str(day(0))
    assert asset_names(request) == ["vehicle", *DOWNSTREAM]
    assert followed.run(request).is_success
    assert stored_delay(followed) == 90
    assert followed.run_until_idle() == []
    assert followed.tables.versions("transit_features", [day(1)]) == other


def test_a_new_day_is_made_whole_once_all_of_its_tables_are_there(followed: Deployment) -> None:
    write_upstream(followed.directory, day(1), tables=("vehicle", "trip", "stop"))
    assert followed.tick() == []
    write_upstream(followed.directory, day(1), tables=("schedule",))
    [request] = followed.tick()
    assert asset_names(request) == [*TABLES, *DOWNSTREAM]


def test_a_file_with_the_same_content_is_not_made_again(followed: Deployment) -> None:
    os.utime(upstream_path(followed.directory, "vehicle", day(0)))
    overwrite(followed, 60)  # the same content in a new file
    assert followed.tick() == []


def test_overwritten_twice_between_two_ticks_the_last_content_is_made_once(followed: Deployment) -> None:
    overwrite(followed, 90)
    overwrite(followed, 120)
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 120


def test_overwritten_and_back_again_it_is_made_again(followed: Deployment) -> None:
    overwrite(followed, 90)
    assert followed.run_until_idle() == [str(day(0))]
    overwrite(followed, 60)
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 60


def test_overwritten_while_a_run_reads_it_is_made_again_after_that_run(followed: Deployment) -> None:
    overwrite(followed, 90)
    [request] = followed.tick()
    run = followed.start_run(request)
    overwrite(followed, 120)
    assert followed.tick() == [], "two runs of a day would race"
    followed.finish_run(run, succeeded=True)
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 120


def test_no_run_is_requested_while_another_makes_the_day(followed: Deployment) -> None:
    by_hand = followed.start_run(dg.RunRequest(partition_key=str(day(0))), job="daily_tables")
    overwrite(followed, 90)
    assert followed.tick() == []
    followed.finish_run(by_hand, succeeded=True)
    assert followed.run_until_idle() == [str(day(0))]


def test_a_daemon_that_stops_between_the_cursor_and_the_run_loses_nothing_and_runs_nothing_twice(
    followed: Deployment,
) -> None:
    overwrite(followed, 90)
    [lost] = followed.tick()
    [request] = followed.tick()
    assert request.run_key == lost.run_key
    assert followed.run(request).is_success
    assert followed.run_until_idle() == []
    assert requested_partitions(followed) == [str(day(0))]


def test_a_daemon_that_stops_before_the_cursor_is_stored_requests_the_run_again_by_the_same_key(
    followed: Deployment,
) -> None:
    overwrite(followed, 90)
    [lost] = followed.evaluate("upstream_changes").run_requests
    [request] = followed.tick()
    assert request.run_key == lost.run_key


def test_a_failed_run_is_retried_by_other_keys_later_and_not_for_ever(followed: Deployment) -> None:
    overwrite(followed, 90)
    keys, now = [], datetime.now(UTC)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        with clock_at(now):
            [request] = followed.tick()
            keys.append(request.run_key)
            followed.finish_run(followed.start_run(request), succeeded=False)
            assert followed.tick() == [], "not at once"
        now += RETRY_DELAY * 2 ** (attempt - 1) + timedelta(minutes=1)
    with clock_at(now + timedelta(days=1)):
        assert followed.tick() == []
    assert len(set(keys)) == MAX_ATTEMPTS
    overwrite(followed, 120)
    assert followed.run_until_idle() == [str(day(0))], "another change is another matter"
    assert stored_delay(followed) == 120


@pytest.mark.parametrize("started", [True, False], ids=["running", "starting"])
def test_a_run_that_was_cancelled_is_not_requested_again_until_the_day_changes_again(
    followed: Deployment, started: bool
) -> None:
    overwrite(followed, 90)
    [request] = followed.tick()
    followed.cancel_run(request, started=started)
    with clock_at(datetime.now(UTC) + timedelta(days=1)):
        assert followed.tick() == []
        assert followed.tick() == []
    overwrite(followed, 120)
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 120
    assert followed.run_until_idle() == []


@pytest.mark.parametrize("number", [0, 1], ids=["a stored day", "a new day"])
def test_what_a_cancelled_run_did_not_copy_is_copied_when_another_table_changes(
    followed: Deployment, number: int
) -> None:
    write_upstream(followed.directory, day(number), late_seconds=90)
    [request] = followed.tick()
    followed.cancel_run(request)
    assert followed.tick() == []
    path = upstream_path(followed.directory, "trip", day(number))
    trips = pd.read_parquet(path)
    trips.assign(name="renamed").to_parquet(path, index=False)
    assert followed.run_until_idle() == [str(day(number))]
    assert stored_delay(followed, number) == 90


def test_a_day_that_is_changed_back_and_then_again_is_no_longer_given_up(followed: Deployment) -> None:
    overwrite(followed, 90)
    [request] = followed.tick()
    followed.cancel_run(request)
    overwrite(followed, 60)
    assert followed.tick() == [], "the day is stored like this"
    overwrite(followed, 90)
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 90


def test_a_cursor_of_an_earlier_release_is_read() -> None:
    stored = {"epoch": 1, "floor": "2024-03-04", "count": 0, "handled": {}, "asked": {}, "failed": {}, "reported": {}}
    text = base64.b85encode(zlib.compress(json.dumps({**stored, "read_until": 7}).encode())).decode()
    assert Cursor.from_text(text) == Cursor(epoch=1, floor="2024-03-04", read_until=7)


def test_a_run_that_fails_and_then_succeeds_is_not_run_a_third_time(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbta_assets.defs.automation.runs.RETRY_DELAY", timedelta(0))
    path = upstream_path(followed.directory, "vehicle", day(0))
    path.write_bytes(path.read_bytes()[:200])
    [request] = followed.tick()
    assert followed.run(request).is_failure
    overwrite(followed, 90)
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 90


@pytest.mark.parametrize("hours", [-48, 48])
def test_modification_times_that_are_wrong_or_out_of_order_hide_no_change(followed: Deployment, hours: int) -> None:
    overwrite(followed, 90)
    at = (datetime.now() + timedelta(hours=hours)).timestamp()
    os.utime(upstream_path(followed.directory, "vehicle", day(0)), (at, at))
    assert followed.run_until_idle() == [str(day(0))]
    overwrite(followed, 120)
    os.utime(upstream_path(followed.directory, "vehicle", day(0)), (at - 3600, at - 3600))
    assert followed.run_until_idle() == [str(day(0))]
    assert stored_delay(followed) == 120


def test_of_thousands_of_changes_some_are_run_at_a_time_the_newest_first_and_none_is_lost(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [day(number) for number in range(1, 501)]
    for table in TABLES:
        for service_date in days:
            path = upstream_path(followed.directory, table, service_date)
            path.parent.mkdir(parents=True)
            path.write_bytes(b"rows")
    first = followed.tick()
    assert [request.partition_key for request in first] == sorted(map(str, days), reverse=True)[:MAX_PENDING_RUNS]
    started = [followed.start_run(request) for request in first]
    assert followed.tick() == [], "the maximum number of runs is pending"
    for run in started:
        followed.finish_run(run, succeeded=True)
    requested = [request.partition_key for request in first]
    monkeypatch.setattr(upstream, "MAX_PENDING_RUNS", 250)
    while requests := followed.tick():
        for request in requests:
            run = dg.DagsterRun("service_day", tags=request.tags, status=dg.DagsterRunStatus.SUCCESS)
            followed.instance.add_run(run)
            requested.append(request.partition_key)
    assert sorted(map(str, requested)) == sorted(map(str, days))
    cursor = followed.cursors["upstream_changes"]
    assert cursor and len(cursor) < 150_000


def test_the_first_tick_backfills_nothing_where_nothing_is_stored(deployment: Deployment) -> None:
    write_upstream(deployment.directory, *(day(number) for number in range(40)))
    assert deployment.tick() == [], "people choose the first days to backfill"
    write_upstream(deployment.directory, day(40))
    assert [request.partition_key for request in deployment.tick()] == [str(day(40))]


def test_the_first_tick_makes_days_newer_than_the_stored_ones_but_not_more_than_models_are_trained_on(
    stored: Deployment,
) -> None:
    write_upstream(stored.directory, *(day(number) for number in range(1, 10)))
    newest = [str(day(number)) for number in (9, 8, 7, 6, 5)]
    assert [request.partition_key for request in stored.tick()] == newest


def test_a_day_that_somebody_backfills_later_is_followed_from_then_on(deployment: Deployment) -> None:
    write_upstream(deployment.directory, day(0), day(1))
    assert deployment.tick() == []
    overwrite(deployment, 90, number=0)
    assert deployment.tick() == [], "a day that is not stored is not followed"
    assert deployment.materialize(day(1)).is_success
    assert deployment.tick() == []
    overwrite(deployment, 120, number=1)
    assert deployment.run_until_idle() == [str(day(1))]


def test_a_day_that_is_overwritten_while_somebody_backfills_it_for_the_first_time_is_made_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    write_upstream(deployment.directory, day(0), day(1))
    assert deployment.tick() == []
    assert deployment.materialize(day(1)).is_success
    # The run stores raw_transit_data late: it is not there yet when the file changes and the sensor ticks.
    stored = deployment.tables.path("raw_transit_data", day(1)).parent
    stored.rename(tmp_path / "not yet")
    overwrite(deployment, 90, number=1)
    assert deployment.tick() == []
    (tmp_path / "not yet").rename(stored)
    assert deployment.run_until_idle() == [str(day(1))]
    assert stored_delay(deployment, 1) == 90


def test_a_change_after_failed_runs_has_all_attempts_before_it(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbta_assets.defs.automation.runs.RETRY_DELAY", timedelta(0))
    requested = 0
    for late_seconds in (90, 120):
        overwrite(followed, late_seconds)
        for _ in range(MAX_ATTEMPTS - 1):
            [request] = followed.tick()
            requested += 1
            followed.finish_run(followed.start_run(request), succeeded=False)
    while requests := followed.tick():
        requested += len(requests)
        followed.finish_run(followed.start_run(requests[0]), succeeded=False)
    assert requested == (MAX_ATTEMPTS - 1) + MAX_ATTEMPTS


def test_a_day_that_has_not_ended_waits(followed: Deployment) -> None:
    today = day(14)
    write_upstream(followed.directory, today)
    noon = datetime(today.year, today.month, today.day, 16, tzinfo=UTC)
    with clock_at(noon):
        assert followed.tick() == []
    with clock_at(noon + timedelta(days=1)):
        assert [request.partition_key for request in followed.tick()] == [str(today)]


def test_with_a_production_model_predictions_and_their_accuracy_follow(
    followed: Deployment, production_model: None
) -> None:
    overwrite(followed, 90)
    [request] = followed.tick()
    first, *downstream = asset_names(request)
    assert first == "vehicle"
    assert set(downstream) == {
        *DOWNSTREAM,
        "delay_predictions",
        "prediction_accuracy",
        "network_snapshot",
        "width_correction",
    }


def test_a_cursor_is_the_same_after_it_was_stored() -> None:
    cursor = Cursor(epoch=1, floor="2024-03-04", handled={"2024-03-04": {"vehicle": "a-b"}})
    assert Cursor.from_text(cursor.to_text()) == cursor


def test_the_simulator_has_no_changes_to_follow(followed: Deployment, tmp_path: Path) -> None:
    simulated = Deployment(Settings(store=tmp_path / "simulated"), followed.instance)
    assert simulated.tick() == []
