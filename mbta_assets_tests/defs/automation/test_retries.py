"""What reads and stores is tried again; what learns is not; what can not get better fails at once."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs.io_managers import DayByDay, TableIOManager
from mbta_assets.defs.retries import RETRIED, what_can_be_read
from mbta_assets.settings import Settings
from mbta_assets.sources import SourceError
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets_tests.defs.automation.conftest import TABLES, day, tables_of


def test_only_what_reads_and_stores_tables_is_tried_again(tmp_path: Path) -> None:
    defs = build_defs(Settings(store=tmp_path))
    definitions = {spec.key.to_user_string(): defs.get_assets_def(spec.key) for spec in defs.resolve_all_asset_specs()}
    retried = {name for name, found in definitions.items() if found.op.retry_policy}
    assert retried == {*TABLES, "raw_transit_data"}
    assert RETRIED.backoff == dg.Backoff.EXPONENTIAL


@pytest.mark.parametrize(("error", "attempts"), [(OSError("busy"), 3), (SourceError("no such column"), 1)])
def test_an_error_that_passes_is_tried_again_and_one_that_does_not_fails_at_once(
    tmp_path: Path, instance: dg.DagsterInstance, error: Exception, attempts: int
) -> None:
    tried: list[int] = []

    @dg.asset(
        name="trip",
        partitions_def=dg.StaticPartitionsDefinition([str(day(0))]),
        retry_policy=dg.RetryPolicy(max_retries=RETRIED.max_retries),
        io_manager_key="tables",
    )
    def trip() -> DayByDay:
        def read() -> Iterator[tuple[date, pd.DataFrame]]:
            tried.append(len(tried))
            if len(tried) < 3:
                raise error
            yield day(0), tables_of(day(0))["trip"].assign(service_date=day(0), headsign=None)

        return DayByDay(what_can_be_read(read()))

    result = dg.materialize(
        [trip],
        instance=instance,
        partition_key=str(day(0)),
        resources={"tables": TableIOManager(Lake(tmp_path))},
        raise_on_error=False,
    )
    assert len(tried) == attempts
    assert result.success == isinstance(error, OSError)
    if not result.success:
        failure = result.failure_data_for_node("trip")
        assert failure
        assert "no such column" in str(failure.error)
