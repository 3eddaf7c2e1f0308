"""The source is followed: every change is made here, whatever happens in between, and none is made twice."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.defs.automation import upstream
from mbta_assets.defs.automation.runs import ATTEMPTS, RETRY_AFTER
from mbta_assets.defs.automation.upstream import KEY_TAG, MOST_RUNS, Cursor
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import TABLES, Deployment, day, deliver, store_path

MADE = ["raw_transit_data", "transit_features"]


@pytest.fixture
def followed(deployment: Deployment) -> Deployment:
    """A day is stored, and the sensor has begun."""
    deliver(deployment.directory, day(0))
    first = dg.RunRequest(run_key="by hand", partition_key=str(day(0)))
    assert deployment.run(first, job="daily_tables").is_success
    assert deployment.tick() == []
    return deployment


def overwrite(followed: Deployment, late_seconds: int, number: int = 0) -> None:
    deliver(followed.directory, day(number), tables=("vehicle",), late_seconds=late_seconds)


def stored_delay(followed: Deployment, number: int = 0) -> float:
    """What the stored features say of how late the vehicles are."""
    rows = followed.lake.read("transit_features", [day(number)], ["delay_seconds"]).to_pandas()
    return float(rows["delay_seconds"].median())


def asked_assets(request: dg.RunRequest) -> list[str]:
    return [key.to_user_string() for key in request.asset_selection or []]


def runs(followed: Deployment) -> list[str]:
    """The service days of the runs that the sensor has asked for."""
    records = followed.instance.get_runs()
    return [run.tags["dagster/partition"] for run in records if KEY_TAG in run.tags]


def test_a_changed_table_is_made_again_with_what_is_downstream_and_no_other_day(followed: Deployment) -> None:
    deliver(followed.directory, day(1))
    assert followed.settle() == [str(day(1))]
    other = followed.lake.versions("transit_features", [day(1)])
    overwrite(followed, 90)
    [request] = followed.tick()
    assert request.partition_key == str(day(0))
    assert asked_assets(request) == ["vehicle", *MADE]
    assert followed.run(request).is_success
    assert stored_delay(followed) == 90
    assert followed.settle() == []
    assert followed.lake.versions("transit_features", [day(1)]) == other


def test_a_new_day_is_made_whole_once_all_of_its_tables_are_there(followed: Deployment) -> None:
    deliver(followed.directory, day(1), tables=("vehicle", "trip", "stop"))
    assert followed.tick() == []
    deliver(followed.directory, day(1), tables=("schedule",))
    [request] = followed.tick()
    assert asked_assets(request) == [*TABLES, *MADE]


def test_what_is_only_touched_is_not_made_again(followed: Deployment) -> None:
    os.utime(store_path(followed.directory, "vehicle", day(0)))
    overwrite(followed, 60)  # the same content in a new file
    assert followed.tick() == []


def test_overwritten_twice_between_two_ticks_the_last_content_is_made_once(followed: Deployment) -> None:
    overwrite(followed, 90)
    overwrite(followed, 120)
    assert followed.settle() == [str(day(0))]
    assert stored_delay(followed) == 120


def test_overwritten_and_back_again_it_is_made_again(followed: Deployment) -> None:
    overwrite(followed, 90)
    assert followed.settle() == [str(day(0))]
    overwrite(followed, 60)
    assert followed.settle() == [str(day(0))]
    assert stored_delay(followed) == 60


def test_overwritten_while_a_run_reads_it_is_made_again_after_that_run(followed: Deployment) -> None:
    overwrite(followed, 90)
    [request] = followed.tick()
    run = followed.begin(request)
    overwrite(followed, 120)
    assert followed.tick() == [], "two runs of a day would race"
    followed.end(run, succeeded=True)
    assert followed.settle() == [str(day(0))]
    assert stored_delay(followed) == 120


def test_no_run_is_asked_for_while_another_makes_the_day(followed: Deployment) -> None:
    by_hand = followed.begin(dg.RunRequest(partition_key=str(day(0))), job="daily_tables")
    overwrite(followed, 90)
    assert followed.tick() == []
    followed.end(by_hand, succeeded=True)
    assert followed.settle() == [str(day(0))]


def test_a_daemon_that_stops_between_the_cursor_and_the_run_loses_nothing_and_runs_nothing_twice(
    followed: Deployment,
) -> None:
    overwrite(followed, 90)
    [lost] = followed.tick()
    [request] = followed.tick()
    assert request.run_key == lost.run_key
    assert followed.run(request).is_success
    assert followed.settle() == []
    assert runs(followed) == [str(day(0))]


def test_a_daemon_that_stops_before_the_cursor_is_kept_asks_again_by_the_same_key(followed: Deployment) -> None:
    overwrite(followed, 90)
    [not_kept] = followed.evaluate("upstream_changes").run_requests
    [request] = followed.tick()
    assert request.run_key == not_kept.run_key


def test_a_failed_run_is_tried_again_by_other_keys_later_and_not_for_ever(followed: Deployment) -> None:
    overwrite(followed, 90)
    keys, now = [], datetime.now(UTC)
    for attempt in range(1, ATTEMPTS + 1):
        with followed.at(now):
            [request] = followed.tick()
            keys.append(request.run_key)
            followed.end(followed.begin(request), succeeded=False)
            assert followed.tick() == [], "not at once"
        now += RETRY_AFTER * 2 ** (attempt - 1) + timedelta(minutes=1)
    with followed.at(now + timedelta(days=1)):
        assert followed.tick() == []
    assert len(set(keys)) == ATTEMPTS
    overwrite(followed, 120)
    assert followed.settle() == [str(day(0))], "another change is another matter"
    assert stored_delay(followed) == 120


def test_a_run_that_fails_and_then_succeeds_is_not_run_a_third_time(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbta_assets.defs.automation.runs.RETRY_AFTER", timedelta(0))
    path = store_path(followed.directory, "vehicle", day(0))
    path.write_bytes(path.read_bytes()[:200])
    [request] = followed.tick()
    assert followed.run(request).is_failure
    overwrite(followed, 90)
    assert followed.settle() == [str(day(0))]
    assert stored_delay(followed) == 90


@pytest.mark.parametrize("hours", [-48, 48])
def test_times_out_of_order_and_clocks_that_are_wrong_hide_no_change(followed: Deployment, hours: int) -> None:
    overwrite(followed, 90)
    at = (datetime.now() + timedelta(hours=hours)).timestamp()
    os.utime(store_path(followed.directory, "vehicle", day(0)), (at, at))
    assert followed.settle() == [str(day(0))]
    overwrite(followed, 120)
    os.utime(store_path(followed.directory, "vehicle", day(0)), (at - 3600, at - 3600))
    assert followed.settle() == [str(day(0))]
    assert stored_delay(followed) == 120


def test_of_thousands_of_changes_some_are_run_at_a_time_the_newest_first_and_none_is_lost(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [day(number) for number in range(1, 501)]
    for table in TABLES:
        for service_date in days:
            path = store_path(followed.directory, table, service_date)
            path.parent.mkdir(parents=True)
            path.write_bytes(b"rows")
    first = followed.tick()
    assert [request.partition_key for request in first] == sorted(map(str, days), reverse=True)[:MOST_RUNS]
    began = [followed.begin(request) for request in first]
    assert followed.tick() == [], "as many are under way as may be"
    for run in began:
        followed.end(run, succeeded=True)
    seen = [request.partition_key for request in first]
    monkeypatch.setattr(upstream, "MOST_RUNS", 250)
    while requests := followed.tick():
        for request in requests:
            run = dg.DagsterRun("service_day", tags=request.tags, status=dg.DagsterRunStatus.SUCCESS)
            followed.instance.add_run(run)
            seen.append(request.partition_key)
    assert sorted(map(str, seen)) == sorted(map(str, days))
    cursor = followed.cursors["upstream_changes"]
    assert cursor and len(cursor) < 150_000


def test_at_first_what_is_stored_is_known_and_no_years_are_backfilled(deployment: Deployment) -> None:
    deliver(deployment.directory, *(day(number) for number in range(40)))
    assert deployment.tick() == [], "nothing is stored: which days to begin with is for people to say"
    deliver(deployment.directory, day(40))
    assert [request.partition_key for request in deployment.tick()] == [str(day(40))]


def test_at_first_days_newer_than_what_is_stored_are_made_but_not_more_than_are_trained_on(
    deployment: Deployment,
) -> None:
    deliver(deployment.directory, *(day(number) for number in range(10)))
    by_hand = dg.RunRequest(run_key="by hand", partition_key=str(day(0)))
    assert deployment.run(by_hand, job="daily_tables").is_success
    newest = [str(day(number)) for number in (9, 8, 7, 6, 5)]
    assert [request.partition_key for request in deployment.tick()] == newest


def test_a_day_that_somebody_backfills_later_is_followed_from_then_on(deployment: Deployment) -> None:
    deliver(deployment.directory, day(0), day(1))
    assert deployment.tick() == []
    overwrite(deployment, 90, number=0)
    assert deployment.tick() == [], "a day that is not stored is nobody's"
    by_hand = dg.RunRequest(run_key="by hand", partition_key=str(day(1)))
    assert deployment.run(by_hand, job="daily_tables").is_success
    assert deployment.tick() == []
    overwrite(deployment, 120, number=1)
    assert deployment.settle() == [str(day(1))]


def test_a_day_that_is_overwritten_while_somebody_backfills_it_for_the_first_time_is_made_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    deliver(deployment.directory, day(0), day(1))
    assert deployment.tick() == []
    by_hand = dg.RunRequest(run_key="by hand", partition_key=str(day(1)))
    assert deployment.run(by_hand, job="daily_tables").is_success
    # What that run stores last is not there yet when the file changes and the sensor looks.
    stored = deployment.lake.path("raw_transit_data", day(1)).parent
    stored.rename(tmp_path / "not yet")
    overwrite(deployment, 90, number=1)
    assert deployment.tick() == []
    (tmp_path / "not yet").rename(stored)
    assert deployment.settle() == [str(day(1))]
    assert stored_delay(deployment, 1) == 90


def test_a_change_after_failed_runs_has_all_attempts_before_it(
    followed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbta_assets.defs.automation.runs.RETRY_AFTER", timedelta(0))
    asked = 0
    for late_seconds in (90, 120):
        overwrite(followed, late_seconds)
        for _ in range(ATTEMPTS - 1):
            [request] = followed.tick()
            asked += 1
            followed.end(followed.begin(request), succeeded=False)
    while requests := followed.tick():
        asked += len(requests)
        followed.end(followed.begin(requests[0]), succeeded=False)
    assert asked == (ATTEMPTS - 1) + ATTEMPTS


def test_a_day_that_has_not_ended_waits(followed: Deployment) -> None:
    today = day(14)
    deliver(followed.directory, today)
    noon = datetime(today.year, today.month, today.day, 16, tzinfo=UTC)
    with followed.at(noon):
        assert followed.tick() == []
    with followed.at(noon + timedelta(days=1)):
        assert [request.partition_key for request in followed.tick()] == [str(today)]


def test_with_a_production_model_predictions_and_their_accuracy_follow(
    followed: Deployment, production_model: None
) -> None:
    overwrite(followed, 90)
    [request] = followed.tick()
    assert asked_assets(request) == ["vehicle", *MADE, "delay_predictions", "prediction_accuracy", "network_snapshot"]


def test_a_cursor_is_what_it_was_after_it_was_kept() -> None:
    cursor = Cursor(epoch=1, floor="2024-03-04", handled={"2024-03-04": {"vehicle": "a-b"}})
    assert Cursor.from_text(cursor.to_text()) == cursor


def test_the_simulator_changes_nothing(followed: Deployment, tmp_path: Path) -> None:
    simulated = Deployment(Settings(store=tmp_path / "simulated"), followed.instance)
    assert simulated.tick() == []
