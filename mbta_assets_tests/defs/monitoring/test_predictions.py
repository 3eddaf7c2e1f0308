"""Predictions for days that the model was not trained on, their accuracy and their checks."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from mbta_assets.defs import training
from mbta_assets.defs.io_managers import BundleIOManager, TablesIOManager
from mbta_assets.defs.models.xgboost_model import IN_SCALE
from mbta_assets.defs.monitoring import predictions, width_correction
from mbta_assets.defs.partitions import service_days
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.inference import transit_network
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.intervals import UNCORRECTED, IntervalCalibration
from mbta_assets.ml.inference.model import INTERVAL_FILE
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE, Preprocessor
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.inference.width_correction import WidthCorrection
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.ml.training.cross_fitting import compute_out_of_fold
from mbta_assets.ml.training.dataset import read_rows, select_labelled
from mbta_assets.ml.training.hyperparameters import BoostingConfig
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import AgencySettings, Settings
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.gtfs.archive import FeedArchive
from mbta_assets.sources.gtfs.published import PublishedPredictions
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.reports import WIDTH_CORRECTION, ReportStore
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.distances import REPORT_KEY
from mbta_assets.transit.features import compute_transit_features
from mbta_assets_tests.support.other_networks import OTHER_NETWORK, with_network

# Starts no process, but simulates three service days and runs Dagster on them.
pytestmark = pytest.mark.integration

TRAINING_DAYS = [date(2024, 5, 7), date(2024, 5, 8)]
UNSEEN_DAY = date(2024, 5, 9)
ROUTE = "Blue"
Change = Callable[[pd.DataFrame], pd.DataFrame]

PARTITIONS = service_days(Settings())
INPUTS = [
    dg.AssetSpec("transit_features", partitions_def=PARTITIONS).with_io_manager_key("tables"),
    dg.AssetSpec("production_model").with_io_manager_key("bundles"),
]
ASSETS: list[Any] = [
    definition
    for asset in (predictions.delay_predictions, predictions.prediction_accuracy, width_correction.width_correction)
    for definition in asset.build(PARTITIONS, dg.BackfillPolicy.single_run())
]
ROW_CHECKS = {"drift_within_bounds", "accuracy_within_bounds"}


def make_resources(root: Path) -> dict[str, object]:
    """Return the resources of a store."""
    tables, registry = ParquetTables(root), ModelRegistry(root)
    return {
        "settings": TrainingSettings(),
        "tables": TablesIOManager(tables=tables),
        "bundles": BundleIOManager(model_registry=registry),
        "model_registry": registry,
        "warehouse": DuckDBWarehouse(tables, tables),
        "table_store": tables,
        "source": SyntheticSource(0),
        "reports": ReportStore(root),
        "published": PublishedPredictions(FeedArchive(DirectoryPlace(root / "feeds"))),
    }


def simulate_features(root: Path, day: date, change: Change = lambda vehicle: vehicle) -> pd.DataFrame:
    """Simulate a service day of one route and return its features; `change` is applied to the vehicle updates."""
    source, tables = SyntheticSource(0), ParquetTables(root)
    warehouse = DuckDBWarehouse(tables, tables)
    for table in schema.UPSTREAM:
        rows = source.read(table, day).rows
        if table == "vehicle":
            rows = schema.cast_frame(change(rows[rows["route_id"] == ROUTE]), schema.Vehicle)
        tables.write(table, day, to_arrow(table, rows))
    raw = schema.to_frame(warehouse.join_upstream_tables(day))
    upstream = (warehouse.read(name, day) for name in ("vehicle", "schedule", "stop"))
    return compute_transit_features(raw, *upstream)


def train_production_model(root: Path) -> None:
    """Train some trees on the training set of a store and make them its production model."""
    registry = ModelRegistry(root)
    training_set = registry.current("training_set")
    rows = select_labelled(read_rows(training_set), "train", "validation")
    features = compute_out_of_fold(rows)
    encoder = Encoder.from_bytes(training_set.file(ENCODER_FILE))
    preprocessor = Preprocessor.fit(encoder, MedianRunTime.fit(rows), rows, features[:, 0])
    boosting = BoostingConfig(max_rounds=30, patience_rounds=60, rounds_per_step=20)
    trainer = xgboost_trainer.XGBoostTrainer(IN_SCALE, boosting, seed=0)
    booster = xgboost_trainer.fit(trainer, preprocessor.transform(rows, "lookup", features))
    weights = xgboost_trainer.file_name("lookup")
    files = {weights: bytes(booster.save_raw("ubj")), **preprocessor.to_files()}
    learned_days = [str(day) for day in TRAINING_DAYS]
    fields: dict[str, Any] = {"training_set": training_set.digest, "learned_days": learned_days}
    fields |= {"residual_to": "lookup", "trees": {weights: "lookup"}}
    stored = registry.put("production_model", Draft("xgboost", files, fields))
    registry.set_current("production_model", stored.digest, None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Return a store with a production model, and the features of a day that is not stored, which it never saw."""
    root = tmp_path_factory.mktemp("prepared")
    for day in TRAINING_DAYS:
        features = simulate_features(root, day)
        ParquetTables(root).write("transit_features", day, to_arrow("transit_features", features))
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [*INPUTS, training.training_set]
    assert dg.materialize(assets, selection=["training_set"], resources=make_resources(root)).success
    train_production_model(root)
    return root, simulate_features(root, UNSEEN_DAY)


@pytest.fixture
def store(prepared: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """Return a store of its own with the production model and its training set."""
    source, target = ModelRegistry(prepared[0]), ModelRegistry(tmp_path)
    for asset in ("training_set", "production_model"):
        copy = target.put(asset, source.current(asset))
        target.set_current(asset, copy.digest, None)
    return tmp_path


@pytest.fixture
def unseen(prepared: tuple[Path, pd.DataFrame]) -> pd.DataFrame:
    """Return the features of a day that the production model was not trained on."""
    return prepared[1]


def store_features(root: Path, rows: pd.DataFrame, day: date = UNSEEN_DAY) -> None:
    """Store features as those of a service day."""
    frame = schema.cast_frame(rows.assign(service_date=day), schema.TransitFeatures)
    ParquetTables(root).write("transit_features", day, to_arrow("transit_features", frame))


def monitor(root: Path, *days: date, select: list[str] | None = None) -> dg.ExecuteInProcessResult:
    """Make predictions of service days and their accuracy in one run, checks included."""
    first, last = str(min(days)), str(max(days))
    span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.materialize(
        [*INPUTS, *ASSETS],
        selection=select,
        partition_key=first if len(days) == 1 else None,
        tags=span if len(days) > 1 else {},
        resources=make_resources(root),
    )


def read_table(root: Path, name: str, day: date = UNSEEN_DAY) -> pd.DataFrame:
    """Read a service day of a table."""
    return schema.to_frame(ParquetTables(root).read(name, [day]))


def read_measures(root: Path, day: date = UNSEEN_DAY) -> pd.DataFrame:
    """Read n and value of the accuracy of a service day, by measure, dimension and member."""
    return (
        read_table(root, "prediction_accuracy", day)
        .set_index(["measure", "dimension", "member"])[["n", "value"]]
        .sort_index()
    )


def get_metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dict[str, Any]]:
    """Return the metadata of an asset in a run by service day."""
    events = result.asset_materializations_for_node(asset)
    return {str(event.partition): {name: entry.value for name, entry in event.metadata.items()} for event in events}


def get_failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    """Return the description of each check of rows that did not pass."""
    evaluations = [check for check in result.get_asset_check_evaluations() if check.check_name in ROW_CHECKS]
    return {check.check_name: check.description for check in evaluations if not check.passed}


def test_every_row_of_an_unseen_day_is_predicted_labelled_or_not(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen)
    assert monitor(store, UNSEEN_DAY, select=["delay_predictions"]).success
    predicted = read_table(store, "delay_predictions")
    pd.testing.assert_frame_equal(predicted[schema.ROW_KEY], read_table(store, "transit_features")[schema.ROW_KEY])
    assert predicted["predicted_delay_seconds"].notna().all()
    assert unseen["delay_seconds"].isna().any()
    assert set(predicted["model_version"]) == {ModelRegistry(store).current_digest("production_model")}
    ahead = predicted["predicted_arrival"] - predicted["scheduled_arrival"]
    np.testing.assert_allclose(ahead.dt.total_seconds(), predicted["predicted_delay_seconds"], atol=1e-5)


def test_widths_are_corrected_by_the_days_that_the_production_model_has_predicted(
    store: Path, unseen: pd.DataFrame
) -> None:
    labelled = unseen[unseen["delay_seconds"].notna()]
    narrow = IntervalCalibration.fit(labelled, np.full(len(labelled), 5.0))
    registry = ModelRegistry(store)
    before = registry.current("production_model")
    files = {name: before.file(name) for name in before.manifest["files"]} | {INTERVAL_FILE: narrow.to_bytes()}
    fields = {name: before.manifest[name] for name in ("training_set", "learned_days", "residual_to", "trees")}
    version = registry.put("production_model", Draft("xgboost", files, fields)).digest
    registry.set_current("production_model", version, before.digest)
    store_features(store, unseen)
    result = monitor(store, UNSEEN_DAY, select=["delay_predictions", "width_correction"])
    metadata = get_metadata(result, "width_correction")[str(UNSEEN_DAY)]
    assert metadata["model_version"] == version
    said = read_table(store, "delay_predictions")["predicted_delay_seconds"].to_numpy()
    rows, delay = labelled.reset_index(drop=True), said[unseen["delay_seconds"].notna()]
    learned = WidthCorrection.from_json(ReportStore(store).read(WIDTH_CORRECTION), version)
    assert learned == narrow.learn_day(UNCORRECTED, rows, delay)
    assert min(learned.by_distance.values()) > 0


def test_no_predicted_trip_of_a_day_runs_backwards_or_into_the_past(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen)
    assert monitor(store, UNSEEN_DAY, select=["delay_predictions"]).success
    predicted = read_table(store, "delay_predictions").sort_values("stops_ahead")
    assert set(predicted["event"]) == {"arrival", "departure"}
    assert (predicted["predicted_arrival"] >= predicted["time_stamp"]).all()
    reports = predicted.groupby(REPORT_KEY)["predicted_arrival"]
    assert reports.size().max() > 5
    assert (reports.diff().dropna() >= pd.Timedelta(0)).all()


def test_an_ordinary_unseen_day_is_measured_and_no_check_warns(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen)
    result = monitor(store, UNSEEN_DAY)
    error = (
        unseen["delay_seconds"].to_numpy()
        - read_table(store, "delay_predictions")["predicted_delay_seconds"].to_numpy()
    )
    mae = read_measures(store).xs(("mae_seconds", "all", "all"))
    assert (mae["n"], mae["value"]) == (np.sum(~np.isnan(error)), pytest.approx(np.nanmean(np.abs(error))))
    assert get_metadata(result, "prediction_accuracy")[str(UNSEEN_DAY)]["mae_seconds"] == mae["value"]
    assert get_failed_checks(result) == {}
    assert {check.check_name for check in result.get_asset_check_evaluations()} >= ROW_CHECKS


def test_a_day_without_any_label_has_predictions_and_drift_and_no_accuracy(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen.assign(actual_arrival_time=pd.Series(pd.NaT, unseen.index), delay_seconds=np.nan))
    result = monitor(store, UNSEEN_DAY)
    assert len(read_table(store, "delay_predictions")) == len(unseen)
    measures = read_measures(store)
    for measure in ("mae_seconds", "within_mbta_window", "eta_benchmark", "error_drift"):
        assert measures["n"][measure].eq(0).all() and measures["value"][measure].isna().all(), measure
    assert measures["value"]["matched_share"].tolist() == [0.0]
    assert measures["value"]["feature_drift"].notna().all()
    assert get_failed_checks(result) == {}


def test_a_day_without_rows_has_no_predictions_and_no_accuracy(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen.head(0))
    result = monitor(store, UNSEEN_DAY)
    assert read_table(store, "delay_predictions").empty
    assert read_table(store, "prediction_accuracy").empty
    assert "no prediction" in get_metadata(result, "prediction_accuracy")[str(UNSEEN_DAY)]["omitted"]
    assert get_failed_checks(result) == {}


def test_one_run_makes_predictions_and_accuracy_of_many_days(store: Path, unseen: pd.DataFrame) -> None:
    days = [UNSEEN_DAY + timedelta(days=n) for n in range(3)]
    for day, rows in zip(days, (unseen, unseen.head(0), unseen.iloc[::2]), strict=True):
        store_features(store, rows, day)
    result = monitor(store, *days)
    assert [len(read_table(store, "delay_predictions", day)) for day in days] == [len(unseen), 0, len(unseen.iloc[::2])]
    described = [get_metadata(result, "prediction_accuracy")[str(day)].get("mae_seconds") for day in days]
    stored = [read_measures(store, day)["value"]["mae_seconds", "all", "all"] for day in (days[0], days[2])]
    assert described == [stored[0], None, stored[1]]
    assert stored[0] != stored[1]


def test_without_the_training_set_drift_is_omitted_with_the_reason(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen)
    digest = ModelRegistry(store).current_digest("training_set")
    assert digest
    (store / "bundles/training_set" / digest[:16]).rename(store / "moved away")
    result = monitor(store, UNSEEN_DAY)
    assert read_measures(store)["n"]["mae_seconds", "all", "all"] > 0
    assert {"feature_drift", "unknown_share", "error_drift"}.isdisjoint(
        read_table(store, "prediction_accuracy")["measure"]
    )
    assert digest[:16] in get_metadata(result, "prediction_accuracy")[str(UNSEEN_DAY)]["drift_omitted"]
    assert get_failed_checks(result).keys() == {"drift_within_bounds"}


def test_predictions_of_rows_that_features_no_longer_have_are_left_out(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen)
    monitor(store, UNSEEN_DAY, select=["delay_predictions"])
    store_features(store, unseen.iloc[1:])
    result = monitor(store, UNSEEN_DAY, select=["prediction_accuracy"])
    assert get_metadata(result, "prediction_accuracy")[str(UNSEEN_DAY)]["predictions_without_features"] == 1
    assert read_measures(store)["n"]["matched_share", "all", "all"] == len(unseen) - 1


def promote_copy(root: Path, learned_days: list[str]) -> str:
    """Make a copy of the production model that has learned from some service days the production model."""
    registry = ModelRegistry(root)
    current = registry.current("production_model")
    files = {name: current.file(name) for name in current.manifest["files"]}
    fields = {key: current.manifest[key] for key in ("training_set", "residual_to", "trees")}
    draft = Draft("xgboost", files, {**fields, "learned_days": learned_days})
    stored = registry.put("production_model", draft)
    registry.set_current("production_model", stored.digest, current.digest)
    return stored.digest


def test_an_honest_prediction_is_kept_when_a_model_that_has_learned_from_the_day_makes_it_again(
    store: Path, unseen: pd.DataFrame
) -> None:
    store_features(store, unseen)
    monitor(store, UNSEEN_DAY)
    honest, accuracy = read_table(store, "delay_predictions"), read_table(store, "prediction_accuracy")
    version = promote_copy(store, [str(UNSEEN_DAY)])
    monitor(store, UNSEEN_DAY)
    predicted = read_table(store, "delay_predictions")
    of_version = predicted["model_version"] == version
    pd.testing.assert_frame_equal(predicted[~of_version].reset_index(drop=True), honest)
    assert of_version.sum() == len(unseen)
    assert not predicted.loc[of_version, "out_of_sample"].any() and honest["out_of_sample"].all()
    pd.testing.assert_frame_equal(read_table(store, "prediction_accuracy"), accuracy)


def test_a_day_of_another_network_is_not_predicted_and_the_error_says_what_to_do(
    store: Path, unseen: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(store)
    own = registry.current("production_model")
    registry.make_current("production_model", registry.put("production_model", with_network(own, OTHER_NETWORK)).digest)
    store_features(store, unseen)
    with pytest.raises(dg.Failure) as failure:
        monitor(store, UNSEEN_DAY, select=["delay_predictions"])
    reason = str(failure.value.__cause__)
    assert re.search("not published: .*bundles/production_model/.*it has seen 0.*MBTA_FOREIGN_MODEL=allow", reason), (
        reason
    )
    monkeypatch.setattr(transit_network, "AGENCY", AgencySettings(foreign_model="allow"))
    monitor(store, UNSEEN_DAY, select=["delay_predictions"])
    assert len(read_table(store, "delay_predictions")) == len(unseen)


def test_each_version_that_has_not_learned_from_the_day_is_scored(store: Path, unseen: pd.DataFrame) -> None:
    store_features(store, unseen)
    monitor(store, UNSEEN_DAY)
    first = str(read_table(store, "delay_predictions")["model_version"].iloc[0])
    second = promote_copy(store, [])
    for _ in range(2):  # made again by the same version: its predictions are replaced, not repeated
        monitor(store, UNSEEN_DAY)
    predicted = read_table(store, "delay_predictions")
    assert predicted["model_version"].value_counts().to_dict() == {first: len(unseen), second: len(unseen)}
    assert set(read_table(store, "prediction_accuracy")["model_version"]) == {first, second}


def test_without_the_schedule_the_agencys_service_is_omitted_with_the_reason(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    at = pd.Timestamp(UNSEEN_DAY, tz="UTC")
    row = {"service_date": UNSEEN_DAY, "predicted_at": at, "trip_id": "1", "stop_id": "a"}
    missing = dict.fromkeys(["arrival_time", "stop_sequence", "departure_time", "uncertainty"])
    rows = schema.cast_frame(pd.DataFrame([row | missing]), schema.AgencyPredictions)
    tables.write("agency_predictions", UNSEEN_DAY, to_arrow("agency_predictions", rows))
    warehouse = DuckDBWarehouse(tables, tables)
    arrivals, omitted = predictions._read_agency_arrivals(warehouse, FilesSource(tmp_path), UNSEEN_DAY)
    assert arrivals.empty and "schedule" in omitted["agency_service_omitted"]


def delay_by_twenty_minutes(vehicle: pd.DataFrame) -> pd.DataFrame:
    return vehicle.assign(updated_at=vehicle["updated_at"] + pd.Timedelta(minutes=20))


def select_every_third_trip(vehicle: pd.DataFrame) -> pd.DataFrame:
    return vehicle[pd.factorize(vehicle["trip_id"])[0] % 3 == 0]


@pytest.mark.parametrize(
    ("change", "feature"),
    [(delay_by_twenty_minutes, "departure_delay_seconds"), (select_every_third_trip, "platform_headway_seconds")],
)
def test_a_day_with_another_service_drifts_beyond_the_bound(
    store: Path, tmp_path_factory: pytest.TempPathFactory, change: Change, feature: str
) -> None:
    store_features(store, simulate_features(tmp_path_factory.mktemp("other"), UNSEEN_DAY, change))
    result = monitor(store, UNSEEN_DAY)
    assert result.success
    assert f"feature_drift of {feature} is 0." in (get_failed_checks(result)["drift_within_bounds"] or "")


def postpone_arrivals(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(delay_seconds=rows["delay_seconds"] + 1200)


def rename_stops(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(stop_id="new " + rows["stop_id"])


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (
            postpone_arrivals,
            "accuracy_within_bounds",
            "0.0% of the predictions for Blue, 0-3 min ahead, were accurate; of the agency's own 85.9% are",
        ),
        (postpone_arrivals, "drift_within_bounds", "error_drift of 1 is"),
        (rename_stops, "drift_within_bounds", "unknown_share of stop_id is 1.00; the maximum is 0.01"),
    ],
)
def test_a_check_names_the_measure_that_crossed_its_bound_and_the_bound(
    store: Path, unseen: pd.DataFrame, change: Change, check: str, message: str
) -> None:
    store_features(store, change(unseen))
    assert message in (get_failed_checks(monitor(store, UNSEEN_DAY))[check] or "")
