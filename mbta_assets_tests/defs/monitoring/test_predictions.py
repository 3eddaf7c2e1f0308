"""Predictions of days that the model never saw, and what is said of how they came true."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from mbta_assets.defs import checks, training
from mbta_assets.defs.io_managers import BundleIOManager, TableIOManager
from mbta_assets.defs.monitoring import predictions
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ENCODER, Inputs
from mbta_assets.ml.inference.run_time import RuntimeLookup, cross_fitted_delay
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.ml.training.dataset import ROW_KEY
from mbta_assets.settings import Settings
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import features, schema

TRAINED_ON = [date(2024, 5, 7), date(2024, 5, 8)]
UNSEEN = date(2024, 5, 9)
ROUTE = "Blue"
Change = Callable[[pd.DataFrame], pd.DataFrame]

INPUTS = [
    dg.AssetSpec("transit_features", partitions_def=predictions.service_days).with_io_manager_key("tables"),
    dg.AssetSpec("production_model").with_io_manager_key("bundles"),
]
ASSETS = [predictions.delay_predictions, predictions.prediction_accuracy]
CHECKS = [check for check in checks.ALL if {key.asset_key for key in check.check_keys} & {a.key for a in ASSETS}]


def resources(root: Path) -> dict[str, object]:
    return {
        "settings": Settings(store=root),
        "tables": TableIOManager(Lake(root)),
        "bundles": BundleIOManager(BundleStore(root)),
        "bundle_store": BundleStore(root),
        "warehouse": DuckDBWarehouse(Lake(root), Lake(root)),
    }


def synthetic_features(root: Path, day: date, change: Change = lambda vehicle: vehicle) -> pd.DataFrame:
    """The features of one route on a service day of the simulator, where what its vehicles reported may be changed."""
    source, lake, warehouse = SyntheticSource(0), Lake(root), DuckDBWarehouse(Lake(root), Lake(root))
    for table in schema.UPSTREAM:
        rows = source.read(table, day)
        if table == "vehicle":
            rows = schema.typed(change(rows[rows["route_id"] == ROUTE]), schema.Vehicle)
        lake.write(table, day, to_arrow(table, rows))
    raw = warehouse.raw_transit_data(day)
    return features.transit_features(raw, warehouse.read("vehicle", day), warehouse.read("schedule", day))


def put_model_into_production(root: Path) -> None:
    """A few trees that learned from the training set of a store."""
    bundles = BundleStore(root)
    training_set = bundles.current("training_set")
    rows = training.labelled(training.rows_of(training_set), "train", "validation")
    delay = cross_fitted_delay(rows)
    inputs = Inputs.fit(Encoder.from_json(training_set.file(ENCODER)), RuntimeLookup.fit(rows), rows, delay)
    booster = xgboost_trainer.fit(
        xgboost_trainer.Growth(xgboost_trainer.STEADY, inputs.names, 30, seed=0), inputs.arrays(rows, "lookup", delay)
    )
    files = {xgboost_trainer.WEIGHTS: bytes(booster.save_raw("ubj")), **inputs.files()}
    stored = bundles.put(
        "production_model", Draft("xgboost", files, {"training_set": training_set.digest, "residual_to": "lookup"})
    )
    bundles.point("production_model", stored.digest, None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A store with a model in production, and the features of a day it never saw, which are not stored."""
    root = tmp_path_factory.mktemp("prepared")
    for day in TRAINED_ON:
        Lake(root).write("transit_features", day, to_arrow("transit_features", synthetic_features(root, day)))
    made = dg.materialize([*INPUTS, training.training_set], selection=["training_set"], resources=resources(root))
    assert made.success
    put_model_into_production(root)
    return root, synthetic_features(root, UNSEEN)


@pytest.fixture
def store(prepared: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """A store of its own with the model in production and its training set."""
    for asset in ("training_set", "production_model"):
        stored = BundleStore(prepared[0]).current(asset)
        copy = BundleStore(tmp_path).put(asset, stored)
        BundleStore(tmp_path).point(asset, copy.digest, None)
    return tmp_path


@pytest.fixture
def unseen(prepared: tuple[Path, pd.DataFrame]) -> pd.DataFrame:
    return prepared[1]


def have(root: Path, rows: pd.DataFrame, day: date = UNSEEN) -> None:
    """Store features as those of a service day."""
    frame = schema.typed(rows.assign(service_date=day), schema.TransitFeatures)
    Lake(root).write("transit_features", day, to_arrow("transit_features", frame))


def monitor(root: Path, *days: date, select: list[str] | None = None) -> dg.ExecuteInProcessResult:
    """Predict and measure service days in one run, checks included."""
    first, last = str(min(days)), str(max(days))
    span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.materialize(
        [*INPUTS, *ASSETS, *CHECKS],
        selection=select,
        partition_key=first if len(days) == 1 else None,
        tags=span if len(days) > 1 else {},
        resources=resources(root),
    )


def table(root: Path, name: str, day: date = UNSEEN) -> pd.DataFrame:
    return schema.to_frame(Lake(root).read(name, [day]))


def measures(root: Path, day: date = UNSEEN) -> pd.DataFrame:
    """n and value by measure, dimension and member."""
    return (
        table(root, "prediction_accuracy", day)
        .set_index(["measure", "dimension", "member"])[["n", "value"]]
        .sort_index()
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dict[str, Any]]:
    """By service day, what a run says of an asset."""
    events = result.asset_materializations_for_node(asset)
    return {str(event.partition): {name: entry.value for name, entry in event.metadata.items()} for event in events}


def warnings(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    return {check.check_name: check.description for check in result.get_asset_check_evaluations() if not check.passed}


def test_every_row_of_an_unseen_day_is_predicted_labelled_or_not(store: Path, unseen: pd.DataFrame) -> None:
    have(store, unseen)
    assert monitor(store, UNSEEN, select=["delay_predictions"]).success
    predicted = table(store, "delay_predictions")
    pd.testing.assert_frame_equal(predicted[ROW_KEY], table(store, "transit_features")[ROW_KEY])
    assert predicted["predicted_delay_seconds"].notna().all()
    assert unseen["delay_seconds"].isna().any()
    assert set(predicted["model_version"]) == {BundleStore(store).current_digest("production_model")}
    ahead = predicted["predicted_arrival"] - predicted["scheduled_arrival"]
    np.testing.assert_allclose(ahead.dt.total_seconds(), predicted["predicted_delay_seconds"], atol=1e-5)


def test_an_ordinary_unseen_day_is_measured_and_no_check_warns(store: Path, unseen: pd.DataFrame) -> None:
    have(store, unseen)
    result = monitor(store, UNSEEN)
    error = unseen["delay_seconds"].to_numpy() - table(store, "delay_predictions")["predicted_delay_seconds"].to_numpy()
    said = measures(store).xs(("mae_seconds", "all", "all"))
    assert (said["n"], said["value"]) == (np.sum(~np.isnan(error)), pytest.approx(np.nanmean(np.abs(error))))
    assert metadata(result, "prediction_accuracy")[str(UNSEEN)]["mae_seconds"] == said["value"]
    assert warnings(result) == {}
    assert len(result.get_asset_check_evaluations()) == 6


def test_a_day_without_any_label_has_predictions_and_drift_and_nothing_to_judge(
    store: Path, unseen: pd.DataFrame
) -> None:
    have(store, unseen.assign(actual_arrival_time=pd.Series(pd.NaT, unseen.index), delay_seconds=np.nan))
    result = monitor(store, UNSEEN)
    assert len(table(store, "delay_predictions")) == len(unseen)
    found = measures(store)
    for measure in ("mae_seconds", "within_mbta_window", "eta_benchmark", "error_drift"):
        assert found["n"][measure].eq(0).all() and found["value"][measure].isna().all(), measure
    assert found["value"]["matched_share"].tolist() == [0.0]
    assert found["value"]["feature_drift"].notna().all()
    assert warnings(result) == {}


def test_a_day_without_rows_is_predicted_and_measured_as_empty(store: Path, unseen: pd.DataFrame) -> None:
    have(store, unseen.head(0))
    result = monitor(store, UNSEEN)
    assert table(store, "delay_predictions").empty
    assert measures(store)["n"].eq(0).all() and measures(store)["value"].isna().all()
    assert "no predictions" in metadata(result, "prediction_accuracy")[str(UNSEEN)]["drift_left_out"]
    assert warnings(result) == {}


def test_one_run_predicts_and_measures_many_days(store: Path, unseen: pd.DataFrame) -> None:
    days = [UNSEEN + timedelta(days=n) for n in range(3)]
    for day, rows in zip(days, (unseen, unseen.head(0), unseen.iloc[::2]), strict=True):
        have(store, rows, day)
    result = monitor(store, *days)
    assert [len(table(store, "delay_predictions", day)) for day in days] == [len(unseen), 0, len(unseen.iloc[::2])]
    described = [metadata(result, "prediction_accuracy")[str(day)].get("mae_seconds") for day in days]
    stored = [measures(store, day)["value"]["mae_seconds", "all", "all"] for day in days]
    assert described == [stored[0], None, stored[2]]
    assert stored[0] != stored[2]


def test_without_the_training_set_drift_is_left_out_and_the_reason_is_told(store: Path, unseen: pd.DataFrame) -> None:
    have(store, unseen)
    digest = BundleStore(store).current_digest("training_set")
    assert digest
    (store / "bundles/training_set" / digest[:16]).rename(store / "elsewhere")
    result = monitor(store, UNSEEN)
    assert measures(store)["n"]["mae_seconds", "all", "all"] > 0
    assert {"feature_drift", "unknown_share", "error_drift"}.isdisjoint(table(store, "prediction_accuracy")["measure"])
    assert digest[:16] in metadata(result, "prediction_accuracy")[str(UNSEEN)]["drift_left_out"]
    assert warnings(result).keys() == {"drift_within_bounds"}


def test_predictions_of_older_features_are_refused_with_what_to_do(store: Path, unseen: pd.DataFrame) -> None:
    have(store, unseen)
    monitor(store, UNSEEN, select=["delay_predictions"])
    have(store, unseen.iloc[1:])
    with pytest.raises(ValueError, match=f"materialize --select delay_predictions --partition {UNSEEN}"):
        monitor(store, UNSEEN, select=["prediction_accuracy"])


def twenty_minutes_late(vehicle: pd.DataFrame) -> pd.DataFrame:
    return vehicle.assign(updated_at=vehicle["updated_at"] + pd.Timedelta(minutes=20))


def every_third_trip(vehicle: pd.DataFrame) -> pd.DataFrame:
    return vehicle[pd.factorize(vehicle["trip_id"])[0] % 3 == 0]


@pytest.mark.parametrize(
    ("change", "feature"),
    [(twenty_minutes_late, "departure_delay_seconds"), (every_third_trip, "platform_headway_seconds")],
)
def test_a_day_of_other_service_drifts_beyond_its_bound(
    store: Path, tmp_path_factory: pytest.TempPathFactory, change: Change, feature: str
) -> None:
    have(store, synthetic_features(tmp_path_factory.mktemp("strange"), UNSEEN, change))
    result = monitor(store, UNSEEN)
    assert result.success
    assert f"feature_drift of {feature} is 0." in (warnings(result)["drift_within_bounds"] or "")


def arrived_later(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(delay_seconds=rows["delay_seconds"] + 1200)


def at_new_stops(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(stop_id="new " + rows["stop_id"])


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (arrived_later, "accuracy_within_bounds", "within_mbta_window of 0-3 min is 0.00, under 0.85 by 0.85"),
        (arrived_later, "drift_within_bounds", "error_drift of 1 is"),
        (at_new_stops, "drift_within_bounds", "unknown_share of stop_id is 1.00, over 0.01 by 0.99"),
    ],
)
def test_a_check_names_what_crossed_its_bound_and_by_how_much(
    store: Path, unseen: pd.DataFrame, change: Change, check: str, said: str
) -> None:
    have(store, change(unseen))
    assert said in (warnings(monitor(store, UNSEEN))[check] or "")
