"""A range of ten service days of which two are bad, through the command line, and then their correction.

Each day is published or refused by itself, models learn from the published ones, and what is corrected is made again
without the rest.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from pyarrow import parquet

from mbta_assets.defs.dagster_internals import latest_check_records_by_partition
from mbta_assets.defs.daily_tables import PUBLISHED
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.defs.automation.conftest import DOWNSTREAM, Deployment, asset_names
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.dagster_dev import environment
from mbta_assets_tests.support.warm_dagster import WarmDagster

pytestmark = pytest.mark.e2e

DAYS = [date(2024, 1, 8) + timedelta(days=n) for n in range(10)]
UNMATCHED, INCOMPLETE = DAYS[2], DAYS[6]
"""The bad days: one whose trips are in no timetable, and one whose timetable lacks a column."""
GOOD = [day for day in DAYS if day not in (UNMATCHED, INCOMPLETE)]
TABLES = (*schema.UPSTREAM, *DOWNSTREAM, "rejected_rows", "upstream_usage")


def write_bad_days(upstream: Path) -> None:
    """Write the bad days: reports of trips that are in no timetable, and a timetable without arrivals."""
    rows = plain_day.make_rows()
    rows["vehicle"] = plain_day.make_reports(trip="another")
    plain_day.write(upstream, plain_day.shift_rows(rows, UNMATCHED), UNMATCHED)
    (path,) = upstream.glob(f"schedule/service_date={INCOMPLETE}/*.parquet")
    parquet.write_table(parquet.read_table(path).drop_columns(["arrival_time"]), path)


def write_good_day(upstream: Path, day: date) -> None:
    """Write the plain day as a service day."""
    plain_day.write(upstream, plain_day.shift_rows(plain_day.make_rows(), day), day)


def read_outcomes(instance: dg.DagsterInstance, table: str) -> dict[str, str | None]:
    """Return by service day why it was not published by the last run that made it; None if it was published."""
    key = dg.AssetCheckKey(dg.AssetKey(table), PUBLISHED)
    reasons: dict[str, str | None] = {}
    for day, record in latest_check_records_by_partition(instance, key, limit=1000).items():
        event = record.event.dagster_event if record.event else None
        evaluation = event.event_specific_data if event else None
        assert isinstance(evaluation, dg.AssetCheckEvaluation)
        reasons[str(day)] = None if evaluation.passed else evaluation.description
    return reasons


def count_materializations(instance: dg.DagsterInstance) -> dict[tuple[str, str], int]:
    """Return how often each service day of each table was made."""
    counts: dict[tuple[str, str], int] = {}
    for table in TABLES:
        for record in instance.fetch_materializations(dg.AssetKey(table), limit=1000).records:
            key = table, str(record.partition_key)
            counts[key] = counts.get(key, 0) + 1
    return counts


def list_files(store: Path) -> dict[tuple[str, str], tuple[int, bytes]]:
    """Return the time of the last change and the content of the file of each service day of each table."""
    return {
        (path.parts[-3], path.parts[-2].partition("=")[2]): (path.stat().st_mtime_ns, path.read_bytes())
        for path in (store / "tables").rglob("*.parquet")
    }


@pytest.fixture
def dagster() -> Iterator[WarmDagster]:
    running = WarmDagster()
    yield running
    running.close()


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Return the environment of commands on a store whose source has the ten days."""
    for day in DAYS:
        write_good_day(tmp_path / "upstream", day)
    write_bad_days(tmp_path / "upstream")
    return environment(tmp_path / "store", tmp_path / "upstream", MBTA_START_DATE=str(DAYS[0]))


def test_bad_days_are_refused_the_others_are_trained_on_and_only_the_corrected_ones_are_made_again(
    dagster: WarmDagster, variables: dict[str, str], tmp_path: Path
) -> None:
    store, upstream = tmp_path / "store", tmp_path / "upstream"
    daily = ("--select", "group:upstream or group:transit", "--partition-range", f"{DAYS[0]}...{DAYS[-1]}")
    run = dagster.materialize(variables, *daily)
    assert run.returncode != 0
    for day in (UNMATCHED, INCOMPLETE):
        assert f"raw_transit_data of service day {day} was not published" in run.stdout
    assert ParquetTables(store).days("transit_features") == GOOD

    with dg.DagsterInstance.from_config(variables["DAGSTER_HOME"]) as instance:
        joined, schedules = (read_outcomes(instance, table) for table in ("raw_transit_data", "schedule"))
        assert [day for day, reason in sorted(joined.items()) if reason] == [str(UNMATCHED), str(INCOMPLETE)]
        assert "none of the 16 rows of `vehicle` match" in str(joined[str(UNMATCHED)])
        assert f"schedule of service day {INCOMPLETE} is not in" in str(joined[str(INCOMPLETE)])
        assert [day for day, reason in schedules.items() if reason] == [str(INCOMPLETE)]
        assert "arrival_time" in str(schedules[str(INCOMPLETE)])
        assert joined.keys() == schedules.keys() == set(map(str, DAYS))

        trained = dagster.materialize(variables, "--select", "training_set")
        assert trained.returncode == 0, trained.stdout[-4000:]
        assert list(ModelRegistry(store).current("training_set").manifest["data_versions"]) == list(map(str, GOOD))

        deployment = Deployment(Settings.from_environment(variables), instance)
        assert deployment.tick() == []
        for day in (UNMATCHED, INCOMPLETE):
            write_good_day(upstream, day)
        requests = {str(request.partition_key): request for request in deployment.tick()}
        copied = {str(UNMATCHED): ["vehicle"], str(INCOMPLETE): ["schedule"]}
        assert {day: asset_names(request) for day, request in requests.items()} == {
            day: [*tables, *DOWNSTREAM] for day, tables in copied.items()
        }
        made, files = count_materializations(instance), list_files(store)
        for request in requests.values():
            assert deployment.run(request).is_success
        assert deployment.tick() == []

        new_events = count_materializations(instance).items() - made.items()
        new_files = list_files(store).items() - files.items()
        assert {day for (_, day), _ in new_events} == {day for (_, day), _ in new_files} == requests.keys()
        assert read_outcomes(instance, "raw_transit_data") == dict.fromkeys(map(str, DAYS))
    assert ParquetTables(store).days("transit_features") == DAYS
    assert not list(store.glob("staged/*/*"))
