"""Assets that read and store are retried, training is not, and errors that a retry cannot mend fail at once."""

from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs.daily_tables import DailyOutput
from mbta_assets.defs.io_managers import TablesIOManager
from mbta_assets.defs.retries import READ_RETRY_POLICY
from mbta_assets.settings import Settings
from mbta_assets.sources import SourceError
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.defs.automation.conftest import TABLES, build_tables, day


def test_only_assets_that_read_sources_or_join_tables_are_retried(tmp_path: Path) -> None:
    defs = build_defs(Settings(store=tmp_path))
    keys = [spec.key for spec in defs.resolve_all_asset_specs()]
    executable = [key for key in keys if defs.get_assets_def(key).is_executable]
    retried = {key.to_user_string() for key in executable if defs.get_assets_def(key).op.retry_policy}
    assert retried == {*TABLES, "raw_transit_data"}
    assert READ_RETRY_POLICY.backoff == dg.Backoff.EXPONENTIAL


@pytest.mark.parametrize(("error", "attempts"), [(OSError("busy"), 3), (SourceError("no such column"), 1)])
def test_a_transient_error_is_retried_and_a_lasting_one_fails_at_once(
    tmp_path: Path, instance: dg.DagsterInstance, error: Exception, attempts: int
) -> None:
    started: list[int] = []

    @dg.asset(
        name="trip",
        partitions_def=dg.StaticPartitionsDefinition([str(day(0))]),
        retry_policy=dg.RetryPolicy(max_retries=READ_RETRY_POLICY.max_retries),
        io_manager_key="tables",
    )
    def trip() -> DailyOutput:
        def make(service_day: date) -> pd.DataFrame:
            started.append(len(started))
            if len(started) < 3:
                raise error
            return build_tables(service_day)["trip"].assign(service_date=service_day, headsign=None)

        return DailyOutput(make)

    result = dg.materialize(
        [trip],
        instance=instance,
        partition_key=str(day(0)),
        resources={"tables": TablesIOManager(tables=ParquetTables(tmp_path))},
        raise_on_error=False,
    )
    assert len(started) == attempts
    assert result.success == isinstance(error, OSError)
    if not result.success:
        failure = result.failure_data_for_node("trip")
        assert failure
        assert "no such column" in str(failure.error)
