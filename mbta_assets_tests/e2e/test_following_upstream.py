"""With the daemon running: a file changes upstream, and all that follows from it happens without a further hand."""

from datetime import date
from pathlib import Path

import pytest

from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import eventually
from mbta_assets_tests.support.small_network import DAYS

pytestmark = pytest.mark.timeout(900)  # whichever comes first waits for the models

MODELS = ("xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student", "quantized_student")


def test_a_changed_file_leads_to_new_features_of_its_day_only_and_to_new_models(dev, trained):
    store, upstream = Path(trained["MBTA_STORE"]), Path(trained["MBTA_FILES_DIR"])
    lake, bundles = Lake(store), BundleStore(store)
    changed, other = DAYS[0], DAYS[2]
    dev.succeed(
        dev.materialize(["vehicle", "trip", "stop", "schedule", "raw_transit_data", "transit_features"], other), 90
    )
    for sensor in ("upstream_changes", "retraining"):
        dev.start_sensor(sensor)
    for sensor in ("upstream_changes", "retraining"):
        eventually(f"{sensor} has looked around", 90, lambda sensor=sensor: dev.ticks(sensor))

    def features_of(day: date) -> str:
        return lake.versions("transit_features", [day])[day]

    features = {day: features_of(day) for day in (changed, other)}
    models = {asset: bundles.current_digest(asset) for asset in ("training_set", *MODELS)}
    earlier = {run["runId"] for run in dev.runs()}

    small_network.write(upstream, [changed], seed=1, tables=["vehicle"])

    eventually(
        "the day has new features",
        120,
        lambda: lake.versions("transit_features", [changed])[changed] != features[changed],
    )
    eventually(
        "every model is another",
        300,
        lambda: all(bundles.current_digest(asset) != digest for asset, digest in models.items()),
    )
    assert features_of(other) == features[other]
    eventually("all runs are over", 60, lambda: all(run["endTime"] for run in dev.runs()))
    later = [run for run in dev.runs() if run["runId"] not in earlier]
    assert [run["status"] for run in later] == ["SUCCESS"] * 2, later
    days = {tag["value"] for run in later for tag in run["tags"] if tag["key"] == "dagster/partition"}
    assert days == {str(changed)}
