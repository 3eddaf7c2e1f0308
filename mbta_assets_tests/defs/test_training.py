"""The asset `training_set`: what it says of service days that nothing can be learned from."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as arrow
import pytest

from mbta_assets.defs.io_managers import BundleIOManager, TablesIOManager
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.defs.training import training_set
from mbta_assets.ml.training.dataset import TrainingSetError, read_rows
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema

DAYS = [date(2024, 3, day) for day in (6, 7, 8)]
FEATURES = schema.arrow_schema(schema.TransitFeatures).empty_table()


def make_training_set(store: Path, **config: int) -> None:
    """Materialize the training set of the stored features. Raises TrainingSetError."""

    @dg.asset(io_manager_key="tables", partitions_def=dg.DailyPartitionsDefinition("2024-03-01"))
    def transit_features() -> None: ...

    tables, registry = ParquetTables(store), ModelRegistry(store)
    dg.materialize(
        [transit_features, training_set],
        selection=["training_set"],
        run_config={"ops": {"training_set": {"config": config}}},
        resources={
            "settings": TrainingSettings(),
            "tables": TablesIOManager(tables=tables),
            "bundles": BundleIOManager(model_registry=registry),
        },
    )


def test_days_from_before_a_feature_are_named_with_the_column_and_the_command(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    for day in DAYS:
        lacking = [] if day == DAYS[1] else ["stops_behind"]
        tables.write("transit_features", day, FEATURES.drop_columns(lacking))
    with pytest.raises(TrainingSetError) as error:
        make_training_set(tmp_path)
    assert "2 of 3 service days, 2024-03-06, 2024-03-08," in str(error.value)
    assert "before transit_features had the column stops_behind." in str(error.value)
    assert "--select transit_features --partition-range 2024-03-06...2024-03-08" in str(error.value)


def test_days_from_before_the_agency_s_predictions_still_train(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    times = [datetime(2024, 3, 6, 12, n, tzinfo=UTC) for n in range(20)]
    columns = {name: [None] * len(times) for name in FEATURES.column_names}
    for day in DAYS:
        values = columns | {
            "service_date": [day] * len(times),
            "time_stamp": [time + (day - DAYS[0]) for time in times],
            "delay_seconds": [1.0] * len(times),
            "agency_delay_seconds": [5.0] * len(times),
        }
        rows = arrow.table(values, FEATURES.schema)
        tables.write("transit_features", day, rows.drop_columns([] if day == DAYS[1] else ["agency_delay_seconds"]))
    make_training_set(tmp_path)
    stored = read_rows(ModelRegistry(tmp_path).current("training_set"))
    known = stored.groupby("service_date")["agency_delay_seconds"].count()
    assert known.to_dict() == {DAYS[0]: 0, DAYS[1]: len(times), DAYS[2]: 0}


def test_the_rows_of_all_days_are_limited_together(tmp_path: Path) -> None:
    start = datetime(2024, 3, 6, 12, tzinfo=UTC)
    for day in DAYS:
        rows = {name: [None] * 2000 for name in FEATURES.column_names} | {
            "service_date": [day] * 2000,
            "trip_id": [str(n) for n in range(2000)],
            "time_stamp": [start + (day - DAYS[0]) + timedelta(seconds=n) for n in range(2000)],
            "stops_ahead": [1] * 2000,
            "delay_seconds": [1.0] * 2000,
        }
        ParquetTables(tmp_path).write("transit_features", day, arrow.table(rows, FEATURES.schema))
    make_training_set(tmp_path, max_rows=3000)
    training_set = ModelRegistry(tmp_path).current("training_set")
    assert training_set.manifest["rows_per_day"] == 1000
    assert read_rows(training_set).groupby("service_date").size().between(900, 1000).all()


def test_days_without_rows_are_an_error_and_no_training_set(tmp_path: Path) -> None:
    ParquetTables(tmp_path).write("transit_features", DAYS[0], FEATURES)
    with pytest.raises(TrainingSetError, match="service day 2024-03-06: transit_features has no rows"):
        make_training_set(tmp_path)
    assert ModelRegistry(tmp_path).current_digest("training_set") is None
