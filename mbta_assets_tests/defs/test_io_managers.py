"""IO managers: assets store and receive service days and bundles through Dagster."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mbta_assets.defs.daily_tables import DailyOutput
from mbta_assets.defs.io_managers import BundleIOManager, StoredTable, TablesIOManager
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import MissingPartition, to_arrow
from mbta_assets.transit import schema

DAYS = [date(2023, 10, 1) + timedelta(days=i) for i in range(4)]
PARTITIONS = dg.DailyPartitionsDefinition("2023-10-01", end_date="2023-10-05")
SINGLE_RUN = dg.BackfillPolicy.single_run()


def frame(day: date, n: int = 3) -> pd.DataFrame:
    """Return rows with the number of their day."""
    return pd.DataFrame({"day": [day.day] * n, "row": range(n)})


def numbers(make: Callable[[date], pd.DataFrame] = frame) -> dg.AssetsDefinition:
    """Return an asset `numbers`, each of whose service days `make` makes."""

    @dg.asset(name="numbers", partitions_def=PARTITIONS, backfill_policy=SINGLE_RUN)
    def asset() -> DailyOutput:
        return DailyOutput(make)

    return asset


EVERY_DAY = numbers()


def run(
    root: Path,
    *assets: dg.AssetsDefinition,
    select: str,
    days: list[date] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialize one asset, for a range of days or unpartitioned."""
    tags = {}
    if days:
        tags = {
            "dagster/asset_partition_range_start": str(days[0]),
            "dagster/asset_partition_range_end": str(days[-1]),
        }
    partition = str(days[0]) if days and len(days) == 1 else None
    return dg.materialize(
        assets,
        selection=[select],
        partition_key=partition,
        tags={} if partition else tags,
        resources={
            "io_manager": TablesIOManager(tables=ParquetTables(root)),
            "bundles": BundleIOManager(model_registry=ModelRegistry(root)),
        },
    )


def row_counts(root: Path) -> list[int]:
    """Return the number of rows of each stored day of `numbers`."""
    return list(ParquetTables(root).row_counts("numbers", date.max, len(DAYS)).values())


def test_one_run_stores_many_days_and_describes_each(tmp_path: Path) -> None:
    result = run(tmp_path, EVERY_DAY, select="numbers", days=DAYS)
    tables = ParquetTables(tmp_path)
    assert tables.days("numbers") == DAYS
    events = result.asset_materializations_for_node("numbers")
    assert [event.partition for event in events] == [str(day) for day in DAYS]
    for day, event in zip(DAYS, events, strict=True):
        assert event.metadata["dagster/row_count"].value == 3
        assert event.metadata["content_version"].value == tables.versions("numbers", [day])[day]
    assert len({event.metadata["content_version"].value for event in events}) == len(DAYS)


def test_the_data_version_of_one_partition_is_its_content(tmp_path: Path) -> None:
    for _ in range(2):
        result = run(tmp_path, EVERY_DAY, select="numbers", days=DAYS[:1])
        (event,) = result.asset_materializations_for_node("numbers")
        assert event.tags is not None
        assert event.tags["dagster/data_version"] == ParquetTables(tmp_path).versions("numbers", DAYS[:1])[DAYS[0]]


def test_running_one_day_again_changes_that_day_only(tmp_path: Path) -> None:
    run(tmp_path, EVERY_DAY, select="numbers", days=DAYS)
    run(
        tmp_path,
        numbers(lambda day: frame(day, n=0)),
        select="numbers",
        days=DAYS[1:2],
    )
    assert row_counts(tmp_path) == [3, 0, 3, 3]


def test_a_failure_in_the_middle_leaves_the_days_after_it_as_they_were(tmp_path: Path) -> None:
    def failing(day: date) -> pd.DataFrame:
        if day == DAYS[1]:
            raise OSError("the feed broke")
        return frame(day, n=5)

    run(tmp_path, EVERY_DAY, select="numbers", days=DAYS)
    with pytest.raises(OSError, match="the feed broke"):
        run(tmp_path, numbers(failing), select="numbers", days=DAYS)
    assert row_counts(tmp_path) == [5, 3, 3, 3]


def receive(
    root: Path,
    metadata: dict[str, Any],
    days: list[date] | None = None,
    annotation: Any = StoredTable,
) -> Any:
    """Return the input that a consumer of `numbers` receives, partitioned where days are given."""
    inputs: list[Any] = []
    partitions: dict[str, Any] = {"partitions_def": PARTITIONS, "backfill_policy": SINGLE_RUN} if days else {}

    def consume(numbers: Any) -> None:
        inputs.append(numbers)

    consume.__annotations__ = {"numbers": annotation, "return": None}
    consumer = dg.asset(name="consumer", ins={"numbers": dg.AssetIn(metadata=metadata)}, **partitions)(consume)
    run(root, EVERY_DAY, consumer, select="consumer", days=days)
    return inputs[0]


def test_a_consumer_receives_its_own_days(tmp_path: Path) -> None:
    run(tmp_path, EVERY_DAY, select="numbers", days=DAYS)
    stored = receive(tmp_path, {}, DAYS[1:3])
    assert list(stored.days) == DAYS[1:3]
    assert stored.read(DAYS[2])["day"].tolist() == [3, 3, 3]
    assert receive(tmp_path, {}, DAYS[:1], pd.DataFrame)["day"].tolist() == [1, 1, 1]


def test_an_unpartitioned_consumer_receives_all_stored_days_or_the_latest(
    tmp_path: Path,
) -> None:
    run(tmp_path, EVERY_DAY, select="numbers", days=DAYS[:3])
    assert list(receive(tmp_path, {}).days) == DAYS[:3]
    latest = receive(tmp_path, {"last_days": 2, "columns": ["row"]})
    assert list(latest.days) == DAYS[1:3]
    assert latest.read_all().columns.tolist() == ["row"]


def test_a_consumer_is_told_which_day_is_not_stored_and_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingPartition, match="Make one with"):
        receive(tmp_path, {})
    run(tmp_path, EVERY_DAY, select="numbers", days=DAYS[:1])
    with pytest.raises(MissingPartition, match="numbers of service day 2023-10-02"):
        receive(tmp_path, {}, DAYS[:2], pd.DataFrame)


def test_a_frame_that_does_not_fit_the_table_is_refused_by_column() -> None:
    rows = schema.empty_frame(schema.Trip)
    assert to_arrow("trip", rows).schema == schema.arrow_schema(schema.Trip)
    with pytest.raises(
        ValueError,
        match=r"missing columns: \['name'\]; columns not in its model: \['nom'\]",
    ):
        to_arrow("trip", rows.rename(columns={"name": "nom"}))
    with pytest.raises(ValueError, match="direction_id"):
        to_arrow("trip", rows.reindex([0]).assign(direction_id="north"))


def test_a_consumer_of_a_model_receives_a_verified_bundle(tmp_path: Path) -> None:
    received: list[Bundle] = []

    @dg.asset(io_manager_key="bundles")
    def model() -> Draft:
        return Draft("toy", {"weights.bin": b"\x01"})

    @dg.asset
    def consumer(model: Bundle) -> None:
        received.append(model)

    (event,) = run(tmp_path, model, select="model").asset_materializations_for_node("model")
    run(tmp_path, model, consumer, select="consumer")
    assert received[0].file("weights.bin") == b"\x01"
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == received[0].digest == event.metadata["digest"].value
