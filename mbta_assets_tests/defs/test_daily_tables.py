"""Daily tables: each service day is made, audited and published by itself."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pandas as pd
import pytest
from pyarrow import parquet

from mbta_assets.defs import automation, freshness
from mbta_assets.defs.dagster_internals import cron_string_iterator
from mbta_assets.defs.daily_tables import DailyOutput, ServiceDay, daily_table
from mbta_assets.defs.freshness import newest_day_checks
from mbta_assets.defs.io_managers import StoredTable, TablesIOManager
from mbta_assets.defs.partitions import UnknownServiceDay, service_days
from mbta_assets.settings import Settings
from mbta_assets.sources import SourceError
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema

DAYS = [date(2024, 3, 1) + timedelta(days=n) for n in range(4)]
BAD_DIRECTION = 7


def trips(day: date, count: int = 3, direction: int = 0) -> pd.DataFrame:
    """Return trips of a service day; a direction other than 0 and 1 breaks the table's schema."""
    columns = {"service_date": day, "id": [f"{day}-{n}" for n in range(count)], "direction_id": direction}
    return schema.cast_frame(pd.DataFrame(columns).assign(name=None, route_id="R", headsign=None), schema.Trip)


def bad_on(*days: date) -> Callable[[date], pd.DataFrame]:
    """Return a function that makes the trips of a service day, with a bad direction on some."""
    return lambda day: trips(day, direction=BAD_DIRECTION if day in days else 0)


@daily_table(name="stop")
def stops(trip: StoredTable) -> DailyOutput:
    """Make a stop for each trip, to have a table downstream."""

    def make(day: date) -> pd.DataFrame:
        columns = {"service_date": day, "id": trip.read(day, ["id"])["id"], "latitude": 42.0, "longitude": -71.0}
        frame = pd.DataFrame(columns).assign(name=None, platform_name=None, parent_station=None)
        return schema.cast_frame(frame, schema.Stop)

    return DailyOutput(make)


class Store:
    """A store with the tables `trip` and `stop`, and the Dagster instance that their runs are in."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        self.tables = ParquetTables(root)

    def run(self, make: Callable[[date], Any], days: list[date] = DAYS) -> dg.ExecuteInProcessResult:
        """Make the service days from the first to the last of `days` of both tables."""
        tags = {
            "dagster/asset_partition_range_start": str(days[0]),
            "dagster/asset_partition_range_end": str(days[-1]),
        }
        job = self.define(make).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)

    def check(self, table: str, name: str) -> dg.AssetCheckEvaluation:
        """Evaluate a check by itself, as the button "Execute" of the UI does."""
        job = self.define(trips).resolve_job_def(f"{name}_of_{table}")
        [evaluation] = job.execute_in_process(instance=self.instance).get_asset_check_evaluations()
        return evaluation

    def define(self, make: Callable[[date], Any]) -> dg.Definitions:
        """Return definitions of both tables, with a job for each check of a whole table."""

        @daily_table(name="trip")
        def trip() -> DailyOutput:
            return DailyOutput(make)

        policy = dg.BackfillPolicy.single_run()
        built: list[Any] = [part for asset in (trip, stops) for part in asset.build(service_days(Settings()), policy)]
        jobs = [
            dg.define_asset_job(f"{key.name}_of_{key.asset_key.to_user_string()}", dg.AssetSelection.checks(key))
            for part in built
            if isinstance(part, dg.AssetChecksDefinition)
            for key in part.check_keys
        ]
        return dg.Definitions(
            jobs=jobs,
            assets=[part for part in built if not isinstance(part, dg.AssetChecksDefinition)],
            asset_checks=[part for part in built if isinstance(part, dg.AssetChecksDefinition)],
            resources={"tables": TablesIOManager(tables=self.tables)},
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Store(tmp_path, instance)


def published(result: dg.ExecuteInProcessResult, table: str) -> list[str | None]:
    """Return the partitions of a table that a run reported as materialized."""
    return [event.partition for event in result.asset_materializations_for_node(table)]


def outcomes(result: dg.ExecuteInProcessResult, table: str, check: str) -> dict[str | None, bool]:
    """Return whether a check of a table passed, by partition."""
    evaluations = result.get_asset_check_evaluations()
    return {
        evaluation.partition: evaluation.passed
        for evaluation in evaluations
        if evaluation.asset_key == dg.AssetKey(table) and evaluation.check_name == check
    }


def failure_message(result: dg.ExecuteInProcessResult) -> str:
    """Return the causes of a run's failed steps, as the command line prints them last."""
    events = [event for event in result.all_events if event.is_step_failure]
    errors = [event.step_failure_data.error for event in events]
    return "\n".join(error.cause.message for error in errors if error and error.cause)


def test_bad_days_are_refused_and_the_others_are_published_downstream_too(store: Store) -> None:
    result = store.run(bad_on(DAYS[1]))
    good = [DAYS[0], *DAYS[2:]]
    assert not result.success
    for table in ("trip", "stop"):
        assert store.tables.days(table) == good
        assert published(result, table) == [str(day) for day in good]
        assert outcomes(result, table, "published") == {str(day): day in good for day in DAYS}
    assert outcomes(result, "trip", "schema_holds") == {str(day): day in good for day in DAYS}
    assert f"trip of service day {DAYS[1]} was not published: schema_holds: column direction_id" in failure_message(
        result
    )


def test_the_check_of_all_days_evaluated_by_itself_sees_the_days_that_were_not_published(store: Store) -> None:
    assert store.check("trip", "all_days_published").passed
    store.run(bad_on(*DAYS[1:3]))
    refused = store.check("trip", "all_days_published")
    assert not refused.passed
    assert refused.severity == dg.AssetCheckSeverity.WARN
    assert (refused.description or "").startswith(f"2 service days not published when last made, up to {DAYS[2]}")
    assert store.run(trips, DAYS[:2]).success
    assert not store.check("trip", "all_days_published").passed
    assert store.run(trips, DAYS[2:3]).success
    assert store.check("trip", "all_days_published").passed


def test_a_refused_day_keeps_the_version_that_was_published_before(store: Store) -> None:
    assert store.run(trips).success
    before = store.tables.versions("trip", DAYS)
    result = store.run(lambda day: trips(day, count=4, direction=BAD_DIRECTION if day == DAYS[0] else 0))
    assert not result.success
    after = store.tables.versions("trip", DAYS)
    assert after[DAYS[0]] == before[DAYS[0]]
    assert all(after[day] != before[day] for day in DAYS[1:])


def test_refused_rows_are_kept_for_inspection_until_the_day_is_corrected(store: Store) -> None:
    store.run(bad_on(DAYS[0]), DAYS[:1])
    refused = store.root / f"staged/trip/service_date={DAYS[0]}"
    assert parquet.read_table(refused / "data.parquet")["direction_id"].to_pylist() == [BAD_DIRECTION] * 3
    assert "direction_id" in (refused / "reasons.txt").read_text()
    assert store.run(trips, DAYS[:1]).success
    assert not refused.exists()


def test_a_day_that_cannot_be_read_does_not_stop_the_others(store: Store) -> None:
    def make(day: date) -> pd.DataFrame:
        if day == DAYS[2]:
            raise SourceError("source files, table trip, service day 2024-03-03: it is cut short")
        return trips(day)

    result = store.run(make)
    assert not result.success
    assert store.tables.days("stop") == [*DAYS[:2], DAYS[3]]
    assert "2024-03-03: it is cut short" in failure_message(result)


def test_a_day_with_an_unexpected_error_does_not_stop_the_others(store: Store) -> None:
    def make(day: date) -> pd.DataFrame:
        if day == DAYS[1]:
            raise ZeroDivisionError("no trips")
        return trips(day) if day != DAYS[2] else pd.DataFrame({"id": [5]})

    assert store.run(trips).success
    before = store.tables.versions("trip", DAYS)
    result = store.run(lambda day: trips(day, count=4) if day in (DAYS[0], DAYS[3]) else make(day))
    assert not result.success
    assert published(result, "trip") == [str(DAYS[0]), str(DAYS[3])]
    after = store.tables.versions("trip", DAYS)
    assert [after[day] == before[day] for day in DAYS] == [False, True, True, False]
    assert outcomes(result, "trip", "published") == {str(day): day in (DAYS[0], DAYS[3]) for day in DAYS}
    message = f"trip of service day {DAYS[1]} was not published: unexpected ZeroDivisionError: no trips"
    assert message in failure_message(result)


def test_a_run_of_one_bad_day_fails_at_its_table_and_makes_nothing_downstream(store: Store) -> None:
    result = store.run(bad_on(DAYS[0]), DAYS[:1])
    failed = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failed == ["trip"]
    assert "column direction_id" in failure_message(result)
    assert store.tables.days("trip") == store.tables.days("stop") == []


def test_days_before_a_crash_are_reported_as_they_were_published(store: Store) -> None:
    def make(day: date) -> pd.DataFrame:
        if day == DAYS[2]:
            raise OSError("no space left")
        return trips(day)

    result = store.run(make)
    assert not result.success
    assert published(result, "trip") == [str(day) for day in DAYS[:2]]
    assert outcomes(result, "trip", "published") == {str(day): True for day in DAYS[:2]}


def test_each_partition_has_its_content_as_data_version(store: Store) -> None:
    result = store.run(trips)
    versions = store.tables.versions("trip", DAYS)
    for event in result.asset_materializations_for_node("trip"):
        tags = event.tags or {}
        assert tags["dagster/data_version"] == versions[date.fromisoformat(str(event.partition))]


def test_rejected_rows_are_stored_by_the_asset_that_rejects_them(store: Store) -> None:
    rejected = pd.DataFrame(
        {"service_date": DAYS[:1], "source_table": "trip", "reason": "missing_value", "column_name": "id", "row": "{}"}
    )
    store.run(lambda day: ServiceDay(trips(day), rejected=rejected.assign(service_date=day)), DAYS[:2])
    stored = schema.to_frame(store.tables.read("rejected_rows", DAYS[:2]))
    assert stored["rejected_by"].tolist() == ["trip", "trip"]
    store.run(lambda day: ServiceDay(trips(day), rejected=rejected[:0]), DAYS[:1])
    assert store.tables.row_counts("rejected_rows", date.max, 2) == {DAYS[1]: 1}


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("2019-12-31", "is before the first one, 2023-01-01. Set MBTA_START_DATE to an earlier day."),
        ("2099-01-01", "has not ended"),
        ("20240301", "write it YYYY-MM-DD"),
    ],
)
def test_a_partition_that_is_no_service_day_is_explained(key: str, problem: str) -> None:
    with pytest.raises(UnknownServiceDay, match=problem):
        service_days(Settings()).validate_partition_key(key)


def test_partitions_follow_the_settings_of_the_definitions() -> None:
    assert service_days(Settings(start_date=date(2019, 9, 15))).get_first_partition_key() == "2019-09-15"


def evaluate_newest_day(tables: ParquetTables, settings: Settings | None = None) -> dg.AssetCheckResult:
    """Evaluate the check of the newest service day."""
    result = newest_day_checks(settings or Settings())[0](table_store=tables)
    assert isinstance(result, dg.AssetCheckResult)
    return result


def publish_features(tables: ParquetTables, day: date) -> None:
    tables.write("transit_features", day, schema.arrow_schema(schema.TransitFeatures).empty_table())


def test_a_backfill_of_a_past_day_does_not_hide_that_last_night_is_missing(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    assert evaluate_newest_day(tables).passed
    publish_features(tables, date(2024, 1, 10))
    past = evaluate_newest_day(tables)
    assert not past.passed and "is not published; the newest is 2024-01-10" in (past.description or "")
    newest = service_days(Settings()).get_last_partition_key()
    for key in service_days(Settings()).get_partition_keys()[-2:]:  # of which the last may have ended just now
        publish_features(tables, date.fromisoformat(key))
    result = evaluate_newest_day(tables)
    assert result.passed and result.metadata["newest_published"].value == newest


@pytest.mark.parametrize("night", [date(2024, 2, 20), date(2024, 3, 9), date(2024, 11, 2)])  # two change the clocks
@pytest.mark.parametrize("hour", range(3, 24))
def test_the_freshness_schedule_sees_that_the_night_before_is_missing_and_never_one_to_come(
    hour: int, night: date, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, tables = Settings(nightly_hour=hour), ParquetTables(tmp_path)
    publish_features(tables, night - timedelta(days=1))
    nightly = datetime.combine(night + timedelta(days=1), time(hour), ZoneInfo("America/New_York"))
    [schedule] = [each for each in automation.schedules(settings) if each.name == "freshness"]
    ticks = cron_string_iterator(nightly.timestamp() + 1, str(schedule.cron_schedule), schedule.execution_timezone)
    tick = next(ticks)
    for at, passes in ((nightly, True), (tick - timedelta(minutes=1), True), (tick + timedelta(seconds=5), False)):
        monkeypatch.setattr(freshness, "get_current_datetime", lambda at=at: at.astimezone(UTC))
        assert evaluate_newest_day(tables, settings).passed == passes, at
    publish_features(tables, night)
    assert evaluate_newest_day(tables, settings).passed
